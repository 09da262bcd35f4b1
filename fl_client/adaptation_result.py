"""What models of other tasks came to on a site: rows, JSON, a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import safetensors.numpy

from fl_client.adaptation import Adaptation, Course, Trained
from fl_client.fusion import Joining
from fl_client.models import gains
from fl_client.progress import show_progress
from fl_client.source_models import SourceModel
from protocol.descriptors import ClassMoments

SCRATCH = "scratch"
_JOININGS: tuple[Joining, ...] = ("concatenation", "sum")


@dataclass(frozen=True)
class Ways:
    """What to try.

    Attributes
    ----------
    names : tuple of str
        Of ``head``, ``fine-tune``, ``otce`` and ``fusion``.
    models : list of SourceModel
        Of other tasks.
    moments : list of ClassMoments
        Of these tasks, in the same order; empty where OTCE is not tried.
    weigher : str
        Score that fusion weighs by.
    """

    names: tuple[str, ...]
    models: Sequence[SourceModel]
    moments: Sequence[ClassMoments]
    weigher: str


@dataclass(frozen=True, eq=False)
class Row:
    """One way with its scores on validation and test images.

    Attributes
    ----------
    way : str
        What was done.
    models : tuple of str
        Names of the models that took part.
    trained : Trained
        The model and its scores.
    course : tuple of float or None
        Of OTCE: the conditional entropy before the first and before the last step, in nats.
    """

    way: str
    models: tuple[str, ...]
    trained: Trained
    course: Course | None = None

    @property
    def scores(self) -> dict[str, float]:
        """What the model scored on validation and test images."""
        return self.trained.scores

    def summary(self) -> dict[str, Any]:
        """Return the row as JSON values; undefined scores are null."""
        values = {k: None if math.isnan(v) else v for k, v in self.scores.items()}
        told = {} if self.course is None else {"conditional_entropy": list(self.course)}
        return {"way": self.way, "models": list(self.models), **values, **told}


@dataclass(frozen=True, eq=False)
class Adapted:
    """All ways that were tried on a site, training from scratch first.

    Attributes
    ----------
    site : str
        Name of the site.
    epochs, seed : int
        Budget of each way, and the seed of everything random.
    rows : list of Row
        The first one is from scratch.
    fits : dict
        Score of each model on the training images, by name.
    weigher : str
        Which score that is.
    spec : str
        Digest of the spec whose features the models take.
    classes : tuple of str
        Keys of the site's classes.
    """

    columns: ClassVar[tuple[str, ...]] = (
        "val_auroc",
        "val_balanced_accuracy",
        "test_auroc",
        "test_balanced_accuracy",
    )

    site: str
    epochs: int
    seed: int
    rows: list[Row]
    fits: dict[str, float]
    weigher: str
    spec: str
    classes: tuple[str, ...]

    @property
    def best(self) -> Row:
        """The row that validation images choose; from scratch unless another one gained on it."""
        best = self.rows[0]
        for row in self.rows[1:]:
            if gains(best.scores, row.scores):
                best = row
        return best

    def gain(self, row: Row) -> float:
        """Return what a row gained over scratch in balanced accuracy on test images."""
        name = "test_balanced_accuracy"
        return row.scores[name] - self.rows[0].scores[name]

    @property
    def sentence(self) -> str:
        """The result in one plain sentence."""
        best = self.best
        if best is self.rows[0]:
            return "no way gained over training from scratch on validation images"
        chosen = f"validation images choose {best.way} of {', '.join(best.models)}"
        if math.isnan(gain := self.gain(best)):
            return f"{chosen}; without test images nobody can tell by how much"
        return f"{chosen}: balanced accuracy {gain:+.3f} on test images against scratch"

    def summary(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "site": self.site,
            "epochs": self.epochs,
            "seed": self.seed,
            "best": self.rows.index(self.best),
            "ways": [row.summary() for row in self.rows],
            "scores": {"by": self.weigher, "models": self.fits},
            "sentence": self.sentence,
        }

    def model_file(self) -> bytes:
        """Return the best model as a safetensors file whose header says what it is."""
        best = self.best
        about = {
            "spec": self.spec,
            "classes": list(self.classes),
            "way": best.way,
            "models": list(best.models),
        }
        contiguous = {name: np.ascontiguousarray(a) for name, a in best.trained.arrays.items()}
        return safetensors.numpy.save(contiguous, {"fedprint": json.dumps(about)})


def tried(adaptation: Adaptation, ways: Ways) -> Adapted:
    """Try all ways, training from scratch first; shows progress."""
    each = len([name for name in ways.names if name != "fusion"]) * len(ways.models)
    total = 1 + each + ("fusion" in ways.names) * len(_JOININGS)
    rows: list[Row] = []
    with show_progress("adapted", total, "ways") as advance:
        for row in _rows(adaptation, ways):
            rows.append(row)
            advance(1)
    return Adapted(
        site=adaptation.learner.site.name,
        epochs=adaptation.budget.epochs,
        seed=adaptation.budget.seed,
        rows=rows,
        fits=dict(adaptation.fits(ways.models, ways.weigher)),
        weigher=ways.weigher,
        spec=adaptation.spec.digest,
        classes=adaptation.learner.classes,
    )


def _rows(adaptation: Adaptation, ways: Ways) -> Iterator[Row]:
    """Train way after way."""
    yield Row(SCRATCH, (), adaptation.scratch())
    for number, model in enumerate(ways.models):
        if "head" in ways.names:
            yield Row("head", (model.name,), adaptation.head(model))
        if "fine-tune" in ways.names:
            yield Row("fine-tune", (model.name,), adaptation.fine_tune(model))
        if "otce" in ways.names:
            trained, course = adaptation.otce(model, ways.moments[number])
            yield Row("otce", (model.name,), trained, course)
    if "fusion" in ways.names:
        names = tuple(model.name for model in ways.models)
        for joining in _JOININGS:
            trained = adaptation.fusion(ways.models, joining, ways.weigher)
            yield Row(f"fusion by {joining}", names, trained)
