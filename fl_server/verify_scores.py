"""Checks of a run's scores: signed by their targets, as the log names them, of the same models."""

from __future__ import annotations

from collections.abc import Iterator

from fl_server.score_folder import ENDING, FOLDER
from fl_server.verify_evidence import Evidence, Finding
from protocol.errors import FedprintError, UnknownKey
from protocol.files import sha256_hex
from protocol.keys import SSlibKey, public_key
from protocol.scores import LIMIT, check_scores, open_scores


def check_signed_scores(evidence: Evidence) -> Iterator[Finding]:
    """Check every signed statement of scores, and that there are no others."""
    there = {path.name for path in (evidence.run / FOLDER).glob("*")}
    logged = {
        str(e.get("site")): e
        for e in evidence.entries
        if e["kind"] == "scores" and e.get("site") in evidence.members
    }
    if there and not evidence.settings.wants_scores:
        yield Finding(FOLDER, "was added: the run had no models scored")
        return
    named = {f"{site}{ENDING}": site for site in logged}
    for name in sorted(there ^ named.keys()):
        yield Finding(f"{FOLDER}/{name}", "is missing" if name in named else "was added")
    yield from _check_order(evidence)
    for name in sorted(there & named.keys()):
        yield from _check_one(evidence, named[name], logged[named[name]])


def _check_order(evidence: Evidence) -> Iterator[Finding]:
    """Check that what scores decided on was decided after them: groups come later in the log."""
    kinds = [str(e["kind"]) for e in evidence.entries]
    if "groups" not in kinds:
        return
    first = kinds.index("groups")
    late = [n for n, kind in enumerate(kinds) if kind == "scores" and n > first]
    if late and "groups" not in kinds[late[-1] :]:
        yield Finding("log", f"entry {late[-1] + 1} has scores that came after the groups")


def _check_one(evidence: Evidence, site: str, entry: dict[str, object]) -> Iterator[Finding]:
    """Check what one target signed."""
    where = f"{FOLDER}/{site}{ENDING}"
    envelope = evidence.read(where, LIMIT)
    if sha256_hex(envelope) != entry.get("sha256"):
        yield Finding(where, "is not the file that the log names")
    release = evidence.release(site)
    keys = {e.key_id: e for e in evidence.store.entries_of(site)}

    def find(key: str) -> SSlibKey:
        if key not in keys or key != entry.get("key"):
            raise UnknownKey(f"signed with {key[:12]}, which is not the key that the log names")
        return public_key(keys[key].public_key_pem)

    try:
        statement, _ = open_scores(envelope, find)
        check_scores(
            statement,
            site=site,
            run=evidence.log.origin,
            release=release.statement.subject[0].digest.sha256,
            spec=evidence.spec.digest,
            models=_models(evidence),
        )
    except FedprintError as error:
        yield Finding(where, str(error))


def _models(evidence: Evidence) -> dict[str, str]:
    """Return by source the model that the log says was sent to all targets."""
    entries = (e for e in evidence.entries if e["kind"] == "model")
    return {str(entry.get("site")): str(entry.get("sha256")) for entry in entries}
