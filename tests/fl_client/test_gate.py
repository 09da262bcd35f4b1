"""The site's gate: what goes, what waits, what is refused, and what is written down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
from fixtures_sites import tiny_spec, write_classes

from fl_client import extract as extraction
from fl_client import release as releasing
from fl_client.gate import Gate
from fl_client.history import History
from fl_client.policy import Policy, local_policy
from fl_client.releases import Releases
from fl_client.requests import MOST, Requests
from fl_client.site import read_site
from protocol.errors import DataError, PolicyError
from protocol.keys import generate_key, save_private_key, signer, signer_pem
from protocol.privacy import AskedTerms
from protocol.records import ReleaseRequest
from protocol.spec import Spec
from protocol.statement import utc_now
from protocol.trust import TrustStore
from protocol.verify import verify_release

APPROVE_FIRST = Policy(specs=["*"], min_images=2, release="plain")

_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


sys.addaudithook(_audit)  # cannot be taken away again: it only looks while a test listens


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """List the files that are opened while a test runs, in whatever way Python opens them."""
    global _opened
    _opened = []
    yield _opened
    _opened = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "north", {"a": 3, "b": 2})


@cache
def own_key() -> object:
    return signer(generate_key())


def gate_of(folder: Path, policy: Policy | None = None, **options: object) -> Gate:
    site = read_site(folder)
    return Gate(site, policy or local_policy(), own_key, device="cpu", **options)  # type: ignore[arg-type]


def request(spec: Spec, run: str = "run-1", nonce: str = "n" * 64) -> ReleaseRequest:
    return ReleaseRequest(run, nonce, spec)


def decisions(folder: Path) -> list[tuple[str, str, str]]:
    return [(e.run, e.decision, e.reason) for e in History(read_site(folder).state).read()]


def refused(gate: Gate, spec: Spec, run: str = "run-1") -> str:
    with pytest.raises(PolicyError) as caught:
        gate.answer(request(spec, run))
    return caught.value.reason


def test_what_was_let_go_is_sent_again_bound_anew(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    first = gate_of(folder).answer(request(spec))
    monkeypatch.setattr(extraction, "extract", lambda *_a, **_k: pytest.fail("computed again"))
    opened.clear()
    again = gate_of(folder).answer(request(spec, "run-2", "m" * 64))
    assert not [path for path in opened if path.endswith((".png", ".pt"))]
    assert again[:2] == first[:2]
    assert again[2] != first[2]
    verified = verify_release(
        site="north",
        payload=again[0],
        release=again[1],
        binding=again[2],
        store=TrustStore.empty().enrol_all({"north": signer_pem(own_key())}),  # type: ignore[arg-type]
        spec=spec,
        run="run-2",
        nonce="m" * 64,
        now=utc_now(),
    )
    assert verified.fingerprint.n_images == 5
    assert decisions(folder) == [("run-1", "released", ""), ("run-2", "released-again", "")]


def test_a_release_sent_again_needs_no_torch(folder: Path, spec: Spec, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    save_private_key(key, generate_key())
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    code = """
import sys
from fl_client.gate import Gate
from fl_client.policy import local_policy
from fl_client.site import read_site
from protocol.keys import load_signer
from protocol.records import ReleaseRequest
from protocol.spec import load_spec
import fl_client.plugin
folder, key, spec = sys.argv[1:]
gate = Gate(read_site(folder), local_policy(), lambda: load_signer(key), device="cpu")
gate.answer(ReleaseRequest("run", "n", load_spec(spec)))
print(sorted({"torch", "timm"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, str(folder), str(key), str(tmp_path / "spec.json")]
    for expected in ("['timm', 'torch']", "[]"):
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == expected


@pytest.mark.parametrize("keeps_features", [False, True])
def test_changed_data_are_fingerprinted_anew(
    folder: Path, spec: Spec, keeps_features: bool
) -> None:
    first = gate_of(folder, keeps_features=keeps_features).answer(request(spec))
    shutil.copy(folder / "a" / "001.png", folder / "b" / "001.png")
    second = gate_of(folder, keeps_features=keeps_features).answer(request(spec))
    assert second[0] != first[0]
    assert [d for _, d, _ in decisions(folder)] == ["released", "released"]


def test_a_release_is_renewed_before_it_expires(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = utc_now() - timedelta(days=336)
    with monkeypatch.context() as patch:
        patch.setattr(releasing, "utc_now", lambda: long_ago)
        payload, old, _ = gate_of(folder).answer(request(spec))
    monkeypatch.setattr(extraction, "extract", lambda *_a, **_k: pytest.fail("computed again"))
    again, new, _ = gate_of(folder).answer(request(spec))
    assert again == payload
    assert new != old
    assert gate_of(folder).answer(request(spec))[1] == new


def test_where_nothing_may_be_kept_nothing_is_written(folder: Path, spec: Spec) -> None:
    gate = gate_of(folder, keeps=False)
    payload, _, _ = gate.answer(request(spec))
    gate.admit(spec, "run-1", "alone")
    assert not (folder / ".fedprint").exists()
    assert refused(gate_of(folder, APPROVE_FIRST, keeps=False), spec) == "awaiting-approval"
    assert not (folder / ".fedprint").exists()
    assert gate_of(folder).answer(request(spec))[0] == payload


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"specs": []}, "spec-not-allowed"),
        ({"max_bins": 4}, "too-many-bins"),
        ({"min_images": 6}, "too-few-images"),
        ({"min_patients": 6}, "too-few-patients"),
        ({}, "awaiting-approval"),
    ],
)
@pytest.mark.parametrize("keeps", [True, False])
def test_a_refusal_opens_no_image(
    folder: Path,
    spec: Spec,
    opened: list[str],
    changes: dict[str, object],
    reason: str,
    keeps: bool,
) -> None:
    policy = APPROVE_FIRST.model_copy(update=changes)
    assert refused(gate_of(folder, policy, keeps=keeps), spec) == reason
    assert not [path for path in opened if path.endswith((".png", ".pt"))]
    if not keeps:
        return
    decision = reason if reason == "awaiting-approval" else "refused"
    assert decisions(folder) == [("run-1", decision, reason)]
    waiting = Requests(folder / ".fedprint").all()
    assert len(waiting) == (reason == "awaiting-approval"), "only what could be approved waits"


