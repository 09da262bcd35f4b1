"""``fedprint measures``, ``distances`` and ``groups``: every measure, and what it says of a folder.

Heavy imports happen inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fl_server.tables import show_matrix, show_table
from protocol.files import atomic_json, atomic_write
from protocol.names import printable
from protocol.options import file_to_write

DEFAULT = "bkld-large-unweighted"

Folder = Annotated[Path, typer.Argument(help="Run folder, or a folder of fingerprints.")]
JsonOut = Annotated[
    Path | None,
    typer.Option("--json", callback=file_to_write, help="Also write the table as JSON here."),
]
MeasureName = Annotated[
    str, typer.Option(help="Distance between tasks: one of `fedprint measures`.")
]


class Alike(StrEnum):
    """What makes sites alike."""

    TASK = "task"
    DATA = "data"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: fedprint measures --json measures.json")(measures)
    app.command(epilog="Example: fedprint distances runs/demo --measure vdna")(distances)
    app.command(epilog="Example: fedprint groups runs/demo --out groups.json")(groups)


def measures(json_out: JsonOut = None) -> None:
    """List every measure: what it needs of a site, who may see that, and who proposed it."""
    from strategies.measures import available, get

    known = [get(name) for name in available()]
    if json_out is not None:
        fields = [
            {
                "name": m.name,
                "needs": sorted(m.needs),
                "privacy": m.privacy,
                "direction": m.direction,
                "source": m.source,
                "description": m.description,
            }
            for m in known
        ]
        atomic_json(json_out, {"measures": fields})
    show_table(
        "measures (--measure NAME, run-config measure)",
        ["name", "needs (privacy)", "better", "what it is; source"],
        [
            [
                m.name,
                f"{', '.join(sorted(m.needs))} ({m.privacy})",
                m.direction,
                f"{m.description}; {m.source}",
            ]
            for m in known
        ],
    )


def distances(
    folder: Folder,
    measure: MeasureName = DEFAULT,
    out: Annotated[
        Path | None, typer.Option(callback=file_to_write, help="CSV to write: row = source.")
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Compute the distances between the tasks of a folder; row = source, lower = closer.

    Of a measure whose higher values are better the table has the negative ones. nan is not known.
    """
    from fl_server.decisions import compare
    from fl_server.runfolder import distances_csv
    from fl_server.tasks import tasks_of_folder
    from strategies.measures import get, lacks

    chosen = get(measure)
    tasks = tasks_of_folder(folder)
    names = [task.name for task in tasks]
    matrix = compare(chosen, tasks)  # [k, k]
    for task in tasks:
        if lacking := lacks(chosen, task):
            note = f"not compared: {task.name} released no {' and '.join(lacking)}"
            typer.echo(printable(note), err=True)
    if out is not None:
        atomic_write(out, distances_csv(names, matrix))
        typer.echo(f"{out}: {len(names)} x {len(names)} {measure} distances")
    if json_out is not None:
        known = [[None if x != x else x for x in row] for row in matrix.tolist()]  # JSON has no NaN
        atomic_json(json_out, {"measure": measure, "sites": names, "distances": known})
    if out is None:
        show_matrix(
            f"{measure} (row = source, column = target, lower = closer)",
            names,
            [[f"{x:.5f}" for x in row] for row in matrix.tolist()],
        )


def groups(
    folder: Folder,
    measure: MeasureName = DEFAULT,
    out: Annotated[Path | None, typer.Option(callback=file_to_write, help="JSON to write.")] = None,
    min_size: Annotated[int, typer.Option(min=1, help="Smallest group.")] = 1,
    max_size: Annotated[int, typer.Option(min=0, help="Largest group; 0 is no limit.")] = 0,
    partners: Annotated[int, typer.Option(min=1, help="Co-training partners a site.")] = 3,
    alike: Annotated[
        Alike,
        typer.Option(
            help="What groups have in common: the task, whatever the shares of classes; or the "
            "data. Of the bKLD measures."
        ),
    ] = Alike.TASK,
    json_out: JsonOut = None,
) -> None:
    """Group the sites of a folder by what they released, and name each one's partners."""
    from fl_server.decisions import decide
    from fl_server.tasks import tasks_of_folder

    tasks = tasks_of_folder(folder)
    decision = decide(
        tasks,
        measure=measure,
        min_size=min_size,
        max_size=max_size,
        partners=partners,
        truth=alike.value,
    )
    for target in (out, json_out):
        if target is not None:
            atomic_json(target, decision.groups)
    if out is not None:
        typer.echo(f"{out}: {len(decision.groups.groups)} groups of {len(tasks)} sites")
        return
    show_table(
        f"groups by {measure}",
        ["group", "site", "certain", "margin", "stability", "why"],
        [
            [
                group.name,
                site,
                {True: "yes", False: "no", None: ""}[why.certain],
                _two_digits(why.margin),
                _two_digits(why.stability),
                " ".join([why.reason, *why.warnings]),
            ]
            for group in decision.groups.groups
            for site in group.sites
            for why in [decision.groups.sites[site]]
        ],
    )


def _two_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
