"""The command ``fedprint site ledger``: what the site's private fingerprints spent, and is left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl_client.options import JsonFile
from protocol.files import atomic_json

if TYPE_CHECKING:
    from fl_client.ledger import Budget
    from protocol.ledger_lines import LedgerLine

_STAYS = {"data", "salt"}
"""Fields of a line with which a guess at the images could be confirmed: no summary has them."""

# the ledger brings dp-accounting along: it is imported inside, so that `--help` starts at once


def ledger(
    folder: Annotated[Path, typer.Argument(help="The site's folder, or its state folder.")],
    json_file: JsonFile = None,
) -> None:
    """Show what private fingerprints have spent, and what is left; check that nothing was changed.

    The exit code is 1 when the ledger is damaged.

    Example: fedprint site ledger /srv/fedprint
    """
    from fl_client.history import DEPARTURES, DESCRIBED, History
    from fl_client.ledger import Ledger, spent_by

    state, budget = _find(folder)
    found = Ledger(state)
    lines = found.check()
    left = History(state).read()
    departed = (*DEPARTURES, DESCRIBED)
    plain = sum(e.decision in departed and not _was_private(e) for e in left)
    summary = _summary(spent_by(lines), budget, plain)
    if json_file is not None:
        entries = [line.model_dump(mode="json", exclude=_STAYS) for line in lines]
        atomic_json(json_file, {"lines": entries, **summary})
    _show(lines, summary)
    if not found.path.exists():
        typer.echo(f"no ledger lies in {state}: nothing private was drawn with this state folder")


def _was_private(entry: Any) -> bool:
    return entry.privacy is not None and entry.privacy.mode == "private"


def _find(folder: Path) -> tuple[Path, Budget | None]:
    """Return the state folder, and the budget where the site has a policy."""
    from fl_client.ledger import NAME
    from fl_client.offer import budget_of
    from fl_client.policy import load_policy
    from fl_client.site_file import SITE_FILE, read_site_file, resolve
    from protocol.errors import ConfigError

    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: name a site's folder")
    if (folder / NAME).is_file():
        return folder, None
    described = read_site_file(folder / SITE_FILE)
    policy = resolve(folder, described.site.policy)
    budget = budget_of(load_policy(policy)) if policy.is_file() else None
    return described.state_folder(folder), budget


def _summary(spent: float, budget: Budget | None, plain: int) -> dict[str, Any]:
    from fl_client.ledger import epsilon_at
    from protocol.privacy import DELTA

    delta = budget.delta if budget else DELTA
    return {
        "spent_rho": spent,
        "spent_epsilon": epsilon_at(spent, delta),
        "delta": delta,
        "budget_rho": budget.rho if budget else None,
        "budget_epsilon": budget.epsilon if budget else None,
        "plain_releases": plain,
    }


def _show(lines: list[LedgerLine], summary: dict[str, Any]) -> None:
    from protocol.names import printable

    for line in lines:
        who = f"for run {printable(line.run, 80)}" if line.run else "for a person at the site"
        typer.echo(
            f"{line.time:%Y-%m-%d %H:%M:%S}  {printable(line.spec_name, 80)}  {_of(line)}"
            f"rho {line.rho:.4g}  epsilon {line.epsilon:.3g} at delta {line.delta:g}  "
            f"noise {line.sigma:.3g}{'' if line.kind else ' counts'}\n"
            f"  {who}, digest {line.digest[:16]}"
        )
    spent = f"{len(lines)} drawn, rho {summary['spent_rho']:.4g} spent"
    if summary["budget_rho"] is None:
        typer.echo(f"{spent}: epsilon {summary['spent_epsilon']:.3g} at delta {summary['delta']:g}")
    else:
        left = max(summary["budget_rho"] - summary["spent_rho"], 0.0)
        typer.echo(
            f"{spent}, {left:.4g} left: epsilon {summary['spent_epsilon']:.3g} of at most "
            f"{summary['budget_epsilon']:g} at delta {summary['delta']:g}"
        )
    if summary["plain_releases"]:
        typer.echo(
            f"not covered: {summary['plain_releases']} times a fingerprint or descriptor without "
            "noise left, which no budget bounds (fedprint site history)"
        )


def _of(line: LedgerLine) -> str:
    return f"{line.kind}  " if line.kind else ""