def test_a_request_waits_with_its_whole_spec(folder: Path, spec: Spec) -> None:
    for run in ("run-1", "run-2", "run-2"):
        assert refused(gate_of(folder, APPROVE_FIRST), spec, run) == "awaiting-approval"
    (waiting,) = Requests(folder / ".fedprint").all()
    assert waiting.spec == spec
    assert (waiting.run, waiting.times, waiting.denied) == ("run-2", 3, None)
    assert waiting.first_asked <= waiting.last_asked
    by_digest = APPROVE_FIRST.model_copy(update={"approved": [spec.digest]})
    gate_of(folder, by_digest).answer(request(spec))
    waited, again = (("run-" + number, "awaiting-approval", "awaiting-approval") for number in "12")
    assert decisions(folder) == [waited, again, ("run-1", "released", "")]
    refused(gate_of(folder, APPROVE_FIRST), spec)
    assert decisions(folder)[3:] == [waited], "what was allowed in between is asked for anew"


def test_waiting_requests_are_limited(folder: Path, spec: Spec, opened: list[str]) -> None:
    requests = Requests(folder / ".fedprint")
    for number in range(MOST):
        requests.note(spec.model_copy(update={"name": str(number)}), "run")
    assert refused(gate_of(folder, APPROVE_FIRST), spec) == "too-many-requests"
    with pytest.raises(PolicyError, match="100 requests wait for approval already"):
        gate_of(folder, APPROVE_FIRST).admit(spec, "run-1", "alone")
    assert not [path for path in opened if path.endswith((".png", ".pt"))]
    requests.note(spec.model_copy(update={"name": "7"}), "run")


