"""Descriptors over a grid in memory: whatever one site answers costs its own descriptors only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fl_server.descriptors import collect_descriptors
from fl_server.exchange import Exchange, exchange_fingerprints
from fl_server.runstate import RunState, run_state
from fl_server.settings import RunSettings
from fl_server.tasks import tasks_of
from protocol.descriptor_files import to_bytes
from protocol.descriptor_records import (
    DescriptorsReply,
    Sent,
    from_descriptors_request,
    to_descriptors,
)
from protocol.descriptor_statement import DescriptorRelease, descriptor_statement
from protocol.descriptors import Descriptor, Fisher, Kind, Moments
from protocol.envelope import sign
from protocol.errors import ConfigError, FedprintError
from protocol.files import sha256_hex
from protocol.keys import generate_key, signer
from protocol.records import from_reply, record, to_refusal
from protocol.statement import RELEASE_VALIDITY, utc_now
from tests.fl_server.fake_sites import SPEC, FakeSite
from tests.protocol.conftest import IMAGES
from tests.strategies.fake_grid import Dead, FakeGrid, Killed, Silent

MEAN = np.arange(SPEC.width, dtype=float)


class Describing(FakeSite):
    """A site that answers with moments and a Fisher embedding; tests override one thing."""

    filters = 5
    asked = 0

    def __call__(self, message: Message) -> RecordDict:
        if message.metadata.message_type == "query.descriptors":
            self.asked += 1
            return self.descriptors(message.content)
        return super().__call__(message)

    def signed(self, run: str, nonce: str, payload: bytes = b"") -> RecordDict:
        reply = super().signed(run, nonce, payload)
        self.fingerprint = sha256_hex(from_reply(reply).payload)
        return reply

    def descriptors(self, content: RecordDict) -> RecordDict:
        kinds = from_descriptors_request(content).kinds
        return to_descriptors(DescriptorsReply({kind: self.sent(kind) for kind in kinds}))

    def sent(self, kind: Kind, **changes: object) -> Sent:
        made: dict[Kind, Descriptor] = {
            "moments": Moments(MEAN, np.eye(SPEC.width), IMAGES),
            "fisher": Fisher(np.ones(self.filters)),
        }
        payload, now = to_bytes(made[kind]), utc_now()
        values = {
            "site": self.name,
            "spec_digest": SPEC.digest,
            "spec_name": SPEC.name,
            "kind": kind,
            "images": IMAGES,
            "fingerprint": self.fingerprint,
            "policy_digest": "b" * 64,
            "issued": now,
            "expires": now + RELEASE_VALIDITY,
        }
        release = DescriptorRelease.model_validate(values | changes)
        envelope = sign(descriptor_statement(payload, release), signer(self.signs))
        return Sent(payload, envelope)

    @property
    def signs(self) -> object:
        return self.key


class Refusing(Describing):
    def descriptors(self, content: RecordDict) -> RecordDict:
        return to_descriptors(
            DescriptorsReply(
                {"fisher": self.sent("fisher")},
                {"moments": ("descriptors-not-allowed", "site policy: moments may not leave")},
            )
        )


class RefusingAll(Describing):
    def descriptors(self, content: RecordDict) -> RecordDict:
        return to_refusal("site-error", "the site's data cannot be used")


class Garbage(Describing):
    def descriptors(self, content: RecordDict) -> RecordDict:
        return record({"descriptors": '["moments"', "stayed": "{}"})


class TooMuch(Describing):
    def descriptors(self, content: RecordDict) -> RecordDict:
        sent = {k: Sent(b"x" * 50_000_000, b"{}") for k in ("moments", "fisher")}
        return to_descriptors(DescriptorsReply(sent))  # type: ignore[arg-type]


class OtherKinds(Describing):
    def descriptors(self, content: RecordDict) -> RecordDict:
        return to_descriptors(DescriptorsReply({"moments": self.sent("moments")}))


class OtherKey(Describing):
    @property
    def signs(self) -> object:
        return generate_key()


class OtherFingerprint(Describing):
    def sent(self, kind: Kind, **changes: object) -> Sent:
        return super().sent(kind, fingerprint="0" * 64)


class Expired(Describing):
    def sent(self, kind: Kind, **changes: object) -> Sent:
        then = utc_now() - 2 * RELEASE_VALIDITY
        return super().sent(kind, issued=then, expires=then + RELEASE_VALIDITY)


class OtherNetwork(Describing):
    filters = 6


class Mute(Describing):
    def descriptors(self, content: RecordDict) -> RecordDict:
        raise Silent


class Dying(Describing):
    def descriptors(self, content: RecordDict) -> RecordDict:
        raise Dead


SETTINGS = RunSettings(descriptors=("moments", "fisher"), exchange_timeout=1.0)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[RunState]:
    with run_state(tmp_path / "run", SETTINGS, "run-1") as opened:
        yield opened


def exchanged(*sites: FakeSite) -> tuple[FakeGrid, Exchange]:
    grid = FakeGrid({11 + number: site for number, site in enumerate(sites)})
    return grid, exchange_fingerprints(grid, SPEC, "run-1", timeout=1.0)


def files(state: RunState) -> list[str]:
    return sorted(path.name for path in (state.folder / "descriptors").glob("*.safetensors"))


def test_descriptors_are_verified_written_and_entered(state: RunState) -> None:
    grid, exchange = exchanged(Describing("north"), Describing("south"))
    found = collect_descriptors(grid, SETTINGS, state, exchange)
    north, south = tasks_of(exchange, found)
    assert (north.name, south.name) == ("north", "south")
    assert north.moments is not None
    np.testing.assert_allclose(north.moments.mean, MEAN)
    assert south.fisher is not None
    assert north.features is None
    assert files(state) == [
        f"{site}.{kind}.safetensors"
        for site in ("north", "south")
        for kind in ("fisher", "moments")
    ]
    entered = [e for e in exchange.log.entries if e["kind"] == "descriptor"]
    assert [(e["site"], e["descriptor"]) for e in entered] == [
        (site, kind) for site in ("north", "south") for kind in ("moments", "fisher")
    ]
    payload = (state.folder / "descriptors" / "north.moments.safetensors").read_bytes()
    assert entered[0]["payload"] == sha256_hex(payload)


BOTH = ["fisher", "moments"]


@pytest.mark.parametrize(
    ("faulty", "reason", "lost"),
    [
        (Refusing, "descriptors-not-allowed", ["moments"]),
        (RefusingAll, "site-error", BOTH),
        (Garbage, "malformed-message", BOTH),
        (TooMuch, "too-large", BOTH),
        (OtherKinds, "malformed-message", BOTH),
        (OtherKey, "unknown-key", BOTH),
        (OtherFingerprint, "digest-mismatch", BOTH),
        (Expired, "expired", BOTH),
        (OtherNetwork, "bad-shape", ["fisher"]),
        (FakeSite, "client-error", BOTH),  # of a version that knows of no descriptors
        (Mute, "no-reply", BOTH),
        (Dying, "client-error", BOTH),
    ],
)
def test_fault_costs_the_sites_own_descriptors(
    state: RunState, faulty: Callable[[str], FakeSite], reason: str, lost: list[str]
) -> None:
    grid, exchange = exchanged(Describing("north"), faulty("faulty"), Describing("south"))
    found = collect_descriptors(grid, SETTINGS, state, exchange)
    assert sorted(found["north"]) == sorted(found["south"]) == BOTH
    assert sorted({*BOTH} - found.get("faulty", {}).keys()) == lost
    noted = [e for e in exchange.log.entries if e["kind"] == "no descriptor"]
    assert sorted((e["site"], e["descriptor"], e["reason"]) for e in noted) == [
        ("faulty", kind, reason) for kind in lost
    ]
    assert [name for name in files(state) if name.startswith("faulty")] == [
        f"faulty.{kind}.safetensors" for kind in BOTH if kind not in lost
    ]
    assert "faulty" in exchange.releases  # and it stays in the run


def test_interrupted_run_asks_only_who_has_not_answered(state: RunState) -> None:
    sites = Describing("north"), Describing("south")
    grid, exchange = exchanged(*sites)
    grid.lives = 1
    with pytest.raises(Killed):
        collect_descriptors(grid, SETTINGS, state, exchange)
    assert [site.asked for site in sites] == [1, 0]
    grid.lives = None
    first, second = (collect_descriptors(grid, SETTINGS, state, exchange) for _ in range(2))
    assert sorted(first) == sorted(second) == ["north", "south"]
    assert [site.asked for site in sites] == [1, 1]
    entered = [e for e in exchange.log.entries if e["kind"] == "descriptor"]
    assert len(entered) == 4


def test_who_was_waited_for_in_vain_is_not_asked_again(state: RunState) -> None:
    late = RefusingAll("late")
    grid, exchange = exchanged(late, Describing("north"))
    assert sorted(collect_descriptors(grid, SETTINGS, state, exchange)) == ["north"]
    late.__class__ = Describing  # by now it would answer, but it was decided without it
    assert sorted(collect_descriptors(grid, SETTINGS, state, exchange)) == ["north"]
    assert late.asked == 1
    assert [e["kind"] for e in exchange.log.entries].count("no descriptor") == 2


def test_what_nobody_needs_is_not_asked_for(state: RunState) -> None:
    site = Describing("north")
    grid, exchange = exchanged(site, Describing("south"))
    stale = state.folder / "descriptors" / "gone.moments.safetensors"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    assert collect_descriptors(grid, RunSettings(), state, exchange) == {}
    assert site.asked == 0
    assert not stale.exists()


def test_what_the_measure_needs_is_asked_for() -> None:
    assert RunSettings().kinds == ()
    assert RunSettings(measure="fid").kinds == ("moments",)
    asked = RunSettings.from_run_config({"measure": "task2vec", "descriptors": " features,moments"})
    assert asked.kinds == ("moments", "fisher", "features")
    assert asked.decisive["descriptors"] == ["moments", "features"]
    assert "descriptors" not in RunSettings().decisive


def test_a_measure_whose_needs_nobody_lets_go_stops_the_run(state: RunState) -> None:
    grid, exchange = exchanged(Refusing("north"), Describing("south"), RefusingAll("west"))
    text = (
        "measure fid needs moments of two sites at least, and 1 of 3 sent them; the first that did "
        "not: site policy: moments may not leave"
    )
    with pytest.raises(FedprintError, match=f"^{re.escape(text)}$"):
        collect_descriptors(grid, SETTINGS.model_copy(update={"measure": "fid"}), state, exchange)


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^run-config descriptors=") as caught:
        RunSettings.from_run_config({"descriptors": "momemts"})
    assert "\n" not in str(caught.value)
