"""``fedprint bench``: ratios against peers and limits, measured on this machine.

Benchmarks are the entry points of the group ``fedprint.benchmarks``, so that each room times its
own work and this one needs to import none of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated

import typer

from fl_server.tables import show_table
from protocol.benchmark import GROUP, Findings, Options, available_cores, machine
from protocol.errors import ConfigError
from protocol.files import atomic_json
from protocol.names import printable
from protocol.options import Panel, file_to_write

ALL = "all"


class Sizes(StrEnum):
    """How much is measured."""

    FULL = "full"
    SMALL = "small"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        rich_help_panel=Panel.KNOWLEDGE,
        epilog="Example: fedprint bench distances --json distances.json",
    )(bench)


def bench(
    name: Annotated[
        str, typer.Argument(help="distances, extract, federation, retrieval, wire, or all.")
    ],
    json: Annotated[
        Path | None,
        typer.Option("--json", callback=file_to_write, help="Also write all as JSON here."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of either side; by default one a core.")
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="How often the two sides take turns.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps, where it matters.")] = "",
    size: Annotated[
        Sizes, typer.Option(help="small ends within seconds, and its ratios say little.")
    ] = Sizes.FULL,
) -> None:
    """Measure what fedprint costs against a peer or a limit, in turns, in one run.

    Each ratio is the peer's or the limit's time divided by fedprint's: higher is better.
    """
    facts = machine()
    asked = Options(Path(), threads or available_cores(), turns, device, size.value)
    found: dict[str, Findings] = {}
    for entry in _chosen(name):
        with tempfile.TemporaryDirectory(prefix="fedprint-bench-") as scratch:
            found[entry.name] = entry.load()(replace(asked, scratch=Path(scratch)))
        _show(entry.name, found[entry.name])
    if json is not None:
        atomic_json(json, _as_json(facts, asked, found))


def _chosen(name: str) -> list[EntryPoint]:
    known = {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=_by_name)}
    if name == ALL:
        return list(known.values())
    if name not in known:
        raise ConfigError(
            f"unknown benchmark {printable(name)!r}: known are {', '.join([*known, ALL])}"
        )
    return [known[name]]


def _by_name(entry: EntryPoint) -> str:
    return entry.name


def _show(name: str, findings: Findings) -> None:
    rows = [
        [key, f"{r.median:.3g}", f"{r.low:.3g} to {r.high:.3g}", r.meaning]
        for key, r in findings.ratios.items()
    ]
    show_table(f"{name}: higher is better", ["ratio", "median", "turns", "what it is"], rows)
    figures = [[key, f"{value:,.6g}"] for key, value in findings.figures.items()]
    if figures:
        show_table(f"{name}: what stands behind it", ["figure", "value"], figures)
    for note in findings.notes:
        typer.echo(note)


def _as_json(
    facts: Mapping[str, object], asked: Options, found: Mapping[str, Findings]
) -> dict[str, object]:
    ratios = {key: r for findings in found.values() for key, r in findings.ratios.items()}
    return {
        "machine": facts,
        "options": {
            "threads": asked.threads,
            "turns": asked.turns,
            "device": asked.device,
            "size": asked.size,
        },
        "ratios": {key: r.median for key, r in ratios.items()},
        "turns": {key: asdict(r) for key, r in ratios.items()},
        "figures": {name: dict(findings.figures) for name, findings in found.items()},
        "notes": {name: findings.notes for name, findings in found.items()},
    }
