"""The trainings that are compared: every site alone, all together, random groups, found groups.

All arms run on the same budget (rounds x local epochs), through the same client code and the same
stock strategy; they differ in who trains with whom, and in nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl_server.exchange import Exchange, ask
from fl_server.settings import Arm, RunSettings
from strategies.cotrain import GroupPlan, plan_group
from strategies.group_grid import GroupGrid, per_group

log = logging.getLogger("fedprint")


@dataclass
class ArmOutcome:
    """What one arm ended with.

    Attributes
    ----------
    plans : list of GroupPlan
        One a group, with what the group shared and what it could expect.
    metrics : dict
        Per site: balanced accuracy and AUROC on validation and test data.
    lost : dict
        Sites that stopped answering, with the reason.
    seconds : float
        Wall time of the arm.
    """

    plans: list[GroupPlan] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def arm_groups(
    arm: Arm, groups: Sequence[Sequence[str]], sites: Sequence[str], seed: int
) -> list[list[str]]:
    """Return who trains with whom in an arm.

    ``random`` deals the sites anew into groups of the same sizes as the found ones.
    """
    if arm == "alone":
        return [[site] for site in sites]
    if arm == "together":
        return [list(sites)]
    if arm == "grouped":
        return [list(group) for group in groups]
    shuffled = [str(s) for s in np.random.default_rng([seed, 7]).permutation(sorted(sites))]
    ends = np.cumsum([len(group) for group in groups])
    return [sorted(part.tolist()) for part in np.split(np.array(shuffled), ends[:-1])]
