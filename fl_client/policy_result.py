"""What a search for an augmentation policy came to: a sentence, JSON, experiments for a pool."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fl_client.halving import Race
from fl_client.policy_files import pipeline_of
from fl_client.policy_judges import Judgement
from fl_client.policy_probe import Verdict
from fl_client.policy_space import AugmentationPolicy
from fl_client.policy_training import VIEWS
from protocol.experiment import Experiment, Policy

NONE = "none"
"""No augmentation: what policies are compared with."""


@dataclass(frozen=True)
class Found:
    """A finished search.

    Attributes
    ----------
    site : str
        Name of the site.
    budget, seed : int
        What was asked for.
    policies : dict
        All candidates by name.
    race : Race
        Their ranking and the courses they took.
    judgements : dict
        The last judgement of each.
    apart : bool
        Whether no subject was on both sides when training images were left out.
    plain : Verdict
        How plain images alone classify training images left out.
    strength : float
        Inverse regularisation of all probes.
    held_out : dict
        By split, ``val`` and ``test``, verdicts by name: no augmentation, the default policy and
        the best candidate, by a probe of all training images; empty where a split is.
    ended : datetime
        When it was over.
    """

    site: str
    budget: int
    seed: int
    policies: dict[str, AugmentationPolicy]
    race: Race
    judgements: dict[str, Judgement]
    apart: bool
    plain: Verdict
    strength: float
    held_out: dict[str, dict[str, Verdict]]
    ended: datetime

    @property
    def best(self) -> str:
        """Name of the best candidate."""
        return self.race.ranking[0].name

    @property
    def policy(self) -> AugmentationPolicy:
        """The best candidate."""
        return self.policies[self.best]

    @property
    def helps(self) -> bool:
        """Whether the best candidate gained over no augmentation on validation images.

        By balanced accuracy, where that is equal by the loss; augmented images must still be
        classified.
        """
        verdicts = self.held_out["val"]
        if not verdicts or not self.judgements[self.best].passes:
            return False
        before, after = verdicts[NONE], verdicts[self.best]
        if after.recall != before.recall:
            return after.recall > before.recall
        return after.loss < before.loss

    @property
    def sentence(self) -> str:
        """The result in one plain sentence."""
        verdicts = self.held_out["val"]
        if not verdicts:
            return f"best: {self.best}; without validation images nobody can tell whether it helps"
        before, after = verdicts[NONE].recall, verdicts[self.best].recall
        told = f"{after:.3f} on validation images, {before:.3f} without augmentation"
        word = "" if self.helps else ": train without augmentation"
        return f"best: {self.best}, balanced accuracy {told}{word}"

    def summary(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "site": self.site,
            "seed": self.seed,
            "budget_views": self.budget,
            "spent_views": int(self.race.spent),
            "subjects_apart": self.apart,
            "best": self.best,
            "helps": self.helps,
            "policy": pipeline_of(self.policy),
            "plain": self.plain._asdict(),
            "held_out": {
                split: {name: verdict._asdict() for name, verdict in verdicts.items()}
                for split, verdicts in self.held_out.items()
            },
            "ranking": [
                {
                    "name": course.name,
                    "rounds": course.complete,
                    "views": int(sum(trial.cost for trial in course.trials)),
                    "still_classified": (found := self.judgements[course.name]).passes,
                    "use": found.use._asdict(),
                    "density": found.density._asdict(),
                    "reason": course.reason,
                }
                for course in self.race.ranking
            ],
            "sentence": self.sentence,
        }

    def experiments(self, target: str) -> list[Experiment]:
        """Return what a pool can learn: the default and the best policy beside none, on test data.

        Parameters
        ----------
        target : str
            The site's task: SHA-256 of its release.
        """
        verdicts = self.held_out["test"]
        return [
            Experiment(
                scenario="augmentation",
                target=target,
                detail=Policy(pipeline=pipeline_of(self.policies[name])),
                hyperparameters={
                    "recipe": "probe",
                    "baseline": NONE,
                    "policy": name,
                    "strength": self.strength,
                    "views": VIEWS,
                    "budget": self.budget,
                },
                seed=self.seed,
                metric="balanced_accuracy",
                performance=verdict.recall,
                baseline=verdicts[NONE].recall,
                recorded=self.ended,
            )
            for name, verdict in verdicts.items()
            if name != NONE
        ]
