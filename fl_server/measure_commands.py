"""``fedprint measures``, ``distances`` and ``groups``: every measure, and what it says of a folder.

Heavy imports happen inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fl_server.tables import show_matrix, show_table
from protocol.files import atomic_json
from protocol.names import printable
from protocol.options import Panel, file_to_write

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
    app.command(
        rich_help_panel=Panel.KNOWLEDGE, epilog="Example: fedprint measures --json measures.json"
    )(measures)
    app.command(
        rich_help_panel=Panel.STEPS, epilog="Example: fedprint distances runs/demo --measure vdna"
    )(distances)
    app.command(
        rich_help_panel=Panel.STEPS, epilog="Example: fedprint groups runs/demo --out groups.json"
    )(groups)


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
    from fl_server import api

    found = api.distances(folder, measure)
    for site, lacking in found.lacking.items():
        typer.echo(printable(f"not compared: {site} released no {' and '.join(lacking)}"), err=True)
    if out is not None:
        found.save(out)
        typer.echo(f"{out}: {len(found.names)} x {len(found.names)} {measure} distances")
    values = found.values.tolist()
    if json_out is not None:
        known = [[None if x != x else x for x in row] for row in values]  # JSON has no NaN
        atomic_json(json_out, {"measure": measure, "sites": found.names, "distances": known})
    if out is None:
        table = found.table()
        show_matrix(table.title, found.names, [row[1:] for row in table.rows])


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
    from fl_server import api

    found = api.groups(
        folder,
        measure,
        min_size=min_size,
        max_size=max_size,
        partners=partners,
        alike=alike.value,
    )
    for target in (out, json_out):
        if target is not None:
            found.save(target)
    if out is not None:
        typer.echo(f"{out}: {len(found.members)} groups of {len(found.sites)} sites")
        return
    table = found.table()
    show_table(table.title, table.columns, table.rows)
