"""What is made of a finished run for others: ``fedprint server models`` and ``crate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")]


def add(server: typer.Typer) -> None:
    """Add the commands to the sub-application ``server``."""
    server.command(epilog="Example: fedprint server models runs/first --out models")(models)
    server.command(epilog="Example: fedprint server crate runs/first --out first-crate")(crate)


def models(
    run: Run,
    out: Annotated[Path, typer.Option(help="Where to write a folder for each group.")],
) -> None:
    """Write each group's model card, and its weights where all its sites hand them on.

    A finished run has them in its folder `models` already, if this version made it.
    """
    from fl_server.weights_out import require_models, write_models
    from protocol.model_card import WEIGHTS

    require_models(run)
    alone = ": card only, not every site signed shares_weights = true"
    for folder in write_models(run, out):
        typer.echo(f"{folder}{'' if (folder / WEIGHTS).is_file() else alone}")


def crate(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="New folder to write; by default RUN-crate beside RUN.")
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="URL of the licence that the run's owners chose.")
    ] = "",
) -> None:
    """Copy a finished run into an RO-Crate, which archives and catalogues can read."""
    from fl_server.crate import write_crate

    folder = run.resolve()
    typer.echo(
        f"crate: {write_crate(run, out or folder.with_name(f'{folder.name}-crate'), licence)}"
    )
