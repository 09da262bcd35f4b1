"""The commands ``fedprint spec backbones | images``: what a spec can be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl_client.options import JsonFile, require_writable
from protocol.files import atomic_json


def register(spec: typer.Typer) -> None:
    """Add ``backbones`` and ``images`` to the commands below ``fedprint spec``."""
    spec.command("backbones")(spec_backbones)
    spec.command("images")(spec_images)


def spec_backbones(
    name: Annotated[str, typer.Argument(help="Say all of this timm model.")] = "",
    json_file: JsonFile = None,
) -> None:
    """List backbones that were tried, or say of any timm model what a spec of it would be.

    Nothing is downloaded. Weights are "here" that lie in timm's cache, in an installed package or
    in the folder that FEDPRINT_WEIGHTS names.

    Example: fedprint spec backbones vit_small_patch14_dinov2.lvd142m
    """
    from rich.console import Console
    from rich.table import Column, Table

    from fl_client.backbones import TRIED, describe, lines_of

    found = [describe(name)] if name else [describe(each) for each in TRIED]
    if json_file is not None:
        atomic_json(json_file, {"backbones": [each.model_dump(mode="json") for each in found]})
    if name:
        typer.echo(lines_of(found[0]))
        return
    licence = Column("licence", overflow="fold")
    table = Table(Column("backbone", no_wrap=True), "features", "px", licence, "here")
    for each in found:
        size = (str(each.features), str(each.crop))
        table.add_row(each.backbone, *size, each.licence or "?", "yes" if each.here else "")
    Console().print(table)
    typer.echo("The command for one of them: fedprint spec backbones NAME")


def spec_images(
    out: Annotated[Path, typer.Argument(help="New folder for the images.")],
    foolbox: Annotated[
        Path | None, typer.Option(help="Unpacked foolbox 3.3.4, for its ImageNet images too.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the crops.")] = 0,
) -> None:
    """Write public images out of installed packages, to calibrate a spec on.

    Photographs, faces, digits and slices of MR volumes that scikit-image, scikit-learn, nibabel and
    matplotlib bring: what the shipped specs are calibrated on. None is of the demo's sites.

    Example: fedprint spec images public
    """
    from fl_client.public_images import write

    require_writable(out.parent)
    for name, count in write(out, foolbox, seed).items():
        typer.echo(f"{name}: {count} images")
