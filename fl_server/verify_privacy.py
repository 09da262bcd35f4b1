"""Checks of the privacy that was promised: of ledger.json, and of the ledgers that sites keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fl_server.privacy import ledger_file, require_terms
from fl_server.received import Release
from fl_server.verify_evidence import Broken, Evidence, Finding, read_plain
from fl_server.verify_log import has_kept
from fl_server.verify_same import differences
from protocol.errors import BadPrivacy, FedprintError
from protocol.ledger_lines import LedgerLine, check_arithmetic, parse_ledger
from protocol.runfiles import LedgerFile
from protocol.statement import Privacy
from protocol.statement import Release as Statement

LEDGER = "ledger.json"
OWN = "ledger.jsonl"


def check_privacy(evidence: Evidence) -> Iterator[Finding]:
    """Check that sites gave what was asked for, and that ledger.json says what they signed.

    That noise, rho and epsilon of a statement hold together, and that what was spent lies within
    the budget, was checked when the release was opened (`protocol.privacy.check_terms`).
    """
    members = {site: evidence.release(site) for site in evidence.members}
    for site, release in members.items():
        try:
            require_terms(release, evidence.settings.terms)
        except BadPrivacy as error:
            yield Finding(f"fingerprints/{site}", str(error))
    if not (evidence.run / LEDGER).exists() and not _any_private(evidence):
        evidence.notes.append("no ledger.json: the run is older than it, its releases are plain")
        return
    found = evidence.model(LEDGER, LedgerFile)
    wrapped = {site: Release(0, release, b"", b"", b"") for site, release in members.items()}
    for line in differences(found, ledger_file(wrapped)):
        yield Finding(LEDGER, line)


def check_asked(evidence: Evidence) -> Iterator[Finding]:
    """Check run.json's settings and spec against the log's first entry, which commits to them."""
    asked = [number for number, e in enumerate(evidence.entries) if e["kind"] == "spec"]
    if asked != [0]:
        yield Finding("log", "does not say once, in its first entry, what the run was asked for")
        return
    entry, settings = evidence.entries[0], evidence.settings
    wanted = settings.terms.model_dump(mode="json")
    if entry.get("terms") != wanted:
        yield Finding("run.json", f"says that {wanted} was asked for, the log says otherwise")
    if entry.get("spec") != evidence.spec.digest:
        yield Finding("spec.json", "is not the spec that the log says was asked for")
    held = entry.get("settings")
    held = held if isinstance(held, dict) else {}
    for name, value in settings.decisive.items():
        if name not in held:
            yield Finding("log", f"does not commit to the setting {name}")
        elif held[name] != value:
            yield Finding("run.json", f"says that {name} was {value!r}, the log {held[name]!r}")
    if evidence.run_file.seed != settings.seed:
        yield Finding("run.json", "has two seeds")


def check_ledgers(evidence: Evidence) -> Iterator[Finding]:
    """Check the ledgers of the sites whose state folders were given."""
    for state in evidence.states:
        try:
            yield from _check_state(evidence, state)
        except Broken as error:
            yield error.finding


def _check_state(evidence: Evidence, state: Path) -> Iterator[Finding]:
    path, run = state / OWN, evidence.log.origin
    lines = _ledger(path) if path.exists() else []
    heads = {line.digest: number for number, line in enumerate(lines)}
    private = _private(evidence)
    named = {site: heads[str(p.ledger)] for site, p in private.items() if p.ledger in heads}
    for site, number in named.items():
        yield from _check_against(evidence, site, lines[: number + 1], path)
    member = has_kept(state, run)
    owed = any(line.run == run for line in lines) or (
        member and len(private) == len(evidence.members)
    )
    if owed and not named:
        yield Finding(str(path), "no release of the run names a line of it")
    if not owed and not named and not member:
        yield Finding(str(state), "holds nothing of this run: give a member's state folder")


def _check_against(
    evidence: Evidence, site: str, lines: list[LedgerLine], path: Path
) -> Iterator[Finding]:
    """Check a release against the lines that the ledger had when the release was signed."""
    stated = evidence.release(site).statement.predicate
    privacy, spent = stated.privacy, lines[-1].total_rho
    if privacy.spent_rho != spent:
        yield Finding(str(path), f"rho {spent!r} is spent, {site} stated {privacy.spent_rho!r}")
    if not any(_pays_for(line, stated) for line in lines):
        yield Finding(str(path), f"no line pays for the release of {site}")


def _pays_for(line: LedgerLine, stated: Statement) -> bool:
    wanted = (stated.spec_digest, stated.contribution_cap, stated.privacy.rho, stated.privacy.sigma)
    return not line.kind and (line.spec_digest, line.cap, line.rho, line.sigma) == wanted


def _ledger(path: Path) -> list[LedgerLine]:
    try:
        lines = parse_ledger(read_plain(path, str(path)))
        check_arithmetic(lines)
    except Broken:
        raise
    except FedprintError as error:
        raise Broken(str(path), error) from None
    return lines


def _private(evidence: Evidence) -> dict[str, Privacy]:
    found = {s: evidence.release(s).statement.predicate.privacy for s in evidence.members}
    return {site: privacy for site, privacy in found.items() if privacy.mode == "private"}


def _any_private(evidence: Evidence) -> bool:
    return bool(_private(evidence))
