r"""Tuning a source's body so that its labels say more of the target's, before a head is trained.

The first of the two steps that follow from OTCE (Tan et al., *OTCE: A Transferability Metric for
Cross-Domain Cross-Task Representations*, CVPR 2021, and its use for fine-tuning): embeddings of
source and target images are matched by entropic optimal transport, and the body moves so that the
entropy of the target's labels given the source's falls,

.. math:: \min_\theta H(Y_t | Y_s), \quad
          p(y_s, y_t) = \sum_{i: y_i = y_s, \, j: y_j = y_t} \pi_{ij}(\theta)

Labels are fixed, so the plan :math:`\pi` is all that depends on the body: a detached one would have
no gradient, and Sinkhorn's iterations are therefore differentiated. Costs are divided by their
mean within the loss, or the body could sharpen the plan by growing.

Measured on 12 pairs of the demonstration's sites of different tasks, three seeds each: fine-tuning
after it reached 0.005 +- 0.010 more balanced accuracy (standard error over pairs) than fine-tuning
alone at the same budget, from pseudo-samples 0.003 +- 0.010 more; with five training images a class
0.024 +- 0.020 and 0.033 +- 0.018 more. The entropy fell wherever it was looked at. No gain is
certain; it is likeliest where images are few.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fl_client.training import quiet_trainer
from protocol.descriptors import ClassMoments
from strategies.transferability import even_sample

ENTROPY = 0.05
"""Of the plan, as a share of the mean cost: small enough to match, large enough to move."""
LR = 1e-3
"""Of Adam: ten times as much lowers the entropy further, and what is trained is no better."""
MOST = 256
"""Images of each side that take part; a plan costs their product."""
_ITERATIONS = 50


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features with labels.

    Attributes
    ----------
    values : ndarray of float32, shape [n, m]
        Of the spec's backbone.
    labels : ndarray of int64, shape [n]
        Indices into the task's own classes.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.int64]


def pseudo_samples(moments: ClassMoments, images: int, seed: int) -> Labelled:
    """Draw features as a task's class moments have them: Gaussian, each feature by itself.

    Parameters
    ----------
    moments : ClassMoments
        Released by the task.
    images : int
        How many to draw; each class in proportion, at least one.
    seed : int
        Of the draw.
    """
    shares = moments.counts / moments.counts.sum()  # [c]
    counts = np.where(shares > 0, np.maximum(1, np.round(shares * images)), 0).astype(np.int64)
    labels = np.repeat(np.arange(len(counts)), counts)  # [n]
    noise = np.random.default_rng(seed).normal(size=(len(labels), moments.means.shape[1]))
    values = moments.means[labels] + np.sqrt(moments.variances[labels]) * noise  # [n, m]
    return Labelled(values.astype(np.float32), labels)


def conditional_entropy(
    source: Tensor, source_labels: Tensor, target: Tensor, target_labels: Tensor, entropy: float
) -> Tensor:
    """Return H(target's labels | source's labels) in nats, differentiable in the embeddings.

    Parameters
    ----------
    source, target : Tensor, shapes [n, h] and [k, h]
        Embeddings of both sides.
    source_labels, target_labels : Tensor, shapes [n, cs] and [k, ct]
        One-hot.
    entropy : float
        Of the plan, as a share of the mean cost.
    """
    import ot

    squares = (source**2).sum(1)[:, None] + (target**2).sum(1)[None, :]  # [n, k]
    costs = (squares - 2 * source @ target.T).clamp(min=0)  # [n, k]
    scale = costs.mean().clamp(min=torch.finfo(costs.dtype).tiny)
    plan = ot.solve(costs / scale, reg=entropy, max_iter=_ITERATIONS, tol=1e-6).plan  # [n, k]
    joint = source_labels.T @ plan @ target_labels  # [cs, ct]
    given = joint / joint.sum(1, keepdim=True).clamp(min=1e-12)  # [cs, ct]
    told: Tensor = -torch.special.xlogy(joint, given.clamp(min=1e-12)).sum()
    return told


class OtceTuning(pl.LightningModule):
    """A body whose conditional entropy falls, all images of both sides in each step.

    Parameters
    ----------
    body : Module
        Changed in place.
    lr : float
        Step size of Adam: the loss has no unit, but its slope depends on that of the embeddings.
    entropy : float
        Of the plan.
    """

    def __init__(self, body: nn.Module, *, lr: float = LR, entropy: float = ENTROPY) -> None:
        super().__init__()
        self.body, self.lr, self.entropy = body, lr, entropy
        self.course: list[float] = []

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        """Return the conditional entropy of the whole of both sides, and note it."""
        xs, ys, xt, yt = batch
        loss = conditional_entropy(self.body(xs), ys, self.body(xt), yt, self.entropy)
        self.course.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.body.parameters(), lr=self.lr)


def tune(
    body: nn.Module,
    source: Labelled,
    target: Labelled,
    *,
    steps: int,
    device: torch.device,
    lr: float = LR,
    entropy: float = ENTROPY,
) -> list[float]:
    """Lower the conditional entropy of the target's labels given the source's; changes the body.

    Parameters
    ----------
    body : Module
        From features [n, m] to embeddings [n, h].
    source : Labelled
        Raw features where both are on one machine, else `pseudo_samples`.
    target : Labelled
        The site's training images.
    steps : int
        Each on all images that take part, at most `MOST` of either side.
    device : torch.device
        Where to compute.
    lr, entropy
        See `OtceTuning`.

    Returns
    -------
    list of float
        The conditional entropy before each step, in nats.
    """
    tuning = OtceTuning(body, lr=lr, entropy=entropy)
    items = [_batch(source, target)]
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(items, batch_size=None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(steps, device).fit(tuning, loader)
    return tuning.course


def _batch(source: Labelled, target: Labelled) -> tuple[Tensor, ...]:
    """Return features [n, m] and one-hot labels [n, c] of either side."""
    parts: list[Tensor] = []
    for side in (source, target):
        rows = even_sample(side.labels, MOST)
        present = torch.from_numpy(np.unique(side.labels[rows], return_inverse=True)[1])
        values = torch.from_numpy(side.values[rows])
        parts += [values, nn.functional.one_hot(present).to(values.dtype)]
    return tuple(parts)