def test_a_denied_request_is_refused_whatever_the_policy_says(
    folder: Path, spec: Spec, opened: list[str]
) -> None:
    gate_of(folder).answer(request(spec))
    (folder / ".fedprint" / "data.json").unlink()  # the digest of the images would be taken anew
    opened.clear()
    Requests(folder / ".fedprint").deny(spec)
    for policy in (local_policy(), APPROVE_FIRST):
        assert refused(gate_of(folder, policy), spec) == "denied"
        with pytest.raises(PolicyError, match="a person at the site denied spec tiny"):
            gate_of(folder, policy).admit(spec, "run-1", "alone")
    (path,) = (folder / ".fedprint" / "requests").glob("*/request.json")
    path.write_text("{")
    assert refused(gate_of(folder), spec) == "denied", "a damaged denial is no permission"
    assert not [path for path in opened if path.endswith((".png", ".pt"))]


def test_training_orders_pass_the_gate_and_are_recorded_once_an_arm(
    folder: Path, spec: Spec
) -> None:
    for arm in ("alone", "grouped", "grouped", "alone"):
        gate_of(folder).admit(spec, "run-1", arm)
    gate_of(folder).admit(spec, "run-2", "alone")
    lines = (folder / ".fedprint" / "history.jsonl").read_text().splitlines()
    assert [(json.loads(line)["run"], json.loads(line)["arm"]) for line in lines] == [
        ("run-1", "alone"),
        ("run-1", "grouped"),
        ("run-2", "alone"),
    ]
    fingerprints_only = Policy(
        specs=["*"], min_images=2, automatic=True, training=False, release="plain"
    )
    for _ in range(2):
        with pytest.raises(PolicyError, match="site north gives fingerprints only") as caught:
            gate_of(folder, fingerprints_only).admit(spec, "run-3", "alone")
        assert caught.value.reason == "training-not-allowed"
    assert decisions(folder)[3:] == [("run-3", "refused", "training-not-allowed")]


def test_training_waits_for_an_approved_release(folder: Path, spec: Spec) -> None:
    with pytest.raises(PolicyError, match="must approve spec tiny first"):
        gate_of(folder, APPROVE_FIRST).admit(spec, "run-1", "alone")
    assert Requests(folder / ".fedprint").find(spec) is not None
    gate = gate_of(folder, APPROVE_FIRST)
    payload, data, _ = gate.maker.make(spec, AskedTerms())
    envelope = releasing.sign_release(
        gate.site,
        payload,
        spec,
        own_key(),  # type: ignore[arg-type]
        APPROVE_FIRST,
        approved=True,
    )
    Releases(gate.site.state).keep(gate.site, spec, payload, envelope, data)
    gate_of(folder, APPROVE_FIRST).admit(spec, "run-1", "alone")
    assert gate_of(folder, APPROVE_FIRST).answer(request(spec))[1] == envelope
    (folder / "a" / "000.png").unlink()
    with pytest.raises(PolicyError, match="must approve spec tiny first"):
        gate_of(folder, APPROVE_FIRST).admit(spec, "run-1", "alone")


def test_an_approval_holds_for_one_recipient(folder: Path, spec: Spec) -> None:
    def to(recipient: str, policy: Policy = APPROVE_FIRST) -> Gate:
        return gate_of(folder, policy, find_recipient=lambda: recipient)

    gate = to("one")
    payload, data, _ = gate.maker.make(spec, AskedTerms())
    envelope = releasing.sign_release(
        *(gate.site, payload, spec, own_key(), APPROVE_FIRST),  # type: ignore[arg-type]
        approved=True,
    )
    bound_to = gate.bound_to(spec)
    Releases(gate.site.state).keep(gate.site, spec, payload, envelope, data, bound_to)
    assert to("one").answer(request(spec))[1] == envelope
    assert refused(to("two"), spec) == refused(to(""), spec) == "awaiting-approval"
    with pytest.raises(PolicyError, match="must approve spec tiny first"):
        to("two").admit(spec, "run-1", "alone")
    to("one").admit(spec, "run-1", "alone")
    automatic = to("one", local_policy()).answer(request(spec))
    assert to("two", local_policy()).answer(request(spec))[:2] == automatic[:2]


