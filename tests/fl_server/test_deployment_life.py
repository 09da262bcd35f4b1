"""A real deployment through a bad day: kills, restarts, an approval, a late and a new site."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fl_server.deployment import Deployment
from fl_server.following import COMPLETED, await_end
from fl_server.progress import read_status
from protocol.log import check_files, read_log
from tests.conftest import digits, patches, write_subfolders
from tests.fl_server.deploying import add_plain_site, deployed, events, read_json

pytestmark = [pytest.mark.engine, pytest.mark.deployment]

OUT = "runs/life"
ROUNDS = 5  # a killed node needs half a minute to come back, two or three rounds
SETTINGS: dict[str, str | int | float | bool] = {
    "out": OUT,
    "arms": "alone,grouped",
    "release": "plain",
    "rounds": ROUNDS,
    "local-epochs": 1,
    "min-sites": 4,
    "await-approval": 200.0,
    "timeout": 300.0,
}


class Day:
    """Drives one deployment through its day and keeps what it saw on the way."""

    def __init__(self, deployment: Deployment, root: Path) -> None:
        self.deployment, self.root = deployment, root
        self.run_folder = deployment.coordinator / OUT

    def set_up(self) -> None:
        """Three sites of digits, and one of photographs where a person must approve."""
        for number, name in enumerate(("digits-a", "digits-b", "digits-c")):
            images = write_subfolders(self.root / name, digits((3, 8), 18, first=20 * number))
            if name == "digits-b":  # its row of this class stays private
                write_subfolders(images, digits((5,), 8))
            add_plain_site(self.deployment, name, images)
        photos = write_subfolders(self.root / "photos", patches(18, seed=1))
        add_plain_site(self.deployment, "photos", photos, approve_first=True)
        self.deployment.await_online(self.deployment.sites)

    def until_training(self) -> None:
        """Kill a SuperNode while it fingerprints, approve at another, start the killed one."""
        self.deployment.submit(SETTINGS)
        self.wait("fingerprints", lambda s: s["phase"] == "fingerprints")
        self.deployment.sites["digits-c"].kill()
        self.deployment.sites["digits-c"].start()
        photos = self.deployment.sites["photos"].folder
        self.wait("a request", lambda _: bool(events(self.run_folder, "awaiting-approval")))
        self.deployment.fedprint("site", "preview", photos)
        self.deployment.fedprint("site", "approve", photos, "--yes")
        self.wait("training", lambda s: s["phase"] == "train alone")

    def kill_superlink(self) -> str:
        """Kill the SuperLink between the arms, and everything that it had started."""
        self.wait("groups", lambda s: s["phase"] == "train grouped")
        self.deployment.superlink.kill()
        self.deployment.superlink.start()
        self.deployment.await_online(self.deployment.sites, timeout=120)
        return self.deployment.submit(SETTINGS)

    def kill_serverapp(self) -> str:
        """Kill the ServerApp once a round is done."""
        self.wait("a round", lambda _: bool(events(self.run_folder, "round")))
        assert self.deployment.superlink.kill_serverapps() == 1
        return self.deployment.submit(SETTINGS)

    def kill_supernode_in_training(self) -> None:
        """Kill one of the group's SuperNodes in the middle of a round, and start it again."""
        self.wait("resuming", lambda _: len(events(self.run_folder, "resumed")) == 2)
        self.wait("training again", lambda s: s["phase"] == "train grouped")
        site = self.deployment.sites["digits-b"]
        orders = site.folder / "state" / "history.jsonl"
        assert '"arm":"grouped"' in orders.read_text()
        time.sleep(2)
        site.kill()
        site.start()

    def wait(
        self, what: str, reached: Callable[[dict[str, Any]], bool], timeout: float = 150
    ) -> None:
        deadline = time.monotonic() + timeout
        while not reached(dict(read_status(self.run_folder) or {"phase": ""})):
            assert time.monotonic() < deadline, f"{what}: {read_status(self.run_folder)}"
            time.sleep(0.1)


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
        assert await_end(deployment.connection, run_id, 300) == COMPLETED
        images = write_subfolders(root / "digits-d", digits((3, 8), 18, first=60))
        add_plain_site(deployment, "digits-d", images)
        deployment.await_online(["digits-d"])
        deployment.run({**SETTINGS, "mode": "join"}, show=lambda _line: None)
        yield day


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
    for name in ("digits-a", "digits-b", "photos"):
        history = day.deployment.sites[name].folder / "state" / "history.jsonl"
        decisions = [json.loads(line)["decision"] for line in history.read_text().splitlines()]
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
    assert len(list(models.glob("*/model.safetensors"))) == 3  # alone, grouped, final
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
