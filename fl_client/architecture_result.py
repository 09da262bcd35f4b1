"""What a search among architectures came to: ranking, one sentence, experiments for a pool."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from fl_client.candidates import Candidate
from fl_client.comparison import Difference, paired_difference
from fl_client.efforts import ladder
from fl_client.halving import Budget, Course, Race
from fl_client.site import Site
from fl_client.training import DEFAULT_LR
from fl_client.trials import HEAD_BATCH, Measured
from protocol.experiment import Architecture, Experiment
from protocol.presets import Preset

METRICS = ("balanced_accuracy", "auroc")
"""Metrics that experiments are made of, on test data."""


@dataclass(frozen=True)
class Row:
    """A candidate in the ranking: judged with `images` (training and validation) and `epochs`.

    Attributes
    ----------
    score : float
        Cross-validated balanced accuracy; what it is ranked by.
    gain, error : float
        How much better than the baseline with the same effort, and the standard error of that.
    test, test_gain : float
        Balanced accuracy on test data with the same effort, and how much better that is.
    seconds : float
        All that its trials took.
    rounds : int
        Completed rounds that it took part in.
    dropped : int or None
        Round after which it was out, from 1; None if it never was.
    """

    name: str
    score: float
    gain: float
    error: float
    test: float
    test_gain: float
    images: int
    epochs: int
    gmacs: float
    parameters: int
    seconds: float
    rounds: int
    dropped: int | None
    reason: str


@dataclass(frozen=True)
class Search:
    """A finished search."""

    site: Site
    preset: Preset
    budget: Budget
    seed: int
    candidates: dict[str, Candidate]
    race: Race
    measured: dict[tuple[str, int], Measured]
    ended: datetime

    @property
    def rows(self) -> list[Row]:
        """The ranking, the best first."""
        return [self._row(course) for course in self.race.ranking]

    @property
    def recommended(self) -> str:
        """The best candidate, if it beats the baseline by more than one standard error.

        Few images decide little, and the best of several looks better than it is: within one
        standard error the usual choice stands (the rule of Breiman et al., CART, 1984).
        """
        best = self.rows[0]
        return best.name if best.gain > best.error else self.preset.baseline

    @property
    def sentence(self) -> str:
        """The result in one plain sentence, with what test data say of it."""
        best, against = self.rows[0], self.preset.baseline
        tried, all_ = sum(row.epochs > 0 for row in self.rows), len(self.rows)
        if tried < all_:
            return f"only {tried} of {all_} candidates were tried: give a larger --budget"
        if best.name == against:
            return f"recommended: {against}, the baseline: nothing else did better on these images"
        gain = f"{best.gain:+.3f} with a standard error of {best.error:.3f}"
        test = "" if math.isnan(best.test_gain) else f"; on test data {best.test_gain:+.3f}"
        if self.recommended == best.name:
            return f"recommended: {best.name}, against {against} {gain}{test}"
        return f"recommended: {against}, the baseline: {best.name} is too close, {gain}{test}"

    def summary(self) -> dict[str, Any]:
        """Return the result as JSON values; what was not measured is null."""
        unlimited = math.isinf(self.budget.cost)
        return {
            "site": self.site.name,
            "preset": self.preset.name,
            "baseline": self.preset.baseline,
            "seed": self.seed,
            "budget_seconds": None if unlimited else self.budget.cost,
            "spent_seconds": self.race.spent,
            "rounds": [asdict(effort) for effort in ladder(self.budget.rounds)],
            "completed": self.race.rounds,
            "recommended": self.recommended,
            "ranking": [{k: _known(v) for k, v in asdict(row).items()} for row in self.rows],
            "trials": [
                {"name": name, "round": round_ + 1, "images": len(each.rows)}
                | asdict(each.effort)
                | {"seconds": each.seconds, "gmacs": self.candidates[name].gmacs}
                | {metric: _known(value) for metric, value in each.scores.items()}
                for (name, round_), each in self.measured.items()
            ],
            "sentence": self.sentence,
        }

    def experiments(self, target: str) -> list[Experiment]:
        """Return what a pool can learn from it: every trial beside the baseline's in its round.

        Both were measured on test data after equal effort. The baseline's own trials are among
        them, so that it can be recommended, too.

        Parameters
        ----------
        target : str
            The site's task: SHA-256 of its release.
        """
        against = self.preset.baseline
        return [
            self._experiment(target, name, metric, mine, its)
            for (name, round_), mine in self.measured.items()
            if (its := self.measured.get((against, round_))) is not None
            for metric in METRICS
            if all(math.isfinite(each.scores[f"test_{metric}"]) for each in (mine, its))
        ]

    def _experiment(
        self, target: str, name: str, metric: str, mine: Measured, its: Measured
    ) -> Experiment:
        recipe = self.candidates[name].recipe
        return Experiment(
            scenario="architecture",
            target=target,
            detail=Architecture(name=name),
            hyperparameters={
                "recipe": "adapter",
                "baseline": self.preset.baseline,
                "weights": recipe.weights.sha256,
                "size": recipe.preprocess.crop,
                "images": len(mine.rows),
                "share": mine.effort.share,
                "epochs": mine.effort.epochs,
                "batch_size": HEAD_BATCH,
                "learning_rate": DEFAULT_LR["adapter"],
            },
            seed=self.seed,
            metric=metric,
            performance=mine.scores[f"test_{metric}"],
            baseline=its.scores[f"test_{metric}"],
            recorded=self.ended,
        )

    def _pair(self, course: Course) -> tuple[Measured, Measured] | None:
        """Return a candidate's measurement and the baseline's of the round it is judged by."""
        round_ = max(course.complete, 1) - 1
        mine = self.measured.get((course.name, round_))
        its = self.measured.get((self.preset.baseline, round_))
        return None if mine is None or its is None else (mine, its)

    def _row(self, course: Course) -> Row:
        name, nan = course.name, math.nan
        found = self.measured.get((name, max(course.complete, 1) - 1))
        gain, pair, metric = Difference(nan, nan), self._pair(course), METRICS[0]
        if pair is not None:
            mine, its = pair
            labels = self.site.labels[mine.rows]
            subjects = np.array([self.site.images[row].subject for row in mine.rows])
            gain = paired_difference(mine.hits, its.hits, labels, subjects)
        test = [each.scores[f"test_{metric}"] for each in pair or ()]
        return Row(
            name=name,
            score=found.scores[f"val_{metric}"] if found else nan,
            gain=gain.value,
            error=gain.error,
            test=found.scores[f"test_{metric}"] if found else nan,
            test_gain=test[0] - test[1] if test else nan,
            images=len(found.rows) if found else 0,
            epochs=found.effort.epochs if found else 0,
            gmacs=self.candidates[name].gmacs,
            parameters=self.candidates[name].parameters,
            seconds=sum(m.seconds for (which, _), m in self.measured.items() if which == name),
            rounds=course.complete,
            dropped=None if course.dropped is None else course.dropped + 1,
            reason=course.reason,
        )


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
