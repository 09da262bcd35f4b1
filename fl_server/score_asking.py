"""Sending every target the models, and verifying the scores that it signs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict

from fl_server.asking import Problem
from fl_server.course import Course, array_record
from fl_server.score_folder import read_envelope, write_scores
from fl_server.scores import Answer
from protocol.errors import FedprintError
from protocol.files import sha256_hex
from protocol.keys import SSlibKey
from protocol.score_records import Candidate, from_scores, to_score_request, to_scores
from protocol.scores import Scores, check_fresh, check_scores, open_scores
from protocol.sharing import Arrays
from protocol.statement import new_nonce, utc_now
from protocol.weights import weights_sha256

__all__ = ["Asking", "Signed", "parts"]

log = logging.getLogger("fedprint")

MESSAGE_BYTES = 128 * 1024 * 1024
"""Most bytes of models in one message; those of a big federation go in several."""


class Signed(NamedTuple):
    """Scores as they were signed, and with which key."""

    scores: Scores
    envelope: bytes
    key: str


@dataclass(frozen=True)
class Asking:
    """Models, and the targets that are to score them.

    Attributes
    ----------
    course : Course
        The run.
    models : mapping of str to dict
        Arrays by source.
    examples : mapping of str to int
        By target, on how many images it trains: on these it scores.
    folder : Path
        The run folder, where the signed scores are written.
    """

    course: Course
    models: Mapping[str, Arrays]
    examples: Mapping[str, int]
    folder: Path

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each source's model."""
        return {source: weights_sha256(model) for source, model in sorted(self.models.items())}

    def scores(self) -> dict[str, Scores]:
        """Return by target what was verified, and enter it in the log.

        What a target signed before the run was interrupted holds if it covers these very models.
        """
        entries = self.course.exchange.log
        for source, sha256 in self.digests.items():
            if self._logged("model", source) != sha256:
                entries.add("model", site=source, sha256=sha256)
        found = {site: kept for site in self.examples if (kept := self._earlier(site))}
        left = [site for site in self.examples if site not in found]
        self.course.steps.phase("score models", left, self.course.settings.train_timeout)
        for site, signed in sorted(self._asked(left).items()):
            write_scores(self.folder, site, signed.envelope)
            entries.add("scores", site=site, key=signed.key, sha256=sha256_hex(signed.envelope))
            found[site] = signed.scores
        return dict(sorted(found.items()))

    def _logged(self, kind: str, site: str) -> str:
        """Return the digest in the log's last word of a kind on a site, empty without one."""
        entries = self.course.exchange.log.entries
        said = [e["sha256"] for e in entries if e["kind"] == kind and e["site"] == site]
        return str(said[-1]) if said else ""

    def _asked(self, sites: Sequence[str]) -> dict[str, Signed]:
        """Send sites the models, part by part; the last good answer of each covers all before."""
        signed: dict[str, Signed] = {}
        left = list(sites)
        for part in parts(self.models):
            nonces = {site: new_nonce() for site in left}
            for site, answer in self._send(nonces, part).items():
                try:
                    signed[site] = self._verified(site, answer, nonces[site])
                except FedprintError as error:
                    left.remove(site)
                    self._lost(site, error)
        return signed

    def _send(
        self, nonces: Mapping[str, str], part: Mapping[str, ArrayRecord]
    ) -> dict[str, Answer]:
        candidates = [Candidate(source=s, sha256=digest) for s, digest in self.digests.items()]
        config = ConfigRecord(self.course.order().to_config())
        contents = {s: to_score_request(nonce, candidates, part) for s, nonce in nonces.items()}
        for content in contents.values():
            content["config"] = config
        # no journal: an answer is worth something only with the nonce that it was asked with
        steps = replace(self.course.steps, journal=None)
        kind = f"{MessageType.QUERY}.score"
        return steps.ask("scores", kind, contents, self.course.grid, check=_only_scores)

    def _verified(self, site: str, answer: Answer, nonce: str) -> Signed:
        if isinstance(answer, Problem):
            raise answer
        signed = self._open(site, from_scores(answer))
        check_fresh(signed.scores, nonce, utc_now())
        return signed

    def _open(self, site: str, envelope: bytes) -> Signed:
        """Check all but whether the scores are fresh."""
        exchange = self.course.exchange

        def find(key: str) -> SSlibKey:
            return exchange.store.key_for(key, site, utc_now())

        statement, key = open_scores(envelope, find)
        scores = check_scores(
            statement,
            site=site,
            run=exchange.run,
            release=exchange.releases[site].digests["payload"],
            spec=exchange.spec.digest,
            models=self.digests,
        )
        if scores.images != (trained := self.examples[site]):
            raise Problem(
                "wrong-size", f"scored on {scores.images} images, but trained on {trained}"
            )
        return Signed(scores, envelope, key)

    def _earlier(self, site: str) -> Scores | None:
        """Return what a target had signed before the run was interrupted, if it is all."""
        try:
            envelope = read_envelope(self.folder, site)
            if sha256_hex(envelope) != self._logged("scores", site):
                return None
            scores = self._open(site, envelope).scores
        except (OSError, FedprintError):
            return None
        return scores if scores.models.keys() == self.digests.keys() else None

    def _lost(self, site: str, error: FedprintError) -> None:
        reason = str(getattr(error, "reason", "error"))
        log.info("no scores of %s: %s", site, error)
        self.course.steps.lost(site, Problem(reason, str(error)))


def parts(models: Mapping[str, Arrays]) -> list[dict[str, ArrayRecord]]:
    """Return the models, ready to be sent, in parts of at most `MESSAGE_BYTES`, or one model."""
    found: list[dict[str, ArrayRecord]] = []
    room = 0
    for source, model in sorted(models.items()):
        size = sum(array.nbytes for array in model.values())
        if size > room:
            found.append({})
            room = MESSAGE_BYTES
        found[-1][source] = array_record(model)
        room -= size
    return found


def _only_scores(content: RecordDict) -> RecordDict:
    return to_scores(from_scores(content))
