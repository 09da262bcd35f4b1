r"""The diagonal Fisher information of a probe network on a task, one number a filter (Task2Vec).

Achille et al., *Task2Vec: Task Embedding for Meta-Learning* (arXiv 1902.03545, section 2): the
network is the spec's backbone with a linear head that was trained on the task's labels, and

.. math:: F_w = E_{x} \, E_{y \sim p_w(y | x)} \left( \nabla_w \log p_w(y | x) \right)^2

is averaged over all weights of a filter, that is of an output channel of a convolution. Labels are
drawn from the network's own predictions, one an image. Every image's gradient is its own: batch
normalisation stays as it was trained, and what is squared is never a sum over images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call, grad, vmap

from protocol.errors import DataError

CHUNK = {"cpu": 1, "cuda": 16}
"""Images whose gradients are held at once: on one core, one by one took two thirds of the time."""

Weights = dict[str, torch.Tensor]


class Probe(nn.Module):
    """A backbone under a linear head.

    Parameters
    ----------
    backbone : torch.nn.Module
        Images to features ``[k, m]``.
    weight, bias : ndarray of float, shapes [c, m] and [c]
        The head, see `fit_head`.
    """

    def __init__(
        self, backbone: nn.Module, weight: NDArray[np.floating], bias: NDArray[np.floating]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        device = next(backbone.parameters()).device
        self.weight = torch.tensor(weight, dtype=torch.float32, device=device)
        self.bias = torch.tensor(bias, dtype=torch.float32, device=device)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits ``[k, c]`` of images."""
        logits: torch.Tensor = nn.functional.linear(self.backbone(images), self.weight, self.bias)
        return logits


def fit_head(
    features: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a linear head on frozen features: multinomial logistic regression.

    Features are centred and divided by one number, their total standard deviation, so that the
    penalty weighs the same whatever the backbone; both are folded into the head. Each by its own
    deviation would blow up those that hardly ever respond, and every gradient with them: on two
    tasks of handwritten digits the embeddings then differed 700-fold in scale.

    Parameters
    ----------
    features : ndarray of float, shape [n, m]
        One row an image.
    labels : ndarray of int, shape [n]
        Classes from 0 to c - 1, each of them there.

    Returns
    -------
    weight : ndarray of float64, shape [c, m]
    bias : ndarray of float64, shape [c]

    Raises
    ------
    DataError
        If there is one class only.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        raise DataError("a Fisher embedding needs at least two classes: this task holds one")
    values = features.astype(np.float64)
    mean = values.mean(axis=0)  # [m]
    scale = 1.0 / max(float(np.sqrt(values.var(axis=0).sum())), 1e-12)
    fitted = LogisticRegression(max_iter=1000).fit((values - mean) * scale, labels)
    weight, bias = fitted.coef_, fitted.intercept_  # [c, m], or [1, m] of two classes
    if len(weight) == 1:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight * scale
    return weight, bias - weight @ mean


def filter_fisher(
    probe: nn.Module, images: torch.Tensor, seed: int, chunk: int | None = None
) -> NDArray[np.float64]:
    """Return the diagonal Fisher of a probe network, averaged over each filter.

    Parameters
    ----------
    probe : torch.nn.Module
        In evaluation mode; images to logits ``[k, c]``.
    images : torch.Tensor, shape [n, 3, h, w]
        As the network takes them.
    seed : int
        Of the labels that are drawn.
    chunk : int, optional
        Images whose gradients are held at once; more is faster on a GPU.

    Returns
    -------
    ndarray of float64, shape [p]
        One number an output channel of each convolution, in the order of the network's modules.
    """
    names = _filters(probe)
    parameters = {name: value.detach() for name, value in probe.named_parameters()}
    weights = {name: parameters[name] for name in names}
    rest = {**parameters, **dict(probe.named_buffers())}
    gradients = _gradients(probe, {n: v for n, v in rest.items() if n not in weights})
    size = chunk or CHUNK.get(images.device.type, 1)
    labels = _drawn(probe, images, seed, size)
    total = {name: torch.zeros(len(weights[name]), dtype=torch.float64) for name in names}
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        for name, gradient in gradients(weights, images[part], labels[part]).items():
            squared = gradient.flatten(2).square().mean(dim=2)  # [k, out]
            total[name] += squared.sum(dim=0).double().cpu()
    return np.concatenate([total[name].numpy() for name in names]) / len(images)


def _filters(probe: nn.Module) -> list[str]:
    """Return the names of the weights [out, in, ...] of all convolutions."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found = [f"{name}.weight" for name, part in probe.named_modules() if isinstance(part, kinds)]
    if not found:
        raise DataError("a Fisher embedding is of filters: this backbone has no convolution")
    return found


def _gradients(
    probe: nn.Module, rest: Weights
) -> Callable[[Weights, torch.Tensor, torch.Tensor], Weights]:
    """Return what gives every image's own gradients ``[k, out, in, ...]`` of its loss."""

    def loss(weights: Weights, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits = functional_call(probe, {**rest, **weights}, (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    one = grad(loss)
    several = vmap(one, in_dims=(None, 0, 0))

    def gradients(weights: Weights, images: torch.Tensor, labels: torch.Tensor) -> Weights:
        if len(images) == 1:
            return {n: g[None] for n, g in one(weights, images[0], labels[0]).items()}
        return dict(several(weights, images, labels))

    return gradients


@torch.no_grad()
def _drawn(probe: nn.Module, images: torch.Tensor, seed: int, size: int) -> torch.Tensor:
    """Draw one label an image from the network's own predictions, the same on every device."""
    parts = [probe(images[i : i + size]) for i in range(0, len(images), size)]
    chances = torch.softmax(torch.cat(parts).double(), dim=1).cpu().numpy()  # [n, c]
    point = np.random.default_rng(seed).random((len(images), 1))
    labels = (chances.cumsum(axis=1) < point).sum(axis=1).clip(max=chances.shape[1] - 1)  # [n]
    return torch.tensor(labels, device=images.device)
