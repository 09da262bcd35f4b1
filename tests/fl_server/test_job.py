"""The whole job in memory, on real coordinators' folders: killed, resumed, revoked, joined."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from fl_server import collector, enrolling
from fl_server.late import join_late
from fl_server.progress import read_status
from fl_server.runfolder import CHECKPOINT
from protocol.errors import ConfigError, FedprintError
from protocol.records import to_refusal
from tests.fl_server.deployed import Deployed, WholeSite, prepare
from tests.fl_server.joining import CLASSES, MEMBERS
from tests.strategies.fake_grid import Killed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, WholeSite]]:
    folder = tmp_path_factory.mktemp("prepared") / "coordinator"
    sites = {name: WholeSite(name) for name in CLASSES}
    prepare(folder, sites)
    return folder, sites


@pytest.fixture
def deployed(
    prepared: tuple[Path, dict[str, WholeSite]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Deployed:
    monkeypatch.setattr(collector, "ROSTER_SECONDS", 0.0)
    folder, sites = prepared
    shutil.copytree(folder, tmp_path / "coordinator")
    fresh = {name: WholeSite(name, site.key) for name, site in sites.items()}
    grid = Deployed(tmp_path / "coordinator", fresh)
    grid.away(*(set(CLASSES) - set(MEMBERS)))
    return grid


def test_a_run_leaves_a_whole_folder(deployed: Deployed) -> None:
    deployed.go()
    assert deployed.groups() == [
        ["site-0-0", "site-0-1"],
        ["site-1-0", "site-1-1"],
        ["site-2-0"],
    ]
    assert deployed.is_whole()
    assert {path.name for path in (deployed.out / "state").iterdir()} == {
        *("events.jsonl", "lock", "status.json")
    }
    assert (read_status(deployed.out) or {})["state"] == "finished"
    archived = (deployed.out / "trust.dsse.json").read_bytes()
    assert archived == (deployed.folder / "trust.dsse.json").read_bytes()
    with pytest.raises(ConfigError, match=r"holds an earlier run .*mode=\"join\"$"):
        deployed.go()


def test_killed_after_any_message_it_ends_alike(deployed: Deployed) -> None:
    deployed.go()
    metrics, messages = deployed.read("metrics.json"), len(deployed.sent)
    for lives in range(1, messages, 3):
        shutil.rmtree(deployed.out)
        deployed.sent, deployed.lives = [], lives
        with pytest.raises(Killed):
            deployed.go()
        deployed.lives = None
        if not (
            deployed.out / CHECKPOINT
        ).exists():  # else only the sites' last answers are missing
            deployed.go(timeout=7)
        assert deployed.read("metrics.json")["sites"] == metrics["sites"]
        assert deployed.is_whole()
        fingerprints = [m for m in deployed.sent if m.metadata.message_type == "query.fingerprint"]
        assert len(fingerprints) <= 2 * len(MEMBERS)


def test_resuming_with_other_settings_is_refused(deployed: Deployed) -> None:
    deployed.lives = 6
    with pytest.raises(Killed):
        deployed.go()
    deployed.lives = None
    with pytest.raises(ConfigError) as caught:
        deployed.go(rounds=3)
    assert str(caught.value) == (
        f"{deployed.out} holds an unfinished run with rounds=2, not 3: resume it with its own "
        "settings or choose another out"
    )
    (deployed.out / "state" / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"run.json is damaged: the run cannot be resumed"):
        deployed.go()


@pytest.mark.parametrize("online", [True, False])
def test_who_is_revoked_between_the_arms_is_left_out_by_name(
    deployed: Deployed, online: bool
) -> None:
    site = deployed.sites["site-1-1"]
    answer = site.trains

    def revoked_meanwhile(message: Message) -> RecordDict:
        if message.metadata.message_type == "train.alone":
            enrolling.revoke(deployed.folder, "site-1-1", offline=True)
            if not online:
                deployed.away(*(set(CLASSES) - set(MEMBERS)), "site-1-1")
        return answer(message)

    site.trains = revoked_meanwhile  # type: ignore[assignment]
    deployed.go()
    assert ["site-1-0"] in deployed.groups()
    left_out = {gone["site"]: gone["reason"] for gone in deployed.read("run.json")["left_out"]}
    assert left_out == {"site-1-1": "key-revoked"}
    assert "train" not in site.asked
    assert deployed.is_whole()


def test_who_is_revoked_after_the_end_stays_in_the_run_that_others_join(deployed: Deployed) -> None:
    deployed.go()
    enrolling.revoke(deployed.folder, "site-1-1", offline=True)
    deployed.away("site-2-1", "site-3-0", "site-3-1", "site-0-2")
    assert join_late(deployed, deployed.settings(), deployed.coordinator) == ["site-1-2"]
    assert ["site-1-0", "site-1-1", "site-1-2"] in deployed.groups()
    assert deployed.read("run.json")["left_out"] == []
    assert deployed.is_whole()


def test_who_comes_late_joins_at_the_end_and_later(deployed: Deployed) -> None:
    member = deployed.sites["site-2-0"]
    answer = member.trains

    def somebody_comes(message: Message) -> RecordDict:
        deployed.away("site-2-1", "site-3-0", "site-3-1", "site-0-2")
        return answer(message)

    member.trains = somebody_comes  # type: ignore[assignment]
    deployed.go()
    assert ["site-1-0", "site-1-1", "site-1-2"] in deployed.groups()
    before = {name: len(site.asked) for name, site in deployed.sites.items()}
    with pytest.raises(FedprintError, match=r"^no site connected within 0 s that is not in the ru"):
        join_late(deployed, deployed.settings(), deployed.coordinator)
    deployed.away("site-3-0", "site-3-1", "site-0-2")
    assert join_late(deployed, deployed.settings(), deployed.coordinator) == ["site-2-1"]
    assert ["site-2-0", "site-2-1"] in deployed.groups()
    asked = {name for name, site in deployed.sites.items() if len(site.asked) > before[name]}
    assert asked == {"site-2-1"}
    assert [entry["site"] for entry in deployed.read("run.json")["joined"]] == [
        *("site-1-2", "site-2-1")
    ]
    assert deployed.is_whole()


def test_a_join_that_was_killed_does_not_cost_the_next_newcomer(deployed: Deployed) -> None:
    deployed.go()
    deployed.away("site-2-1", "site-3-0", "site-3-1", "site-1-2")
    for lives in (0, 1, 1):  # at its fingerprint, at training alone, at the group's model
        deployed.lives = lives
        with pytest.raises(Killed):
            join_late(deployed, deployed.settings(), deployed.coordinator)
    deployed.lives = None
    deployed.away("site-2-1", "site-3-0", "site-3-1")
    joined = join_late(deployed, deployed.settings(), deployed.coordinator)
    assert joined == ["site-0-2", "site-1-2"]
    scores = deployed.read("metrics.json")["sites"]
    assert all(scores[name]["alone"] is not None for name in joined)
    assert deployed.is_whole()


def test_approved_after_the_run_had_failed_it_is_asked_again(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "ASK_AGAIN_SECONDS", 0.1)
    site = deployed.sites["site-2-0"]
    answer, seen = site.release, []

    def not_yet(content: RecordDict) -> RecordDict:
        seen.append(read_status(deployed.out) or {})
        return to_refusal("awaiting-approval", "a person must approve this first")

    site.release = not_yet  # type: ignore[method-assign]
    settings = {"quorum": 5, "await_approval": 0.5}
    with pytest.raises(FedprintError, match=r"^4 sites passed verification, at least 5 are needed"):
        deployed.go(**settings)
    assert list(seen[-1]["approval"]) == ["site-2-0"]
    status = read_status(deployed.out) or {}
    assert (status["state"], status["approval"]) == ("failed", {})
    assert status["message"].startswith("4 sites passed verification")
    site.release = answer  # type: ignore[method-assign]
    deployed.sent = []
    deployed.go(**settings)
    asked = [m for m in deployed.sent if m.metadata.message_type == "query.fingerprint"]
    assert len(asked) == 1
    assert len(deployed.read("run.json")["sites"]) == 5


def test_a_join_that_fails_leaves_a_finished_run(deployed: Deployed) -> None:
    deployed.go()
    with pytest.raises(FedprintError, match=r"^no site connected within 0 s"):
        join_late(deployed, deployed.settings(), deployed.coordinator)
    status = read_status(deployed.out) or {}
    assert status["state"] == "finished"
    assert status["message"].startswith("nobody joined: no site connected")
    assert deployed.is_whole()


def test_too_few_sites_is_an_error_that_can_be_resumed(deployed: Deployed) -> None:
    deployed.away(*(set(CLASSES) - {"site-0-0"}))
    with pytest.raises(FedprintError, match=r"^1 of at least 2 sites connected within 0 s"):
        deployed.go()
    assert (read_status(deployed.out) or {})["state"] == "failed"
    deployed.away(*(set(CLASSES) - set(MEMBERS)))
    deployed.go()
    assert len(deployed.read("run.json")["sites"]) == len(MEMBERS)
