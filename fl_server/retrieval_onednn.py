"""Float32 products by oneDNN, which torch ships: it uses wider vectors than the BLAS of numpy may.

OpenBLAS picks its kernels by the processor's name and takes old ones where it does not know it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import linear

from strategies.contenders import Factor, Rows


def by_onednn(weights: Rows) -> Factor:
    """Return the factor that oneDNN multiplies with, of float32 weights ``[c, T]``."""
    packed = torch.from_numpy(weights.T.copy()).to_mkldnn()  # [T, c]

    def multiply(rows: Rows) -> Rows:
        product: Rows = linear(torch.from_numpy(rows).to_mkldnn(), packed).to_dense().numpy()
        return product

    return multiply


def available() -> bool:
    """Return whether this torch was built with oneDNN."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in each of the threads that are started within."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
