"""One site's part in co-training: from what the coordinator sends to what goes back."""

from __future__ import annotations

import zlib
from collections import Counter

import torch
from torch import nn

from fl_client.augment import SiteImages, evaluation_view, training_augmentation
from fl_client.backbone import load_backbone
from fl_client.device import choose_device
from fl_client.features import cached_features
from fl_client.model import Adapter, SiteModel, class_weights
from fl_client.models import RunModels, Scores, gains
from fl_client.site import Site
from fl_client.splits import split_site
from fl_client.training import DEFAULT_LR, TrainData, evaluate, feature_data, fit
from protocol.errors import DataError
from protocol.orders import Order
from protocol.sharing import (
    BODY,
    HIDDEN,
    Arrays,
    Recipe,
    initial_adapter,
    initial_rows,
    scale_rows,
)
from protocol.spec import Spec
from protocol.taskcard import class_keys


class Learner:
    """A site that trains under one recipe.

    Parameters
    ----------
    site : Site
        The site.
    spec : Spec
        Backbone and preprocessing.
    recipe : str
        ``adapter``: the frozen backbone's features, computed once, and a small adapter.
        ``fine-tune``: the backbone itself.
    device : str or None
        Where to compute; None chooses.
    seed : int
        Of the site's splits.

    Raises
    ------
    DataError
        If the site holds fewer than two classes, two of one meaning, or no training data.
    """

    def __init__(
        self, site: Site, spec: Spec, recipe: Recipe, device: str | None, seed: int
    ) -> None:
        self.site, self.spec, self.recipe = site, spec, recipe
        self.classes = class_keys(site.card)
        if len(self.classes) < 2:
            raise DataError(f"site {site.name} holds one class only: training needs at least two")
        if twice := [key for key, times in Counter(self.classes).items() if times > 1]:
            raise DataError(
                f"site {site.name} has several classes that mean {twice[0]!r}: "
                "merge them, or give them other names or codes"
            )
        splits = split_site(site, seed)
        if len(splits["train"]) == 0:
            raise DataError(f"site {site.name} has no training images: correct its split column")
        self.device = choose_device(device)
        if recipe == "adapter":
            features, _ = cached_features(site, spec, device)
            self.data = feature_data(features, site.labels, self.classes, splits)
        else:
            training = training_augmentation(spec.preprocess, seed)
            self.data = TrainData(
                SiteImages(site.images, spec, training),
                SiteImages(site.images, spec, evaluation_view(spec.preprocess)),
                site.labels,
                self.classes,
                splits,
            )

    @property
    def examples(self) -> int:
        """Number of training images: the site's weight in every mean."""
        return len(self.data.splits["train"])

    def start(self, seed: int) -> Arrays:
        """Return how a model starts: the body and the head rows of the site's classes."""
        body = (
            initial_adapter(self.spec.features, seed) if self.recipe == "adapter" else self.body()
        )
        return body | self._rows(seed)

    def body(self) -> Arrays:
        """Return the pretrained backbone's parameters by array name."""
        named = self._body()[0].named_parameters()
        return {BODY + name: p.detach().cpu().numpy().copy() for name, p in named}

    def train_alone(self, order: Order) -> Scores:
        """Train with the whole budget, keep the model, and return its scores."""
        model = self._trained(order, self.start(order.seed))
        return self._keep(order, model)

    def train_join(self, order: Order, arrays: Arrays) -> Scores:
        """Train with the whole budget from a finished group's arrays, keep the model, score it.

        The group is not trained again, so nothing goes back; head rows that it does not share start
        as they do alone.
        """
        own = {name: row for name, row in self._rows(order.seed).items() if name not in arrays}
        return self._keep(order, self._trained(order, arrays | own))

    def train_round(self, order: Order, arrays: Arrays) -> Arrays:
        """Train one round on what the group shares; return what goes back."""
        models = RunModels(self.site, order.run, order.arm)
        private = self._private(order, arrays, models)
        after = self._trained(order, arrays | private).arrays()
        models.save_private(order.server_round, {name: after[name] for name in private})
        travelling = {name: after.get(name, value) for name, value in arrays.items()}
        return scale_rows(arrays, travelling, order.factors)

    def finish(self, order: Order, arrays: Arrays) -> Scores:
        """Score the group's final model with the site's private rows, and keep it."""
        models = RunModels(self.site, order.run, order.arm)
        model = self._model(order)
        model.load_arrays(arrays | self._private(order, arrays, models))
        return self._keep(order, model)

    def decide(self, order: Order, alone_arm: str) -> bool:
        """Choose the final model: the group's if it gained on validation data, else the local one.

        Raises
        ------
        DataError
            If one of the two was never scored in this run.
        """
        local = RunModels(self.site, order.run, alone_arm)
        group = RunModels(self.site, order.run, order.arm)
        before, after = local.load_scores(), group.load_scores()
        if before is None or after is None:
            raise DataError(f"site {self.site.name} has not trained both models to choose from")
        keeps_group = gains(before, after)
        chosen = group if keeps_group else local
        RunModels(self.site, order.run, "final").save("model", chosen.load("model"))
        return keeps_group

    def _rows(self, seed: int) -> Arrays:
        width = HIDDEN if self.recipe == "adapter" else self.spec.features
        return initial_rows(self.classes, width, seed)

    def _private(self, order: Order, arrays: Arrays, models: RunModels) -> Arrays:
        """Return the head rows that stay here: as kept from the last round, else as they start."""
        start = self._rows(order.seed)
        kept = models.load_private(order.server_round)
        return {name: kept.get(name, row) for name, row in start.items() if name not in arrays}

    def _body(self) -> tuple[nn.Module, int]:
        """Return the body and the width of its embeddings."""
        if self.recipe == "adapter":
            return Adapter(self.spec.features), HIDDEN
        return load_backbone(self.spec, "cpu").requires_grad_(True), self.spec.features

    def _model(self, order: Order) -> SiteModel:
        labels = self.data.labels[self.data.splits["train"]]
        body, width = self._body()
        return SiteModel(
            body,
            width,
            self.classes,
            class_weights(labels, len(self.classes)),
            lr=order.learning_rate if order.learning_rate > 0 else DEFAULT_LR[self.recipe],
            proximal_mu=order.proximal_mu,
        )

    def _trained(self, order: Order, arrays: Arrays) -> SiteModel:
        seed = zlib.crc32(f"{order.seed} {order.server_round} {self.site.name}".encode())
        torch.manual_seed(seed)
        if isinstance(self.data.train, SiteImages):
            self.data.train.reseed(seed)
        model = self._model(order)
        model.load_arrays(arrays)
        fit(
            model,
            self.data,
            epochs=order.epochs,
            batch_size=order.batch_size,
            seed=seed,
            find_lr=order.learning_rate < 0,
            device=self.device,
        )
        return model

    def _keep(self, order: Order, model: SiteModel) -> Scores:
        models = RunModels(self.site, order.run, order.arm)
        scores = {
            f"{split}_{metric}": value
            for split in ("val", "test")
            for metric, value in evaluate(model, self.data, split).items()
        }
        models.save("model", model.arrays())
        models.save_scores(scores)
        return scores
