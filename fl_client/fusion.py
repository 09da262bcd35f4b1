r"""Fusing the embeddings of several source models, each by how well it suits the target.

Tan et al., *OTCE* (CVPR 2021, section on multi-source feature fusion): the embeddings of several
bodies are weighted by a score of transferability and joined, by concatenation or by elementwise
sum; only a head is trained on top. Which score makes the weights is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from torch import Tensor, nn

from fl_client.model import SiteModel
from protocol.errors import DataError
from protocol.sharing import BODY, Arrays, row_name

Joining = Literal["concatenation", "sum"]


def fusion_weights(scores: ArrayLike) -> NDArray[np.float64]:
    """Return weights ``[k]`` that sum to 1: softmax of the standardised scores.

    Standardised, because scores differ in units and some by hundredths only; equal scores give
    equal weights.

    Parameters
    ----------
    scores : array of float, shape [k]
        One a model; higher promises more.

    Raises
    ------
    DataError
        If there are none, or some are not finite.

    Examples
    --------
    >>> fusion_weights([2.0, 2.0])
    array([0.5, 0.5])
    >>> fusion_weights([0.0, 1.0]).round(2)
    array([0.12, 0.88])
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise DataError("fusing needs a finite score of every model: leave out what has none")
    spread = values.std()
    even = spread <= 1e-12 * np.abs(values).max()
    return np.asarray(softmax(np.zeros(len(values)) if even else (values - values.mean()) / spread))


class FusedBody(nn.Module):
    """Several frozen bodies as one.

    Parameters
    ----------
    bodies : sequence of Module
        From one batch each to embeddings [batch, h]; frozen here.
    weights : array of float, shape [k]
        One a body.
    sample : Tensor
        A batch of the site's training data: each embedding is divided by its root mean square on
        it, so that weights and not units decide.
    joining : str
        ``concatenation``: [batch, k * h]; ``sum``: [batch, h], of bodies of one width.

    Raises
    ------
    DataError
        If there is not one weight a body, or embeddings to be summed differ in width.
    """

    def __init__(
        self, bodies: Sequence[nn.Module], weights: ArrayLike, sample: Tensor, joining: Joining
    ) -> None:
        super().__init__()
        given = np.asarray(weights, dtype=np.float64)
        if given.shape != (len(bodies),) or len(bodies) == 0:
            raise DataError(f"{len(bodies)} models need as many weights, not {given.size}")
        self.bodies = nn.ModuleList(bodies).requires_grad_(False).eval()
        self.joining = joining
        with torch.no_grad():
            samples = [body(sample) for body in self.bodies]  # k of [n, h]
        self.widths = [each.shape[1] for each in samples]
        if joining == "sum" and len(set(self.widths)) > 1:
            raise DataError("embeddings of differing width cannot be summed: concatenate them")
        size = torch.stack([each.square().mean().sqrt() for each in samples])  # [k]
        factors = torch.from_numpy(given).to(size.dtype) / size.clamp(min=1e-12)
        self.register_buffer("factors", factors)

    @property
    def width(self) -> int:
        """Width of the fused embeddings."""
        return sum(self.widths) if self.joining == "concatenation" else self.widths[0]

    def forward(self, batch: Tensor) -> Tensor:
        """Return the fused embeddings [batch, width]."""
        factors = self.get_buffer("factors")
        parts = [factor * body(batch) for factor, body in zip(factors, self.bodies, strict=True)]
        return torch.cat(parts, 1) if self.joining == "concatenation" else torch.stack(parts).sum(0)


def wide_adapter(model: SiteModel) -> Arrays:
    """Return a model on fused adapters as one wide adapter and its head rows: the same function.

    A ReLU lets positive factors through, f relu(W x + b) = relu(f W x + f b), and a head on a sum
    of embeddings is that head on each of them.

    Parameters
    ----------
    model : SiteModel
        Its body is a `FusedBody` of k adapters.

    Returns
    -------
    dict
        ``body.weight`` float32 [k * h, m], ``body.bias`` [k * h], head rows [k * h + 1].
    """
    body = model.body
    assert isinstance(body, FusedBody)
    factors = body.get_buffer("factors")
    weights = [f * a.get_parameter("weight") for f, a in zip(factors, body.bodies, strict=True)]
    biases = [f * a.get_parameter("bias") for f, a in zip(factors, body.bodies, strict=True)]
    head = model.head.weight.detach()  # [c, width]
    if body.joining == "sum":
        head = head.repeat(1, len(body.bodies))  # [c, k * h]
    rows = torch.cat([head, model.head.bias.detach()[:, None]], dim=1)  # [c, k * h + 1]
    arrays = {BODY + "weight": torch.cat(weights), BODY + "bias": torch.cat(biases)}
    arrays |= {row_name(key): rows[place] for place, key in enumerate(model.classes)}
    return {name: value.detach().cpu().numpy().copy() for name, value in arrays.items()}
