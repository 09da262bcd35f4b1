"""Contenders from faiss (https://github.com/facebookresearch/faiss), if it is installed.

An ``IndexFlatIP`` holds the whole matrix in memory and sums all products in float32, so its bound
is wider: it is asked for more and more neighbours until nobody beyond them can be among the best.
With a source's own weights the constants are large and that is many; blocks are the better choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_server.pool_store import FingerprintStore
from protocol.errors import ConfigError
from strategies.augmented import Layout, Records, scale, sides
from strategies.contenders import contenders, slack
from strategies.retrieval import Question

_MORE = 4  # times as many neighbours as the last time


class FaissIndex:
    """Keeps a flat inner-product index of a store's fingerprints.

    Parameters
    ----------
    store : FingerprintStore
        Where the fingerprints are.

    Raises
    ------
    ConfigError
        When faiss is not installed.
    """

    def __init__(self, store: FingerprintStore) -> None:
        try:
            import faiss
        except ImportError:
            raise ConfigError(
                "faiss is not installed: pip install 'fedprint[faiss]', or leave --index faiss out"
            ) from None
        self.store = store
        layout = store.layout
        self._width = layout.features * (layout.bins + 1) + (layout.kind == "weighted")
        self._flat: Any = faiss.IndexFlatIP
        self._index = self._flat(self._width)
        self._of: object = None  # the entries that the index belongs to

    def contenders(
        self, asked: Sequence[Question], k: int, allowed: NDArray[np.bool_]
    ) -> list[NDArray[np.intp]]:
        """Return who can be among the k best, see `Index.contenders`."""
        self._follow()
        return [self._one(q, k, allowed) for q in asked]

    def _follow(self) -> None:
        """Take in what was appended; begin anew when positions have changed."""
        if self._of is not self.store.entries:
            self._index, self._of = self._flat(self._width), self.store.entries
        for _, block in self.store.blocks(first=self._index.ntotal):
            self._index.add(vectors(block, self.store.layout))

    def _one(self, asked: Question, k: int, allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
        vector = np.concatenate([asked.body, asked.sides]).astype(np.float32)[None]
        hidden = int((~allowed).sum())
        wanted = min(k + hidden + 64, len(allowed))
        while True:
            found, positions = self._index.search(vector, wanted)
            values, order = found[0].astype(np.float64), positions[0].astype(np.intp)
            bound = slack(values, asked, terms=self._width)
            here = allowed[order]
            here[-1] = True  # looked at in any case: score plus slack grows with the score, so if
            kept = contenders(values, bound, k, here)  # the last one is out, so are all beyond
            if wanted == len(allowed) or len(order) - 1 not in kept:
                near: NDArray[np.intp] = order[kept]
                return near[allowed[near]]
            wanted = min(_MORE * wanted, len(allowed))


def vectors(records: Records, layout: Layout) -> NDArray[np.float32]:
    """Return bodies and sides side by side, float32 ``[k, m * b + m]``, or one column more."""
    bodies = records["counts"] * scale(records)[:, :, None]  # [k, m, b]
    parts = [bodies.reshape(len(records), -1), sides(records, layout)]
    return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")
