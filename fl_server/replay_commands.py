"""``fedprint replay``: how well distances and the pool would have chosen, on recorded outcomes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl_server.tables import show_table
from protocol.errors import ConfigError
from protocol.files import atomic_json
from protocol.options import Panel

if TYPE_CHECKING:
    from fl_server.replay_data import ReplayData
    from fl_server.replay_run import Replayed


class Protocol(StrEnum):
    """What the pool knows when a target asks."""

    FULL = "full"
    LIFELONG = "lifelong"
    BOTH = "both"


class HoldOut(StrEnum):
    """Whose outcomes the full pool does without."""

    TARGET = "target"
    GROUP = "group"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        rich_help_panel=Panel.KNOWLEDGE,
        epilog="Example: fedprint replay --data benchmarks/replay/dev --json replay.json",
    )(replay)


def replay(
    data: Annotated[Path, typer.Option(help="Folder of recorded outcomes.")],
    as_published: Annotated[
        bool,
        typer.Option(
            "--as-published",
            help="Average ranks of ties; a perfect pick of performance 1 is the worst regret.",
        ),
    ] = False,
    protocol: Annotated[
        Protocol,
        typer.Option(help="The pool knows all other outcomes, or only shots tried before."),
    ] = Protocol.BOTH,
    hold_out: Annotated[
        HoldOut, typer.Option(help="The full pool leaves out the target or its exclusion group.")
    ] = HoldOut.TARGET,
    orders: Annotated[int, typer.Option(min=1, help="Arrival orders of the lifelong pool.")] = 10,
    seed: Annotated[int, typer.Option(help="Ties, orders, exploration and bootstraps.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw a figure: a .png or .svg file.")] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Also write all as JSON here.")
    ] = None,
) -> None:
    """Judge every distance, the learning pool, random and oracle on recorded outcomes.

    A lifelong pool is judged on the targets that arrive in the second half.
    """
    from fl_server.replay_data import read_replay
    from fl_server.replay_plot import plot_replay
    from fl_server.replay_tables import replay_tables

    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot {plot}: give a file that ends in .png or .svg")
    read = read_replay(data)
    both = protocol is Protocol.BOTH
    protocols = ("full", "lifelong") if both else (protocol.value,)
    replayed = _with_progress(
        read, protocols, as_published=as_published, hold_out=hold_out.value, seed=seed,
        orders=orders,
    )  # fmt: skip
    tables = replay_tables(read, replayed, seed=seed)
    for one in protocols:
        _show(tables, one)
    if json is not None:
        settings = {"as_published": as_published, "hold_out": hold_out.value, "seed": seed}
        atomic_json(json, {**tables, "settings": {**settings, "orders": orders}})
    if plot is not None:
        plot_replay(tables, plot)


def _with_progress(data: ReplayData, protocols: tuple[str, ...], **how: Any) -> Replayed:
    from rich.console import Console
    from rich.progress import Progress

    from fl_server.replay_run import replay as run

    console = Console(stderr=True)
    size = len(data.tasks) * len(data.scenarios)
    total = len(data.distances) + 2
    total += (size if "full" in protocols else 0) + (
        size * how["orders"] if "lifelong" in protocols else 0
    )
    if not console.is_terminal:
        console.print(f"replaying {len(data.tasks)} tasks, {', '.join(protocols)}", highlight=False)
        return run(data, protocols, **how)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("replaying", total=total)
        return run(
            data, protocols, step=lambda what: progress.update(bar, advance=1, description=what),
            **how,
        )  # fmt: skip


def _show(tables: dict[str, Any], protocol: str) -> None:
    """Print means over scenarios and metrics; the JSON file has every single one."""
    from strategies.outcome_metrics import MEASURES

    rows = [row for row in tables["overall"] if row["protocol"] == protocol]
    lines = [
        [row["selector"], *("-" if row[m] is None else f"{row[m]:.3f}" for m in MEASURES)]
        for row in rows
    ]
    title = "full pool" if protocol == "full" else "lifelong pool, second half of the targets"
    show_table(f"{title}: mean over scenarios and metrics", ["selector", *MEASURES], lines)
    _show_differences([d for d in tables["differences"] if d["protocol"] == protocol])


def _show_differences(differences: list[dict[str, Any]]) -> None:
    shown = ["percentile1", "weightedtau"]
    lines = [
        [row["against"], *(_signed(row, measure) for measure in shown)]
        for row in differences
        if row["against"] != "oracle"
    ]
    show_table("pool minus the other, 95 % interval over targets", ["other", *shown], lines)


def _signed(row: dict[str, Any], measure: str) -> str:
    if row[measure] is None:
        return "-"
    low, high = row[f"{measure}_low"], row[f"{measure}_high"]
    return f"{row[measure]:+.3f} [{low:+.3f}, {high:+.3f}]"
