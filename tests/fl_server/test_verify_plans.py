"""`fedprint verify` on plans: who holds the coordinator's key cannot choose otherwise unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_server import collector, train_arms
from fl_server.coordinator import Coordinator
from fl_server.runlog import RunLog
from fl_server.verify_evidence import Evidence, Finding
from fl_server.verify_run import verify_run
from protocol.files import atomic_json, sha256_hex
from protocol.keys import generate_key, signer
from protocol.log import ENTRIES
from protocol.plan import Plan, sign_plan
from tests.fl_server.deployed import Deployed, prepare
from tests.fl_server.joining import CLASSES, MEMBERS
from tests.fl_server.planning import Always, PlanningSite

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """Return a finished run with plans."""
    folder = tmp_path_factory.mktemp("planned") / "coordinator"
    sites = {name: PlanningSite(name) for name in CLASSES}
    prepare(folder, sites)
    grid = Deployed(folder, sites)  # type: ignore[arg-type]
    grid.away(*(set(CLASSES) - set(MEMBERS)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collector, "ROSTER_SECONDS", 0.0)
        patch.setattr(train_arms, "adviser", lambda *_: Always())
        patch.setattr(train_arms, "write_recommendations", lambda *_: None)
        grid.go(arms="grouped,planned")
    return grid


@pytest.fixture
def copied(planned: Deployed, tmp_path: Path) -> Path:
    return shutil.copytree(planned.out, tmp_path / "run")


def findings(run: Path, coordinator: Coordinator, change: Change) -> list[Finding]:
    """Change a run folder, close its log again with the right key, and verify it."""
    lines = (run / "log" / ENTRIES).read_bytes().split(b"\n")[:-2]
    (run / "log" / ENTRIES).write_bytes(b"".join(line + b"\n" for line in lines))
    change(run)
    lines = (run / "log" / ENTRIES).read_bytes().split(b"\n")[:-1]
    RunLog(lines).close("run-1", run, coordinator.signer)
    return verify_run(Evidence(run, coordinator.public_pem)).findings


def edited(name: str, change: Callable[[Any], object]) -> Change:
    def edit(run: Path) -> None:
        content = json.loads((run / name).read_bytes())
        change(content)
        atomic_json(run / name, content)

    return edit


def signed_again(change: Callable[[Any], object], coordinator: Coordinator | None) -> Change:
    """Sign another plan for group-1, enter it in the log, and say so in plans.json."""

    def edit(run: Path) -> None:
        content = json.loads((run / "plans.json").read_bytes())
        change(content["plans"][0])
        atomic_json(run / "plans.json", content)
        plan = Plan.model_validate(content["plans"][0])
        key = coordinator.signer if coordinator else signer(generate_key())
        envelope = sign_plan(plan, key)
        (run / "plans" / f"{plan.group}.dsse.json").write_bytes(envelope)
        log = RunLog.open(run)
        log.add("plan", group=plan.group, sha256=sha256_hex(envelope))

    return edit


def test_an_unchanged_run_with_plans_is_whole(planned: Deployed, copied: Path) -> None:
    assert findings(copied, planned.coordinator, lambda _: None) == []


def turn_down(trials: Any) -> None:
    """Say that the first group did not take the network that it took."""
    trials["trials"][0]["choice"]["label"] = "as in the run"


def outdo(trials: Any) -> None:
    """Give a shot that was turned down scores with which it wins."""
    for scores in trials["trials"][0]["tried"][0]["scores"].values():
        scores.update(val_auroc=0.99, test_balanced_accuracy=0.99)


def flatter(trials: Any) -> None:
    """Lower what all was compared with."""
    for scores in trials["trials"][0]["baseline"].values():
        scores["val_auroc"] = 0.1


def mislabel(trials: Any) -> None:
    trials["trials"][0]["hyperparameters"]["rounds"] = 100


def swap_network(trials: Any) -> None:
    """Say of one network what another came to."""
    trials["trials"][0]["tried"][0]["detail"]["name"] = "net-z"


def slip_in(trials: Any) -> None:
    """Have trained a network with an augmentation that nobody speaks of."""
    policy = {"kind": "policy", "pipeline": {"transform": "none"}}
    trials["trials"][0]["tried"][0]["knowledge"]["augmentation"] = policy


def swap_policy(trials: Any) -> None:
    trials["trials"][1]["tried"][0]["detail"]["pipeline"] = {"transform": "none"}


def swap_weights(trials: Any) -> None:
    trials["trials"][2]["tried"][0]["detail"]["sha256"] = "0" * 64


def boast(trials: Any) -> None:
    for scores in trials["trials"][0]["tried"][0]["scores"].values():
        scores["test_balanced_accuracy"] = 7.0


def forget(trials: Any) -> None:
    del trials["trials"][0]


def silence(trials: Any) -> None:
    """Say of a site that tried everything that it takes part in no plans."""
    trials["trials"][0]["apart"] = {"site-0-1": "its policy"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (turn_down, "architecture of group-1: label is 'as in the run', computed again"),
        (outdo, "architecture of group-1: error is"),
        (flatter, "architecture of group-1: the baseline is not what was chosen before it"),
        (mislabel, "architecture of group-1: was not made with the settings of the run"),
        (swap_network, "architecture of group-1: net-c is not what was trained with"),
        (slip_in, "architecture of group-1: net-c is not what was trained with"),
        (swap_policy, "augmentation of group-1: turn is not what was trained with"),
        (swap_weights, "pretraining of group-1: weights is not what was trained with"),
        (boast, "architecture of group-1: net-c has scores that cannot be"),
        (silence, "architecture of group-1: site-0-1 tried something, and has no say"),
        (forget, "group-1 did not try each scenario once, in order"),
    ],
)
def test_trials_that_were_changed_are_found(
    planned: Deployed, copied: Path, change: Callable[[Any], object], said: str
) -> None:
    found = findings(copied, planned.coordinator, edited("trials.json", change))
    assert any(f.where == "trials.json" and f.what.startswith(said) for f in found), found


def plain(plan: Any) -> None:
    plan["knowledge"]["augmentation"] = {"kind": "policy", "pipeline": {"transform": "none"}}


def other_run(plan: Any) -> None:
    plan["run"] = "run-2"


def other_site(plan: Any) -> None:
    plan["sites"]["site-1-0"] = plan["sites"].pop("site-0-0")


def other_release(plan: Any) -> None:
    plan["sites"]["site-0-0"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (plain, "the plan of group-1 is not what its trials chose"),
        (other_run, "the plan of group-1 is of run 'run-2'"),
        (other_site, "site-1-0 is not of group-1"),
        (other_release, "names another release of site-0-0 than the log does"),
    ],
)
def test_a_plan_that_its_trials_did_not_choose_is_found(
    planned: Deployed, copied: Path, change: Callable[[Any], object], said: str
) -> None:
    found = findings(copied, planned.coordinator, signed_again(change, planned.coordinator))
    assert Finding("plans.json", said) in found


def test_a_plan_of_another_key_is_found(planned: Deployed, copied: Path) -> None:
    replaced, found = findings(copied, planned.coordinator, signed_again(lambda _: None, None))
    assert replaced.where == "log"
    assert replaced.what.endswith("replaces the plan of group-1, and none says why")
    assert found.where == "plans/group-1.dsse.json"
    assert found.what.endswith("not the coordinator's")


def test_a_plan_beside_the_log_is_found(planned: Deployed, copied: Path) -> None:
    def swap(run: Path) -> None:
        log = (run / "log" / ENTRIES).read_bytes().split(b"\n")
        signed_again(plain, planned.coordinator)(run)
        (run / "log" / ENTRIES).write_bytes(b"\n".join(log))

    found = findings(copied, planned.coordinator, swap)
    assert Finding("plans/group-1.dsse.json", "is not the plan that the log names") in found


def test_plans_that_say_otherwise_than_signed_are_found(planned: Deployed, copied: Path) -> None:
    change = edited("plans.json", lambda file: plain(file["plans"][1]))
    found = findings(copied, planned.coordinator, change)
    assert any(f.where == "plans.json" and f.what.startswith("group-2: ") for f in found)


@pytest.mark.parametrize("name", ["plans/group-9.dsse.json", "plans/../../x.dsse.json"])
def test_plans_of_other_groups_are_found(planned: Deployed, copied: Path, name: str) -> None:
    group = name.removeprefix("plans/").removesuffix(".dsse.json")
    change = edited("plans.json", lambda file: file["plans"][0].update(group=group))
    found = findings(copied, planned.coordinator, change)
    assert Finding(name, "is missing") in found


def test_a_plan_of_no_group_is_found(planned: Deployed, copied: Path) -> None:
    def add(run: Path) -> None:
        shutil.copy(run / "plans/group-1.dsse.json", run / "plans/group-9.dsse.json")

    found = findings(copied, planned.coordinator, add)
    assert found == [Finding("plans/group-9.dsse.json", "was added")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[1:], "is not what trials.json gives: line 1"),
        (lambda lines: lines[:-1], "is not what trials.json gives: 57 lines, the trials give 58"),
        (lambda lines: [*lines, lines[0]], "is not what trials.json gives: 59 lines"),
        (lambda lines: ["{}", *lines], "line 1: "),
    ],
)
def test_experiments_are_those_of_the_trials(
    planned: Deployed, copied: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    def edit(run: Path) -> None:
        path = run / "experiments.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{line}\n" for line in change(lines)))

    [found] = findings(copied, planned.coordinator, edit)
    assert found.where == "experiments.jsonl"
    assert found.what.startswith(said)


@pytest.mark.parametrize(
    ("name", "value"),
    [("shots", 9), ("scenarios", ["architecture"]), ("preset", "paper"), ("crop", 64)],
)
def test_how_plans_were_to_be_made_cannot_be_changed_later(
    planned: Deployed, copied: Path, name: str, value: object
) -> None:
    change = edited("run.json", lambda file: file["settings"].update({name: value}))
    found = findings(copied, planned.coordinator, change)
    assert any(f.what.startswith(f"says that {name} was {value!r}, the log") for f in found), found


def test_a_run_that_made_no_plans_has_none_of_their_files(planned: Deployed, copied: Path) -> None:
    def no_plans(run: Path) -> None:
        content = json.loads((run / "run.json").read_bytes())
        content["settings"]["arms"] = ["alone", "grouped"]
        atomic_json(run / "run.json", content)

    found = findings(copied, planned.coordinator, no_plans)
    assert Finding("plans", "was added: the run made no plans") in found


def test_another_version_may_word_a_choice_otherwise(planned: Deployed, copied: Path) -> None:
    def reword(trials: Any) -> None:
        trials["trials"][0]["choice"]["sentence"] = "Best of all."

    def said(change: Change) -> list[str]:
        found = findings(copied, planned.coordinator, change)
        return [f.what for f in found if f.where == "trials.json"]

    assert said(edited("trials.json", reword)) != []
    aged = edited("run.json", lambda run: run["versions"].update(fedprint="0.0.1"))
    assert said(aged) == []
