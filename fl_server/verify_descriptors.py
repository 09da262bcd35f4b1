"""Checks of a run's descriptors: signed, as the log names them, of releases it verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fl_server.descriptor_folder import ENDINGS, FOLDER, file_name
from fl_server.privacy import require_privacy
from fl_server.verify_evidence import Broken, Evidence, Finding
from protocol.descriptor_statement import ENVELOPE_LIMIT, largest, verify_descriptor
from protocol.descriptors import KINDS, Kind
from protocol.envelope import is_canonical
from protocol.errors import FedprintError, UnknownKey
from protocol.files import sha256_hex
from protocol.keys import SSlibKey, public_key

DIGESTS = ("payload", "statement")
"""Of a descriptor's two files, by the name under which the log has them."""


def check_descriptors(evidence: Evidence) -> Iterator[Finding]:
    """Check every descriptor that the log names, and that there are no others."""
    logged = _logged(evidence)
    named = {file_name(*each, ending) for each in logged for ending in ENDINGS}
    for path in sorted((evidence.run / FOLDER).glob("*")):
        if path.name not in named:
            yield Finding(f"{FOLDER}/{path.name}", "is a descriptor that the log does not name")
    kinds = [str(entry["kind"]) for entry in evidence.entries]
    if "descriptor" in kinds and "groups" not in kinds[_last(kinds, "descriptor") :]:
        yield Finding("log", "has descriptors that came after the groups")
    for (site, kind), entry in logged.items():
        if kind not in evidence.settings.kinds:
            yield Finding("log", f"has {kind} of {site}, which the run did not ask for")
        try:
            yield from _check_one(evidence, site, kind, entry)
        except Broken as error:
            yield error.finding
        except FedprintError as error:
            yield Finding(f"{FOLDER}/{site}.{kind}", f"{getattr(error, 'reason', '')}: {error}")


def _last(kinds: Sequence[str], kind: str) -> int:
    return len(kinds) - 1 - kinds[::-1].index(kind)


def _logged(evidence: Evidence) -> dict[tuple[str, Kind], Mapping[str, Any]]:
    """Return the last word of the log on every descriptor, where it says that there is one.

    They are kept as long as the releases that they go with.
    """
    last = {}
    for entry in evidence.entries:
        kind = next((k for k in KINDS if k == entry.get("descriptor")), None)
        if entry["kind"] in ("descriptor", "no descriptor") and kind is not None:
            last[str(entry.get("site")), kind] = entry
    return {
        each: entry
        for each, entry in sorted(last.items())
        if entry["kind"] == "descriptor" and each[0] in evidence.named
    }


def _check_one(
    evidence: Evidence, site: str, kind: Kind, entry: Mapping[str, Any]
) -> Iterator[Finding]:
    release = evidence.release(site)
    limits = (largest(kind, evidence.spec, release), ENVELOPE_LIMIT)
    names = [f"{FOLDER}/{file_name(site, kind, ending)}" for ending in ENDINGS]
    payload, envelope = (evidence.read(n, most) for n, most in zip(names, limits, strict=True))
    for name, digest, content in zip(names, DIGESTS, (payload, envelope), strict=True):
        if entry.get(digest) != sha256_hex(content):
            yield Finding(name, "is not the file that the log names")
    if not is_canonical(envelope, ENVELOPE_LIMIT):
        yield Finding(names[1], "is not in canonical form: it was changed")
    keys = {each.key_id: each for each in evidence.store.entries_of(site)}

    def find(key: str) -> SSlibKey:
        if key != release.key_id or key not in keys:
            raise UnknownKey(f"the {kind} of {site} are signed with another key than its release")
        return public_key(keys[key].public_key_pem)

    found = verify_descriptor(payload, envelope, kind, release, evidence.spec, find)
    what = f"what {site} sent as {kind}"
    require_privacy(what, found.release.privacy, evidence.settings.terms)
