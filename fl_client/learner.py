"""One site's part in co-training: from what the coordinator sends to what goes back."""

from __future__ import annotations

import copy
import math
import zlib
from collections import Counter

import torch
from torch import nn

from fl_client.backbone import load_backbone
from fl_client.device import choose_device
from fl_client.final_model import card_of, write_final
from fl_client.learner_data import learner_data
from fl_client.model import Adapter, SiteModel, class_weights
from fl_client.models import RunModels, Scores, gains
from fl_client.recipes import ordered_candidate
from fl_client.site import Site
from fl_client.splits import split_site
from fl_client.start import require_start
from fl_client.tracking import open_series
from fl_client.training import DEFAULT_LR, Augmented, Curve, evaluate, fit
from protocol.errors import DataError
from protocol.orders import Order
from protocol.plan import Knowledge
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
from protocol.tracking import Tracking
from protocol.weights import body_of

RUNS_OWN = Knowledge()

_backbones: dict[str, nn.Module] = {}
"""The last backbone that was loaded, by its spec's digest."""


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
    knowledge : Knowledge
        Architecture, augmentation and start instead of the run's own.
    tracking : Tracking or None
        Where the site keeps curves of its training; None keeps none.

    Raises
    ------
    DataError
        If the site holds fewer than two classes, two of one meaning, or no training data.
    FedprintError
        If the site cannot use the knowledge, see `ordered_candidate` and `policy_of`.
    """

    def __init__(
        self,
        site: Site,
        spec: Spec,
        recipe: Recipe,
        device: str | None,
        seed: int,
        knowledge: Knowledge = RUNS_OWN,
        *,
        tracking: Tracking | None = None,
    ) -> None:
        self.site, self.recipe, self.knowledge = site, recipe, knowledge
        self.tracking = tracking
        ordered = knowledge.architecture
        candidate = None if ordered is None else ordered_candidate(ordered)
        self.spec = spec if candidate is None else candidate.recipe
        self.classes = class_keys(site.card)
        if len(self.classes) < (1 if site.card.objective == "multilabel" else 2):
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
        self.data = learner_data(
            site, candidate or spec, recipe, knowledge.augmentation, self.classes, seed, device
        )

    @property
    def examples(self) -> int:
        """Number of training images: the site's weight in every mean."""
        return len(self.data.splits["train"])

    @property
    def bytes(self) -> int:
        """Memory that its data take, about: features, or pixels once each image was read."""
        preprocess, adapts = self.spec.preprocess, self.recipe == "adapter"
        each = 4 * self.spec.features if adapts else 4 * preprocess.resize**2  # 3 channels, 4:3
        return len(self.site.images) * each

    def start(self, seed: int, given: Arrays | None = None) -> Arrays:
        """Return how a model starts: the body and the head rows of the site's classes.

        The body is the one that is given; without it a new adapter or the pretrained backbone.
        """
        own = initial_adapter(self.spec.features, seed) if self.recipe == "adapter" else None
        return (given or own or self.body()) | self._rows(seed)

    def require_start(self, arrays: Arrays) -> Arrays:
        """Return the body that came along with an order to start from it, having checked it.

        Raises
        ------
        VerificationError
            If it is not the one that the knowledge names, or no body of this network.
        """
        assert self.knowledge.start is not None
        named = self.network()[0].named_parameters()
        shapes = {BODY + name: tuple(parameter.shape) for name, parameter in named}
        return require_start(self.knowledge.start, arrays, self.spec.backbone, shapes)

    def body(self) -> Arrays:
        """Return the pretrained backbone's parameters by array name."""
        named = self.network()[0].named_parameters()
        return {BODY + name: p.detach().cpu().numpy().copy() for name, p in named}

    def train_alone(self, order: Order, given: Arrays | None = None) -> Scores:
        """Train with the whole budget, keep the model, and return its scores.

        Starts from the body that is `given`, as in `start`. The site keeps this model unless
        another one gains.
        """
        scores = self._keep(order, self._trained(order, self.start(order.seed, given)))
        if not order.guard_against:
            self._choose(order, RunModels(self.site, order.run, order.arm))
        return scores

    def try_out(self, order: Order, given: Arrays | None = None) -> Scores:
        """Train as alone, and return the scores; nothing is kept."""
        return self._scores(self._trained(order, self.start(order.seed, given), tracked=False))

    def train_join(self, order: Order, arrays: Arrays) -> Scores:
        """Train with the whole budget from a finished group's arrays, keep the model, score it.

        The group is not trained again, so nothing goes back; head rows that it does not share start
        as they do alone.
        """
        own = {name: row for name, row in self._rows(order.seed).items() if name not in arrays}
        return self._keep(order, self._trained(order, arrays | own))

    def train_round(self, order: Order, arrays: Arrays) -> Arrays:
        """Train one round on what the group shares; return what goes back."""
        if self.knowledge.start is not None and order.server_round == 1:
            self.require_start(body_of(arrays))
        models = RunModels(self.site, order.run, order.arm)
        private = self._private(order, arrays, models)
        after = self._trained(order, arrays | private).arrays()
        if private:  # each file waits for the disk
            models.save_private(order.server_round, {name: after[name] for name in private})
        travelling = {name: after.get(name, value) for name, value in arrays.items()}
        return scale_rows(arrays, travelling, order.factors)

    def finish(self, order: Order, arrays: Arrays) -> Scores:
        """Score the group's final model with the site's private rows, and keep it."""
        models = RunModels(self.site, order.run, order.arm)
        model = self._model(order)
        model.load_arrays(arrays | self._private(order, arrays, models))
        return self._keep(order, model)

    def decide(self, order: Order, before_arm: str) -> bool:
        """Choose the final model: this arm's if it gained on validation data, else the one before.

        Raises
        ------
        DataError
            If one of the two was never scored in this run.
        """
        kept = RunModels(self.site, order.run, before_arm)
        new = RunModels(self.site, order.run, order.arm)
        before, after = kept.load_scores(), new.load_scores()
        if before is None or after is None:
            raise DataError(f"site {self.site.name} has not trained both models to choose from")
        keeps_new = gains(before, after)
        self._choose(order, new if keeps_new else kept)
        return keeps_new

    def _rows(self, seed: int) -> Arrays:
        width = HIDDEN if self.recipe == "adapter" else self.spec.features
        return initial_rows(self.classes, width, seed)

    def _private(self, order: Order, arrays: Arrays, models: RunModels) -> Arrays:
        """Return the head rows that stay here: as kept from the last round, else as they start."""
        start = self._rows(order.seed)
        kept = models.load_private(order.server_round)
        return {name: kept.get(name, row) for name, row in start.items() if name not in arrays}

    def network(self) -> tuple[nn.Module, int]:
        """Return a new body, as it is before training, and the width of its embeddings."""
        if self.recipe == "adapter":
            return Adapter(self.spec.features), HIDDEN
        return pretrained(self.spec).requires_grad_(True), self.spec.features

    def _model(self, order: Order) -> SiteModel:
        labels = self.data.labels[self.data.splits["train"]]
        body, width = self.network()
        return SiteModel(
            body,
            width,
            self.classes,
            class_weights(labels, len(self.classes)),
            lr=order.learning_rate if order.learning_rate > 0 else DEFAULT_LR[self.recipe],
            proximal_mu=order.proximal_mu,
        )

    def _trained(self, order: Order, arrays: Arrays, *, tracked: bool = True) -> SiteModel:
        series = open_series(self.tracking if tracked else None, self.site.name, order)
        curve = Curve(series, order.epochs * max(order.server_round - 1, 0)) if series else None
        seed = zlib.crc32(f"{order.seed} {order.server_round} {self.site.name}".encode())
        if isinstance(self.data.train, Augmented):
            self.data.train.reseed(seed)
        model = self._model(order)
        model.load_arrays(arrays)
        torch.manual_seed(seed)  # here, whatever making the model drew
        fit(
            model,
            self.data,
            epochs=order.epochs,
            batch_size=order.batch_size,
            seed=seed,
            find_lr=order.learning_rate < 0,
            device=self.device,
            curve=curve,
        )
        if curve is not None:
            curve.end(evaluate(model, self.data, "val"))
        return model

    def _scores(self, model: SiteModel) -> Scores:
        return {
            f"{split}_{metric}": value
            for split in ("val", "test")
            for metric, value in evaluate(model, self.data, split).items()
        }

    def _keep(self, order: Order, model: SiteModel) -> Scores:
        models, scores = RunModels(self.site, order.run, order.arm), self._scores(model)
        models.save("model", model.arrays())
        models.save_scores(scores)
        known = (self.classes, self.data.splits, scores, model.arrays())
        models.save_card(card_of(self.site, order, self.spec, *known))
        if series := open_series(self.tracking, self.site.name, order):
            series.write({f"final_{n}": v for n, v in scores.items() if math.isfinite(v)}, 0)
            series.close()
        return scores

    def _choose(self, order: Order, chosen: RunModels) -> None:
        write_final(self.site, order, self.classes, chosen)


def pretrained(spec: Spec) -> nn.Module:
    """Return a new copy of a spec's backbone on the CPU; the last one that was loaded is kept.

    Only where the spec names the digest of its weights: what lies in a file may change.
    """
    if spec.weights.sha256 is None:
        return load_backbone(spec)
    if spec.digest not in _backbones:
        _backbones.clear()
        _backbones[spec.digest] = load_backbone(spec)
    return copy.deepcopy(_backbones[spec.digest])
