"""Options that several of the site's commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import DataError
from protocol.files import atomic_write

Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:N or mps; the first that is there by default.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Views in one forward pass.")]
Workers = Annotated[int, typer.Option(min=0, help="Decoding threads; 0 = one a core.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the summary as JSON here.")]


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
