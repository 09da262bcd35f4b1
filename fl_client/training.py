"""Local training and evaluation: plain functions around Lightning's trainer."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from fl_client.device import choose_device
from fl_client.metrics import NAN, class_scores, grade_scores, label_scores
from fl_client.model import SiteModel
from fl_client.site import Site
from protocol.errors import NotFinite
from protocol.tracking import Series

DEFAULT_LR = {"adapter": 0.1, "fine-tune": 0.01}
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning").setLevel(logging.ERROR)


Labels = NDArray[Any]
"""What is learnt of n images: their class, int64 [n]; if several, 0 or 1, float32 [n, classes]."""


@runtime_checkable
class Augmented(Protocol):
    """A data set that draws random numbers of its own."""

    def reseed(self, seed: int) -> None:
        """Start the draws anew: what ran before must not matter."""


@dataclass(frozen=True)
class TrainData:
    """A site's data, split.

    Attributes
    ----------
    train, evaluation : Dataset
        The same items in the same order, with and without augmentation: (input, label).
    labels : ndarray
        Indices into `classes`, int64 [n]; of a multi-label task 0 and 1, float32 [n, classes].
    classes : tuple of str
        Keys of the site's classes.
    splits : dict
        Indices of ``train``, ``val`` and ``test``.
    ranks : tuple of int
        Of an ordinal task the place of each class among all grades; else empty.
    """

    train: Dataset[tuple[torch.Tensor, torch.Tensor]]
    evaluation: Dataset[tuple[torch.Tensor, torch.Tensor]]
    labels: Labels
    classes: tuple[str, ...]
    splits: dict[str, NDArray[np.int64]]
    ranks: tuple[int, ...] = ()


def learnt(site: Site) -> Labels:
    """Return what is learnt of a site's images, as its objective has it.

    Raises
    ------
    DataError
        If the objective is not trained here.
    """
    if site.card.objective == "multilabel":
        return site.targets.astype(np.float32)
    site.require_one_class("training")
    return site.labels


def feature_data(
    features: NDArray[np.float32],
    labels: Labels,
    classes: Sequence[str],
    splits: dict[str, NDArray[np.int64]],
) -> TrainData:
    """Return data of cached features, float32 [n, m]."""
    items = TensorDataset(torch.from_numpy(features), torch.from_numpy(labels))
    return TrainData(items, items, labels, tuple(classes), splits)  # type: ignore[arg-type]


class _Rows(Dataset[tuple[torch.Tensor, ...]]):
    """Some rows of tensors, gathered a batch at a time and not item by item."""

    def __init__(self, tensors: Sequence[torch.Tensor], rows: NDArray[np.int64]) -> None:
        self._tensors, self._rows = tensors, torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, places: list[int]) -> list[torch.Tensor]:
        rows = self._rows[places]
        return [tensor[rows] for tensor in self._tensors]


def batches(
    items: Dataset[tuple[torch.Tensor, torch.Tensor]],
    rows: NDArray[np.int64],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> DataLoader[Any]:
    """Return some items in batches, shuffled where a generator is given."""
    how: dict[str, Any] = {"shuffle": generator is not None, "generator": generator}
    if isinstance(items, TensorDataset):
        return DataLoader(_Rows(items.tensors, rows), batch_size, collate_fn=list, **how)
    return DataLoader(Subset(items, rows.tolist()), batch_size, **how)


class Curve(pl.Callback):
    """Writes the mean training loss of every epoch, and what the model then scores.

    Parameters
    ----------
    series : Series
        Where to.
    before : int
        Epochs that were trained in earlier rounds.
    """

    def __init__(self, series: Series, before: int = 0) -> None:
        self._series, self._epochs = series, before
        self._losses: list[torch.Tensor] = []

    def on_train_batch_end(
        self, _trainer: pl.Trainer, _model: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Keep the batch's loss where it is: reading it here would hold up a GPU."""
        self._losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, _trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Write the epoch's mean loss."""
        self._epochs += 1
        loss = float(torch.stack(self._losses).mean())
        self._losses.clear()
        rate = float(cast(SiteModel, model).lr)
        self._series.write({"train_loss": loss, "learning_rate": rate}, self._epochs)

    def end(self, scores: Mapping[str, float]) -> None:
        """Write what the trained model scores on the site's validation data, and close."""
        known = {f"val_{name}": value for name, value in scores.items() if np.isfinite(value)}
        self._series.write(known, self._epochs)
        self._series.close()


