"""Ways to adapt models of other tasks to a site, each at the budget of training from scratch.

All are of the adapter recipe, on features computed once, and start their heads alike. Budget is
counted in passes over the training images: where OTCE tunes the body first, its steps are taken
off the epochs of what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_client.features import cached_features
from fl_client.fusion import FusedBody, Joining, fusion_weights, wide_adapter
from fl_client.learner import Learner
from fl_client.model import Adapter, SiteModel, class_weights
from fl_client.models import Scores
from fl_client.otce_tuning import Labelled, pseudo_samples, tune
from fl_client.site import Site
from fl_client.source_models import SourceModel, adapter_of
from fl_client.training import DEFAULT_LR, evaluate, fit
from protocol.descriptors import ClassMoments
from protocol.errors import ConfigError
from protocol.sharing import HIDDEN, Arrays, initial_adapter, initial_rows, row_name
from protocol.spec import Spec
from strategies.transferability import h_score, h_score_shrunk, logme

WEIGHERS = {"logme": logme, "h-score": h_score, "h-score-shrunk": h_score_shrunk}
"""Scores of embeddings alone, that fusion can weigh models by."""
Course = tuple[float, float]
TUNED = 4
"""OTCE tunes with one in so many epochs of the budget."""


@dataclass(frozen=True)
class Budget:
    """What every way may use.

    Attributes
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Of ordinary training.
    learning_rate : float
        Of ordinary training; 0 takes the recipe's default.
    seed : int
        Of splits, starts and order of the batches.
    """

    epochs: int = 40
    batch_size: int = 16
    learning_rate: float = 0.0
    seed: int = 0


class Trained(NamedTuple):
    """A model that was trained, as arrays, and what it scored on validation and test images."""

    scores: Scores
    arrays: Arrays


class Adaptation:
    """One site, on which several ways to adapt are tried.

    Parameters
    ----------
    site : Site
        Its own split holds.
    spec : Spec
        Of the features; must be calibrated.
    budget : Budget
        The same for every way.
    device : str or None
        Where to compute; None chooses.

    Raises
    ------
    DataError
        As `Learner` does, and if the site's images have more than one class.
    """

    def __init__(self, site: Site, spec: Spec, budget: Budget, device: str | None) -> None:
        site.require_one_class("adapting models of others")
        self.learner = Learner(site, spec, "adapter", device, budget.seed)
        self.spec, self.budget, self._device = spec, budget, device

    @cached_property
    def training(self) -> Labelled:
        """Features and labels of the training images, float32 [n, m] and int64 [n]."""
        data = self.learner.data
        features = cached_features(self.learner.site, self.spec, self._device)[0]
        rows = data.splits["train"]
        return Labelled(features[rows], data.labels[rows])

    def scratch(self) -> Trained:
        """Train a new adapter and its head."""
        start = initial_adapter(self.spec.features, self.budget.seed)
        return self._train(adapter_of(start), HIDDEN, self.budget.epochs)

    def head(self, model: SourceModel) -> Trained:
        """Train a head on the model's body, which stays as it is."""
        body = adapter_of(model.body).requires_grad_(False)
        return self._train(body, HIDDEN, self.budget.epochs)

    def fine_tune(self, model: SourceModel) -> Trained:
        """Train all, starting from the model's body."""
        return self._train(adapter_of(model.body), HIDDEN, self.budget.epochs)

    def otce(self, model: SourceModel, source: Labelled | ClassMoments) -> tuple[Trained, Course]:
        """Tune the model's body by OTCE, then train all from there.

        Parameters
        ----------
        model : SourceModel
            Of the source task.
        source : Labelled or ClassMoments
            The source's own features, or what it released of its classes.

        Returns
        -------
        trained : Trained
            The model.
        course : tuple of float
            Conditional entropy before the first and before the last step of tuning, in nats.

        Raises
        ------
        ConfigError
            If the budget has no epoch to tune with, or features differ in width.
        """
        body = adapter_of(model.body)
        course = self.tuned(body, source)
        trained = self._train(body, HIDDEN, self.budget.epochs - len(course))
        return trained, (course[0], course[-1])

    def tuned(self, body: Adapter, source: Labelled | ClassMoments) -> list[float]:
        """Tune a body in place; return its conditional entropy before each step, in nats."""
        steps, target = self.budget.epochs // TUNED, self.training
        if steps == 0:
            raise ConfigError(f"{self.budget.epochs} epochs are too few to tune: take {TUNED}")
        if isinstance(source, ClassMoments):
            if (width := source.means.shape[1]) != self.spec.features:
                raise ConfigError(
                    f"the source's class moments are of {width} features, the model's of "
                    f"{self.spec.features}: take those of a spec without a projection"
                )
            source = pseudo_samples(source, len(target.labels), self.budget.seed)
        return tune(body, source, target, steps=steps, device=self.learner.device)

    def fusion(self, models: Sequence[SourceModel], joining: Joining, weigher: str) -> Trained:
        """Train a head on all models' bodies together, each weighted by a score on this site.

        Parameters
        ----------
        models : sequence of SourceModel
            At least one.
        joining : str
            ``concatenation`` or ``sum``.
        weigher : str
            Key of `WEIGHERS`.
        """
        bodies = [adapter_of(model.body) for model in models]
        weights = fusion_weights(list(self.fits(models, weigher).values()))
        sample = torch.from_numpy(self.training.values)
        fused = FusedBody(bodies, weights, sample, joining)
        return self._train(fused, fused.width, self.budget.epochs)

    def fits(self, models: Sequence[SourceModel], weigher: str) -> Mapping[str, float]:
        """Return how well each model suits the training images, by name, by a score."""
        score, training = WEIGHERS[weigher], self.training
        return {
            model.name: score(_embedded(model, training.values), training.labels)
            for model in models
        }

    def _train(self, body: nn.Module, width: int, epochs: int) -> Trained:
        """Train what moves of a body, and a new head, as the learner does."""
        data, learner, budget = self.learner.data, self.learner, self.budget
        weights = class_weights(self.training.labels, len(learner.classes))
        lr = budget.learning_rate or DEFAULT_LR["adapter"]
        torch.manual_seed(budget.seed)
        model = SiteModel(body, width, learner.classes, weights, lr=lr)
        rows = initial_rows(learner.classes, width, budget.seed)
        start = torch.from_numpy(np.stack([rows[row_name(key)] for key in learner.classes]))
        with torch.no_grad():
            model.head.weight.copy_(start[:, :-1])
            model.head.bias.copy_(start[:, -1])
        fit(
            model,
            data,
            epochs=epochs,
            batch_size=budget.batch_size,
            seed=budget.seed,
            find_lr=False,
            device=learner.device,
        )
        scores = {
            f"{split}_{metric}": value
            for split in ("val", "test")
            for metric, value in evaluate(model, data, split).items()
        }
        return Trained(
            scores, wide_adapter(model) if isinstance(body, FusedBody) else model.arrays()
        )


def _embedded(model: SourceModel, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a model's embeddings [n, HIDDEN] of features [n, m]."""
    with torch.inference_mode():
        embedded: NDArray[np.float32] = adapter_of(model.body)(torch.from_numpy(features)).numpy()
    return embedded
