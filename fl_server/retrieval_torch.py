"""Contenders on a GPU: the matrix stays in its memory if it fits, else its blocks pass through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fl_server.pool_store import FingerprintStore
from protocol.errors import ConfigError
from strategies.augmented import Layout, Records, scale, sides
from strategies.contenders import CHUNK, contenders, slack
from strategies.retrieval import Question

if TYPE_CHECKING:
    import torch

_SHARE = 0.8  # of the free memory of a device
_ROWS = 1024  # records that are multiplied at a time: only they become float32


@dataclass(frozen=True)
class Block:
    """Records on a device; the sides stay on the CPU, for not every device knows float64.

    Parameters
    ----------
    counts
        Integers, ``[k, m * b]``.
    factors
        See `strategies.augmented.scale`, float32 ``[k, m]``.
    sides
        See `strategies.augmented.sides`, float64 ``[k, m]`` or ``[k, m + 1]``.
    """

    counts: torch.Tensor
    factors: torch.Tensor
    sides: NDArray[np.float64]

    @classmethod
    def of(cls, records: Records, layout: Layout, device: str) -> Block:
        """Send records to a device."""
        import torch

        counts = records["counts"].reshape(len(records), -1)
        factors = scale(records).astype(np.float32)
        return cls(
            torch.from_numpy(counts.copy()).to(device),
            torch.from_numpy(factors).to(device),
            sides(records, layout),
        )


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
        self._kept: list[tuple[int, Block]] = []
        self._of: object = None  # the entries that the kept blocks belong to
        self._until = 0  # position behind the kept blocks

    def contenders(
        self, asked: Sequence[Question], k: int, allowed: NDArray[np.bool_]
    ) -> list[NDArray[np.intp]]:
        """Return who can be among the k best, see `Index.contenders`."""
        import torch

        values = np.empty((self.store.size, len(asked)))  # [n, T]
        constants = np.stack([q.sides for q in asked], axis=1)  # [m, T]
        bodies = np.stack([q.body for q in asked], axis=1, dtype=np.float32)
        body = torch.from_numpy(bodies).to(self.device)  # [m b, T]
        for start, block in self._blocks():
            values[start : start + len(block.sides)] = (
                _products(block, body, self.store.layout) + block.sides @ constants
            )
        return [
            contenders(column, slack(column, q), k, allowed)
            for column, q in zip(values.T, asked, strict=True)
        ]

    def _blocks(self) -> Iterator[tuple[int, Block]]:
        if self._of is not self.store.entries:  # opened anew: positions have changed
            self._kept, self._until, self._of = [], 0, self.store.entries
        yield from self._kept
        for start, records in self.store.blocks(first=self._until):
            block = Block.of(records, self.store.layout, self.device)
            if self._keep:
                self._kept.append((start, block))
                self._until = start + len(records)
            yield start, block


def fits(store: FingerprintStore, device: str) -> bool:
    """Return whether a CUDA device is there and has room for the matrix."""
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return store.nbytes <= _SHARE * free


def _products(block: Block, body: torch.Tensor, layout: Layout) -> NDArray[np.float64]:
    """Do what `strategies.contenders.scores` does with bodies, where the block lies, ``[k, T]``."""
    import torch

    step = max(1, CHUNK // layout.bins) * layout.bins
    out = []
    for i in range(0, len(block.counts), _ROWS):
        counts, factors = block.counts[i : i + _ROWS], block.factors[i : i + _ROWS]
        rows = counts.float().reshape(len(counts), layout.features, layout.bins)
        rows *= factors[:, :, None]  # [k, m, b]
        flat = rows.flatten(1)  # [k, m b]
        starts = range(0, len(body), step)
        sums = torch.stack([flat[:, j : j + step] @ body[j : j + step] for j in starts])
        out.append(sums.cpu().double().sum(dim=0))
    return np.asarray(torch.cat(out).numpy())
