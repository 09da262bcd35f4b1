"""Checks of a run's log: its form and signature, the files it closes, what sites keep of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fl_server.verify_evidence import KEY, Broken, Evidence, Finding, read_plain, strange_files
from protocol.envelope import is_canonical
from protocol.errors import FedprintError
from protocol.files import sha256_hex
from protocol.keys import key_id
from protocol.log import CHECKPOINT, ENTRIES, Checkpoint, Log, check_files, open_checkpoint
from protocol.merkle import root_hash, verify_consistency

ENDING = ".dsse.json"
REFUSED = "refused"
"""Beside the checkpoints that a site keeps: those which it refused, as evidence."""


def check_key(evidence: Evidence) -> Iterator[Finding]:
    """Check that the folder's key is the coordinator's, when that is known."""
    if evidence.coordinator is not None and evidence.own_pem != evidence.coordinator:
        theirs, wanted = key_id(evidence.own_pem)[:12], key_id(evidence.coordinator)[:12]
        if theirs != wanted:
            yield Finding(KEY, f"is key {theirs}, not the coordinator's {wanted}")


def check_log(evidence: Evidence) -> Iterator[Finding]:
    """Check form, signature and origin of the log, and that nothing else lies beside it."""
    checkpoint = evidence.read(f"log/{CHECKPOINT}")
    if not is_canonical(checkpoint):
        yield Finding(f"log/{CHECKPOINT}", "is not in canonical form: it was changed")
    origin, run = evidence.log.origin, evidence.run_file.run
    if origin != run:
        yield Finding("log", f"is the log of run {origin!r}, run.json is of {run!r}")
    others = {path.name for path in (evidence.run / "log").iterdir()} - {CHECKPOINT, ENTRIES}
    for name in sorted(others):
        yield Finding(f"log/{name}", "was added")
    _ = evidence.entries


def check_closed(evidence: Evidence) -> Iterator[Finding]:
    """Check every file of the folder against the closing entry of the log."""
    strange = list(strange_files(evidence.run))
    yield from strange
    if strange:  # what a link leads to may be anything, and endless
        return
    for line in check_files(evidence.run, evidence.log):
        name, _, what = line.rpartition(": ")
        yield Finding(name, "is missing" if what == "missing" else f"was {what}")


def check_kept(evidence: Evidence) -> Iterator[Finding]:
    """Check that the log begins with what sites were shown of it, also what they refused."""
    run, log, seen = evidence.log.origin, evidence.log, 0
    for state in evidence.states:
        accepted = _kept(state, run)
        for path in [*accepted, *_kept(state, run, REFUSED)]:
            try:
                kept = open_checkpoint(read_plain(path, str(path)), evidence.pem)
            except Broken as error:
                yield error.finding
            except FedprintError as error:
                yield Finding(str(path), str(error))
            else:
                yield from _compare(kept, log, path)
                seen = max(seen, kept.size if path in accepted else 0)
    if 0 < seen < len(log):
        evidence.notes.append(
            f"these sites were shown {seen} of the log's {len(log)} entries: for the others only "
            "the coordinator vouches"
        )


def has_kept(state: Path, run: str) -> bool:
    """Tell whether a site's state folder has checkpoints of a run."""
    return bool(_kept(state, run))


def _kept(state: Path, run: str, below: str = "") -> list[Path]:
    """Return the checkpoints of a run that a site keeps, oldest first."""
    names = [sha256_hex(run.encode()), *([run] if Path(run).name == run else [])]
    folders = (state / "checkpoints" / name / below for name in names)
    return [path for folder in folders for path in sorted(folder.glob(f"*{ENDING}"))]


def _compare(kept: Checkpoint, log: Log, path: Path) -> Iterator[Finding]:
    """Check one kept checkpoint against the log (RFC 9162, section 2.1.4)."""
    if kept.origin != log.origin:
        yield Finding(str(path), f"is of run {kept.origin!r}")
        return
    if kept.size > len(log):
        yield Finding(
            "log", f"has {len(log)} entries, a site was shown {kept.size}: entries were taken away"
        )
        return
    proof = log.consistency(kept.size) if kept.size else []
    old, new = bytes.fromhex(kept.root), root_hash(log.leaves)
    if not verify_consistency(kept.size, len(log), proof, old, new):
        yield Finding(
            "log", f"does not begin with the {kept.size} entries that {path} vouches for: rewritten"
        )