def test_what_cannot_be_recorded_is_not_released(folder: Path, spec: Spec) -> None:
    history = folder / ".fedprint" / "history.jsonl"
    history.mkdir(parents=True)
    assert refused(gate_of(folder), spec) == "not-recorded"
    with pytest.raises(PolicyError, match="what is not recorded is not released"):
        gate_of(folder).admit(spec, "run-1", "alone")
    history.rmdir()
    (folder / ".fedprint" / "requests").write_text("a file where a folder must be")
    assert refused(gate_of(folder, APPROVE_FIRST), spec) == "not-recorded"
    assert decisions(folder) == [("run-1", "refused", "not-recorded")]


def test_images_that_change_meanwhile_are_not_released(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = extraction.extract

    def disturbed(*arguments: object, **options: object) -> object:
        shutil.copy(folder / "a" / "001.png", folder / "b" / "001.png")
        return extract(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(extraction, "extract", disturbed)
    with pytest.raises(DataError, match="images of site north changed while they were read"):
        gate_of(folder).answer(request(spec))
    assert decisions(folder) == [("run-1", "refused", "site-error")]


def test_a_denial_while_it_is_computed_comes_in_time(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = extraction.extract

    def denied(*arguments: object, **options: object) -> object:
        Requests(folder / ".fedprint").deny(spec)
        return extract(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(extraction, "extract", denied)
    assert refused(gate_of(folder), spec) == "denied"


def test_who_asks_at_the_same_time_is_computed_for_once(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract, times = extraction.extract, []

    def slow(*arguments: object, **options: object) -> object:
        times.append(1)
        time.sleep(0.3)
        return extract(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(extraction, "extract", slow)
    gates = [gate_of(folder) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda gate: gate.answer(request(spec)), gates))
    assert len(times) == 1
    assert len({reply[:2] for reply in replies}) == 1
    found = sorted(decision for _, decision, _ in decisions(folder))
    assert found == ["released", "released-again", "released-again"]


def test_the_history_says_what_left(folder: Path, spec: Spec) -> None:
    payload, _, _ = gate_of(folder).answer(request(spec))
    path = folder / ".fedprint" / "history.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    line = json.loads(path.read_text())
    assert line["spec"] == {"name": "tiny", "digest": spec.digest}
    assert (line["bytes"], line["images"], line["patients"]) == (len(payload), 5, None)
    assert line["policy"] == local_policy().digest
    assert len(line["sha256"]) == 64
    with path.open("a") as file:
        file.write('{"time": "cut o')  # a crash in the middle of a line
    gate_of(folder).answer(request(spec, "run-2"))
    assert decisions(folder) == [("run-1", "released", ""), ("run-2", "released-again", "")]


def test_bytes_that_left_before_leave_again(folder: Path, spec: Spec) -> None:
    first = gate_of(folder).answer(request(spec))
    Releases(folder / ".fedprint").drop(spec)  # the history alone remembers
    assert gate_of(folder).answer(request(spec, "run-2"))[0] == first[0]
    shutil.copy(folder / "a" / "001.png", folder / "b" / "001.png")
    assert gate_of(folder).answer(request(spec, "run-3"))[0] != first[0]
    assert decisions(folder) == [
        ("run-1", "released", ""),
        ("run-2", "released-again", ""),
        ("run-3", "released", ""),
    ]


def test_another_spec_of_the_same_name_waits_by_itself(
    folder: Path, spec: Spec, tmp_path: Path
) -> None:
    other = tiny_spec(tmp_path, bins=20)
    for asked in (spec, other):
        assert refused(gate_of(folder, APPROVE_FIRST), asked) == "awaiting-approval"
    assert {r.spec.bins for r in Requests(folder / ".fedprint").all()} == {10, 20}
