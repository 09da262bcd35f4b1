"""A coordinator's folder on real disks and sites in memory: the whole job, without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from fl_server import enrolling
from fl_server.coordinator import Coordinator, open_coordinator
from fl_server.job import run
from fl_server.server_folder import NewServer, init_server
from fl_server.settings import RunSettings
from fl_server.verify_evidence import Evidence
from fl_server.verify_run import verify_run
from protocol import statement
from protocol.enrolment import make_enrolment, open_enrolment
from protocol.envelope import sign
from protocol.files import atomic_json
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_node_key, public_pem, signer
from protocol.records import from_release_request, to_reply
from protocol.statement import binding_statement, release_statement, utc_now
from protocol.taskcard import ClassCard, TaskCard
from tests.fl_server.fake_sites import keep_any
from tests.fl_server.joining import CLASSES, FINGERPRINTS, SPEC, Site
from tests.strategies.fake_grid import FakeGrid


@dataclass
class WholeSite:
    """A site that releases its fingerprint and trains, signing with its node key."""

    name: str
    key: Any = field(default_factory=generate_node_key)
    asked: list[str] = field(default_factory=list)
    shares: bool = False

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
            task_card=TaskCard(
                name="t",
                classes=[ClassCard(name=c) for c in CLASSES[self.name]],
                shares_weights=self.shares,
            ),
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


def prepare(folder: Path, sites: Mapping[str, WholeSite]) -> None:
    """Make a coordinator's folder in which these sites are enrolled."""
    init_server(folder, NewServer("fl", "127.0.0.1:8000", "127.0.0.1"))
    for name, site in sites.items():
        file = make_enrolment(name, signer(site.key), signer(site.key))
        enrolling.enrol(folder, open_enrolment(file), offline=True)
    atomic_json(folder / "spec.json", SPEC)
