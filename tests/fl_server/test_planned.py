"""Plans in a whole run in memory: what is tried, chosen, signed, trained, kept and written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict

from fl_server import collector, train_arms
from fl_server.late import join_late
from fl_server.planning import open_plan
from fl_server.pool.runs import read_run
from fl_server.runfolder import CHECKPOINT, PLANNING
from protocol.errors import ConfigError
from protocol.experiment import Experiment, Partner
from protocol.files import sha256_hex
from protocol.plan import Plan
from protocol.plan_records import to_accepted
from protocol.trials import PlansFile, TrialsFile
from protocol.weights import weights_sha256
from tests.fl_server.deployed import Deployed, prepare
from tests.fl_server.joining import CLASSES, MEMBERS
from tests.fl_server.planning import BODIES, SOURCES, Always, PlanningSite
from tests.strategies.fake_grid import Killed

ARMS = "grouped,planned"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, PlanningSite]]:
    folder = tmp_path_factory.mktemp("planning") / "coordinator"
    sites = {name: PlanningSite(name) for name in CLASSES}
    prepare(folder, sites)
    return folder, sites


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> Always:
    always = Always()
    monkeypatch.setattr(train_arms, "adviser", lambda *_: always)
    monkeypatch.setattr(train_arms, "write_recommendations", lambda *_: None)
    return always


@pytest.fixture
def deployed(
    prepared: tuple[Path, dict[str, PlanningSite]],
    advice: Always,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Deployed:
    monkeypatch.setattr(collector, "ROSTER_SECONDS", 0.0)
    folder, sites = prepared
    shutil.copytree(folder, tmp_path / "coordinator")
    fresh = {name: PlanningSite(name, site.key) for name, site in sites.items()}
    grid = Deployed(tmp_path / "coordinator", fresh)  # type: ignore[arg-type]
    grid.away(*(set(CLASSES) - set(MEMBERS)))
    return grid


def site_of(deployed: Deployed, name: str) -> PlanningSite:
    site = deployed.sites[name]
    assert isinstance(site, PlanningSite)
    return site


def go(deployed: Deployed, **changes: Any) -> None:
    deployed.go(arms=ARMS, **changes)


def plans_of(deployed: Deployed) -> dict[str, Plan]:
    file = PlansFile.model_validate(deployed.read("plans.json"))
    return {plan.group: plan for plan in file.plans}


def labels(plan: Plan) -> list[str]:
    return [choice.label for choice in plan.choices]


def test_each_group_tries_one_scenario_on_top_of_the_other(
    deployed: Deployed, advice: Always
) -> None:
    go(deployed)
    plans = plans_of(deployed)
    assert labels(plans["group-1"]) == ["net-b", "as in the run", "weights"]
    assert labels(plans["group-2"]) == ["as in the run", "flip", "as in the run"]
    assert labels(plans["group-3"]) == ["as in the run"] * 3
    assert plans["group-3"].knowledge.is_default
    first = plans["group-1"].knowledge
    assert first.architecture is not None
    assert first.start is not None
    assert (first.architecture.backbone, first.start.sha256) == ("net-b", weights_sha256(BODIES))
    asked = [
        (s, k.architecture and k.architecture.backbone)
        for s, g, k, _ in advice.asked
        if g == ("site-0-0", "site-0-1")
    ]
    assert asked == [("architecture", None), ("augmentation", "net-b"), ("pretraining", "net-b")]
    kinds = site_of(deployed, "site-0-0").asked
    assert kinds.count("query.recipes") == kinds.count("query.plan") == 1
    assert kinds.count("train.trial") == 5
    trials = [o for kind, o in site_of(deployed, "site-0-0").orders if kind == "train.trial"]
    assert [o.arm for o in trials] == [
        *("trial-architecture-1", "trial-architecture-2", "trial-augmentation-1"),
        *("trial-augmentation-2", "trial-pretraining-1"),
    ]
    assert {(o.epochs, o.plan, o.guard_against, o.proximal_mu) for o in trials} == {(2, "", "", 0)}
    assert deployed.is_whole()


def test_a_group_trains_by_its_plan_and_each_site_keeps_what_gained(deployed: Deployed) -> None:
    site_of(deployed, "site-1-1").trains.keeps = False
    go(deployed)
    sites = deployed.read("metrics.json")["sites"]
    plan = (deployed.out / "plans" / "group-1.dsse.json").read_bytes()
    rounds = [o for kind, o in site_of(deployed, "site-0-0").orders if kind == "train"]
    planned = [o for o in rounds if o.arm == "planned"]
    assert [(o.server_round, o.epochs, o.plan) for o in planned] == [
        (1, 1, sha256_hex(plan)),
        (2, 1, sha256_hex(plan)),
    ]
    guards = {
        name: [o.guard_against for kind, o in site_of(deployed, name).orders if kind == "evaluate"]
        for name in ("site-0-0", "site-1-1")
    }
    assert guards == {"site-0-0": ["alone", "grouped"], "site-1-1": ["alone", "alone"]}
    kept = {name: site["kept"] for name, site in sites.items()}
    assert kept == {
        "site-0-0": "planned",
        "site-0-1": "planned",
        "site-1-0": "planned",
        "site-1-1": "alone",
        "site-2-0": "alone",
    }
    assert all(site["final"] == site[site["kept"]] for site in sites.values())
    # nothing changes for who trains alone as in the run, so nothing is trained again
    assert sites["site-2-0"]["planned"] == sites["site-2-0"]["alone"]
    models = sorted(path.stem for path in (deployed.out / "models").glob("*.safetensors"))
    assert models == ["grouped-1", "grouped-2", "planned-1", "planned-2"]
    # the first group starts from the weights that its plan names
    sent = [m for m in deployed.sent if m.metadata.message_type == "train"]
    of_plan = [m for m in sent if m.content.config_records["config"]["arm"] == "planned"]
    node = list(CLASSES).index("site-0-0") + 100
    first = next(m for m in of_plan if m.metadata.dst_node_id == node)
    start = first.content.array_records["arrays"]
    assert all((start[name].numpy() == value).all() for name, value in BODIES.items())


def test_a_site_without_partners_trains_alone_by_its_plan(deployed: Deployed) -> None:
    site_of(deployed, "site-0-1").refuses = "site site-0-1 takes part in no plans"
    go(deployed)
    refused = deployed.read("plans.json")["refused"]
    assert refused == {"site-0-1": "site site-0-1 takes part in no plans"}
    site, other = (site_of(deployed, name) for name in ("site-0-0", "site-0-1"))
    kind, order = site.orders[-1]
    assert (kind, order.arm, order.epochs, order.guard_against) == (
        *("train.alone", "planned", 2, "grouped"),
    )
    assert site.starts == ["trial-pretraining-1", "planned"]
    assert "planned" not in {o.arm for _, o in other.orders}
    sites = deployed.read("metrics.json")["sites"]
    assert (sites["site-0-0"]["kept"], sites["site-0-1"]["kept"]) == ("planned", "grouped")
    assert sites["site-0-1"]["planned"] == sites["site-0-1"]["grouped"]
    assert deployed.is_whole()


@pytest.mark.parametrize("first", ["architecture", "augmentation"])
def test_whose_policy_allows_no_plans_has_no_say(deployed: Deployed, first: str) -> None:
    """Counted as a site that gains nothing, one of two would keep the other from every plan."""
    site_of(deployed, "site-1-1").apart = site_of(deployed, "site-0-1").apart = True
    go(deployed, scenarios=f"{first},pretraining")
    why = {name: f"site {name} takes part in no plans" for name in ("site-0-1", "site-1-1")}
    trials = TrialsFile.model_validate(deployed.read("trials.json")).trials
    assert [list(t.apart) for t in trials] == [["site-0-1"]] * 2 + [["site-1-1"]] * 2 + [[]] * 2
    taken, group = ("net-b", "group-1") if first == "architecture" else ("flip", "group-2")
    assert labels(plans_of(deployed)[group])[0] == taken
    assert deployed.read("plans.json")["refused"] == why
    for name in why:  # it is asked once whether it takes part, and then only shown the plan
        asked = site_of(deployed, name).asked
        assert len([k for k in asked if k in ("query.recipes", "train.trial")]) == 1
        assert asked.count("query.plan") == 1
    left = {"group-1": "site-0-0", "group-2": "site-1-0"}[group]
    kind, order = site_of(deployed, left).orders[-1]
    assert (kind, order.arm) == ("train.alone", "planned")
    assert deployed.is_whole()


def test_where_no_site_may_plan_nothing_is_tried(deployed: Deployed) -> None:
    for name in ("site-0-0", "site-0-1"):
        site_of(deployed, name).apart = True
    go(deployed)
    trials = TrialsFile.model_validate(deployed.read("trials.json")).trials
    [first, *_] = [trial for trial in trials if trial.group == "group-1"]
    assert not any(shot.scores for shot in first.tried)
    assert plans_of(deployed)["group-1"].knowledge.is_default
    assert "train.trial" not in site_of(deployed, "site-0-0").asked
    assert deployed.is_whole()


def test_who_stops_answering_in_trials_is_named_and_tries_no_more(deployed: Deployed) -> None:
    site_of(deployed, "site-0-1").dies_in = "trial-architecture-2"
    go(deployed)
    trials = TrialsFile.model_validate(deployed.read("trials.json")).trials
    [first, *_] = trials
    assert (first.group, first.tried[1].label) == ("group-1", "net-b")
    assert first.tried[1].missing == {"site-0-1": "node is gone"}
    # at one of two sites a gain is as large as its error: the other network is taken
    assert first.choice.label == "net-c"
    assert deployed.is_whole()


def test_an_architecture_is_that_of_most_sites(deployed: Deployed) -> None:
    site_of(deployed, "site-1-0").lacks = ("net-b", "net-c")
    site_of(deployed, "site-1-1").weights = "d"
    site_of(deployed, "site-2-0").lacks = ("net-b", "net-c")
    go(deployed, scenarios="architecture")
    trials = TrialsFile.model_validate(deployed.read("trials.json")).trials
    by_group = {trial.group: trial for trial in trials}
    assert by_group["group-2"].tried[0].missing == {"site-1-0": "has no weights of it"}
    assert by_group["group-3"].untried == dict.fromkeys(("net-c", "net-b"), "has no weights of it")
    assert by_group["group-3"].choice.sentence == ("Nothing was tried: no site could try any of 2.")
    assert deployed.is_whole()


def test_a_malformed_recipe_costs_its_site_the_architectures(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_of(deployed, "site-0-1"), "recipes", lambda _: RecordDict())
    go(deployed, scenarios="architecture")
    trials = TrialsFile.model_validate(deployed.read("trials.json")).trials
    why = "the message lacks 'recipes': do both sides run the same version?"
    assert trials[0].tried[0].missing == {"site-0-1": why}
    assert deployed.is_whole()


def test_who_accepts_another_plan_does_not_train_by_its_own(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = to_accepted("0" * 64)
    monkeypatch.setattr(site_of(deployed, "site-0-1"), "plan", lambda _: other)
    go(deployed)
    refused = deployed.read("plans.json")["refused"]
    assert refused == {"site-0-1": "accepted another plan than it was shown"}
    assert "planned" not in {order.arm for _, order in site_of(deployed, "site-0-1").orders}


def test_where_nobody_accepts_nothing_is_trained_again(deployed: Deployed) -> None:
    for name in MEMBERS:
        site_of(deployed, name).refuses = "no"
    go(deployed)
    sites = deployed.read("metrics.json")["sites"]
    assert all(site["planned"] == site["grouped"] for site in sites.values())
    assert {site["kept"] for site in sites.values()} <= {"alone", "grouped"}
    assert deployed.is_whole()


@pytest.mark.parametrize(
    "says",
    [
        {"val_auroc": 1e9},
        {"val_auroc": float("nan"), "val_loss": float("inf")},
        {"val_auroc": -1.0},
    ],
)
def test_scores_that_cannot_be_true_decide_nothing(
    deployed: Deployed, says: dict[str, float]
) -> None:
    site_of(deployed, "site-0-1").says = says
    go(deployed, scenarios="architecture")
    trials = TrialsFile.model_validate(deployed.read("trials.json")).trials
    assert trials[0].baseline["site-0-1"]["val_auroc"] is None
    assert trials[0].choice.label == "net-b"  # the other site's choice
    assert deployed.is_whole()


def test_outcomes_become_experiments_on_test_data(deployed: Deployed) -> None:
    go(deployed)
    lines = (deployed.out / "experiments.jsonl").read_text().splitlines()
    found = [Experiment.model_validate_json(line) for line in lines]
    task = sha256_hex((deployed.out / "fingerprints" / "site-0-0.safetensors").read_bytes())
    of_site = [e for e in found if e.target == task and e.metric == "balanced_accuracy"]
    told = [
        (e.scenario, e.detail.kind, e.source, e.performance, e.baseline, e.run) for e in of_site
    ]
    near = pytest.approx
    assert told == [
        # what the shots had to beat is known as well
        ("architecture", "architecture", None, near(0.51), near(0.51), "run-1"),
        ("architecture", "architecture", None, near(0.56), near(0.51), "run-1"),
        ("architecture", "architecture", None, near(0.61), near(0.51), "run-1"),
        ("augmentation", "policy", None, near(0.61), near(0.61), "run-1"),
        ("augmentation", "policy", SOURCES[0], near(0.61), near(0.61), "run-1"),
        ("pretraining", "weights", SOURCES[0], near(0.63), near(0.61), "run-1"),
        ("pretraining", "weights", SOURCES[1], near(0.63), near(0.61), "run-1"),
    ]
    assert of_site[-1].hyperparameters == {
        "rounds": 2,
        "local_epochs": 1,
        "batch_size": 16,
        "learning_rate": 0.0,
        "recipe": "adapter",
        "architecture": "net-b",
        "crop": 28,
        "augmentation": None,
        "start": None,
    }
    assert {e.metric for e in found} == {"balanced_accuracy", "auroc"}
    assert {e.recorded.isoformat() for e in found} == {
        deployed.read("run.json")["ended"].replace("Z", "+00:00")
    }


def test_a_pool_takes_what_was_tried_and_who_trained_together(deployed: Deployed) -> None:
    go(deployed)
    found = read_run(deployed.out, deployed.coordinator.public_pem)
    of_plans = [e for e in found.experiments if e.run == "run-1" and e.scenario != "co-training"]
    lines = (deployed.out / "experiments.jsonl").read_text().splitlines()
    assert of_plans == [Experiment.model_validate_json(line) for line in lines]
    partners = [e.detail for e in found.experiments if isinstance(e.detail, Partner)]
    assert {detail.arm for detail in partners} == {"grouped", "planned"}


def test_the_log_names_every_plan_before_the_end(deployed: Deployed) -> None:
    go(deployed)
    lines = (deployed.out / "log" / "entries.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    named = {e["group"]: e["sha256"] for e in entries if e["kind"] == "plan"}
    for group, plan in plans_of(deployed).items():
        envelope = (deployed.out / "plans" / f"{group}.dsse.json").read_bytes()
        assert sha256_hex(envelope) == named[group]
        assert open_plan(envelope, deployed.coordinator.public_pem) == plan
    assert entries[-1]["kind"] == "close"


def test_a_run_without_plans_writes_none_of_their_files(deployed: Deployed) -> None:
    deployed.go()
    assert not [name for name in PLANNING if (deployed.out / name).exists()]
    assert "query.recipes" not in site_of(deployed, "site-0-0").asked


def test_killed_after_any_message_it_ends_alike(deployed: Deployed) -> None:
    go(deployed)
    files = [deployed.read(name) for name in ("trials.json", "plans.json")]
    metrics, messages = deployed.read("metrics.json")["sites"], len(deployed.sent)
    kinds = [m.metadata.message_type for m in deployed.sent]
    first = kinds.index("query.recipes")
    for lives in range(first, messages, 7):
        shutil.rmtree(deployed.out)
        deployed.sent, deployed.lives = [], lives
        for site in deployed.sites.values():
            site.asked.clear()
        with pytest.raises(Killed):
            go(deployed)
        deployed.lives = None
        if not (deployed.out / CHECKPOINT).exists():
            go(deployed, timeout=7)
        assert [deployed.read(name) for name in ("trials.json", "plans.json")] == files, lives
        assert deployed.read("metrics.json")["sites"] == metrics
        assert deployed.is_whole()
        for name in MEMBERS:  # nobody tries or is shown anything twice
            asked = site_of(deployed, name).asked
            assert asked.count("train.trial") <= 5
            assert asked.count("query.plan") <= 1


def test_other_shots_need_another_run(deployed: Deployed) -> None:
    deployed.lives = 20
    with pytest.raises(Killed):
        go(deployed)
    deployed.lives = None
    with pytest.raises(ConfigError, match=r"unfinished run with shots=2, not 1"):
        go(deployed, shots=1)


def test_who_comes_later_joins_a_run_that_planned(deployed: Deployed) -> None:
    go(deployed)
    before = deployed.read("metrics.json")["sites"]
    deployed.away("site-2-1", "site-3-0", "site-3-1", "site-0-2")
    site_of(deployed, "site-1-2")
    joined = join_late(deployed, deployed.settings(), deployed.coordinator)
    assert joined == ["site-1-2"]
    after = deployed.read("metrics.json")["sites"]
    assert {name: after[name] for name in before} == before
    assert after["site-1-2"]["kept"] in ("alone", "grouped")
    assert deployed.is_whole()
