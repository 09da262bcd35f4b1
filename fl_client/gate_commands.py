"""The commands at the gate: ``fedprint site preview``, ``approve``, ``deny``, ``history``.

``fedprint site ledger`` is in `fl_client.ledger_command`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client.ledger_command import ledger
from fl_client.options import Device, JsonFile
from protocol.files import atomic_json, atomic_write

if TYPE_CHECKING:
    from fl_client.history import Entry
    from fl_client.preview import Summary

# torch, Pillow and Jinja2 are imported inside the commands: `--help` starts at once

Folder = Annotated[Path, typer.Argument(help="The site's folder, with its site.toml.")]
Chosen = Annotated[
    str | None,
    typer.Option("--spec", help="Name or digest of the spec, where not just one request waits."),
]


def add(app: typer.Typer) -> None:
    """Add the commands to ``fedprint site``."""
    app.command("preview")(preview)
    app.command("approve")(approve)
    app.command("deny")(deny)
    app.command("history")(history)
    app.command("ledger")(ledger)


def preview(
    folder: Folder,
    spec: Chosen = None,
    html: Annotated[
        Path | None, typer.Option(help="The page to write; in the state folder by default.")
    ] = None,
    json_file: JsonFile = None,
    device: Device = "",
) -> None:
    """Compute the fingerprint that was asked for, and show what would leave the site.

    Nothing leaves. The page shows every count that the fingerprint holds. Noise of a private one
    is drawn and paid for here, so that exactly what was seen is what can be approved.

    Example: fedprint site preview /srv/fedprint
    """
    from fl_client.approval import open_desk
    from fl_client.preview import summarise
    from fl_client.preview_page import render_preview

    desk = open_desk(folder, device)
    request = desk.find(spec)
    payload = desk.preview(request)
    summary = summarise(desk, request, payload)
    page = html or desk.requests.folder(request.spec) / "preview.html"
    atomic_write(page, render_preview(summary, request.spec, payload), mode=0o600)
    if json_file is not None:
        atomic_json(json_file, summary)
    _show(summary)
    typer.echo(f"all of it as a page: {page}")
    named = f" --spec {request.spec.digest[:12]}" if spec else ""
    typer.echo(f"to let it go: fedprint site approve {folder}{named}")


def approve(
    folder: Folder,
    spec: Chosen = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    device: Device = "",
) -> None:
    """Approve exactly the fingerprint that the preview showed; who asks next is sent it.

    Without a preview it is made now, and what it says is shown before you are asked.

    When the images, the task card, the policy, the key or the coordinator change, it waits for
    approval again. Where the policy has training, the site may train with its group then, too.

    Example: fedprint site approve /srv/fedprint
    """
    from fl_client.approval import open_desk
    from fl_client.preview import summarise

    desk = open_desk(folder, device)
    request = desk.find(spec)
    payload = desk.previewed(request)
    summary = summarise(desk, request, payload)
    _show(summary)
    if not yes and not _agreed():
        typer.echo("not approved: it still waits")
        raise typer.Exit(1)
    desk.approve(request, payload)
    typer.echo(
        f"approved: {summary.payload.bytes} bytes of spec {summary.spec.name}, until "
        f"{summary.expires:%Y-%m-%d}; the run that waits, or the next one that asks, is sent them"
    )


def deny(folder: Folder, spec: Chosen = None) -> None:
    """Turn a request down, until it is approved; the coordinator reads the reason "denied".

    Example: fedprint site deny /srv/fedprint
    """
    from fl_client.approval import open_desk
    from protocol.names import printable

    desk = open_desk(folder)
    request = desk.find(spec)
    desk.deny(request)
    typer.echo(f"denied: spec {printable(request.spec.name)}, digest {request.spec.digest}")


def history(
    folder: Folder,
    last: Annotated[int, typer.Option(min=1, help="Show so many, the newest.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """Show who asked this site for what, and what was answered.

    Example: fedprint site history /srv/fedprint --last 50
    """
    from fl_client.history import History
    from fl_client.site_file import SITE_FILE, read_site_file
    from protocol.errors import ConfigError

    record = History(read_site_file(folder / SITE_FILE).state_folder(folder))
    if not (folder / SITE_FILE).is_file() and not record.path.is_file():
        raise ConfigError(f"{folder} holds no {SITE_FILE} and no history: name a site's folder")
    entries = list(record.read())[-last:]
    if json_file is not None:
        atomic_json(json_file, {"entries": [entry.model_dump(mode="json") for entry in entries]})
    _show_history(entries)


def _agreed() -> bool:
    """Ask a person; nobody there to answer is an error."""
    from protocol.errors import ConfigError

    try:
        return typer.confirm("Let this leave the site?")
    except typer.Abort:
        raise ConfigError("nothing was approved: answer y, or give --yes") from None


def _show(summary: Summary) -> None:
    from fl_client.preview import facts

    for name, text in facts(summary):
        typer.echo(f"{name:<12} {text}")


def _show_history(entries: list[Entry]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from protocol.names import printable

    table = Table("time", "run", "spec", "decision", "reason", "bytes", "images")
    lines = []
    for entry in entries:
        time, sent = f"{entry.time:%Y-%m-%d %H:%M:%S}", str(entry.bytes) if entry.bytes else ""
        decision = entry.decision
        if entry.privacy is not None and entry.privacy.mode == "private":
            decision += f", epsilon {entry.privacy.epsilon:.3g}"
        told = (f"{entry.run} {entry.arm}".strip(), entry.spec.name, decision, entry.reason)
        run, spec, decision, reason = (printable(text, 80) for text in told)
        cells = (run, spec, decision, reason, sent, str(entry.images))
        table.add_row(time, *(escape(cell) for cell in cells))
        left = f", {sent} bytes" if sent else ""
        why = f" ({reason})" if reason not in ("", decision) else ""
        lines.append(f"{time}  {decision}{why}  {spec}{left}\n  run {run}")
    console = Console()
    if console.measure(table, options=console.options.update_width(9999)).maximum <= console.width:
        console.print(table)
    else:  # too narrow for columns
        typer.echo("\n".join(lines))
