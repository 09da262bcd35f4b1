"""A finished private exchange in memory: real keys, noise, ledgers and kept checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict

from fl_client.checkpoints import Checkpoints
from fl_server.job import run
from fl_server.runlog import RunLog
from fl_server.runstate import own_signer
from fl_server.settings import RunSettings
from fl_server.verify_evidence import Evidence, Finding
from fl_server.verify_run import verify_run
from protocol import statement
from protocol.envelope import sign
from protocol.files import atomic_json, sha256_hex
from protocol.fingerprint import counts_to_bytes
from protocol.keys import Signer, generate_key, public_pem, signer, signer_pem
from protocol.ledger_lines import START, LedgerLine, parse_ledger
from protocol.log import ENTRIES
from protocol.privacy import noised, terms
from protocol.records import (
    ReleaseRequest,
    from_checkpoint,
    from_release_request,
    to_hello,
    to_kept,
    to_reply,
)
from protocol.statement import binding_statement, release_statement, utc_now
from protocol.taskcard import ClassCard, TaskCard
from tests.fl_server.joining import CLASSES, FINGERPRINTS, MEMBERS, SPEC
from tests.strategies.fake_grid import FakeGrid

RUN = "run-1"
EPSILON = 100.0
BUDGET = 1000.0
Change = Callable[[Path], object]


@dataclass
class AuditedSite:
    """A site that releases with noise, writes its ledger and keeps what it is shown of the log."""

    name: str
    state: Path
    key: Any = field(default_factory=generate_key)
    left: set[str] = field(default_factory=set)

    def __call__(self, message: Message) -> RecordDict:
        kind = message.metadata.message_type
        if kind == "query.hello":
            return to_hello(self.name, public_pem(self.key))
        if kind == "query.checkpoint":
            shown = from_checkpoint(message.content)
            kept = Checkpoints(self.state, shown.run)
            return to_kept(kept.accept(shown, self.name, self.left.__contains__))
        return self.release(from_release_request(message.content))

    def release(self, request: ReleaseRequest) -> RecordDict:
        now, of = utc_now(), FINGERPRINTS[self.name]
        privacy = terms(SPEC.width, epsilon=request.terms.epsilon, delta=request.terms.delta)
        assert privacy.sigma is not None
        line = self.spend(privacy, request.run)
        payload = counts_to_bytes(noised(of.counts, privacy.sigma))
        stated = {"spent_rho": line.total_rho, "budget_rho": BUDGET, "ledger": line.digest}
        release = statement.Release(
            site=self.name,
            spec_digest=SPEC.digest,
            spec_name=SPEC.name,
            images=of.n_images,
            contribution_cap=1,
            privacy=privacy.model_copy(update=stated),
            policy_digest="b" * 64,
            task_card=TaskCard(name="t", classes=[ClassCard(name=c) for c in CLASSES[self.name]]),
            issued=now,
            expires=now + timedelta(days=30),
        )
        envelope = sign(release_statement(payload, release), signer(self.key))
        binding = statement.Binding(
            site=self.name,
            run=request.run,
            nonce=request.nonce,
            issued=now,
            expires=now + timedelta(minutes=5),
        )
        self.left |= {sha256_hex(payload)}
        session = sign(binding_statement(envelope, binding), signer(self.key))
        return to_reply(self.name, payload, envelope, session)

    def spend(self, privacy: statement.Privacy, name: str) -> LedgerLine:
        """Append a line to the site's ledger."""
        path = self.state / "ledger.jsonl"
        before = parse_ledger(path.read_bytes()) if path.exists() else []
        spent = before[-1].total_rho if before else 0.0
        line = LedgerLine.model_validate(
            {
                **privacy.model_dump(include={"rho", "sigma", "epsilon", "delta"}),
                "time": utc_now(),
                "run": name,
                "spec_name": SPEC.name,
                "spec_digest": SPEC.digest,
                "data": "d" * 64,
                "salt": "5" * 64,
                "width": SPEC.width,
                "cap": 1,
                "total_rho": spent + (privacy.rho or 0.0),
                "previous": before[-1].digest if before else START,
            }
        ).sealed()
        self.state.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(line.to_bytes() + b"\n")
        return line


def audited_run(root: Path, sites: list[str] | None = None) -> Path:
    """Make ``root/run`` and the sites' state folders ``root/SITE``; return the run folder."""
    names = sites or list(MEMBERS)
    atomic_json(root / "spec.json", SPEC)
    asked = {
        "mode": "exchange",
        "spec": str(root / "spec.json"),
        "out": str(root / "run"),
        "epsilon": EPSILON,
        "timeout": 5,
        "connect_timeout": 0.3,
        "min_sites": len(names),
    }
    grid = FakeGrid({n: AuditedSite(name, root / name) for n, name in enumerate(names, 100)})
    return run(grid, RunSettings.model_validate(asked), RUN)


def copy_of(run: Path, to: Path) -> Path:
    """Return a copy of a run folder, to do something to."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run, to)
    return to


def entries_of(run: Path) -> list[dict[str, Any]]:
    """Return the log's entries."""
    return [json.loads(line) for line in (run / "log" / ENTRIES).read_bytes().splitlines()]


def closed_again(run: Path, change: Change, key: Signer | None = None, keep: int = 0) -> Path:
    """Do what only the coordinator can: change files, and close and sign the log over them.

    With `keep` only so many of the log's lines stay as they are.
    """
    change(run)
    lines = (run / "log" / ENTRIES).read_bytes().splitlines()
    RunLog(lines[:keep] if keep else lines).close(RUN, run, key or own_signer(run))
    return run


def findings(
    run: Path, coordinator: Signer | None = None, states: list[Path] | None = None
) -> list[Finding]:
    """Return what `fedprint verify` finds."""
    pem = signer_pem(coordinator) if coordinator is not None else None
    return verify_run(Evidence(run, pem, states or [])).findings
