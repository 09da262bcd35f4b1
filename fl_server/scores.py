"""What one arm ended with, read out of the sites' answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fl_server.asking import Problem
from protocol.sharing import GroupPlan

Answer = RecordDict | Problem
"""What a site sent, or what kept it from answering."""


@dataclass
class ArmOutcome:
    """What one arm ended with.

    Attributes
    ----------
    plans : list of GroupPlan
        One a group, with what the group shared and what it could expect.
    scores : dict
        Per site: balanced accuracy, AUROC and loss on validation and test data.
    examples : dict
        Per site: number of training images.
    keeps_group : dict
        Per site that was asked: whether it keeps the group's model.
    lost : dict
        Sites that stopped answering, with the reason.
    returned : dict
        Sites that missed a round or more and came back, with the reason.
    seconds : float
        Wall time of the arm, since the run was last resumed.
    models : dict
        Final arrays by group, in the arms ``grouped`` and ``planned``.
    """

    plans: list[GroupPlan] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    keeps_group: dict[str, bool] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    returned: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    models: dict[str, ArrayRecord] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return all but the models as JSON, in which NaN survives."""
        plans = [plan.model_dump(mode="json") for plan in self.plans]
        kept = ArmOutcome(**{**vars(self), "plans": [], "models": {}})
        return json.dumps({**asdict(kept), "plans": plans})

    @classmethod
    def from_json(cls, text: str) -> ArmOutcome:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["plans"] = [GroupPlan.model_validate(plan) for plan in values["plans"]]
        return cls(**values)


def score(outcome: ArmOutcome, answers: Mapping[str, Answer]) -> None:
    """Sort the sites' answers into scores, training sizes and guard decisions, or losses."""
    for site, answer in answers.items():
        if isinstance(answer, Problem):
            outcome.lost[site] = str(answer)
            continue
        record = answer.metric_records.get("metrics")
        if record is None or not _usable(record):
            outcome.lost[site] = "sent no usable metrics"
            continue
        scores = {
            name: float(value) for name, value in record.items() if isinstance(value, (int, float))
        }
        outcome.examples[site] = int(scores.pop("num-examples", 0))
        if "keeps-group" in scores:
            outcome.keeps_group[site] = bool(scores.pop("keeps-group"))
        outcome.scores[site] = scores


def _usable(record: Mapping[str, object]) -> bool:
    """Tell whether a site's metrics hold a training size and a balanced accuracy (NaN: no data)."""
    examples, accuracy = record.get("num-examples"), record.get("test_balanced_accuracy")
    fits = isinstance(accuracy, (int, float)) and not (accuracy < 0 or accuracy > 1)
    return fits and isinstance(examples, int) and examples > 0
