"""The exchange over a grid in memory: whatever one site answers, only that site is left out."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from flwr.app import ConfigRecord, RecordDict

from fl_server.exchange import Exchange, exchange_fingerprints
from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import counts_to_bytes
from protocol.keys import public_pem
from protocol.records import from_release_request, to_refusal, to_reply
from protocol.spec import Spec, load_spec
from strategies.grouping import Group
from tests.fl_server.fake_sites import SPEC, FakeSite
from tests.protocol.conftest import make_counts
from tests.strategies.fake_grid import Dead, FakeGrid, Silent


class Garbage(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        return RecordDict({"fedprint": ConfigRecord({"site": self.name, "payload": "text"})})


class GarbageBytes(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        values = {"site": self.name, "payload": b"\0" * 99, "release": b"{", "binding": b"}"}
        return RecordDict({"fedprint": ConfigRecord({**values})})


class GarbageEnvelope(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        return to_reply(self.name, counts_to_bytes(make_counts()), b"\xff not JSON", b"{}")


class GarbageHello(FakeSite):
    def hello(self) -> RecordDict:
        return RecordDict()


class OutsideName(FakeSite):
    def hello(self) -> RecordDict:
        values = {"site": "../../etc", "public-key": public_pem(self.key)}
        return RecordDict({"fedprint": ConfigRecord({**values})})


class UnknownKey(FakeSite):
    def signed(self, run: str, nonce: str, payload: bytes = b"") -> RecordDict:
        return FakeSite(self.name).signed(run, nonce, payload)


class Forged(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        answer = super().release(content)
        envelope = json.loads(answer["fedprint"]["release"])  # type: ignore[arg-type]
        body = base64.b64decode(envelope["payload"]).replace(b'"tissue"', b'"tumour"')
        envelope["payload"] = base64.b64encode(body).decode()
        answer["fedprint"]["release"] = json.dumps(envelope).encode()
        return answer


class Replayed(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        return self.signed(from_release_request(content).run, "the nonce of another day")


class OtherRun(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        return self.signed("another run", from_release_request(content).nonce)


class OtherShape(FakeSite):
    def signed(self, run: str, nonce: str, payload: bytes = b"") -> RecordDict:
        return super().signed(run, nonce, counts_to_bytes(make_counts()[:, :-1].copy()))


class Refusing(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        return to_refusal("too-few-images", "site policy: 3 images, at least 10 are needed")


class Mute(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        raise Silent


class Dying(FakeSite):
    def release(self, content: RecordDict) -> RecordDict:
        raise Dead


class DeadAtOnce(FakeSite):
    def hello(self) -> RecordDict:
        raise Dead


def exchanged(*sites: FakeSite, timeout: float = 1.0) -> Exchange:
    """Run the exchange over these sites, nodes 11, 12, ..."""
    nodes = {11 + number: site for number, site in enumerate(sites)}
    return exchange_fingerprints(FakeGrid(nodes), SPEC, "run-1", timeout=timeout)


def test_good_sites_are_verified_in_the_order_of_their_names() -> None:
    outcome = exchanged(FakeSite("south"), FakeSite("north"))
    assert list(outcome.releases) == ["north", "south"]
    assert outcome.nodes == {"north": 12, "south": 11}
    assert [f.site for f in outcome.fingerprints] == ["north", "south"]
    assert outcome.left_out == []
    assert {entry.site for entry in outcome.store.entries} == {"north", "south"}
    groups = [Group("group-1", ["south", "north"])]
    assert outcome.group_nodes(groups) == {"group-1": [11, 12]}


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (Garbage, "malformed-message"),
        (GarbageBytes, "malformed-payload"),
        (GarbageEnvelope, "malformed-envelope"),
        (UnknownKey, "unknown-key"),
        (Forged, "bad-signature"),
        (Replayed, "stale-nonce"),
        (OtherRun, "wrong-run"),
        (OtherShape, "bad-shape"),
        (Refusing, "too-few-images"),
        (Mute, "no-reply"),
        (Dying, "client-error"),
    ],
)
def test_only_the_faulty_site_is_left_out(faulty: Callable[[str], FakeSite], reason: str) -> None:
    outcome = exchanged(FakeSite("north"), faulty("faulty"), FakeSite("south"))
    assert [(gone.site, gone.reason) for gone in outcome.left_out] == [("faulty", reason)]
    assert "\n" not in outcome.left_out[0].message
    assert list(outcome.releases) == ["north", "south"]


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (GarbageHello, "malformed-message"),
        (OutsideName, "malformed-message"),
        (DeadAtOnce, "client-error"),
    ],
)
def test_node_that_gives_no_name_is_left_out(
    faulty: Callable[[str], FakeSite], reason: str
) -> None:
    outcome = exchanged(FakeSite("north"), faulty("faulty"), FakeSite("south"))
    assert [(gone.site, gone.reason) for gone in outcome.left_out] == [("node 12", reason)]
    assert list(outcome.releases) == ["north", "south"]


def test_two_nodes_of_one_name_are_both_left_out() -> None:
    outcome = exchanged(FakeSite("north"), FakeSite("twin"), FakeSite("south"), FakeSite("twin"))
    assert [(gone.site, gone.reason) for gone in outcome.left_out] == [
        ("twin", "duplicate-site"),
        ("twin", "duplicate-site"),
    ]
    assert list(outcome.releases) == ["north", "south"]


@pytest.mark.parametrize(("claims", "reason"), [("thief", "wrong-site"), ("north", "wrong-node")])
def test_one_site_cannot_answer_for_another(claims: str, reason: str) -> None:
    north = FakeSite("north")

    class Thief(FakeSite):
        def signed(self, run: str, nonce: str, payload: bytes = b"") -> RecordDict:
            answer = north.signed(run, nonce, payload)
            answer["fedprint"]["site"] = claims  # type: ignore[index]
            return answer

    outcome = exchanged(north, Thief("thief"), FakeSite("south"))
    assert [(gone.site, gone.reason) for gone in outcome.left_out] == [("thief", reason)]
    assert list(outcome.releases) == ["north", "south"]


def test_every_site_gets_a_nonce_of_its_own() -> None:
    grid = FakeGrid({1: FakeSite("north"), 2: FakeSite("south")})
    exchange_fingerprints(grid, SPEC, "run-1")
    asked = [m for m in grid.sent if m.metadata.message_type == "query.fingerprint"]
    assert len({from_release_request(m.content).nonce for m in asked}) == 2


def test_too_few_nodes() -> None:
    with pytest.raises(FedprintError) as caught:
        exchanged(FakeSite("north"), timeout=0.0)
    assert str(caught.value) == (
        "1 of at least 2 sites connected within 0 s: start the missing SuperNodes or lower quorum"
    )


def test_recipe_cannot_be_exchanged() -> None:
    recipe: Spec = load_spec("resnet34-100")
    with pytest.raises(ConfigError, match=r"^spec resnet34-100 is a recipe"):
        exchange_fingerprints(FakeGrid({}), recipe, "run-1")
