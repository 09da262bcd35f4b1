"""Options that several of the site's commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import DataError
from protocol.files import atomic_write
from protocol.options import file_to_write
from protocol.privacy import MOST_CAP

Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:N or mps; the first that is there by default.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Views in one forward pass.")]
Workers = Annotated[int, typer.Option(min=0, help="Decoding threads; 0 = one a core.")]
Cap = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_CAP, help="Private: most images of one patient, 1 by default."),
]
WindowOption = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--window",
        help="Intensities in scanner units that become black and white.",
        metavar="LOW HIGH",
    ),
]
ReleaseFile = Annotated[
    Path | None,
    typer.Option(help="The site's release, NAME.safetensors: the task of the experiments."),
]
ExperimentsFile = Annotated[
    Path | None,
    typer.Option(callback=file_to_write, help="Write experiments for a pool here; --release."),
]
StateFolder = Annotated[
    Path | None, typer.Option(help="Where features are kept; FOLDER/.fedprint by default.")
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", callback=file_to_write, help="Write the summary as JSON here."),
]


def require_writable(folder: Path, what: str = "output folder", option: str = "--out") -> None:
    """Check that a folder can be written, before work is put into what goes there.

    Raises
    ------
    DataError
        If it cannot.
    """
    try:
        atomic_write(folder / ".fedprint-probe", b"")
        (folder / ".fedprint-probe").unlink()
    except OSError as error:
        raise DataError(
            f"{what} {folder} cannot be written ({error.strerror}): choose another {option}"
        ) from error
