"""The main job over a real deployment: four authenticated SuperNodes, one approves first."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fl_server.runfolder import PLANNING, RUN_FILES
from fl_server.settings import IF_ASKED
from protocol.errors import FedprintError
from protocol.log import check_files, read_log
from tests.fl_server.deploying import EXCHANGE, deployed, read_json
from tests.fl_server.running import Command
from tests.fl_server.test_engine import check_run

pytestmark = [pytest.mark.engine, pytest.mark.deployment]

SITES = ["digits-1", "digits-2", "texture-1", "texture-2"]


@dataclass(frozen=True)
class Demo:
    """A finished ``fedprint deployment-demo``."""

    folder: Path
    code: int
    output: str
    errors: str
    left_running: list[str]

    def site(self, name: str) -> Path:
        """Return a site's folder."""
        return self.folder / "deployment" / "sites" / name

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return what a site has written down."""
        lines = (self.site(name) / "state" / "history.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run the demo with one short round."""
    out = tmp_path_factory.mktemp("deployment") / "Kliniken in Köln"
    command = Command("deployment-demo", "--out", out, "--run-config", "rounds=1 local-epochs=2")
    output, errors = command.process.communicate(timeout=500)
    return Demo(out, command.process.returncode, output, errors, command.gone())


def test_demo_ends_well_and_leaves_no_process(demo: Demo) -> None:
    assert (demo.code, demo.errors) == (0, "")
    assert demo.left_running == []
    assert demo.output.splitlines()[-2:] == [
        "SuperLink and SuperNodes stopped",
        f"report: {demo.folder / 'report.html'}",
    ]


def test_run_folder_is_complete(demo: Demo) -> None:
    written = {*RUN_FILES} - {*PLANNING, *IF_ASKED}  # none of them was asked for
    assert {path.name for path in demo.folder.iterdir()} == {*written, "deployment", "sites"}
    run = read_json(demo.folder, "run.json")
    assert (run["mode"], run["left_out"]) == ("deployment", [])
    assert [site["site"] for site in run["sites"]] == SITES
    assert [g["sites"] for g in read_json(demo.folder, "groups.json")["groups"]] == [
        SITES[:2],
        SITES[2:],
    ]
    scores = read_json(demo.folder, "metrics.json")["sites"]
    assert sorted(scores) == SITES
    assert all(0 <= score[arm] <= 1 for score in scores.values() for arm in ("alone", "grouped"))
    assert read_json(demo.folder, "state/status.json")["state"] == "finished"


def test_signatures_and_log_can_be_checked(demo: Demo) -> None:
    checked = check_run(demo.folder)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert [line.partition(":")[0] for line in checked.stdout.splitlines()] == SITES
    coordinator = demo.folder / "deployment" / "coordinator"
    pem = (coordinator / "keys" / "coordinator.pub.pem").read_text()
    assert check_files(demo.folder, read_log(demo.folder, pem)) == []


def test_every_release_is_private(demo: Demo) -> None:
    ledger = read_json(demo.folder, "ledger.json")
    assert list(ledger["sites"]) == SITES
    assert (ledger["total"]["private"], ledger["total"]["epsilon"]) == (4, 2.0)
    for name in SITES:
        lines = (demo.site(name) / "state" / "ledger.jsonl").read_text().splitlines()
        assert [json.loads(line)["digest"] for line in lines] == [ledger["sites"][name]["ledger"]]


def test_every_site_keeps_a_checkpoint_of_the_closed_log(demo: Demo) -> None:
    size = len((demo.folder / "log" / "entries.jsonl").read_bytes().splitlines())
    run = read_json(demo.folder, "run.json")["run"]
    for name in SITES:
        kept = demo.site(name) / "state" / "checkpoints" / run
        assert (kept / f"{size:08}.dsse.json").is_file()


def test_a_person_approved_at_one_site_and_a_policy_at_the_others(demo: Demo) -> None:
    said = demo.output
    assert said.index("a request waits for a person") < said.index("texture-2: approved")
    decisions = [entry["decision"] for entry in demo.history("texture-2")]
    assert decisions[:3] == ["awaiting-approval", "approved", "released"]
    for name in SITES[:3]:
        assert demo.history(name)[0]["decision"] == "released"


def test_private_keys_are_for_their_owner_only(demo: Demo) -> None:
    coordinator = demo.folder / "deployment" / "coordinator"
    private = [demo.site(name) / "keys" / "node" for name in SITES]
    private += [coordinator / "keys" / "coordinator.pem", coordinator / "tls" / "server.key"]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert len({path.read_bytes() for path in private}) == len(private)


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    command = Command("deployment-demo", "--out", tmp_path / "run")
    assert command.process.stdout is not None
    for line in command.process.stdout:
        if "exchanging fingerprints" in line:
            break
    assert len(command.left_running()) > 8
    for _ in range(2):  # an impatient person
        command.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, errors = command.process.communicate(timeout=60)
    assert (command.process.returncode, errors) == (130, "fedprint: error: interrupted\n")
    assert command.gone() == []


def test_run_that_fails_says_why(tmp_path: Path) -> None:
    with deployed(tmp_path) as deployment:
        with pytest.raises(FedprintError, match=r"^0 of at least 2 sites connected within 1 s"):
            deployment.run({**EXCHANGE, "connect-timeout": 1.0}, show=lambda _line: None)
        said = deployment.fedprint("server", "status", deployment.coordinator)
        assert "SuperLink answers" in said
        assert deployment.superlink.serverapps() == []


def test_folder_that_is_no_demo_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run" / "deployment").mkdir(parents=True)
    command = Command("deployment-demo", "--out", tmp_path / "run")
    _, errors = command.process.communicate(timeout=60)
    assert command.process.returncode == 1
    assert errors.endswith("is not the deployment of a demo: choose another --out\n")
