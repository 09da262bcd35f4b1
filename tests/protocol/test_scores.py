"""Signed scores: what is signed, what is checked, and how it crosses the wire."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import jsonschema
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import (
    BadSignature,
    DigestMismatch,
    Expired,
    FedprintError,
    MalformedMessage,
    MalformedStatement,
    NotYetValid,
    SpecMismatch,
    StaleNonce,
    TooLarge,
    WrongRun,
    WrongSite,
)
from protocol.keys import Signer, generate_key, public_key, public_pem, signer
from protocol.runfiles import json_schemas
from protocol.score_records import (
    Candidate,
    from_score_request,
    from_scores,
    to_score_request,
    to_scores,
)
from protocol.scores import (
    LIMIT,
    MOST_MODELS,
    MOST_SCORE,
    ModelScores,
    Scores,
    check_fresh,
    check_scores,
    open_scores,
    sign_scores,
)
from protocol.statement import utc_now
from protocol.weights import weights_sha256

KEY = generate_key()
RELEASE = "f" * 64
MODELS = {"north": "a" * 64, "south": "b" * 64}


def scores(**changes: Any) -> Scores:
    """Return what site north found of two models."""
    now = utc_now()
    values = {
        "site": "north",
        "run": "run-1",
        "nonce": "n",
        "spec_digest": "e" * 64,
        "images": 60,
        "models": {
            "north": ModelScores(model="a" * 64, values={"leep": -0.25, "logme": 1.5}),
            "south": ModelScores(model="b" * 64, values={"leep": -0.75}),
        },
        "policy_digest": "c" * 64,
        "issued": now,
        "expires": now + timedelta(hours=1),
    }
    return Scores.model_validate(values | changes)


def opened(envelope: bytes) -> Any:
    return open_scores(envelope, lambda _key: public_key(public_pem(KEY)))


def check(statement: Any, **changes: Any) -> Scores:
    expected = {"site": "north", "run": "run-1", "release": RELEASE, "spec": "e" * 64}
    return check_scores(statement, **{**expected, "models": MODELS, **changes})


def test_what_was_signed_is_read_again() -> None:
    statement, key = opened(sign_scores(scores(), RELEASE, signer(KEY)))
    assert key == signer(KEY).public_key.keyid
    found = check(statement)
    assert found == scores(issued=found.issued, expires=found.expires)
    assert found.by_measure() == {
        "leep": {"north": -0.25, "south": -0.75},
        "logme": {"north": 1.5},
    }
    check_fresh(found, "n", utc_now())
    written = statement.model_dump(mode="json", by_alias=True)
    jsonschema.validate(written, json_schemas()["scores"])


@given(
    st.dictionaries(
        st.sampled_from([f"site-{number}" for number in range(5)]),
        st.dictionaries(
            st.sampled_from(["leep", "nce", "logme", "h-score"]),
            st.floats(-MOST_SCORE, MOST_SCORE),
        ),
    )
)
def test_every_score_survives(values: dict[str, dict[str, float]]) -> None:
    models = {s: ModelScores(model="a" * 64, values=found) for s, found in values.items()}
    signed = Scores.model_validate_json(scores(models=models).model_dump_json())
    assert {s: m.values for s, m in signed.models.items()} == values
    by_measure = signed.by_measure()
    assert {(m, s, v) for m, by in by_measure.items() for s, v in by.items()} == {
        (m, s, v) for s, found in values.items() for m, v in found.items()
    }


@pytest.mark.parametrize(
    "model",
    [
        {"model": "a" * 64, "values": {"leep": float("nan")}},
        {"model": "a" * 64, "values": {"leep": float("inf")}},
        {"model": "a" * 64, "values": {"leep": 1e308}},  # sums of two such are infinite
        {"model": "a" * 64, "values": {"Leep!": 0.0}},
        {"model": "a", "values": {}},
        {"model": "a" * 64, "values": {f"m{number}": 0.0 for number in range(65)}},
        {"model": "a" * 64, "unscored": "no spaces"},
    ],
)
def test_no_other_scores_can_be_made(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ModelScores.model_validate(model)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"site": "south"}, WrongSite, "the scores are signed by 'north', expected 'south'"),
        ({"run": "run-2"}, WrongRun, "north scored models for run 'run-1', this is run 'run-2'"),
        (
            {"release": "0" * 64},
            DigestMismatch,
            "the scores of north go with another release than the run has",
        ),
        (
            {"spec": "0" * 64},
            SpecMismatch,
            "the scores of north are by another spec (eeeeeeeeeeee)",
        ),
        (
            {"models": {"north": "a" * 64, "south": "0" * 64}},
            DigestMismatch,
            "north scored another model of south than it was sent",
        ),
        (
            {"models": {"north": "a" * 64}},
            DigestMismatch,
            "north scored another model of south than it was sent",
        ),
    ],
)
def test_scores_of_anything_else_are_refused(
    changes: dict[str, Any], error: type[FedprintError], said: str
) -> None:
    statement, _ = opened(sign_scores(scores(), RELEASE, signer(KEY)))
    with pytest.raises(error) as caught:
        check(statement, **changes)
    assert str(caught.value) == said


def test_old_answers_are_refused() -> None:
    now, hour = utc_now(), timedelta(hours=1)
    with pytest.raises(StaleNonce, match=r"^north signed another nonce than it was sent: an old"):
        check_fresh(scores(), "m", now)
    with pytest.raises(NotYetValid, match=r"^the scores of north were issued in the future: set"):
        check_fresh(scores(issued=now + hour), "n", now)
    with pytest.raises(Expired, match=r"^the scores of north expired: ask the site again$"):
        check_fresh(scores(expires=now - hour), "n", now)


def test_a_changed_envelope_is_refused() -> None:
    other: Signer = signer(generate_key())
    with pytest.raises(BadSignature):
        opened(sign_scores(scores(), RELEASE, other))
    from protocol.envelope import sign

    with pytest.raises(MalformedStatement):
        opened(sign(scores(), signer(KEY)))
    with pytest.raises(TooLarge):
        opened(b" " * (LIMIT + 1))


def model(value: float) -> dict[str, np.ndarray]:
    return {"body.weight": np.full((2, 3), value, np.float32)}


def record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def test_a_request_brings_some_of_its_models() -> None:
    candidates = [
        Candidate(source=name, sha256=weights_sha256(model(value)))
        for name, value in (("north", 1.0), ("south", 2.0))
    ]
    content = to_score_request("nonce", candidates, {"south": record(model(2.0))})
    content["config"] = ConfigRecord({"run": "run-1"})  # the order beside it
    found = from_score_request(content)
    assert (found.nonce, found.candidates) == ("nonce", candidates)
    assert list(found.arrays) == ["south"]
    assert weights_sha256(found.arrays["south"]) == candidates[1].sha256


def request(nonce: str, candidates: list[Candidate]) -> RecordDict:
    return to_score_request(nonce, candidates, {})


ONE = Candidate(source="north", sha256="a" * 64)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (RecordDict(), MalformedMessage, r"^the message lacks 'nonce'"),
        (request("n", []), TooLarge, r"^0 models in one request, the limit is 1000$"),
        (request("n" * 201, [ONE]), TooLarge, r"^1 models in one request"),
        (request("n", [ONE, ONE]), MalformedMessage, r"^the list of models names a site twice$"),
        (
            request("n", [ONE.model_copy(update={"source": "../x"})]),
            MalformedMessage,
            r"^the list of models is malformed: ",
        ),
        (
            request(
                "n",
                [
                    Candidate(source=f"s{number}", sha256="a" * 64)
                    for number in range(MOST_MODELS + 1)
                ],
            ),
            TooLarge,
            r"^1001 models in one request, the limit is 1000$",
        ),
    ],
)
def test_what_is_no_request(content: RecordDict, error: type[FedprintError], said: str) -> None:
    with pytest.raises(error, match=said):
        from_score_request(content)


def test_a_model_that_is_no_arrays_is_refused() -> None:
    content = to_score_request("n", [ONE], {"north": record(model(1.0))})
    array = content.array_records["model-0"]["body.weight"]
    array.data = b"nothing of numpy's"
    with pytest.raises(MalformedMessage, match=r"^a model of the request holds what is no array$"):
        from_score_request(content)


def test_an_answer_is_an_envelope_of_bounded_size() -> None:
    assert from_scores(to_scores(b"envelope")) == b"envelope"
    with pytest.raises(TooLarge, match=r"^the scores have 4194305 bytes, the limit is 4194304$"):
        from_scores(to_scores(b"x" * (LIMIT + 1)))
    with pytest.raises(MalformedMessage, match=r"^the message lacks 'scores'"):
        from_scores(RecordDict())
