"""A finished run whose sites share their weights, and a second run of other sites."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array

from fl_server.decisions import Decision, decide
from fl_server.exchange import Exchange
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from fl_server.tasks import tasks_of
from protocol.keys import generate_key, signer
from tests.fl_server import joining
from tests.fl_server.joining import MEMBERS, SPEC, Federation, federation, write_run

NEW = ("site-0-2", "site-1-2", "site-2-1")


@dataclass(frozen=True)
class Run:
    """What advice needs of a run."""

    settings: RunSettings
    exchange: Exchange
    decision: Decision
    outcomes: dict[str, ArmOutcome]


def sharing_run(sharing: tuple[str, ...] = MEMBERS) -> Federation:
    """Run the arms alone and grouped; the named sites share their weights.

    Fake sites all train alike, so each group's model is made another.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "SHARING", {*sharing})
        run = federation()
    for number, model in enumerate(run.outcomes["grouped"].models.values()):
        model["body.bias"] = Array(model["body.bias"].numpy() + np.float32(number))
    return run


def written(out: Path, run: Federation) -> Path:
    """Write the run folder of plain releases."""
    asked = RunSettings.model_validate(joining.SETTINGS.model_dump() | {"release": "plain"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "SETTINGS", asked)
        return write_run(out, run)


def first_run(run: Federation, **settings: object) -> Run:
    """Return a run as it is after the arm grouped."""
    asked = RunSettings.model_validate(joining.SETTINGS.model_dump() | settings)
    return Run(asked, run.exchange, run.decision, run.outcomes)


def second_run(run: Federation, pool: str, **settings: object) -> Run:
    """Return a run of other sites, before any training, that asks a pool."""
    exchange = Exchange("run-2", SPEC, run.exchange.store, signer(generate_key()))
    exchange.releases = run.newcomers(*NEW)
    begun = first_run(run, pool=pool, **settings)
    return replace(begun, exchange=exchange, decision=decide(tasks_of(exchange)), outcomes={})
