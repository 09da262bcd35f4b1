"""What every part of an arm needs, and how a group trains: with which knowledge, by which plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid

from fl_server.exchange import Exchange
from fl_server.settings import Arm, RunSettings
from fl_server.steps import Steps
from fl_server.tracking import RunTracker
from protocol.orders import Order
from protocol.plan import Knowledge
from protocol.sharing import Arrays

__all__ = ["Course", "Way", "array_record", "message"]


@dataclass(frozen=True)
class Course:
    """What every part of an arm needs; without a tracker nothing is tracked."""

    arm: Arm
    grid: Grid
    exchange: Exchange
    settings: RunSettings
    steps: Steps
    tracker: RunTracker | None = None

    @property
    def budget(self) -> int:
        """Epochs of who trains alone: as many as a group's sites train in all rounds."""
        return self.settings.rounds * self.settings.local_epochs

    def order(self, **changes: object) -> Order:
        """Return what every message of the arm asks for."""
        settings = self.settings
        values: dict[str, object] = {
            "run": self.exchange.run,
            "arm": self.arm,
            "spec": self.exchange.spec,
            "recipe": settings.recipe,
            "epochs": settings.local_epochs,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "proximal_mu": settings.proximal_mu,
            "seed": settings.seed,
        }
        return Order.model_validate(values | changes)


@dataclass(frozen=True)
class Way:
    """How one group trains, where that is not as the run has it.

    Attributes
    ----------
    knowledge : Knowledge
        What is trained with.
    plan : str
        SHA-256 of the signed plan that says so; empty without one.
    body : dict or None
        Arrays of the body to start from, where the knowledge names weights.
    guard : dict
        By site, the arm whose model it keeps unless this one gained; sites without decide nothing.
    """

    knowledge: Knowledge = field(default_factory=Knowledge)
    plan: str = ""
    body: Arrays | None = None
    guard: Mapping[str, str] = field(default_factory=dict)

    @property
    def terms(self) -> dict[str, object]:
        """What every order of the group says beside what all orders of the arm do."""
        return {"knowledge": self.knowledge, "plan": self.plan}

    def judged(self, site: str) -> dict[str, object]:
        """The same, where the site is to decide which model it keeps."""
        return {**self.terms, "guard_against": self.guard.get(site, "")}


def message(config: Mapping[str, Any], arrays: ArrayRecord | None = None) -> RecordDict:
    """Return a message's content: the order's config record and, where given, arrays."""
    records: dict[str, Any] = {"config": ConfigRecord(dict(config))}
    return RecordDict(records if arrays is None else {**records, "arrays": arrays})


def array_record(arrays: Arrays) -> ArrayRecord:
    """Wrap arrays by name for the wire."""
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})
