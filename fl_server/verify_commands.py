"""``fedprint verify``: check a run folder offline, from the sites' signatures to the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.errors import ConfigError
from protocol.files import atomic_json
from protocol.options import Panel, file_to_write

if TYPE_CHECKING:
    from fl_server.verify_run import Outcome


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        rich_help_panel=Panel.RESULTS,
        epilog="Example: fedprint verify runs/first --coordinator coordinator.pub.pem",
    )(verify)


def verify(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    coordinator: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            help="The coordinator's public key, from the coordinator itself and not from RUN.",
        ),
    ] = None,
    state: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="SITE_STATE",
            help="State folder of a site that took part, with what it keeps; repeatable.",
        ),
    ] = None,
    json_out: Annotated[
        Path | None,
        typer.Option("--json", callback=file_to_write, help="Also write findings here."),
    ] = None,
) -> None:
    """Check a run folder offline: signatures, log, privacy, and every figure computed again.

    One line a finding, and exit code 1 if there is any.
    """
    from fl_server.verify_evidence import Evidence
    from fl_server.verify_run import verify_run

    _require_run(run)
    for folder in state or []:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder: give a site's state folder (--state)")
    pem = _read_key(coordinator) if coordinator is not None else None
    outcome = verify_run(Evidence(run, pem, state or []))
    if json_out is not None:
        atomic_json(json_out, outcome.to_json())
    _show(run, outcome)
    if outcome.findings:
        raise typer.Exit(1)


def _show(run: Path, outcome: Outcome) -> None:
    for finding in outcome.findings:
        typer.echo(f"{finding.where}: {finding.what}")
    for note in outcome.notes:
        typer.echo(f"note: {note}")
    count = len(outcome.findings)
    verdict = "verified" if not count else f"{count} finding{'s' if count > 1 else ''}"
    typer.echo(": ".join(filter(None, [str(run), verdict, ", ".join(outcome.facts)])))
    typer.echo(f"checked: {'; '.join(outcome.checks)}")
    if outcome.unfinished:
        typer.echo(f"NOT checked to the end: {'; '.join(outcome.unfinished)}")
    typer.echo(_TRUST[outcome.pinned])


_TRUST = {
    "--coordinator": "the coordinator's key is the one that you gave (--coordinator)",
    "--state": "the coordinator's key is the one that the sites' checkpoints are signed with",
    "": "integrity only: checked against the key that the run brings along, which whoever rewrote "
    "the whole folder would have replaced; give --coordinator PEM or --state SITE_STATE",
}


def _require_run(run: Path) -> None:
    if not any((run / name).exists() for name in ("run.json", "log", "fingerprints")):
        raise ConfigError(f"{run} is no run folder: give one, such as runs/demo")


def _read_key(path: Path) -> str:
    from protocol.keys import key_pem, public_key

    if not path.is_file() or path.stat().st_size > 65536:
        raise ConfigError(f"{path} is no public key: give a PEM file (--coordinator)")
    try:
        return key_pem(public_key(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no public key: give a PEM file (--coordinator)") from None
