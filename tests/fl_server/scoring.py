"""Sites in memory that hand out models and score those of others; tests override one thing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict

from protocol.keys import signer
from protocol.orders import order_from_config
from protocol.records import to_refusal
from protocol.score_records import Candidate, from_score_request, to_scores
from protocol.scores import ModelScores, Scores, sign_scores
from protocol.sharing import HIDDEN, Arrays, initial_adapter, initial_rows
from protocol.statement import utc_now
from protocol.weights import weights_sha256
from tests.fl_server.deployed import WholeSite
from tests.fl_server.joining import CLASSES, EXAMPLES, FINGERPRINTS, SPEC
from tests.strategies.fake_grid import Dead, values


def value_of(measure: str, source: str, target: str) -> float:
    """Return a made-up score: highest where both are of one family."""
    near = 1.0 if source[:6] == target[:6] else 0.25
    return round(near + len(measure) / 100 + int(source[-1]) / 1000, 6)


def model_of(site: str) -> Arrays:
    """Return the model that a site trained."""
    number = list(CLASSES).index(site)
    return initial_adapter(SPEC.features, number) | initial_rows(CLASSES[site], HIDDEN, number)


@dataclass
class ScoringSite(WholeSite):
    """A site that shares its model and scores all that it is sent."""

    shares: bool = True
    refuses: str = ""
    dies_in: str = ""
    signs: dict[str, Any] = field(default_factory=dict)
    release_digest: str = ""
    brought: list[list[str]] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    def __call__(self, message: Message) -> RecordDict:
        kind = message.metadata.message_type
        if kind not in ("query.model", "query.score"):
            return super().__call__(message)
        self.asked.append(kind)
        if kind == self.dies_in:
            raise Dead
        if kind == self.refuses:
            return to_refusal("scores-not-allowed", f"site {self.name} does not")
        order = order_from_config(message.content.config_records["config"])
        assert (order.run, order.arm, order.spec) == ("run-1", "alone", SPEC)
        return self.model() if kind == "query.model" else self.score(message.content)

    def model(self) -> RecordDict:
        arrays = {name: Array(value) for name, value in model_of(self.name).items()}
        return RecordDict({"arrays": ArrayRecord(arrays)})

    def score(self, content: RecordDict) -> RecordDict:
        """Sign scores of all models that came so far."""
        records = [name for name in content.array_records if name.startswith("model-")]
        request = from_score_request(content)
        self.brought.append(sorted(request.arrays))
        assert len(records) == len(request.arrays)
        for source, arrays in request.arrays.items():
            self.known[source] = weights_sha256(arrays)
        now = utc_now()
        scores = {
            "site": self.name,
            "run": "run-1",
            "nonce": request.nonce,
            "spec_digest": SPEC.digest,
            "images": EXAMPLES,
            "models": {
                c.source: self.found(c) for c in request.candidates if c.source in self.known
            },
            "policy_digest": "b" * 64,
            "issued": now,
            "expires": now + timedelta(hours=1),
        }
        signed = Scores.model_validate(scores | self.signs)
        return to_scores(sign_scores(signed, self.release_digest or self.own(), signer(self.key)))

    def found(self, candidate: Candidate) -> ModelScores:
        measures = ("leep", "logme")
        return ModelScores(
            model=self.known[candidate.source],
            values={m: value_of(m, candidate.source, self.name) for m in measures},
        )

    def own(self) -> str:
        """Return the digest of the fingerprint that the site releases."""
        from protocol.files import sha256_hex
        from protocol.fingerprint import counts_to_bytes

        return sha256_hex(counts_to_bytes(FINGERPRINTS[self.name].counts))


__all__ = ["ScoringSite", "model_of", "value_of", "values"]
