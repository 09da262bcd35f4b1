"""The command ``fedprint audit``: attack a release before it leaves the site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client.options import BatchSize, Cap, Device, JsonFile, Workers, require_writable
from protocol.errors import ConfigError
from protocol.files import atomic_json
from protocol.options import Panel
from protocol.spec import load_spec

if TYPE_CHECKING:
    from fl_client.audit_result import AuditResult


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("audit", rich_help_panel=Panel.DEPLOYMENT)(audit)


def audit(
    folder: Annotated[Path, typer.Argument(help="The site's folder of images.")],
    spec: Annotated[
        str,
        typer.Option(help="Name of a spec, or its JSON file; lite0-private, --plain lite0-100."),
    ] = "",
    plain: Annotated[bool, typer.Option("--plain", help="Audit a release without noise.")] = False,
    epsilon: Annotated[
        float | None, typer.Option(help="What a private release declares, 2 by default.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="... at this delta, 1e-5 by default.")] = None,
    cap: Cap = None,
    games: Annotated[
        int, typer.Option(min=100, help="Games of the worst-case attacker.")
    ] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the games; noise has none.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the site; the folder's by default.")] = "",
    state: Annotated[
        Path | None, typer.Option(help="Where the result is kept; FOLDER/.fedprint by default.")
    ] = None,
    device: Device = "",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    json_file: JsonFile = None,
) -> None:
    """Attack what the site would release, and say what an attacker learns.

    Nothing leaves and no budget is spent. The result is kept for the preview of a release. When an
    attack wins more often than the declared epsilon permits, the audit fails.

    Example: fedprint audit hospitals/north --epsilon 2
    """
    chosen = load_spec(spec or ("lite0-100" if plain else "lite0-private")).require_ready()
    if plain and (epsilon is not None or delta is not None or cap is not None):
        raise ConfigError("--epsilon, --delta and --cap belong to a private release: leave --plain")
    from fl_client.audit_result import keep
    from fl_client.audit_words import words
    from fl_client.site import read_site
    from protocol.privacy import DELTA, EPSILON

    site = read_site(folder, state, name=name or None)
    require_writable(site.state, "state folder", "--state")
    from fl_client.audit_site import audit_site

    terms = (
        None
        if plain
        else (
            EPSILON if epsilon is None else epsilon,
            DELTA if delta is None else delta,
        )
    )
    extraction = {"device": device or None, "batch_size": batch_size, "workers": workers or None}
    result = audit_site(site, chosen, terms, cap or 1, games=games, seed=seed, **extraction)
    path = keep(result, site.state, chosen)
    if json_file is not None:
        atomic_json(json_file, result)
    _show(result, words(result), path)
    result.require_passed()


def _show(result: AuditResult, sentences: list[str], path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("attack", "games", "AUC", "TPR at 1 % FPR", title=f"{result.site}: {result.spec}")
    for label, found in (("realistic", result.realistic), ("worst case", result.worst)):
        table.add_row(label, f"{found.games:,}", f"{found.auc:.3f}", f"{found.tpr:.3f}")
    if result.limits:
        table.add_row("most permitted", "", f"{result.limits.auc:.3f}", f"{result.limits.tpr:.3f}")
    Console().print(table)
    for sentence in sentences:
        typer.echo(sentence)
    typer.echo(f"kept in {path}")
