"""A node is the site that its authenticated key is enrolled for, whatever it says of itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from fl_server import collector, progress
from fl_server.exchange import (
    Begun,
    Exchange,
    Patience,
    exchange_fingerprints,
    exchange_newcomers,
)
from fl_server.progress import Progress
from fl_server.received import RECEIVED, Received, Release
from fl_server.runlog import RunLog
from protocol.enrolment import make_enrolment, open_enrolment
from protocol.errors import ConfigError, FedprintError
from protocol.files import sha256_hex
from protocol.keys import Signer, generate_key, generate_node_key, public_pem, signer, signer_pem
from protocol.records import to_refusal
from protocol.spec import Spec
from protocol.trust_store import TrustStore
from tests.fl_server.fake_sites import SPEC, FakeSite
from tests.strategies.fake_grid import Dead, FakeGrid, Silent

QUICK = Patience(2, 2, 1.0, 1.0)


@dataclass
class Enrolled(FakeSite):
    """A site whose node key signs, as `fedprint site init` makes it."""

    def __post_init__(self) -> None:
        self.key = generate_node_key()

    @property
    def node_pem(self) -> str:
        return public_pem(self.key)

    def enrolment(self, old: Signer | None = None) -> bytes:
        return make_enrolment(self.name, signer(self.key), signer(self.key), old)


class KeyGrid(FakeGrid):
    """A grid whose nodes were authenticated by their keys."""

    def __init__(self, sites: Iterable[Enrolled]) -> None:
        self.sites = {11 + number: site for number, site in enumerate(sites)}
        self.offline: set[int] = set()
        super().__init__(self.sites)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(
                node_id=node,
                status="offline" if node in self.offline else "online",
                public_key=site.node_pem.encode(),
            )
            for node, site in self.sites.items()
        ]


@dataclass
class Authority:
    """A coordinator in memory."""

    store: TrustStore
    signer: Signer = field(default_factory=lambda: signer(generate_key()))
    signed_store: bytes = b""


def enrolled(*sites: Enrolled) -> TrustStore:
    store = TrustStore.empty()
    for site in sites:
        store = store.admit(open_enrolment(site.enrolment()))
    return store


def exchanged(
    grid: KeyGrid, store: TrustStore, received: Received | None = None, patience: Patience = QUICK
) -> Exchange:
    return exchange_fingerprints(
        grid,
        SPEC,
        "run-1",
        coordinator=Authority(store),  # type: ignore[arg-type]
        patience=patience,
        received=received,
    )


def left_out(outcome: Exchange) -> list[tuple[str, str]]:
    return [(gone.site, gone.reason) for gone in outcome.left_out]


def test_enrolled_sites_are_asked_once() -> None:
    north, south = Enrolled("north"), Enrolled("south")
    grid = KeyGrid([north, south])
    outcome = exchanged(grid, enrolled(north, south))
    assert list(outcome.releases) == ["north", "south"]
    assert [m.metadata.message_type for m in grid.sent] == ["query.fingerprint"] * 2


def test_nodes_that_may_not_take_part_are_not_asked() -> None:
    north, south, unknown = Enrolled("north"), Enrolled("south"), Enrolled("unknown")
    revoked, rotated = Enrolled("revoked"), Enrolled("rotated")
    store = enrolled(north, south, revoked, rotated).revoke_site("revoked")
    renewed = Enrolled("rotated")
    store = store.admit(open_enrolment(renewed.enrolment(old=signer(rotated.key))))
    grid = KeyGrid([north, south, unknown, revoked, rotated])
    outcome = exchanged(grid, store)
    assert left_out(outcome) == [
        ("node 13", "unknown-node"),
        ("revoked", "key-revoked"),
        ("rotated", "key-rotated"),
    ]
    assert {m.metadata.dst_node_id for m in grid.sent} == {11, 12}
    assert list(exchanged(KeyGrid([north, renewed]), store).releases) == ["north", "rotated"]


def test_swapped_sites_are_both_refused() -> None:
    """Each signs rightly with its own key, but from the other's node."""
    north, south, east, west = map(Enrolled, ("north", "south", "east", "west"))
    store = enrolled(north, south, east, west)
    grid = KeyGrid([north, south, east, west])
    grid.nodes |= {11: south, 12: north}
    outcome = exchanged(grid, store)
    assert left_out(outcome) == [("north", "wrong-node"), ("south", "wrong-node")]
    assert list(outcome.releases) == ["east", "west"]


