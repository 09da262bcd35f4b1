"""``trials.json`` and ``plans.json`` of a run folder: what was tried, and what came of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from protocol.experiment import Detail, Name, Scenario, Value
from protocol.names import Sha256Hex, SiteName
from protocol.plan import Choice, Knowledge, Plan

NOT_ALLOWED = "plans-not-allowed"
"""Reason code of a site whose policy lets it take part in no trials and plans."""

Scores = dict[str, float | None]
"""Balanced accuracy, AUROC and loss on validation and test data; None where undefined."""


class _File(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Tried(_File):
    """One shot, tried by the sites of a group, each alone.

    Parameters
    ----------
    label : str
        The shot in a few words.
    detail : Detail
        What was handed over.
    source : str or None
        Release of the task that it came from; None for one of the run's own candidates.
    knowledge : Knowledge
        All that was trained with: the shot, on top of what was chosen before.
    scores : dict
        Per site.
    missing : dict
        Per site that did not try it, why.
    """

    label: Annotated[str, Field(max_length=200)]
    detail: Detail
    source: Sha256Hex | None = None
    knowledge: Knowledge
    scores: dict[SiteName, Scores]
    missing: dict[SiteName, str] = {}


class Trial(_File):
    """The shots of one scenario at the sites of one group.

    Parameters
    ----------
    group : str
        Name of the group.
    scenario : str
        Architecture, augmentation or pretraining.
    hyperparameters : dict
        What else the outcomes depend on: budget, recipe, and what was chosen before.
    baseline : dict
        Scores of each site without any of the shots, at the same budget.
    tried : list of Tried
        The shots, in rank order.
    untried : dict
        Shots that no site of the group could try, with the reason.
    apart : dict
        Sites whose own policy lets them take part in no trials and plans, with what they said: they
        have no say in the choice.
    choice : Choice
        What the group takes.
    """

    group: str
    scenario: Scenario
    hyperparameters: dict[Name, Value] = {}
    baseline: dict[SiteName, Scores]
    tried: list[Tried]
    untried: dict[str, str] = {}
    apart: dict[SiteName, str] = {}
    choice: Choice


class TrialsFile(_File):
    """``trials.json``: all trials of a run, in the order in which they were made."""

    trials: list[Trial]


class PlansFile(_File):
    """``plans.json``: each group's plan, and the sites that do not train by it, with the reason."""

    plans: list[Plan]
    refused: dict[SiteName, str] = {}
