"""Contenders on a GPU: the matrix stays in its memory if it fits, else its blocks pass through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fl_server.pool_store import FingerprintStore
from protocol.errors import ConfigError
from strategies.contenders import CHUNK, contenders, slack
from strategies.retrieval import Question

if TYPE_CHECKING:
    import torch

_SHARE = 0.8  # of the free memory of a device


class TorchIndex:
    """Scores blocks with torch, in full float32 precision.

    Parameters
    ----------
    store : FingerprintStore
        Where the vectors are.
    device : str
        A device of torch.

    Raises
    ------
    ConfigError
        When torch has no such device.
    """

    def __init__(self, store: FingerprintStore, device: str) -> None:
        import torch

        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"device {device!r} cannot be used ({reason}): take cpu or auto"
            ) from None
        self.store, self.device = store, device
        self._keep = fits(store, device)
        self._kept: list[tuple[int, torch.Tensor]] = []
        self._of: object = None  # the entries that the kept blocks belong to
        self._until = 0  # position behind the kept blocks

    def contenders(
        self, asked: Sequence[Question], k: int, allowed: NDArray[np.bool_]
    ) -> list[NDArray[np.intp]]:
        """Return who can be among the k best, see `Index.contenders`."""
        values = np.empty((self.store.size, len(asked)))  # [n, T]
        for start, block in self._blocks():
            values[start : start + len(block)] = _scores(block, asked)
        return [
            contenders(column, slack(column, q), k, allowed)
            for column, q in zip(values.T, asked, strict=True)
        ]

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        import torch

        if self._of is not self.store.entries:  # opened anew: positions have changed
            self._kept, self._until, self._of = [], 0, self.store.entries
        yield from self._kept
        for start, block in self.store.blocks(first=self._until):
            tensor = torch.from_numpy(block.copy()).to(self.device)
            if self._keep:
                self._kept.append((start, tensor))
                self._until = start + len(block)
            yield start, tensor


def fits(store: FingerprintStore, device: str) -> bool:
    """Return whether a CUDA device is there and has room for the matrix."""
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return store.size * store.layout.width * 4 <= _SHARE * free


def _scores(block: torch.Tensor, asked: Sequence[Question]) -> NDArray[np.float64]:
    """Do what `strategies.retrieval.scores` does, where the block lies."""
    import torch

    layout = asked[0].layout
    body = np.stack([q.body for q in asked], axis=1).astype(np.float32)
    weights = torch.from_numpy(body).to(block.device)  # [m b, T]
    sides = torch.from_numpy(np.stack([q.sides for q in asked], axis=1))  # [sides, T]
    part = block[:, layout.body]
    starts = range(0, len(weights), CHUNK)
    sums = [part[:, i : i + CHUNK] @ weights[i : i + CHUNK] for i in starts]
    # float64 on the CPU: not every device has it, and sides are one in a hundred columns
    body_scores = torch.stack(sums).cpu().double().sum(dim=0)
    out = body_scores + block[:, layout.sides].cpu().double() @ sides
    return np.asarray(out.numpy())
