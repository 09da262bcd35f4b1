"""The command ``fedprint server status``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_server.tables import show_table
from protocol.files import atomic_json, atomic_write

if TYPE_CHECKING:
    from fl_server.status import RunStatus, SiteState, Status

SOON_DAYS = 30
"""Keys and certificates that run out within this many days are marked."""


def add(server: typer.Typer) -> None:
    """Add the command to the sub-application ``server``."""
    server.command(epilog="Example: fedprint server status /srv/fedprint")(status)


def status(
    folder: Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything as JSON here.")
    ] = None,
    prometheus: Annotated[
        Path | None,
        typer.Option(help="Also write gauges here (.prom), for node-exporter to read."),
    ] = None,
) -> None:
    """Show who is enrolled and connected, what runs out when, and how far each run is.

    It changes nothing. A SuperLink that does not answer is said, and is no error.
    """
    from fl_server.metrics import prometheus_text
    from fl_server.status import collect

    found = collect(folder)
    if json_file is not None:
        atomic_json(json_file, found)
    if prometheus is not None:
        atomic_write(prometheus, prometheus_text(found))
    _show(found)


def _show(found: Status) -> None:
    answers = f"does not answer: {found.superlink}" if found.superlink else "answers"
    typer.echo(f"coordinator {found.coordinator}, trust store version {found.store_version}")
    typer.echo(f"SuperLink {answers}")
    for use, end in found.certificates.items():
        typer.echo(f"{use} certificate: {_left(end, found.time)}")
    if found.sites:
        head = ["site", "connected", "key", "key id"]
        show_table("sites", head, [_site_row(site, found.time) for site in found.sites])
    if found.runs:
        head = ["run", "state", "phase", "since", "waits for", "why"]
        show_table("runs", head, [_run_row(run, found.time) for run in found.runs])


def _left(end: datetime | None, now: datetime) -> str:
    """Say in days how long something is valid."""
    if end is None:
        return "not here"
    days = (end - now).days
    if days < 0:
        return f"RAN OUT on {end:%Y-%m-%d}"
    return f"valid for {days} days" + (" ONLY" if days < SOON_DAYS else "")


def _site_row(site: SiteState, now: datetime) -> tuple[str, ...]:
    since = f" since {_local(datetime.fromisoformat(site.since))}" if site.since else ""
    key = _left(site.key_expires, now) if site.key in ("active", "expired") else site.key
    return site.site, f"{site.node}{since}", key, site.key_id[:12]


def _run_row(run: RunStatus, now: datetime) -> tuple[str, ...]:
    waits = [
        f"{site}: awaits approval ({duration(run.approval[site])})"
        if site in run.approval
        else f"{site} ({duration(seconds)})"
        for site, seconds in run.waiting.items()
    ]
    if waits and run.deadline:
        waits.append(f"at most {duration((run.deadline - now).total_seconds())} more")
    why = [run.message] if run.message else []
    why += [f"lost {site}: {said.get('reason', '')}" for site, said in run.lost.items()]
    state = (run.state, run.phase, _local(run.since))
    return run.run, *state, "\n".join(waits), "\n".join(why)


def duration(seconds: float) -> str:
    """Return a duration with its two largest units."""
    seconds = max(round(seconds), 0)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def _local(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
