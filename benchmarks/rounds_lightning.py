"""The same training as a group's rounds, by Lightning alone: no messages, no server, no files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Subset

from fl_client.backbone import load_backbone
from fl_client.learner_data import learner_data
from fl_client.model import Adapter, SiteModel, class_weights
from fl_client.site import read_site
from fl_client.training import DEFAULT_LR, TrainData, evaluate
from protocol.sharing import BODY, HIDDEN, Recipe, initial_adapter, initial_rows
from protocol.spec import load_spec
from protocol.taskcard import class_keys

_kept: dict[str, tuple[TrainData, SiteModel]] = {}


def train(
    folder: Path, spec_name: str, recipe: Recipe, rounds: int, epochs: int, batch: int
) -> float:
    """Train a site's model for as many fits as there are rounds, and score it as a site does.

    Data and model are made at the first call and kept, as anybody would in a loop.
    """
    torch.set_num_threads(1)
    if str(folder) not in _kept:
        _kept[str(folder)] = _made(folder, spec_name, recipe)
    data, model = _kept[str(folder)]
    for number in range(1, rounds + 1):
        seed = zlib.crc32(f"0 {number} {folder.name}".encode())
        torch.manual_seed(seed)
        loader: DataLoader[Any] = DataLoader(
            Subset(data.train, data.splits["train"].tolist()),
            batch,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_epochs=epochs,
        )
        trainer.fit(model, loader)
    return evaluate(model, data, "val")["loss"] + evaluate(model, data, "test")["loss"]


def _made(folder: Path, spec_name: str, recipe: Recipe) -> tuple[TrainData, SiteModel]:
    spec, site = load_spec(spec_name), read_site(folder)
    classes = class_keys(site.card)
    data = learner_data(site, spec, recipe, None, classes, 0, "cpu")
    adapts = recipe == "adapter"
    body = Adapter(spec.features) if adapts else load_backbone(spec).requires_grad_(True)
    width = HIDDEN if adapts else spec.features
    weights = class_weights(data.labels[data.splits["train"]], len(classes))
    model = SiteModel(body, width, classes, weights, lr=DEFAULT_LR[recipe])
    start = {BODY + name: p.detach().numpy() for name, p in body.named_parameters()}
    start = initial_adapter(spec.features, 0) if adapts else start
    model.load_arrays(start | initial_rows(classes, width, 0))
    return data, model
