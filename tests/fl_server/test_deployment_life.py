"""A real deployment through a bad day, and one of its later runs, with plans."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fl_server.pool import open_pool
from fl_server.pool.views import experiments, list_tasks
from fl_server.verify_evidence import Evidence
from fl_server.verify_run import verify_run
from protocol.files import sha256_hex
from protocol.log import check_files, read_log
from protocol.trials import PlansFile, TrialsFile
from tests.conftest import digits, write_subfolders
from tests.fl_server.day import PLANNED, POOL, ROUNDS, SETTINGS, Day
from tests.fl_server.deploying import add_plain_site, deployed, events, read_json

pytestmark = [pytest.mark.engine, pytest.mark.deployment]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    root = tmp_path_factory.mktemp("life")
    with deployed(root / "deployment") as deployment:
        day = Day(deployment, root)
        day.set_up()
        day.until_training()
        day.kill_superlink()
        run_id = day.kill_serverapp()
        day.kill_supernode_in_training()
        day.finish(run_id)
        images = write_subfolders(root / "digits-d", digits((3, 8), 18, first=60))
        add_plain_site(deployment, "digits-d", images)
        deployment.await_online(["digits-d"])
        deployment.run({**SETTINGS, "mode": "join"}, show=lambda _line: None)
        yield day


@pytest.fixture(scope="module")
def planned(day: Day) -> Path:
    """Return the folder of a later run, in which two of three sites train by a plan."""
    day.plan()
    return day.deployment.coordinator / PLANNED


def test_everybody_is_in_the_right_group_at_the_end(day: Day) -> None:
    groups = read_json(day.run_folder, "groups.json")
    assert [sorted(group["sites"]) for group in groups["groups"]] == [
        ["digits-a", "digits-b", "digits-c", "digits-d"],
        ["photos"],
    ]
    joined = {site for site, why in groups["sites"].items() if why["joined"]}
    assert joined == {"digits-c", "digits-d"}
    assert groups["sites"]["digits-d"]["partners"]


def test_the_site_that_died_in_fingerprinting_was_named_and_joined_later(day: Day) -> None:
    lost = events(day.run_folder, "lost")
    assert ("digits-c", "client-error") in {(e["site"], e["reason"]) for e in lost}
    run = read_json(day.run_folder, "run.json")
    assert [entry["site"] for entry in run["joined"]] == ["digits-c", "digits-d"]
    assert run["left_out"] == []


def test_nothing_was_asked_or_trained_twice(day: Day) -> None:
    assert len(events(day.run_folder, "resumed")) == 2
    run = read_json(day.run_folder, "run.json")["run"]
    for name in ("digits-a", "digits-b", "photos"):
        history = day.deployment.sites[name].folder / "state" / "history.jsonl"
        entries = [json.loads(line) for line in history.read_text().splitlines()]
        decisions = [entry["decision"] for entry in entries if entry["run"] == run]
        assert sum(decision.startswith("released") for decision in decisions) == 1
    rounds = [e for e in events(day.run_folder, "round") if not e.get("note")]
    assert Counter(e["round"] for e in rounds) == dict.fromkeys(range(1, ROUNDS + 1), 1)
    alone = [e for e in events(day.run_folder, "done") if e["phase"] == "train alone"]
    asked = Counter(e["site"] for e in alone if not e.get("note"))
    assert asked == dict.fromkeys(("digits-a", "digits-b", "digits-c", "digits-d", "photos"), 1)


def test_every_site_has_its_scores(day: Day) -> None:
    sites = read_json(day.run_folder, "metrics.json")["sites"]
    for name in ("digits-a", "digits-b", "digits-c", "digits-d"):
        assert sites[name]["grouped"] is not None, name
        assert sites[name]["final"] == sites[name][sites[name]["kept"]]
    assert sites["digits-d"]["joined"] is True


def test_private_rows_and_models_outlive_the_supernode(day: Day) -> None:
    models = day.deployment.sites["digits-b"].folder / "state" / "models"
    assert len(list(models.glob("*/model.safetensors"))) == 2  # alone, grouped
    [final] = models.with_name("final").iterdir()
    assert {path.name for path in final.iterdir()} == {"README.md", "model.safetensors"}
    [folder] = {path.parent for path in models.glob("*/private-*.safetensors")}
    assert not (folder / "private-2.safetensors").exists(), "it was away in the second round"
    for number in (1, ROUNDS):  # it came back with the rows of the round that it had left in
        assert len(load_file(folder / f"private-{number}.safetensors")) == 1


def test_the_run_folder_is_whole(day: Day) -> None:
    pem = (day.run_folder / "coordinator.pub.pem").read_text()
    assert pem == (day.deployment.coordinator / "keys" / "coordinator.pub.pem").read_text()
    assert check_files(day.run_folder, read_log(day.run_folder, pem)) == []
    checked = subprocess.run(
        [sys.executable, "docs/check_run.py", day.run_folder], capture_output=True, text=True
    )
    assert checked.stdout.count("signed and whole") == 5, checked.stderr
    assert "digits-d" in (day.run_folder / "report.html").read_text()
    assert {p.name for p in (day.run_folder / "state").iterdir()} == {
        *("events.jsonl", "status.json", "lock")
    }


def test_two_sites_train_by_their_plan_and_the_third_keeps_its_groups_model(planned: Path) -> None:
    file = PlansFile.model_validate(read_json(planned, "plans.json"))
    why = "site digits-c trains as the run itself has it, and takes no part in trials and plans"
    assert file.refused == {"digits-c": f"release policy of digits-c: {why}"}
    [plan] = file.plans
    assert plan.knowledge.architecture is not None
    assert plan.knowledge.architecture.backbone == "tf_efficientnet_lite1"
    sites = read_json(planned, "metrics.json")["sites"]
    assert sorted(sites) == ["digits-a", "digits-b", "digits-c"]
    assert sites["digits-c"]["planned"] == sites["digits-c"]["grouped"]
    assert sites["digits-c"]["kept"] in ("alone", "grouped")
    assert all(site["final"] == site[site["kept"]] for site in sites.values())
    assert (planned / "models" / "planned-1.safetensors").is_file()


def test_who_takes_part_in_no_plans_is_asked_for_no_trial(planned: Path) -> None:
    done = [e["site"] for e in events(planned, "done") if e["phase"] == "trial architecture 1"]
    assert sorted(done) == ["digits-a", "digits-b"]
    [trial] = TrialsFile.model_validate(read_json(planned, "trials.json")).trials
    assert list(trial.apart) == ["digits-c"]
    lost = {(e["phase"], e["site"], e["reason"]) for e in events(planned, "lost")}
    assert lost == {(phase, "digits-c", "plans-not-allowed") for phase in ("trial recipes", "plan")}


def test_the_sites_keep_their_plan_and_show_it_in_words(day: Day, planned: Path) -> None:
    envelope = sha256_hex((planned / "plans" / "group-1.dsse.json").read_bytes())
    for name in ("digits-a", "digits-b"):
        said = day.deployment.fedprint("site", "plans", day.deployment.sites[name].folder)
        facts = dict(line.split(maxsplit=1) for line in said.splitlines())
        assert facts["plan"] == envelope
        assert facts["group"] == "group-1: digits-a, digits-b, digits-c"
        assert facts["architecture"].startswith("tf_efficientnet_lite1, weights ")
    apart = day.deployment.sites["digits-c"].folder
    said = day.deployment.fedprint("site", "plans", apart)
    assert said == f"no plan was accepted: {apart / 'state' / 'plans'} has none\n"


def test_the_run_is_whole_and_in_the_pool_beside_the_coordinator(day: Day, planned: Path) -> None:
    coordinator = day.deployment.coordinator
    known = (coordinator / "keys" / "coordinator.pub.pem").read_text()
    sites = read_json(planned, "metrics.json")["sites"]
    states = [day.deployment.sites[name].folder / "state" for name in sites]
    assert verify_run(Evidence(planned, known, states)).findings == []
    with open_pool(coordinator / POOL) as pool, pool.reading() as session:
        assert len(list_tasks(session)) == 3
        held = {each.scenario for each in experiments(session)}
    assert held == {"architecture", "co-training"}
