"""`fedprint verify`: every check of a run folder, and what they found.

A check is a generator of findings. All of them run, whatever the others found; nothing that lies in
the folder can end one with anything but a finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from fl_server.verify_descriptors import check_descriptors
from fl_server.verify_evidence import Broken, Evidence, Finding
from fl_server.verify_history import check_history
from fl_server.verify_log import check_closed, check_kept, check_key, check_log, has_kept
from fl_server.verify_models import check_models
from fl_server.verify_plans import check_plans
from fl_server.verify_privacy import check_asked, check_ledgers, check_privacy
from fl_server.verify_releases import check_releases, check_trust
from fl_server.verify_report import check_report
from fl_server.verify_results import check_distances, check_groups, check_run
from fl_server.verify_scores import check_signed_scores
from protocol.errors import FedprintError
from protocol.names import printable

Check: TypeAlias = Callable[[Evidence], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "the coordinator's key": check_key,
    "the log and its signed checkpoint": check_log,
    "every file against the closing entry": check_closed,
    "checkpoints that sites keep": check_kept,
    "the trust store": check_trust,
    "releases and session bindings": check_releases,
    "descriptors and their statements": check_descriptors,
    "what was asked for": check_asked,
    "what came after what": check_history,
    "stated privacy and ledger.json": check_privacy,
    "ledgers that sites keep": check_ledgers,
    "run.json": check_run,
    "scores of models": check_signed_scores,
    "distances from what was released": check_distances,
    "groups and partners from what was released": check_groups,
    "plans and choices from the trials' scores": check_plans,
    "models and their cards from the run's files": check_models,
    "the report from the run's files": check_report,
}
ONLY_WITH_STATES = ("checkpoints that sites keep", "ledgers that sites keep")


@dataclass(frozen=True)
class Outcome:
    """What the checks of a run folder found.

    Attributes
    ----------
    run : str
        Name of the run, empty when that cannot be read.
    checks : list of str
        What was checked to the end, in order.
    unfinished : list of str
        What could not be, because something that it needs is broken.
    findings : list of Finding
        What is not as it must be; empty for a run that is verified.
    notes : list of str
        What could not be checked, without anything being wrong.
    pinned : str
        By what the coordinator's key was known: ``--coordinator``, ``--state``, or empty when
        only the key that the folder brings along was there.
    facts : list of str
        How much was checked.
    """

    run: str
    checks: list[str]
    unfinished: list[str]
    findings: list[Finding]
    notes: list[str]
    pinned: str
    facts: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {
            "run": self.run,
            "verified": not self.findings,
            "pinned": self.pinned,
            "checks": self.checks,
            "unfinished": self.unfinished,
            "findings": [finding._asdict() for finding in self.findings],
            "notes": self.notes,
        }


def verify_run(evidence: Evidence) -> Outcome:
    """Run every check.

    Parameters
    ----------
    evidence : Evidence
        The run folder, and what is known from elsewhere.
    """
    found = list(dict.fromkeys(scan(evidence)))
    return Outcome(
        run=_name(evidence),
        checks=[name for name in _checks(evidence) if name not in evidence.unfinished],
        unfinished=evidence.unfinished,
        findings=found,
        notes=[printable(note, 1000) for note in dict.fromkeys(evidence.notes)],
        pinned=_pinned(evidence),
        facts=_facts(evidence),
    )


def scan(evidence: Evidence) -> Iterator[Finding]:
    """Yield findings as they are found; what several checks need may be named by each of them."""
    for name in _checks(evidence):
        yield from _findings(name, evidence)


def _checks(evidence: Evidence) -> list[str]:
    return [name for name in CHECKS if evidence.states or name not in ONLY_WITH_STATES]


def _findings(name: str, evidence: Evidence) -> Iterator[Finding]:
    """Yield what a check finds, in one printable line each."""
    try:
        for finding in CHECKS[name](evidence):
            yield _printable(finding)
    except Exception as error:  # files made by others reach numerical code: fail closed
        evidence.unfinished.append(name)
        yield _printable(_finding_of(name, error))


def _finding_of(name: str, error: Exception) -> Finding:
    if isinstance(error, Broken):
        return error.finding
    if isinstance(error, FedprintError | OSError):
        return Finding(name, str(error))
    return Finding(name, f"cannot be checked: {type(error).__name__}: {error}")


def _printable(finding: Finding) -> Finding:
    return Finding(printable(finding.where, 300), printable(finding.what, 500))


def _name(evidence: Evidence) -> str:
    try:
        return printable(evidence.log.origin, 200)
    except FedprintError:
        return ""


def _pinned(evidence: Evidence) -> str:
    if evidence.coordinator is not None:
        return "--coordinator"
    name = _name(evidence)
    return "--state" if any(has_kept(state, name) for state in evidence.states) else ""


def _facts(evidence: Evidence) -> list[str]:
    """Say how much was checked, as far as it can be read."""
    try:
        modes = Counter(
            evidence.release(site).statement.predicate.privacy.mode for site in evidence.members
        )
        files = next(e["files"] for e in reversed(evidence.entries) if e["kind"] == "close")
        return [
            f"{sum(modes.values())} releases ({modes['private']} private, {modes['plain']} plain)",
            f"{len(evidence.entries)} log entries",
            f"{len(files)} files",
        ]
    except (FedprintError, StopIteration, KeyError, TypeError):
        return []
