"""Counting features into bins, on the device that computed them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from protocol.errors import DataError
from protocol.spec import Spec


class BinCounter:
    r"""Histogram of every counted feature over the public edges of a spec, in exact integers.

    The counted features are the backbone's, or their public projection. Value :math:`x_i` falls
    in bin :math:`\lfloor b (x_i - l_i) / (u_i - l_i) \rfloor`, limited to :math:`0 \ldots b-1`:
    values outside the edges are counted in the outermost bins (Godau et al., arXiv 2412.08763).

    Parameters
    ----------
    spec : Spec
        With calibrated edges.
    device : torch.device
        Where the counts live.
    """

    def __init__(self, spec: Spec, device: torch.device) -> None:
        spec.require_ready()
        # MPS has no float64; everywhere else the edges are met in double precision
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._lower = torch.tensor(spec.lower_array, dtype=self._dtype, device=device)  # [m]
        upper = torch.tensor(spec.upper_array, dtype=self._dtype, device=device)  # [m]
        self._width = upper - self._lower  # [m]
        self._bins = spec.bins
        self._directions: torch.Tensor | None = None
        if spec.projection is not None:
            directions = torch.tensor(spec.projection.array, dtype=self._dtype, device=device)
            self._directions = directions.T  # [features, m]
        self._start = torch.arange(spec.width, device=device) * spec.bins  # [m]
        self._counts = torch.zeros(spec.width * spec.bins, dtype=torch.int64, device=device)
        self._ones = torch.ones(1, dtype=torch.int64, device=device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._most = 64 if device.type == "cpu" else 4096  # images at once: a few MiB of values

    def add(self, features: torch.Tensor) -> None:
        """Count a batch of the backbone's features ``[k, features]``; none returns to the host."""
        for part in torch.split(features, self._most):
            self._add(part)

    def _add(self, features: torch.Tensor) -> None:
        values = features.to(self._dtype)
        if self._directions is not None:
            values = values @ self._directions  # [k, m]
        self._finite &= torch.isfinite(values).all()
        place = (values - self._lower) / self._width * self._bins  # [k, m]
        place = place.floor().clamp(0, self._bins - 1).nan_to_num(0).to(torch.int64)
        flat = (place + self._start).flatten()  # [k * m]
        self._counts.scatter_add_(0, flat, self._ones.expand_as(flat))

    def counts(self) -> NDArray[np.int64]:
        """Return the counts, int64 ``[m, b]``.

        Raises
        ------
        DataError
            If any feature was NaN or infinite.
        """
        if not bool(self._finite):
            raise DataError(
                "the backbone gave NaN or infinite features: check the weights, or run with "
                "--device cpu for full precision"
            )
        counts: NDArray[np.int64] = self._counts.view(-1, self._bins).cpu().numpy()
        return counts
