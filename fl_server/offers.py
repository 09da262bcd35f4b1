"""What may be tried in a group: one shot with the knowledge itself, and who proposes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.experiment import Detail, Scenario
from protocol.plan import Knowledge
from protocol.sharing import Arrays
from strategies.measurements import knowledge_id
from strategies.shots import Shot

__all__ = ["Adviser", "Offer"]


@dataclass(frozen=True)
class Offer:
    """One shot for a group.

    Attributes
    ----------
    label : str
        For people, in a few words.
    detail : Architecture, Policy or Weights
        What is handed over.
    source : str or None
        Release of the task that it comes from; None for one of the run's own candidates.
    sources : tuple of str
        Of weights: releases of the tasks that they were trained on.
    body : dict or None
        Of weights: the arrays of the body, by name.
    sentence : str
        The evidence, in words.
    evidence : Shot or None
        What a pool says for it, for one of the group's sites; None for the run's own candidates.
    """

    label: str
    detail: Detail
    source: str | None = None
    sources: tuple[str, ...] = ()
    body: Arrays | None = None
    sentence: str = ""
    evidence: Shot | None = None

    @property
    def knowledge_id(self) -> str:
        """What is equal for equal knowledge."""
        return knowledge_id(self.detail)


class Adviser(Protocol):
    """Who proposes what a group may try."""

    def shots(
        self, scenario: Scenario, group: Sequence[str], knowledge: Knowledge, k: int
    ) -> list[Offer]:
        """Return at most k shots, best first, no two of which hand over the same.

        Parameters
        ----------
        scenario : str
            Architecture, augmentation or pretraining.
        group : sequence of str
            Names of the group's sites.
        knowledge : Knowledge
            What was chosen so far: weights must fit its architecture.
        k : int
            How many at most.
        """
        ...
