"""The model that a site trains: a shared body and a head of one row a class, under Lightning."""

from __future__ import annotations

from collections.abc import Sequence

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
        Weights of the cross entropy, float32 [classes].
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
        self.loss = nn.CrossEntropyLoss(weight=class_weights)
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
        """Return the class-weighted cross entropy, with FedProx's term if asked for."""
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


def class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """Return inverse class frequencies, float32 [classes]; an absent class weighs nothing."""
    counts = np.bincount(labels, minlength=classes)  # [classes]
    weights = np.divide(len(labels), classes * counts, out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights.astype(np.float32))


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().float().numpy().copy()
    return array
