"""Checks of a log's order: groups are made once, and what follows the end of a run adds to it.

Groups are made again only where the log tells before of somebody who came or went. A run that was
closed is opened again by sites that join it, by a site that refuses its log, and by another
report; each time is noted, since only the coordinator vouches for what sites were not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from fl_server.descriptor_folder import ENDINGS as OF_DESCRIPTORS
from fl_server.descriptor_folder import FOLDER as DESCRIPTORS
from fl_server.descriptor_folder import file_name
from fl_server.runfolder import ENDINGS
from fl_server.runlog import PLACES, participants
from fl_server.verify_evidence import Evidence, Finding
from protocol.descriptors import KINDS

Entries = Sequence[Mapping[str, Any]]

TOLD = frozenset({"run.json", "report.html", "experiments.jsonl"})
"""Files that change when a site refuses the log of a run that has ended, or outcomes are noted."""
GROWN = frozenset(
    {
        *TOLD,
        *("trust.dsse.json", "ledger.json", "distances.csv"),
        *("groups.json", "recommendations.json", "metrics.json"),
    }
)
"""Files that change when a site joins; the releases of those who were there are none of them."""
MOST_NAMED = 12
"""Most things that one note names."""


def check_history(evidence: Evidence) -> Iterator[Finding]:
    """Check that nothing was decided twice, and that a run which had ended was only added to."""
    entries = evidence.entries
    ends = [number for number, entry in enumerate(entries) if entry["kind"] == "close"]
    if not ends:
        return
    if ends[-1] != len(entries) - 1:
        yield Finding("log", "goes on after its closing entry")
    yield from _check_groups(evidence, ends[0])
    for entry in entries[: ends[0]]:
        if entry["kind"] == "joined":
            yield Finding("log", f"has {entry.get('site')} join before the run had ended")
    for number in ends:
        if not isinstance(entries[number].get("files"), dict):  # it would hide what was changed
            yield Finding("log", f"entry {number + 1} closes the run over no files")
    for before, after in pairwise(ends):
        yield from _check_amendment(entries, before, after)
        evidence.notes.append(_note(entries, before, after))


def _check_groups(evidence: Evidence, end: int) -> Iterator[Finding]:
    """Check that groups were made again for a reason; note those of before the run had ended."""
    entries = evidence.entries
    made = [number for number, entry in enumerate(entries) if entry["kind"] == "groups"]
    for before, after in pairwise(made):
        if participants(entries[:before]) == participants(entries[:after]):
            yield Finding(
                "log", f"entry {after + 1} makes other groups, and none before it says why"
            )
        elif after < end:
            told = _listed(_events(entries[before:after]))
            evidence.notes.append(f"groups were made again before the run had ended, after: {told}")


def _check_amendment(entries: Entries, before: int, after: int) -> Iterator[Finding]:
    """Check that between two closing entries everybody kept place and release."""
    members, between = participants(entries[:before]), entries[before + 1 : after]
    joined = {str(entry.get("site")) for entry in between if entry["kind"] == "joined"}
    for number, entry in enumerate(between, before + 2):
        kind, site = entry["kind"], str(entry.get("site"))
        if site in members and kind in (*PLACES, "joined"):
            yield Finding("log", f"entry {number} ({kind}) is about {site}, which took part before")
        elif kind == "release" and site not in joined:
            yield Finding("log", f"entry {number} takes in {site}, which never joined")
        elif kind == "groups" and not joined:
            yield Finding("log", f"entry {number} makes groups after the end, and nobody joined")
    new = {name for site in joined for name in _files_of(site)}
    for name in sorted(_changed(entries, before, after) - new - (GROWN if joined else TOLD)):
        yield Finding(name, "was changed after the run had ended")


def _files_of(site: str) -> Iterator[str]:
    """Yield the names of all files that a site's releases may be."""
    yield from (f"fingerprints/{site}{ending}" for ending in ENDINGS.values())
    for kind in KINDS:
        yield from (f"{DESCRIPTORS}/{file_name(site, kind, end)}" for end in OF_DESCRIPTORS)


def _changed(entries: Entries, before: int, after: int) -> set[str]:
    then, now = (entries[number].get("files") for number in (before, after))
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return set()
    return {name for name in then.keys() | now.keys() if then.get(name) != now.get(name)}


def _note(entries: Entries, before: int, after: int) -> str:
    told = _listed(_events(entries[before + 1 : after])) or "no more entries"
    changed = _listed(sorted(_changed(entries, before, after))) or "nothing"
    when = f"at {entries[after].get('time')} (entry {after + 1})"
    return f"closed again {when}, after: {told}; changed: {changed}"


def _events(entries: Entries) -> list[str]:
    """Say what happened, but for keys, requests and who keeps which checkpoint."""
    told = (*PLACES, "joined", "key", "suspicion", "checkpoint refused")
    return [f"{e['kind']} ({e.get('site')})" for e in entries if e["kind"] in told]


def _listed(things: Sequence[str]) -> str:
    more = [f"{len(things) - MOST_NAMED} more"] if len(things) > MOST_NAMED else []
    return ", ".join([*things[:MOST_NAMED], *more])