def test_two_nodes_of_one_site_are_both_refused() -> None:
    north, south, old = Enrolled("north"), Enrolled("south"), Enrolled("east")
    new = Enrolled("east")
    store = enrolled(north, south, old).admit(
        open_enrolment(new.enrolment(old=signer(old.key))), grace=timedelta(hours=1)
    )
    outcome = exchanged(KeyGrid([north, south, old, new]), store)
    assert left_out(outcome) == [("east", "duplicate-site")] * 2
    assert list(outcome.releases) == ["north", "south"]


def test_offline_nodes_are_not_waited_for() -> None:
    north, south, east = map(Enrolled, ("north", "south", "east"))
    grid = KeyGrid([north, south, east])
    grid.offline = {13}
    outcome = exchanged(grid, enrolled(north, south, east), patience=Patience(3, 2, 0.3, 1.0))
    assert list(outcome.releases) == ["north", "south"]
    with pytest.raises(FedprintError, match=r"^2 of at least 3 sites connected within 0 s"):
        exchanged(grid, enrolled(north, south, east), patience=Patience(3, 3, 0.3, 1.0))


class Approving(Enrolled):
    """Answers that a person must approve first, so many times."""

    asked: int = 0
    until: int = 2

    def release(self, content: RecordDict) -> RecordDict:
        self.asked += 1
        if self.asked <= self.until:
            return to_refusal("awaiting-approval", "a person must approve this first")
        return super().release(content)


def test_waiting_for_approval_or_going_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "ASK_AGAIN_SECONDS", 0.3)
    north, south, slow = Enrolled("north"), Enrolled("south"), Approving("slow")
    store = enrolled(north, south, slow)
    outcome = exchanged(KeyGrid([north, south, slow]), store)
    assert left_out(outcome) == [("slow", "awaiting-approval")]
    slow.asked = 0
    patient = Patience(2, 2, 1.0, 0.2, approval=30.0)
    outcome = exchanged(KeyGrid([north, south, slow]), store, patience=patient)
    assert left_out(outcome) == []
    assert list(outcome.releases) == ["north", "slow", "south"]


