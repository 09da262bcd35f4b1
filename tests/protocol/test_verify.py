"""Every fault that a site's message can have, made for real, and the code it is refused with."""

from __future__ import annotations

import contextlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.envelope import LIMIT, sign
from protocol.errors import ConfigError, VerificationError
from protocol.files import atomic_json, atomic_write
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, public_pem, signer
from protocol.privacy import noised, terms
from protocol.statement import BINDING_TYPE, Privacy
from protocol.taskcard import TaskCard
from protocol.trust import TrustStore
from protocol.verify import _row_sums, read_fingerprints, verify_local

from .conftest import (
    BINS,
    FEATURES,
    IMAGES,
    NOW,
    Case,
    make_case,
    make_counts,
    make_spec,
    projected_spec,
)

FUZZED = make_case(generate_key())


def tensor(array: Any, name: str = "counts") -> bytes:
    return safetensors.numpy.save({name: np.ascontiguousarray(array)})


def reason_of(case: Case, **limits: int) -> str:
    with pytest.raises(VerificationError) as caught:
        case.verify(**limits)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def edit(envelope: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Change the signed statement inside an envelope and keep its signature."""
    box = json.loads(envelope)
    statement = json.loads(b64decode(box["payload"]))
    change(statement)
    box["payload"] = b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(box).encode()


def test_a_correct_release_passes_with_every_kind_of_key(any_key: PrivateKeyTypes) -> None:
    case = make_case(any_key)
    verified = case.verify()
    assert verified.enrolled
    assert verified.fingerprint.site == "north"
    assert verified.fingerprint.n_images == IMAGES
    assert verified.card == TaskCard(name="tissue")
    np.testing.assert_array_equal(verified.fingerprint.counts, make_counts())
    assert replace(case, binding=None).verify().key_id == verified.key_id


def test_tampered_payload(case: Case) -> None:
    spoiled = bytearray(case.payload)
    spoiled[-1] ^= 1
    assert reason_of(replace(case, payload=bytes(spoiled))) == "digest-mismatch"


def test_binding_of_another_release(case: Case) -> None:
    other = case.signed(counts_to_bytes(make_counts(seed=1)))
    assert reason_of(replace(case, binding=other.binding)) == "digest-mismatch"


def test_key_of_another_site(case: Case) -> None:
    foreign = generate_key()
    store = case.store.enrol("south", public_pem(foreign), not_before=NOW - timedelta(days=1))
    spoiled = replace(case, store=store).signed(case.payload, key=foreign)
    assert reason_of(spoiled) == "wrong-site"
    mixed = replace(case, store=store, binding=spoiled.binding)
    assert reason_of(mixed) == "wrong-site"


def test_statement_of_another_site(case: Case) -> None:
    assert reason_of(case.signed(case.payload, site="south")) == "wrong-site"
    assert reason_of(case.signed(case.payload, bound={"site": "south"})) == "wrong-site"


def test_unknown_key(case: Case) -> None:
    assert reason_of(case.signed(case.payload, key=generate_key())) == "unknown-key"
    assert reason_of(replace(case, store=TrustStore.empty())) == "unknown-key"


def test_a_key_under_the_id_of_another(case: Case) -> None:
    forged = json.loads(case.signed(case.payload, key=generate_key()).release)
    forged["signatures"][0]["keyid"] = case.store.entries[0].key_id
    assert reason_of(replace(case, release=json.dumps(forged).encode())) == "bad-signature"


def test_revoked_key(case: Case) -> None:
    store = case.store.revoke(case.store.entries[0].key_id)
    assert reason_of(replace(case, store=store)) == "key-revoked"


@pytest.mark.parametrize("days", [-11, 11])
def test_key_outside_its_validity(case: Case, days: int) -> None:
    assert reason_of(replace(case, now=NOW + timedelta(days=days))) == "key-not-valid"


@pytest.mark.parametrize("part", ["release", "binding"])
def test_changed_statement(case: Case, part: str) -> None:
    changed = edit(getattr(case, part), lambda s: s["predicate"].update(issued="2026-11-21T00:00Z"))
    assert reason_of(replace(case, **{part: changed})) == "bad-signature"


def test_changed_payload_type(case: Case) -> None:
    box = json.loads(case.release)
    box["payloadType"] = "text/plain"
    assert reason_of(replace(case, release=json.dumps(box).encode())) == "malformed-envelope"


def test_expired(case: Case) -> None:
    past = NOW - timedelta(seconds=1)
    assert reason_of(case.signed(case.payload, expires=past)) == "expired"
    assert reason_of(case.signed(case.payload, bound={"expires": past})) == "expired"


def test_issued_in_the_future(case: Case) -> None:
    later = NOW + timedelta(hours=1)
    assert reason_of(case.signed(case.payload, issued=later)) == "not-yet-valid"
    assert reason_of(case.signed(case.payload, bound={"issued": later})) == "not-yet-valid"
    case.signed(case.payload, issued=NOW + timedelta(minutes=4)).verify()  # clocks may differ


def test_stale_nonce(case: Case) -> None:
    assert reason_of(replace(case, nonce="nonce-2")) == "stale-nonce"


def test_wrong_run(case: Case) -> None:
    assert reason_of(replace(case, run="run-2")) == "wrong-run"


def test_wrong_spec(case: Case) -> None:
    assert reason_of(replace(case, spec=make_spec(name="other"))) == "spec-mismatch"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (tensor(np.zeros((FEATURES, BINS + 1), np.uint8)), "bad-shape"),
        (tensor(np.zeros((BINS, FEATURES), np.uint8)), "bad-shape"),
        (tensor(np.zeros(FEATURES * BINS, np.uint8)), "bad-shape"),
        (tensor(np.zeros((0, 0), np.uint8)), "bad-shape"),
        (tensor(make_counts().astype(np.float32)), "bad-dtype"),
        (tensor(make_counts().astype(np.uint64)), "bad-dtype"),
        (tensor(make_counts() > 3), "bad-dtype"),
        (tensor(np.full((FEATURES, BINS), np.nan, np.float32)), "not-finite"),
        (tensor(np.full((FEATURES, BINS), np.inf)), "not-finite"),
        (tensor(make_counts(), "weights"), "malformed-payload"),
        (b"", "malformed-payload"),
        (b"\xff" * 64, "malformed-payload"),
        (tensor(make_counts())[:-3], "malformed-payload"),
    ],
)
def test_signed_but_not_the_right_tensor(case: Case, payload: bytes, reason: str) -> None:
    assert reason_of(case.signed(payload)) == reason


def test_two_tensors(case: Case) -> None:
    both = safetensors.numpy.save({"counts": make_counts(), "more": make_counts()})
    assert reason_of(case.signed(both)) == "malformed-payload"


def spoil(kind: str) -> Any:
    counts = make_counts()
    if kind == "negative":  # the sum is still right
        counts[2, 0], counts[2, 1] = -1, counts[2, 1] + counts[2, 0] + 1
    elif kind == "ragged":
        counts[3, 0] += 1
    elif kind == "all equal, wrong total":
        counts[:, 0] += 1
    elif kind == "wraps around":  # adds up to IMAGES modulo 2**64
        counts = np.full((FEATURES, BINS), 0, np.int64)
        counts[:, :4] = 2**62
        counts[:, 4] = IMAGES
    return counts


@pytest.mark.parametrize("kind", ["negative", "ragged", "all equal, wrong total", "wraps around"])
def test_row_sums_of_a_plain_release(case: Case, kind: str) -> None:
    assert reason_of(case.signed(tensor(spoil(kind)))) == "bad-row-sums"


PRIVATE = terms(FEATURES, epsilon=2.0, delta=1e-5)
SIGMA = PRIVATE.sigma or 0.0


def private(case: Case, counts: Any, privacy: Privacy = PRIVATE, cap: int = 1) -> Case:
    return case.signed(counts_to_bytes(counts), privacy=privacy, contribution_cap=cap)


def test_a_private_release(case: Case) -> None:
    for seed in range(30):
        counts = noised(make_counts(seed=seed), SIGMA)
        found = private(case, counts).verify().fingerprint
        assert found.sigma == SIGMA
        np.testing.assert_array_equal(found.counts, counts)
        np.testing.assert_allclose(found.shares, counts / IMAGES)
    assert case.verify().fingerprint.sigma == 0


def test_counts_that_noise_does_not_explain(case: Case) -> None:
    row, single = 8 * SIGMA * BINS**0.5 + 1, 8 * SIGMA + 1
    for place, amount in ((0, row), (3, -row)):
        counts = make_counts()
        fits, exceeds = int(abs(amount)), int(abs(amount)) + 1
        sign = 1 if amount > 0 else -1
        spread = np.full(BINS, fits // BINS)  # no single count stands out
        spread[: fits % BINS] += 1
        counts[place] += sign * spread
        private(case, counts).verify()
        counts[place, 0] += sign * (exceeds - fits)
        with pytest.raises(VerificationError) as caught:
            private(case, counts).verify()
        assert str(caught.value) == (
            f"row {place} of north is {exceeds} away from its {IMAGES} images, more than noise of "
            f"{SIGMA:.4g} explains"
        )
        assert caught.value.reason == "bad-row-sums"
    for value in (-int(single) - 1, IMAGES + int(single) + 1, 2**62, -(2**63)):
        counts = make_counts()
        counts[1, 2] = value
        with pytest.raises(VerificationError) as caught:
            private(case, counts).verify()
        assert str(caught.value) == (
            f"a count of north is further outside 0 to {IMAGES} than noise of {SIGMA:.4g} explains"
        )


def test_counts_that_would_wrap_around(case: Case) -> None:
    counts = np.zeros((FEATURES, BINS), np.int64)
    counts[:, :4], counts[:, 4] = 2**62, IMAGES
    assert reason_of(private(case, counts)) == "bad-row-sums"


def test_terms_that_do_not_hold_together(case: Case) -> None:
    counts = noised(make_counts(), SIGMA)
    assert reason_of(private(case, counts, cap=0)) == "bad-privacy"
    assert reason_of(private(case, counts, cap=2)) == "bad-privacy"
    for change in ({"sigma": SIGMA / 2}, {"epsilon": 1.0}, {"rho": 9.0}, {"mode": "plain"}):
        changed = PRIVATE.model_copy(update=change)
        assert reason_of(private(case, counts, changed)) == "bad-privacy"
    assert reason_of(private(case, counts, Privacy(mode="private"))) == "bad-privacy"
    # noise stated to hide that rows do not add up
    assert reason_of(private(case, spoil("ragged"), Privacy(sigma=9.0))) == "bad-privacy"


def test_a_private_release_counts_each_image_once(case: Case) -> None:
    drawn = replace(case, spec=make_spec(sampling={"rule": "with-replacement", "draws": 100}))
    counts = noised(make_counts(100), SIGMA)
    with pytest.raises(VerificationError, match=r"^north drew images again and again, which no"):
        private(drawn, counts).verify()


def test_a_private_release_of_a_projected_spec(case: Case) -> None:
    projected = replace(case, spec=projected_spec())
    made = terms(3, epsilon=1.0, delta=1e-6, cap=4)
    counts = noised(make_counts()[:3], made.sigma or 0.0)
    found = private(projected, counts, made, 4).verify()
    assert found.fingerprint.counts.shape == (3, BINS)
    assert reason_of(private(projected, noised(make_counts(), 99.0), made, 4)) == "bad-shape"


def test_row_sums_with_replacement_are_the_draws(case: Case) -> None:
    spec = make_spec(sampling={"rule": "with-replacement", "draws": 100})
    drawn = replace(case, spec=spec)
    drawn.signed(counts_to_bytes(make_counts(100))).verify()
    assert reason_of(drawn.signed(counts_to_bytes(make_counts()))) == "bad-row-sums"


def test_oversize(case: Case) -> None:
    assert reason_of(case, limit=len(case.payload) - 1) == "too-large"
    assert reason_of(replace(case, release=b" " * (LIMIT + 1))) == "too-large"


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00\xff garbage",
        b"[" * 100_000,
        b"null",
        b"[]",
        b"{}",
        b'{"payload": 1, "payloadType": 2, "signatures": 3}',
        b'{"payload": "", "payloadType": "application/vnd.in-toto+json", "signatures": []}',
        b'{"payload": "", "payloadType": "", "signatures": [{"keyid": [], "sig": ""}]}',
        b'{"payload": "%", "payloadType": "", "signatures": [{"keyid": "", "sig": ""}]}',
    ],
)
@pytest.mark.parametrize("part", ["release", "binding"])
def test_garbage_envelopes(case: Case, part: str, garbage: bytes) -> None:
    assert reason_of(replace(case, **{part: garbage})) == "malformed-envelope"


def test_two_signatures(case: Case) -> None:
    box = json.loads(case.release)
    box["signatures"].append({**box["signatures"][0], "keyid": "c" * 64})
    assert reason_of(replace(case, release=json.dumps(box).encode())) == "malformed-envelope"


def test_signed_statement_of_the_wrong_kind(case: Case) -> None:
    assert case.binding is not None
    assert reason_of(replace(case, release=case.binding)) == "malformed-statement"
    assert reason_of(replace(case, binding=case.release)) == "malformed-statement"
    nonsense = sign(TaskCard(name="no statement"), signer(case.key))
    assert reason_of(replace(case, release=nonsense)) == "malformed-statement"
    assert BINDING_TYPE in b64decode(json.loads(case.binding)["payload"]).decode()


def test_the_first_fault_in_the_fixed_order_is_told(case: Case) -> None:
    all_wrong = case.signed(b"garbage", expires=NOW - timedelta(days=1), bound={"nonce": "old"})
    assert reason_of(replace(all_wrong, store=TrustStore.empty())) == "unknown-key"
    assert reason_of(all_wrong) == "stale-nonce"
    assert reason_of(all_wrong.signed(b"garbage", expires=NOW - timedelta(1))) == "expired"
    assert reason_of(all_wrong.signed(b"garbage", spec_digest="0" * 64)) == "spec-mismatch"


def write_local(folder: Path, case: Case, site: str = "north") -> None:
    atomic_write(folder / f"{site}.safetensors", case.payload)
    atomic_write(folder / f"{site}.dsse.json", case.release)
    atomic_json(folder / "spec.json", case.spec)


def test_local_files_verify_for_integrity_only(case: Case, tmp_path: Path) -> None:
    write_local(tmp_path, case)
    verified = verify_local(tmp_path, "north")
    assert not verified.enrolled
    assert verified.key_id == case.store.entries[0].key_id
    spec, releases = read_fingerprints(tmp_path)
    assert spec == case.spec
    assert [r.fingerprint.site for r in releases] == ["north"]


def test_local_files_are_found_in_a_run_folder(case: Case, tmp_path: Path) -> None:
    write_local(tmp_path / "fingerprints", case)
    (tmp_path / "fingerprints" / "spec.json").rename(tmp_path / "spec.json")
    assert len(read_fingerprints(tmp_path)[1]) == 1


def test_local_faults(case: Case, tmp_path: Path) -> None:
    write_local(tmp_path, case)
    atomic_write(tmp_path / "north.safetensors", counts_to_bytes(make_counts(seed=9)))
    with pytest.raises(VerificationError, match="is not the one that was signed"):
        verify_local(tmp_path, "north")
    box = json.loads(case.release)
    box["signatures"][0]["publicKey"] = public_pem(generate_key())
    atomic_write(tmp_path / "north.dsse.json", json.dumps(box))
    with pytest.raises(VerificationError, match="brings another public key"):
        verify_local(tmp_path, "north")
    (tmp_path / "north.dsse.json").unlink()
    with pytest.raises(ConfigError, match=r"north\.dsse\.json is missing"):
        verify_local(tmp_path, "north")
    with pytest.raises(ConfigError, match="holds no fingerprints"):
        read_fingerprints(tmp_path / "nowhere")


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_changed_the_answer_is_a_reason_code(data: st.DataObject) -> None:
    case = FUZZED
    part = data.draw(st.sampled_from(["payload", "release", "binding"]))
    spoiled = bytearray(getattr(case, part))
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    changed = replace(case, **{part: bytes(spoiled)})
    verified, reason = None, ""
    try:
        verified = changed.verify()
    except VerificationError as error:
        reason = error.reason
    # each fault has a class of its own
    assert reason != VerificationError.reason
    # only what is outside the signature may change: white space, the key brought along
    assert verified is None or verified.statement == case.verify().statement


@settings(max_examples=300)
@given(st.data())
def test_a_site_may_sign_any_bytes(data: st.DataObject) -> None:
    payload = bytearray(FUZZED.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(VerificationError):
        FUZZED.signed(bytes(payload)).verify()


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "BOOL", "U16", "C64", "F4"])
def test_exotic_types_in_the_header(case: Case, dtype: str) -> None:
    raw = bytes(make_counts().astype(np.uint8))
    for size in (1, 2, 8):
        header = {"counts": {"dtype": dtype, "shape": [6, 5], "data_offsets": [0, 30 * size]}}
        text = json.dumps(header).encode()
        payload = len(text).to_bytes(8, "little") + text + raw * size
        assert reason_of(case.signed(payload)) in (
            "malformed-payload",
            "bad-dtype",
            "bad-row-sums",
            "not-finite",
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64])
@pytest.mark.parametrize("most", [3, 2**24 // 7 - 1, 2**24 // 7, 2**24 // 7 + 1, 2**31 - 1, 2**53])
def test_sums_of_rows_are_exact(dtype: type[np.integer[Any]], most: int) -> None:
    most = min(most, int(np.iinfo(dtype).max))
    counts = np.random.default_rng(most).integers(0, most, (50, 7), endpoint=True).astype(dtype)
    counts[0] = most
    expected = [sum(row) for row in counts.tolist()]
    assert _row_sums(counts, most).tolist() == expected
