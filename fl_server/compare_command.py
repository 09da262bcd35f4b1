"""``fedprint compare``: every measure that a folder's data allow, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl_server.tables import show_table
from protocol.errors import ConfigError
from protocol.files import atomic_json, atomic_write
from protocol.options import Panel, file_to_write

if TYPE_CHECKING:
    from fl_server.compare_outcomes import Measured
    from strategies.measures import Task

WHERE = ("origin", "scenario", "metric")
"""What rows on measured transfer have in common that are shown in one table."""


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        rich_help_panel=Panel.RESULTS,
        epilog="Example: fedprint compare runs/demo --out measures.csv",
    )(compare)


def compare(
    run: Annotated[Path, typer.Argument(help="Run folder, or a folder of fingerprints.")],
    families: Annotated[
        Path | None,
        typer.Option(help="CSV with the columns site and family, where task cards do not tell."),
    ] = None,
    outcomes: Annotated[
        Path | None,
        typer.Option(help="Folder of recorded outcomes, as fedprint replay reads it."),
    ] = None,
    measure: Annotated[
        list[str] | None, typer.Option(help="Only this measure; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of ties and bootstraps.")] = 0,
    out: Annotated[
        Path | None, typer.Option(callback=file_to_write, help="CSV to write: a line a measure.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(callback=file_to_write, help="Draw a figure: a .png or .svg file."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", callback=file_to_write, help="Also write all as JSON here."),
    ] = None,
) -> None:
    """Compute every measure that the data allow, and judge it.

    Judged by how far measures agree, whether they find known families of tasks, how well they
    foretell measured transfer, and by what they cost. Values hold for these sites.
    """
    from fl_server.compare import compare as compare_all
    from fl_server.compare_data import families_of, read_families, released_bytes, tasks_in
    from fl_server.compare_plot import check_plot, plot_comparison
    from fl_server.compare_tables import comparison_csv, comparison_tables
    from fl_server.pool.telling import told
    from strategies.measures import available, get

    if plot is not None:
        check_plot(plot)
    chosen = [get(name) for name in (dict.fromkeys(measure) if measure else available())]
    tasks = tasks_in(run)
    known = read_families(families, tasks) if families else families_of(tasks)
    measured = _measured(run, tasks, outcomes)
    found = compare_all(
        tasks,
        told(chosen, "comparing", len(chosen), "measures"),
        families=known,
        measured=measured,
        seed=seed,
    )
    if not found.computed:
        raise ConfigError(next(iter(found.left_out.values())))
    tables = comparison_tables(found, released_bytes(run, tasks), seed=seed)
    if json is not None:
        atomic_json(json, {**tables, "settings": {"seed": seed}})
    if out is not None:
        atomic_write(out, comparison_csv(tables))
    if plot is not None:
        plot_comparison(tables, plot)
    _show(tables)
    for path in (out, plot):
        if path is not None:
            typer.echo(f"written: {path}")


def _measured(run: Path, tasks: Sequence[Task], outcomes: Path | None) -> list[Measured]:
    """Return what the run itself and the folder of outcomes tell of transfers."""
    from fl_server.compare_outcomes import own_outcomes, recorded_outcomes
    from protocol.files import file_digest

    names = [task.name for task in tasks]
    prints = run / "fingerprints" if (run / "fingerprints").is_dir() else run
    ids = {name: file_digest(prints / f"{name}.safetensors") for name in names}
    recorded = [] if outcomes is None else recorded_outcomes(outcomes, names)
    return [*own_outcomes(run, ids), *recorded]


def _show(tables: Mapping[str, Any]) -> None:
    names = [row["name"] for row in tables["measures"]]
    agrees = dict(zip(names, tables["agreement"], strict=True))
    found = tables["families"] is not None
    some = any(row["sites"] < len(tables["sites"]) for row in tables["measures"])  # else as titled
    columns = ["measure", "privacy", *(["sites"] if some else []), "bytes a site", "ms a pair"]
    columns += ["adjusted Rand", "nearest is kin"] if found else []
    rows = []
    for row in tables["measures"]:
        cells = [row["name"], row["privacy"], *([str(row["sites"])] if some else [])]
        cells += [
            _cell(row["bytes_per_site"], ",.0f"),
            _short(1000 * row["seconds_per_pair"]),
        ]
        cells += [_cell(row["adjusted_rand"]), _cell(row["nearest"])] if found else []
        rows.append([*cells, _likest(row["name"], agrees[row["name"]], names)])
    show_table(_title(tables), [*columns, "agrees most with"], rows)
    if tables["groups"] is not None:
        own = tables["groups"]
        typer.echo(
            f"For comparison: fedprint groups, which is not told the number of families and takes "
            f"the excess divergence, finds {own['number']} group{'s' * (own['number'] > 1)} "
            f"(adjusted Rand index {own['adjusted_rand']:.2f}); first partners are kin: "
            f"{_cell(own['nearest'])}."
        )
    if tables["left_out"]:
        show_table("not computed", ["measures", "why"], _alike(tables["left_out"]))
    for where in dict.fromkeys(_where(row) for row in tables["transfer"]):
        _show_transfer(where, [row for row in tables["transfer"] if _where(row) == where])


def _alike(left_out: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the measures that one and the same keeps from being computed in one row."""
    by_reason: dict[str, list[str]] = {}
    for name, why in left_out.items():
        by_reason.setdefault(why.removeprefix(f"measure {name} "), []).append(name)
    return [(", ".join(names), why) for why, names in by_reason.items()]


def _title(tables: Mapping[str, Any]) -> str:
    title = f"{len(tables['measures'])} measures on {len(tables['sites'])} sites"
    if tables["families"] is None:
        return f"{title}; no families known, name them with --families"
    chance = _cell(tables["nearest_by_chance"])
    return f"{title} of {len(set(tables['families']))} families (kin by chance: {chance})"


def _likest(name: str, row: Sequence[float | None], names: Sequence[str]) -> str:
    others = [
        (value, other)
        for value, other in zip(row, names, strict=True)
        if value is not None and other != name
    ]
    if not others:
        return "-"
    value, other = max(others, key=lambda pair: pair[0])
    return f"{other} ({value:.2f})" if value > 0 else "none"


def _where(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in WHERE)


def _show_transfer(where: Sequence[str], transfer: Sequence[Mapping[str, Any]]) -> None:
    origin, scenario, metric = where
    from fl_server.compare_tables import REFERENCE
    from strategies.transfer_evidence import JUDGEMENTS

    whose = "the run's own trials" if origin == "run" else "recorded outcomes"
    heads = ("weightedtau", "over_default", *JUDGEMENTS[1:])
    words = ["weighted tau", f"minus {REFERENCE}", "Spearman", "Kendall"]
    words += ["percentile of first shot", "its gain"]
    known = [
        (name, word)
        for name, word in zip(heads, words, strict=True)
        if any(row[name] is not None for row in transfer)
    ]
    rows = [
        [row["measure"], str(row["targets"]), *(_with_interval(row, name) for name, _ in known)]
        for row in transfer
    ]
    show_table(
        f"{scenario}, {metric}, {whose}: mean over targets with 95 % intervals",
        ["measure", "targets", *(word for _, word in known)],
        rows,
    )


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return "-"
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _cell(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _short(value: float) -> str:
    """Return two digits of a number, and no exponent where it is large."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
