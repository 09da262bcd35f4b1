"""Plans: made of what was chosen, signed, logged, and shown to the sites that train by them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ConfigRecord, MessageType, RecordDict

from fl_server.asking import Problem
from fl_server.course import Course
from fl_server.exchange import Exchange
from fl_server.trials import Chosen
from protocol.envelope import open_envelope
from protocol.errors import FedprintError, UnknownKey
from protocol.files import atomic_write, canonical_json, sha256_hex
from protocol.keys import Signer, SSlibKey, public_key, signer_pem
from protocol.plan import Plan, parse_plan, sign_plan
from protocol.plan_records import ShownPlan, from_accepted, to_accepted, to_shown_plan
from protocol.sharing import Arrays

PLANS = "plans"
ENDING = ".dsse.json"

__all__ = ["SignedPlan", "open_plan", "show_plans", "sign_plans"]


@dataclass(frozen=True)
class SignedPlan:
    """A group's plan as it is shown.

    Attributes
    ----------
    plan : Plan
        What it says.
    envelope : bytes
        The same, signed.
    body : dict or None
        Arrays of the weights that it names, by name.
    """

    plan: Plan
    envelope: bytes
    body: Arrays | None = None

    @property
    def sha256(self) -> str:
        """By which orders name the plan."""
        return sha256_hex(self.envelope)


def sign_plans(chosen: Sequence[Chosen], exchange: Exchange, folder: Path) -> list[SignedPlan]:
    """Sign each group's plan, write it into the run folder, and enter it in the log.

    A plan that lies there already, signed, is the same one when the run goes on.

    Parameters
    ----------
    chosen : sequence of Chosen
        What each group found.
    exchange : Exchange
        The run: its releases, its log, and who signs.
    folder : Path
        The run folder.
    """
    signed = []
    for each in chosen:
        plan = _plan(each, exchange)
        path = folder / PLANS / f"{plan.group}{ENDING}"
        envelope = _earlier(path, plan, exchange.signer) or sign_plan(plan, exchange.signer)
        signed.append(SignedPlan(plan, envelope, each.body))
        atomic_write(path, envelope)
        _enter(signed[-1], exchange)
    named = {f"{each.plan.group}{ENDING}" for each in signed}
    for path in (folder / PLANS).glob("*"):
        if path.name not in named:  # of groups that were made again since
            path.unlink()
    return signed


def show_plans(signed: Sequence[SignedPlan], course: Course) -> dict[str, str]:
    """Show every site its group's plan; return the sites that do not accept it, with the reason.

    Once all have answered, a run that goes on asks nobody again: groups that trained stay together.
    """
    shown = canonical_json([each.sha256 for each in signed])
    step, journal = f"trials/answers-{sha256_hex(shown)[:16]}", course.steps.journal
    if journal and (kept := journal.recall(step, "all")):
        return dict(json.loads(str(kept.config_records["refused"]["json"])))
    contents, steps, wanted = {}, {}, {}
    pem = signer_pem(course.exchange.signer)
    for each in signed:
        content = to_shown_plan(ShownPlan(course.exchange.run, pem, each.envelope))
        for site in each.plan.sites:
            contents[site], wanted[site] = content, each.sha256
            steps[site] = f"trials/plan-{each.sha256[:16]}"
    course.steps.phase("plan", list(contents), course.settings.train_timeout)
    kind = f"{MessageType.QUERY}.plan"
    answers = course.steps.ask(steps, kind, contents, course.grid, check=_only_accepted)
    refused = {}
    for site, answer in answers.items():
        if isinstance(answer, Problem):
            refused[site] = str(answer)
        elif from_accepted(answer) != wanted[site]:
            refused[site] = "accepted another plan than it was shown"
    if journal:
        record = ConfigRecord({"json": json.dumps(refused)})
        journal.keep(step, "all", RecordDict({"refused": record}))
    return refused


def open_plan(envelope: bytes, coordinator: str) -> Plan:
    """Return what a plan says that the coordinator signed.

    Parameters
    ----------
    envelope : bytes
        The signed plan.
    coordinator : str
        Public key (PEM).

    Raises
    ------
    VerificationError
        If it is no plan, or was signed by another or changed.
    """
    known = public_key(coordinator)

    def find(key: str) -> SSlibKey:
        if key != known.keyid:
            raise UnknownKey(f"the plan is signed with {key[:12]!r}, not the coordinator's")
        return known

    return parse_plan(open_envelope(envelope, find)[0])


def _plan(each: Chosen, exchange: Exchange) -> Plan:
    """Return the plan for all sites of a group that could train at all."""
    able = each.trials[0].baseline if each.trials else each.baseline
    return Plan(
        run=exchange.run,
        group=each.group,
        sites={site: exchange.releases[site].digests["payload"] for site in sorted(able)},
        knowledge=each.knowledge,
        choices=[trial.choice for trial in each.trials],
    )


def _earlier(path: Path, plan: Plan, signer: Signer) -> bytes | None:
    """Return the same plan as it was signed before the run was interrupted, if it was."""
    try:
        envelope = path.read_bytes()
        return envelope if open_plan(envelope, signer_pem(signer)) == plan else None
    except (OSError, FedprintError):
        return None


def _enter(signed: SignedPlan, exchange: Exchange) -> None:
    """Enter in the log which plan a group has, unless that is its last word on the group."""
    group, log = signed.plan.group, exchange.log
    said = [e["sha256"] for e in log.entries if e["kind"] == "plan" and e["group"] == group]
    if said[-1:] != [signed.sha256]:
        log.add("plan", group=group, sha256=signed.sha256)


def _only_accepted(content: RecordDict) -> RecordDict:
    return to_accepted(from_accepted(content))
