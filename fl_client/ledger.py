"""The site's privacy ledger: what its noised fingerprints spent, and the budget that ends it.

A line is on the disk before the noise is drawn that it pays for: a crash in between costs budget,
and never gives noise for nothing. Who calls `Ledger.spend` holds the site's turn
(`fl_client.turns`). What cannot be read in full refuses every private release.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import NamedTuple

from fl_client.history import History, append_line, must_be_written
from protocol.errors import BadLedger, PolicyError
from protocol.ledger_lines import START, Drawn, LedgerLine, check_arithmetic, parse_ledger
from protocol.privacy import epsilon_of
from protocol.spec import Spec
from protocol.statement import Privacy, utc_now

NAME = "ledger.jsonl"
DRAWS = "noised"
"""Folder of what was drawn, one folder a line of the ledger, named by the line's digest."""

EXHAUSTED = "budget-exhausted"
DAMAGED = "ledger-damaged"
_HEX = set("0123456789abcdef")


class Budget(NamedTuple):
    """The most that all private releases of a site may spend: rho, and epsilon at delta for it."""

    rho: float
    epsilon: float
    delta: float


class Ledger:
    """The file ``ledger.jsonl`` of a site's state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.path = state / NAME

    def read(self) -> list[LedgerLine]:
        """Return the lines, oldest first.

        Raises
        ------
        PolicyError
            With reason ``ledger-damaged`` when a line is damaged, cut off or missing, or when
            noised fingerprints are kept, or left, that no line pays for.
        """
        try:
            lines = parse_ledger(self.path.read_bytes() if self.path.exists() else b"")
            unpaid = self._paid_for() - {line.digest for line in lines}
        except (BadLedger, OSError, ValueError) as error:
            raise self._damaged(getattr(error, "strerror", None) or str(error)) from error
        if unpaid:
            raise self._damaged(
                f"it lacks {len(unpaid)} of the draws that the files beside it name"
            )
        return lines

    def check(self) -> list[LedgerLine]:
        """Return the lines after checking their arithmetic too.

        Raises
        ------
        PolicyError
            With reason ``ledger-damaged``.
        """
        lines = self.read()
        try:
            check_arithmetic(lines)
        except BadLedger as error:
            raise self._damaged(str(error)) from error
        return lines

    def require(self, rho: float, budget: Budget) -> list[LedgerLine]:
        """Return the lines if so much may still be spent.

        Raises
        ------
        PolicyError
            With reason ``budget-exhausted`` or ``ledger-damaged``.
        """
        lines = self.read()
        spent = spent_by(lines)
        if spent + rho > budget.rho:
            raise PolicyError(
                f"the privacy budget is used up: this release would spend rho {rho:.4g}, and "
                f"{max(budget.rho - spent, 0):.4g} of {budget.rho:.4g} is left (epsilon "
                f"{epsilon_at(spent, budget.delta):.3g} of {budget.epsilon:g} at delta "
                f"{budget.delta:g} is spent); what was released before can still be asked for",
                EXHAUSTED,
            )
        return lines

    def spend(
        self,
        privacy: Privacy,
        budget: Budget,
        *,
        spec: Spec,
        data: str,
        cap: int,
        run: str = "",
        kind: Drawn = "",
    ) -> LedgerLine:
        """Write down what is about to be drawn, and return its line once it is on the disk.

        Parameters
        ----------
        privacy : Privacy
            The terms of the draw, see `protocol.privacy.terms`.
        budget : Budget
            The most that may be spent in all.
        spec, data, cap, run, kind
            What is drawn, and for whom; see `LedgerLine`.

        Raises
        ------
        PolicyError
            With reason ``budget-exhausted``, ``ledger-damaged`` or ``not-recorded``.
        """
        assert privacy.rho is not None
        lines = self.require(privacy.rho, budget)
        line = LedgerLine.model_validate(
            {
                **privacy.model_dump(include={"rho", "sigma", "epsilon", "delta"}),
                "time": utc_now(),
                "run": run[:200],
                "spec_name": spec.name[:200],
                "spec_digest": spec.digest,
                "kind": kind,
                "data": data,
                "width": spec.width,
                "cap": cap,
                "total_rho": spent_by(lines) + privacy.rho,
                "previous": lines[-1].digest if lines else START,
                "salt": secrets.token_hex(32),
            }
        ).sealed()
        with must_be_written():
            self.state.mkdir(parents=True, exist_ok=True)
            append_line(self.path, line.to_bytes() + b"\n")
        return line

    def _paid_for(self) -> set[str]:
        """Return the digests of the lines that what lies beside the ledger refers to."""
        drawn = {path.name for path in _folders(self.state / DRAWS)}
        kept = [path / "kept.json" for path in _folders(self.state / "releases")]
        released = {_line_of(path) for path in kept if path.is_file()}
        named = drawn | released | History(self.state).ledger_heads()
        return {name for name in named if len(name) == 64 and set(name) <= _HEX}

    def _damaged(self, what: str) -> PolicyError:
        return PolicyError(
            f"the site's privacy ledger is damaged ({what}): nothing private leaves until it is "
            "restored from a backup; only a last line that a crash cut off may be deleted",
            DAMAGED,
        )


def spent_by(lines: list[LedgerLine]) -> float:
    """Return the rho that these lines spent in all."""
    return lines[-1].total_rho if lines else 0.0


def epsilon_at(rho: float, delta: float) -> float:
    """Return the epsilon of a total of rho; 0 where nothing was spent."""
    return epsilon_of(rho, delta) if rho > 0 else 0.0


def _folders(root: Path) -> list[Path]:
    return list(root.iterdir()) if root.is_dir() else []


def _line_of(kept: Path) -> str:
    """Return the line that pays for a kept release; a damaged one is as good as none."""
    try:
        found = json.loads(kept.read_bytes())
    except (ValueError, RecursionError):
        return ""
    return str(found.get("line", "")) if isinstance(found, dict) else ""
