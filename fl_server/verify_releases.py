"""Checks of what sites signed: the trust store, every release and its session binding."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from fl_server.runfolder import ENDINGS
from fl_server.verify_evidence import Broken, Evidence, Finding
from protocol.envelope import is_canonical, open_envelope, parse_statement
from protocol.errors import FedprintError
from protocol.files import sha256_hex
from protocol.keys import public_key
from protocol.statement import Binding, BindingStatement
from protocol.trust import TrustEntry
from protocol.verify import CLOCK_SKEW, VerifiedRelease

_TIME = TypeAdapter(AwareDatetime)


def check_trust(evidence: Evidence) -> Iterator[Finding]:
    """Check the trust store's signature, and that the log tells of every key in it."""
    if not is_canonical(evidence.read("trust.dsse.json")):
        yield Finding("trust.dsse.json", "is not in canonical form: it was changed")
    logged = {(e.get("site"), e.get("key")) for e in evidence.entries if e["kind"] == "enrolment"}
    held = {(entry.site, entry.key_id) for entry in evidence.store.entries}
    for site, key in sorted(held - logged):
        yield Finding("trust.dsse.json", f"holds key {key[:12]} of {site}, which the log lacks")
    for site, key in sorted((str(site), str(key)) for site, key in logged - held):
        yield Finding("trust.dsse.json", f"lacks key {key[:12]} of {site}, which the log enrolled")


def check_releases(evidence: Evidence) -> Iterator[Finding]:
    """Check every release that the log names, and that there are no others."""
    if not evidence.named:
        yield Finding("log", "names no release")
    for site in sorted(evidence.named):
        try:
            evidence.release(site)
            yield from _check_release(evidence, site)
        except Broken as error:
            yield error.finding
        except FedprintError as error:
            yield Finding(f"fingerprints/{site}", _said(error))
    for path in sorted((evidence.run / "fingerprints").glob("*.safetensors")):
        if path.stem not in evidence.named:
            yield Finding(f"fingerprints/{path.name}", "is a release that the log does not name")


def _check_release(evidence: Evidence, site: str) -> Iterator[Finding]:
    entry, where = evidence.named[site], f"fingerprints/{site}"
    for name, ending in ENDINGS.items():
        digest = sha256_hex(evidence.read(f"{where}{ending}"))
        if name in entry and entry[name] != digest:
            yield Finding(f"{where}{ending}", "is not the file that the log names")
    release = evidence.release(site)
    if entry.get("key") != release.key_id:
        yield Finding("log", f"names key {entry.get('key')!s:.12} for the release of {site}")
    when = _time(entry)
    key = _key_of(evidence, site, release.key_id)
    yield from _check_key(evidence, key, when)
    if release.statement.predicate.issued > when + CLOCK_SKEW:
        yield Finding(where, "was issued after the log had it")
    if release.statement.predicate.expires < when:
        yield Finding(where, "had expired when the log had it")
    yield from _check_binding(evidence, site, release, when)


def _key_of(evidence: Evidence, site: str, key: str) -> TrustEntry:
    for entry in evidence.store.entries:
        if (entry.site, entry.key_id) == (site, key):
            return entry
    raise Broken(f"fingerprints/{site}", f"is signed with {key[:12]}, no key of {site} in the run")


def _check_key(evidence: Evidence, key: TrustEntry, when: datetime) -> Iterator[Finding]:
    """Check that a key was good when its release came; what became of it later is no matter."""
    if not key.not_before - CLOCK_SKEW <= when <= key.not_after:
        yield Finding(f"fingerprints/{key.site}", f"key {key.key_id[:12]} was not valid then")
    if key.status != "revoked":
        return
    kinds = [(e["kind"], e.get("key"), e.get("status")) for e in evidence.entries]
    told = [n for n, said in enumerate(kinds) if said == ("key", key.key_id, "revoked")]
    released = [n for n, e in enumerate(evidence.entries) if e is evidence.named[key.site]]
    if not told or told[0] < released[0]:
        yield Finding(f"fingerprints/{key.site}", f"key {key.key_id[:12]} had been revoked")


def _check_binding(
    evidence: Evidence, site: str, release: VerifiedRelease, when: datetime
) -> Iterator[Finding]:
    """Check that a site answered this run's own request with this very release."""
    where = f"fingerprints/{site}.binding.dsse.json"
    key = public_key(_key_of(evidence, site, release.key_id).public_key_pem)
    keys = {e.key_id: public_key(e.public_key_pem) for e in evidence.store.entries_of(site)}
    try:
        content, _ = open_envelope(evidence.read(where), lambda other: keys.get(other, key))
        statement = parse_statement(content, BindingStatement)
    except Broken:
        raise
    except FedprintError as error:
        yield Finding(where, _said(error))
        return
    bound = statement.predicate
    envelope = sha256_hex(evidence.read(f"fingerprints/{site}.dsse.json"))
    run = evidence.log.origin
    if (bound.site, bound.run) != (site, run):
        yield Finding(where, f"is of {bound.site} for run {bound.run!r}, not of {site} for {run!r}")
    if statement.subject[0].digest.sha256 != envelope:
        yield Finding(where, "is for another release")
    yield from _check_request(evidence, bound, where, when)


def _check_request(
    evidence: Evidence, bound: Binding, where: str, when: datetime
) -> Iterator[Finding]:
    """Check the nonce and time against the log, when it is one that tells of requests."""
    asked = [e for e in evidence.entries if e["kind"] == "request" and e.get("site") == bound.site]
    if not asked:
        return
    if sha256_hex(bound.nonce.encode()) not in {e.get("nonce") for e in asked}:
        yield Finding(where, "answers no request that the log tells of")
    if not bound.issued - CLOCK_SKEW <= when <= bound.expires:
        yield Finding(where, "was not valid when the log had the release")


def _time(entry: dict[str, Any]) -> datetime:
    try:
        return _TIME.validate_python(entry.get("time"))
    except ValidationError:
        raise Broken("log", f"does not say when the release of {entry['site']} came") from None


def _said(error: FedprintError) -> str:
    reason = getattr(error, "reason", "")
    return f"{reason}: {error}" if reason else str(error)