def test_the_log_has_the_requests_of_what_is_kept_and_soon_the_releases(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(collector, "ASK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(collector, "BATCH", 1)

    class Watched(Received):
        def keep(
            self, releases: Mapping[str, Release], nonces: Mapping[str, str], spec: Spec
        ) -> dict[str, Release]:
            said = RunLog.open(tmp_path).entries  # all that a kill would leave of it
            asked = {e["nonce"] for e in said if e["kind"] == "request"}
            assert {sha256_hex(nonce.encode()) for nonce in nonces.values()} <= asked
            assert self.sites == {e["site"] for e in said if e["kind"] == "release"}
            return super().keep(releases, nonces, spec)

    sites = [Enrolled("north"), Enrolled("south"), Approving("slow")]
    outcome = exchange_fingerprints(
        KeyGrid(sites),
        SPEC,
        "run-1",
        coordinator=Authority(enrolled(*sites)),  # type: ignore[arg-type]
        patience=Patience(2, 2, 1.0, 1.0, approval=30.0),
        received=Watched(tmp_path),
        begun=Begun(log=RunLog.open(tmp_path)),
    )
    assert list(outcome.releases) == ["north", "slow", "south"]


class Mute(Enrolled):
    """Never answers."""

    def release(self, content: RecordDict) -> RecordDict:
        raise Silent


class Late(Enrolled):
    """Answers once the others' releases lie on the disk."""

    folder: Path

    def release(self, content: RecordDict) -> RecordDict:
        deadline = time.monotonic() + 20.0
        if len(Received(self.folder).sites) < 2 and time.monotonic() < deadline:
            return to_refusal("awaiting-approval", "a person must approve this first")
        return super().release(content)


def test_releases_are_written_while_others_are_awaited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(collector, "ASK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(collector, "BATCH_SECONDS", 0.1)
    sites = [Enrolled("north"), late := Late("late"), Enrolled("south")]
    late.folder = tmp_path
    patience = Patience(2, 2, 30.0, 30.0, approval=30.0)
    outcome = exchanged(KeyGrid(sites), enrolled(*sites), Received(tmp_path), patience)
    assert list(outcome.releases) == ["late", "north", "south"]
    written = [json.loads(line) for line in (tmp_path / RECEIVED).read_bytes().splitlines()]
    assert [line["answer"]["site"] for line in written[:-1]] == ["north", "south", "late"]


def test_what_was_verified_is_kept_when_the_grid_fails(tmp_path: Path) -> None:
    class Failing(KeyGrid):
        answered = 0

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            if self.answered == 2:
                raise httpx.ConnectError("the SuperLink is away")
            replies = list(super().pull_messages(message_ids))
            self.answered += len(replies)
            return replies

    sites = [Enrolled(name) for name in ("east", "north", "south")]
    with pytest.raises(httpx.ConnectError):
        exchanged(Failing(sites), enrolled(*sites), Received(tmp_path))
    assert Received(tmp_path).sites == {"east", "north"}


def test_who_has_answered_at_the_deadline_is_heard_behind_many_who_have_not() -> None:
    sites = [*(Mute(f"mute{i:02}") for i in range(30)), Enrolled("north"), Enrolled("south")]
    outcome = exchanged(KeyGrid(sites), enrolled(*sites))
    assert list(outcome.releases) == ["north", "south"]
    assert {reason for _, reason in left_out(outcome)} == {"no-reply"}


def test_the_status_is_written_when_something_happens_not_at_every_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = []
    monkeypatch.setattr(progress, "atomic_json", lambda path, value: shown.append(path))
    monkeypatch.setattr(collector, "POLL_SECONDS", 0.01)
    sites = [Enrolled("north"), Enrolled("south"), Mute("mute")]
    exchange_fingerprints(
        KeyGrid(sites),
        SPEC,
        "run-1",
        coordinator=Authority(enrolled(*sites)),  # type: ignore[arg-type]
        patience=QUICK,
        progress=Progress(tmp_path, "run-1"),
    )
    assert len(shown) <= 5  # two phases, two answers, one that does not come


def test_who_comes_late_is_asked_and_the_rest_is_not() -> None:
    north, south, late = Enrolled("north"), Enrolled("south"), Enrolled("late")
    grid = KeyGrid([north, south, late])
    grid.offline = {13}
    outcome = exchanged(grid, enrolled(north, south, late))
    grid.offline, grid.sent = set(), []
    assert list(exchange_newcomers(grid, outcome, QUICK)) == ["late"]
    assert [m.metadata.dst_node_id for m in grid.sent] == [13]
    assert list(outcome.releases) == ["north", "south"]


def test_verified_releases_are_not_asked_for_again(tmp_path: Path) -> None:
    north, south, dying = Enrolled("north"), Enrolled("south"), Enrolled("dying")

    class Interrupted(BaseException):
        pass

    class DiesOnce(Enrolled):
        def release(self, content: RecordDict) -> RecordDict:
            raise Interrupted

    dies = DiesOnce("dying")
    dies.key = dying.key
    store = enrolled(north, south, dying)
    with pytest.raises(Interrupted):
        exchanged(Patient([north, south, dies]), store, Received(tmp_path))
    grid = KeyGrid([north, south, dying])
    outcome = exchanged(grid, store, Received(tmp_path))
    assert [m.metadata.dst_node_id for m in grid.sent] == [13]
    assert list(outcome.releases) == ["dying", "north", "south"]
    grid = KeyGrid([north, south, dying])
    assert exchanged(grid, store, Received(tmp_path)).nodes == outcome.nodes
    assert grid.sent == []


class Patient(KeyGrid):
    """Hands out one reply a pull, as sites answer one after the other."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return super().pull_messages(list(message_ids)[:1])


def test_nodes_may_be_new_when_a_run_is_resumed(tmp_path: Path) -> None:
    north, south = Enrolled("north"), Enrolled("south")
    store = enrolled(north, south)
    exchanged(KeyGrid([north, south]), store, Received(tmp_path))
    moved = KeyGrid([Enrolled("nobody"), south, north])
    assert exchanged(moved, store, Received(tmp_path)).nodes == {"north": 13, "south": 12}


def test_revoked_or_damaged_meanwhile_is_not_used_again(tmp_path: Path) -> None:
    sites = [Enrolled(name) for name in ("north", "south", "east", "west")]
    store = enrolled(*sites)
    exchanged(KeyGrid(sites), store, Received(tmp_path))
    (tmp_path / "fingerprints" / "east.safetensors").write_bytes(b"damaged")
    recalled = Received(tmp_path).recall(store.revoke_site("north"), SPEC, "run-1")
    assert list(recalled) == ["south", "west"]
    assert Received(tmp_path).recall(store, SPEC, "run-2") == {}


def test_dead_site_is_named(tmp_path: Path) -> None:
    class Dying(Enrolled):
        def release(self, content: RecordDict) -> RecordDict:
            raise Dead

    north, south, east = Enrolled("north"), Enrolled("south"), Dying("east")
    outcome = exchanged(KeyGrid([north, south, east]), enrolled(north, south, east))
    assert left_out(outcome) == [("east", "client-error")]
    assert (tmp_path / RECEIVED).exists() is False


def test_signature_of_another_key_than_the_enrolled() -> None:
    north, south, east = map(Enrolled, ("north", "south", "east"))
    stolen = replace(east)
    store = enrolled(north, south, east)
    grid = KeyGrid([north, south, east])
    grid.nodes[13] = stolen
    assert signer_pem(signer(stolen.key)) != east.node_pem
    assert left_out(exchanged(grid, store)) == [("east", "unknown-key")]


def test_who_was_revoked_meanwhile_is_named_when_a_run_is_resumed(tmp_path: Path) -> None:
    sites = [Enrolled(name) for name in ("north", "south", "east")]
    store = enrolled(*sites)
    exchanged(KeyGrid(sites), store, Received(tmp_path))
    grid = KeyGrid(sites)
    outcome = exchanged(grid, store.revoke_site("east"), Received(tmp_path))
    assert (list(outcome.releases), grid.sent) == (["north", "south"], [])
    assert left_out(outcome) == [("east", "key-revoked")]


def test_a_damaged_release_is_asked_for_again(tmp_path: Path) -> None:
    sites = [Enrolled(name) for name in ("north", "south", "east")]
    exchanged(KeyGrid(sites), enrolled(*sites), Received(tmp_path))
    (tmp_path / "fingerprints" / "east.safetensors").write_bytes(b"damaged")
    grid = KeyGrid(sites)
    assert len(exchanged(grid, enrolled(*sites), Received(tmp_path)).releases) == 3
    assert [m.metadata.dst_node_id for m in grid.sent] == [13]
    (tmp_path / RECEIVED).write_text("{")
    grid = KeyGrid(sites)
    assert len(exchanged(grid, enrolled(*sites), Received(tmp_path)).releases) == 3
    assert len(grid.sent) == 3


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path: Path) -> None:
    sites = [Enrolled(name) for name in ("north", "south", "east")]
    exchanged(KeyGrid(sites), enrolled(*sites), Received(tmp_path))
    path = tmp_path / RECEIVED
    whole = path.read_bytes()
    ended = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(ended[:2]) + ended[2][:-5])
    assert Received(tmp_path).sites == {"north", "south"}
    assert not Received(tmp_path).complete
    grid = KeyGrid(sites)
    assert len(exchanged(grid, enrolled(*sites), Received(tmp_path)).releases) == 3
    assert [m.metadata.dst_node_id for m in grid.sent] == [13]
    assert len(path.read_bytes().splitlines()) == len(ended)


def test_nodes_with_keys_are_never_believed_by_their_word() -> None:
    grid = KeyGrid([Enrolled("north"), Enrolled("south")])
    with pytest.raises(
        ConfigError, match=r"^these nodes have keys of their own, so this is a depl"
    ):
        exchange_fingerprints(grid, SPEC, "run-1", timeout=1.0)


def test_a_newcomer_kept_from_before_must_be_there_to_join(tmp_path: Path) -> None:
    north, south, east, west = map(Enrolled, ("north", "south", "east", "west"))
    store = enrolled(north, south, east, west)
    grid = KeyGrid([north, south, east, west])
    grid.offline = {13, 14}
    outcome = exchanged(grid, store)
    grid.offline = {14}
    kept = Received(tmp_path)
    assert list(exchange_newcomers(grid, outcome, QUICK, received=kept)) == ["east"]
    grid.offline, grid.sent = {13}, []
    assert list(exchange_newcomers(grid, outcome, QUICK, received=Received(tmp_path))) == ["west"]
    grid.offline, grid.sent = set(), []
    again = exchange_newcomers(grid, outcome, QUICK, received=Received(tmp_path))
    assert (sorted(again), grid.sent) == (["east", "west"], [])
