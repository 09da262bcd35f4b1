"""From the arms' outcomes to the files of the run folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

from fl_server.arms import ArmOutcome
from fl_server.decisions import Decision
from fl_server.outcomes import metrics_file, recommendations_file
from protocol.files import atomic_json
from protocol.runfiles import GroupsFile, PartnerEntry, SiteGroupEntry
from protocol.taskcard import ClassCard, TaskCard
from strategies.cotrain import plan_group


def scored(accuracy: float, loss: float = 1.0) -> dict[str, float]:
    """Return one site's scores."""
    return {"test_balanced_accuracy": accuracy, "val_loss": loss}


def outcomes() -> dict[str, ArmOutcome]:
    """Return the outcomes of a run: a gained, b did not, c was lost in between, d never came."""
    card = TaskCard(name="t", classes=[ClassCard(name="x"), ClassCard(name="y")])
    return {
        "alone": ArmOutcome(
            scores={"a": scored(0.5), "b": scored(0.7), "c": scored(math.nan, math.inf)},
            examples={"a": 10, "b": 20, "c": 30},
            lost={"d": "did not answer in time"},
        ),
        "together": ArmOutcome(scores={"a": scored(0.6), "b": scored(0.75)}),
        "grouped": ArmOutcome(
            plans=[plan_group("grouped-1", {"a": card, "b": card})],
            scores={"a": scored(0.9), "b": scored(0.4), "c": scored(0.2)},
            keeps_group={"a": True, "b": False},
            lost={"c": "node is gone"},
        ),
    }


def test_the_final_model_is_what_the_guard_chose(tmp_path: Path) -> None:
    file = metrics_file(outcomes(), ["a", "b", "c", "d"])
    atomic_json(tmp_path / "metrics.json", file)
    read = json.loads((tmp_path / "metrics.json").read_text())
    sites = read["sites"]
    assert list(sites) == ["a", "b", "c"]
    a, b, c = (sites[name] for name in "abc")
    assert (a["alone"], a["together"], a["grouped"]) == (0.5, 0.6, 0.9)
    assert a["random"] is None
    assert (a["final"], a["kept"], a["train_images"]) == (0.9, "grouped", 10)
    assert (b["final"], b["kept"]) == (0.7, "alone")
    assert (c["final"], c["kept"], c["grouped"]) == (None, "alone", 0.2)
    # JSON knows neither NaN nor infinity, and a diverged loss is one
    assert c["scores"]["alone"] == {"test_balanced_accuracy": None, "val_loss": None}
    assert read["lost"] == {
        "alone": {"d": "did not answer in time"},
        "grouped": {"c": "node is gone"},
    }
    assert read["plans"]["grouped"][0]["shared_classes"] == ["x", "y"]
    assert read["plans"]["alone"] == []


def test_a_plan_that_gained_is_kept_over_group_and_local_model() -> None:
    arms = outcomes()
    arms["planned"] = ArmOutcome(
        scores={"a": scored(0.95), "b": scored(0.8), "c": scored(0.3)},
        keeps_group={"a": False, "b": True},
    )
    sites = metrics_file(arms, ["a", "b", "c"]).sites
    assert {name: (m.planned, m.final, m.kept) for name, m in sites.items()} == {
        "a": (0.95, 0.9, "grouped"),
        "b": (0.8, 0.8, "planned"),
        "c": (0.3, None, "alone"),
    }


def test_partners_become_shots_in_rank_order() -> None:
    partners = [
        PartnerEntry(site="b", distance=0.5, percentile=1.0),
        PartnerEntry(site="c", distance=0.9, percentile=0.5),
    ]
    entry = SiteGroupEntry(reason="", margin=None, stability=None, partners=partners)
    decision = Decision(["a"], [[0.0]], GroupsFile(groups=[], sites={"a": entry}))  # type: ignore[arg-type]
    file = recommendations_file(decision)
    shots = file.sites["a"]["co-training"]
    assert [(s.rank, s.source, s.distance, s.percentile) for s in shots] == [
        (1, "b", 0.5, 1.0),
        (2, "c", 0.9, 0.5),
    ]
