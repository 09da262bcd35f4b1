"""The doors through which models to score, and scores, come in; see `benchmarks.doors`."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from flwr.app import Array, ArrayRecord

from benchmarks.doors import IMAGES, NOW, Door, fields, record, sign_as_is
from protocol import keys, score_records, scores
from protocol.envelope import open_envelope
from protocol.weights import weights_sha256


def score_doors() -> dict[str, Door]:
    """Models that are to be scored, and a target's signed scores."""
    signer, model = keys.signer(keys.generate_key()), {"body.bias": np.ones(6, np.float32)}
    sha256, spec = weights_sha256(model), "d" * 64
    candidate = score_records.Candidate(source="south", sha256=sha256)
    found = scores.Scores(
        site="north", run="run-1", nonce="nonce-1", spec_digest=spec, images=IMAGES,
        policy_digest="b" * 64,
        models={"south": scores.ModelScores(model=sha256, values={"leep": -0.5, "logme": 1.25})},
        issued=NOW, expires=NOW + timedelta(hours=20),
    )  # fmt: skip
    envelope = scores.sign_scores(found, "a" * 64, signer)

    def verify(data: bytes) -> object:
        statement, _ = scores.open_scores(data, lambda _: signer.public_key)
        scores.check_fresh(statement.predicate, "nonce-1", NOW)
        return scores.check_scores(
            statement, site="north", run="run-1", release="a" * 64, spec=spec,
            models={"south": sha256},
        ).by_measure()  # fmt: skip

    def with_array(data: bytes) -> object:
        array = Array(model["body.bias"])
        array.data = data
        models = {"south": ArrayRecord({"body.bias": array})}
        content = score_records.to_score_request("nonce-1", [candidate], models)
        return score_records.from_score_request(content)

    return {
        "score request": Door(
            fields(score_records.to_score_request("nonce-1", [candidate], {})),
            lambda values: score_records.from_score_request(record(values)),
        ),
        "model to score": Door(Array(model["body.bias"]).data, with_array),
        "scores": Door(
            fields(score_records.to_scores(envelope)),
            lambda values: verify(score_records.from_scores(record(values))),
        ),
        "scores envelope": Door(envelope, verify),
        "signed scores": Door(
            open_envelope(envelope, lambda _: signer.public_key)[0],
            lambda data: verify(sign_as_is(data, signer)),
        ),
    }
