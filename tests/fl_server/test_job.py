"""The whole job in memory, on real coordinators' folders: killed, resumed, revoked, joined."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from fl_server import collector, enrolling
from fl_server.coordinator import Coordinator, open_coordinator
from fl_server.job import run
from fl_server.late import join_late
from fl_server.progress import read_status
from fl_server.runfolder import CHECKPOINT
from fl_server.server_folder import NewServer, init_server
from fl_server.settings import RunSettings
from fl_server.verify_evidence import Evidence
from fl_server.verify_run import verify_run
from protocol import statement
from protocol.enrolment import make_enrolment, open_enrolment
from protocol.envelope import sign
from protocol.errors import ConfigError, FedprintError
from protocol.files import atomic_json
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_node_key, public_pem, signer
from protocol.records import from_release_request, to_refusal, to_reply
from protocol.statement import binding_statement, release_statement, utc_now
from protocol.taskcard import ClassCard, TaskCard
from tests.fl_server.fake_sites import keep_any
from tests.fl_server.joining import CLASSES, FINGERPRINTS, MEMBERS, SPEC, Site
from tests.strategies.fake_grid import FakeGrid, Killed


@dataclass
class WholeSite:
    """A site that releases its fingerprint and trains, signing with its node key."""

    name: str
    key: Any = field(default_factory=generate_node_key)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trains = Site(self.name)

    def __call__(self, message: Message) -> RecordDict:
        if message.metadata.message_type == "query.checkpoint":
            return keep_any(message.content)
        self.asked.append(message.metadata.message_type)
        if message.metadata.message_type != "query.fingerprint":
            return self.trains(message)
        return self.release(message.content)

    def release(self, content: RecordDict) -> RecordDict:
        request, now = from_release_request(content), utc_now()
        payload = counts_to_bytes(FINGERPRINTS[self.name].counts)
        release = statement.Release(
            site=self.name,
            spec_digest=SPEC.digest,
            spec_name=SPEC.name,
            images=FINGERPRINTS[self.name].n_images,
            policy_digest="b" * 64,
            task_card=TaskCard(name="t", classes=[ClassCard(name=c) for c in CLASSES[self.name]]),
            issued=now,
            expires=now + timedelta(days=30),
        )
        envelope = sign(release_statement(payload, release), signer(self.key))
        binding = statement.Binding(
            site=self.name,
            run=request.run,
            nonce=request.nonce,
            issued=now,
            expires=now + timedelta(minutes=5),
        )
        session = sign(binding_statement(envelope, binding), signer(self.key))
        return to_reply(self.name, payload, envelope, session)


class Deployed(FakeGrid):
    """A grid of authenticated nodes, a coordinator's folder, and what runs on them."""

    def __init__(self, folder: Path, sites: dict[str, WholeSite]) -> None:
        self.folder, self.sites = folder, sites
        super().__init__({100 + number: site for number, site in enumerate(sites.values())})

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(
                node_id=node, status="online", public_key=public_pem(self.sites[name].key).encode()
            )
            for node, name in zip(self.nodes, self.sites, strict=True)
            if node not in self.offline
        ]

    def away(self, *names: str) -> None:
        """Let only these sites be offline."""
        ids = dict(zip(self.sites, self.nodes, strict=True))
        self.offline = {ids[name] for name in names}

    @property
    def coordinator(self) -> Coordinator:
        return open_coordinator(self.folder)

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def settings(self, **changes: Any) -> RunSettings:
        values = {
            "spec": str(self.folder / "spec.json"),
            "out": str(self.out),
            "server_dir": str(self.folder),
            "release": "plain",
            "arms": "alone,grouped",
            "rounds": 2,
            "local_epochs": 1,
            "timeout": 5,
            "connect_timeout": 0.3,
        }
        return RunSettings.model_validate(values | changes)

    def go(self, **changes: Any) -> None:
        run(self, self.settings(**changes), "run-1", self.coordinator)

    def read(self, name: str) -> Any:
        return json.loads((self.out / name).read_text())

    def groups(self) -> list[list[str]]:
        return [group["sites"] for group in self.read("groups.json")["groups"]]

    def is_whole(self) -> bool:
        assert verify_run(Evidence(self.out, self.coordinator.public_pem)).findings == []
        return True


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, WholeSite]]:
    folder = tmp_path_factory.mktemp("prepared") / "coordinator"
    init_server(folder, NewServer("fl", "127.0.0.1:8000", "127.0.0.1"))
    sites = {name: WholeSite(name) for name in CLASSES}
    for name, site in sites.items():
        file = make_enrolment(name, signer(site.key), signer(site.key))
        enrolling.enrol(folder, open_enrolment(file), offline=True)
    atomic_json(folder / "spec.json", SPEC)
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
