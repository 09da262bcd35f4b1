"""The model that a site trains: a shared body and a head of one row a class, under Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protocol.sharing import BODY, HIDDEN, Arrays, row_name


class SiteModel(pl.LightningModule):
    """Body, head and loss of one site.

    Parameters
    ----------
    body : Module
        From a batch to embeddings [batch, width].
    width : int
        Width of the embeddings.
    classes : sequence of str
        Keys of the site's own classes: one head row each.
    class_weights : Tensor
        Weights of the cross entropy, float32 [classes]; of a multi-label task [2, classes], see
        `class_weights`.
    lr : float
        Step size of SGD.
    proximal_mu : float
        Weight of FedProx's term (Li et al., arXiv 1812.06127, eq. 2); 0 leaves it out.
    """

    def __init__(
        self,
        body: nn.Module,
        width: int,
        classes: Sequence[str],
        class_weights: Tensor,
        *,
        lr: float,
        proximal_mu: float = 0.0,
    ) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, len(classes))
        self.classes, self.lr, self.proximal_mu = tuple(classes), lr, proximal_mu
        self.loss: nn.Module = (
            nn.CrossEntropyLoss(weight=class_weights)
            if class_weights.ndim == 1
            else LabelsLoss(class_weights)
        )
        self._anchor: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        """Return the logits [batch, classes]."""
        logits: Tensor = self.head(self.body(batch))
        return logits

    def on_fit_start(self) -> None:
        """Keep the weights that FedProx pulls towards."""
        if self.proximal_mu:
            self._anchor = [p.detach().clone() for p in self.parameters() if p.requires_grad]

    def on_train_epoch_start(self) -> None:
        """Keep batch norm statistics as they were pretrained: sites are too small to move them."""
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        """Return the weighted cross entropy, with FedProx's term if asked for."""
        inputs, labels = batch
        loss: Tensor = self.loss(self(inputs), labels)
        if self._anchor:
            moving = [p for p in self.parameters() if p.requires_grad]
            pairs = zip(moving, self._anchor, strict=True)
            loss = loss + self.proximal_mu / 2 * sum(
                ((p - anchor) ** 2).sum() for p, anchor in pairs
            )
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD: no state to carry over from round to round."""
        return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), lr=self.lr)

    def load_arrays(self, arrays: Arrays) -> None:
        """Take over the body and the head rows of the site's classes.

        Raises
        ------
        KeyError
            If an array of the body or a row is missing.
        """
        state = {
            name: torch.from_numpy(np.array(arrays[BODY + name]))
            for name, _ in self.body.named_parameters()
        }
        self.body.load_state_dict(state, strict=False)
        rows = torch.from_numpy(np.stack([arrays[row_name(key)] for key in self.classes]))
        with torch.no_grad():
            self.head.weight.copy_(rows[:, :-1])
            self.head.bias.copy_(rows[:, -1])

    def arrays(self) -> Arrays:
        """Return the body and the head rows as arrays by name."""
        rows = torch.cat([self.head.weight, self.head.bias[:, None]], dim=1).detach()
        body = {BODY + name: _numpy(p) for name, p in self.body.named_parameters()}
        return body | {row_name(key): _numpy(rows[i]) for i, key in enumerate(self.classes)}


class Adapter(nn.Module):
    """The shared adapter on frozen features: one linear layer and a ReLU.

    Parameters
    ----------
    features : int
        Width m of the cached features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(HIDDEN, features))
        self.bias = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, batch: Tensor) -> Tensor:
        """Return the embeddings [batch, HIDDEN]."""
        return torch.relu(nn.functional.linear(batch, self.weight, self.bias))


class LabelsLoss(nn.Module):
    """Binary cross entropy of every label of every image, as one weighted mean.

    Parameters
    ----------
    weights : Tensor
        Float32 [2, classes]: of an image without and with the label.
    """

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits against targets of 0 and 1, both [batch, classes]."""
        weights = torch.where(targets > 0, self.weights[1], self.weights[0])  # [batch, classes]
        total = nn.functional.binary_cross_entropy_with_logits(
            logits, targets, weights, reduction="sum"
        )
        # divided by the weights, as torch's weighted cross entropy: a rare label makes no step huge
        return total / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def class_weights(labels: NDArray[Any], classes: int) -> Tensor:
    """Return inverse frequencies, so that rare classes count as much as frequent ones.

    Parameters
    ----------
    labels : ndarray
        Int64 [n], or of a multi-label task 0 and 1 in float32 [n, classes].
    classes : int
        Number of classes.

    Returns
    -------
    Tensor
        Float32 [classes], an absent class weighs nothing; or [2, classes] of images without and
        with each label, and one that no image or every image has weighs nothing.
    """
    if labels.ndim == 2:
        held = labels.sum(axis=0, dtype=np.float64)
        both = np.stack([len(labels) - held, held])  # [2, classes]
        told = np.broadcast_to(both.min(axis=0) > 0, both.shape)
        shares = np.divide(len(labels), 2 * both, out=np.zeros(both.shape), where=told)
        return torch.from_numpy(shares.astype(np.float32))
    counts = np.bincount(labels, minlength=classes)  # [classes]
    weights = np.divide(len(labels), classes * counts, out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights.astype(np.float32))


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().float().numpy().copy()
    return array