def fit(
    model: SiteModel,
    data: TrainData,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    find_lr: bool,
    device: torch.device | None = None,
    curve: Curve | None = None,
) -> None:
    """Train on the site's training split.

    Parameters
    ----------
    model : SiteModel
        Changed in place.
    data : TrainData
        The site's data.
    epochs, batch_size : int
        Budget of this call.
    seed : int
        Order of the batches.
    find_lr : bool
        Let Lightning find the step size first (Smith 2017, arXiv 1506.01186), as the paper does.
    device : torch.device or None
        Where to compute; None chooses.
    curve : Curve or None
        Told of every epoch. It changes nothing about the training.
    """
    generator = torch.Generator().manual_seed(seed)
    loader = batches(data.train, data.splits["train"], batch_size, generator)
    place = device or choose_device()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if find_lr:
            model.lr = _found_lr(model, loader, place)
        quiet_trainer(epochs, place, *([curve] if curve else [])).fit(model, loader)
    model.to(place)  # Lightning leaves it on the CPU, where scoring would be slow


def quiet_trainer(max_epochs: int, device: torch.device, *callbacks: pl.Callback) -> pl.Trainer:
    """Return a new trainer that trains, tells its callbacks, and does nothing else."""
    trainer = copy.deepcopy(_first_trainer(device.type, device.index))
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    trainer.fit_loop.max_epochs = max_epochs
    return trainer


@functools.cache
def _first_trainer(kind: str, index: int | None) -> pl.Trainer:
    """Return the trainer that others are copied from.

    Making one looks for callbacks among the entry points of every installed package, which takes
    longer than a small site's epoch.
    """
    return pl.Trainer(
        accelerator=kind,
        devices=1 if index is None else [index],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        default_root_dir=tempfile.gettempdir(),  # the finder's checkpoint, for a moment
    )


def _found_lr(model: SiteModel, loader: DataLoader[object], device: torch.device) -> float:
    """Return the step size that Lightning's finder suggests, the default where it finds none.

    Below 1e-3 so few steps of SGD hardly move the loss, and the finder would choose among noise.
    """
    from pytorch_lightning.tuner.tuning import Tuner

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = Tuner(quiet_trainer(50, device)).lr_find(
            model, loader, min_lr=1e-3, max_lr=1.0, num_training=50, update_attr=False
        )
    suggestion = found.suggestion() if found is not None else None
    return float(suggestion) if suggestion else model.lr


def evaluate(model: SiteModel, data: TrainData, split: str) -> dict[str, float]:
    """Score the model on one split.

    Returns
    -------
    dict
        What `fl_client.metrics` says of the task's objective, ``balanced_accuracy`` and ``auroc``
        of every one, and ``loss``: the weighted cross entropy. All NaN for an empty split.

    Raises
    ------
    NotFinite
        If what the model answers is not: it diverged, or started from what overflows.
    """
    indices = data.splits[split]
    labels = data.labels[indices]
    model.eval()
    with torch.inference_mode():
        device = next(model.parameters()).device
        answers = [model(x.to(device)) for x, _ in batches(data.evaluation, indices, 256)]
        logits = torch.cat([torch.empty(0, len(data.classes)), *answers]).cpu()
    if not bool(torch.isfinite(logits).all()):
        raise NotFinite(
            "what the model answers is not finite: take a smaller learning rate, or another start"
        )
    loss = float(model.loss.cpu()(logits, torch.from_numpy(labels))) if len(labels) else NAN
    return _judged(labels, logits.double().numpy(), data.ranks) | {"loss": loss}


def _judged(
    labels: Labels, logits: NDArray[np.float64], ranks: tuple[int, ...]
) -> dict[str, float]:
    if labels.ndim == 2:
        return label_scores(labels, logits)
    beside = grade_scores(labels, logits, ranks) if ranks else {}
    return class_scores(labels, logits) | beside
