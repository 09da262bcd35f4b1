"""The command ``fedprint site adapt``: what models of other tasks are worth on own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client.options import Device, JsonFile, require_writable
from protocol.errors import ConfigError
from protocol.files import atomic_json, atomic_write
from protocol.options import file_to_write

if TYPE_CHECKING:
    from fl_client.adaptation_result import Adapted

HOW = ("head", "fine-tune", "otce", "fusion")
# torch is imported inside the command: `--help` starts at once


def add(app: typer.Typer) -> None:
    """Add the command to ``fedprint site``."""
    app.command(
        "adapt",
        epilog="Example: fedprint site adapt hospitals/north --model weights/3f2a91.safetensors "
        "--how fine-tune",
    )(adapt)


def adapt(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    model: Annotated[
        list[Path], typer.Option(help="A model of another task, adapter recipe; may be repeated.")
    ],
    how: Annotated[
        list[str] | None,
        typer.Option(help="head, fine-tune, otce or fusion; may be repeated, fine-tune alone."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Try all that the files allow.")] = False,
    source_moments: Annotated[
        list[Path] | None,
        typer.Option(help="For otce: class moments of each model's task, in the same order."),
    ] = None,
    weights_by: Annotated[
        str, typer.Option(help="Score that fusion weighs by: logme, h-score or h-score-shrunk.")
    ] = "logme",
    spec: Annotated[str, typer.Option(help="Name of a spec, or its JSON file.")] = "lite0-100",
    epochs: Annotated[int, typer.Option(min=1, help="Budget of every way.")] = 40,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one step of training.")] = 16,
    learning_rate: Annotated[
        float, typer.Option(min=0.0, help="Step size; 0 takes the recipe's.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(callback=file_to_write, help="Write the model that is best here."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where features are kept; FOLDER/.fedprint by default.")
    ] = None,
    device: Device = "",
    json_file: JsonFile = None,
) -> None:
    """Try models of other tasks on this site, beside training from scratch at the same budget.

    Nothing leaves the site. Models are files of a run folder's models or of a pool's weights. Ways:
    a head on the model's body as it is; fine-tuning all; OTCE, which first tunes the body so that
    the source's labels say more of this site's; fusion, a head on all models together.

    Validation images choose the best, test images only tell. --out writes it: body.weight,
    body.bias and a row of the head for each class, whose keys are in the file's header.
    """
    from fl_client.adaptation import WEIGHERS, Adaptation, Budget
    from fl_client.adaptation_result import Ways, tried
    from fl_client.site import read_site
    from fl_client.source_models import read_models
    from fl_client.source_moments import read_class_moments
    from protocol.spec import load_spec

    moments_files = source_moments or []
    ways = _ways(how or [], every, len(model), len(moments_files))
    if weights_by not in WEIGHERS:
        raise ConfigError(f"unknown score {weights_by!r}: take {', '.join(WEIGHERS)}")
    chosen = load_spec(spec).require_ready()
    models = read_models(model, chosen.features)
    moments = [read_class_moments(path, chosen.width) for path in moments_files]
    site = read_site(folder, state)
    require_writable(site.state, "state folder", "--state")
    budget = Budget(epochs, batch_size, learning_rate, seed)
    adaptation = Adaptation(site, chosen, budget, device or None)
    found = tried(adaptation, Ways(ways, models, moments, weights_by))
    if json_file is not None:
        atomic_json(json_file, found.summary())
    if out is not None:
        atomic_write(out, found.model_file(), mode=0o600)
    _show(found)
    if out is not None:
        typer.echo(f"{found.best.way} is written to {out}")


def _ways(how: list[str], every: bool, models: int, moments: int) -> tuple[str, ...]:
    """Return the ways to try, having checked that the files allow them.

    Raises
    ------
    ConfigError
        If one is unknown, or lacks files.
    """
    if every and how:
        raise ConfigError("--all and --how exclude each other: give one")
    if unknown := [name for name in how if name not in HOW]:
        raise ConfigError(f"unknown way {unknown[0]!r}: take {', '.join(HOW)}")
    if moments not in (0, models):
        raise ConfigError(f"{moments} --source-moments for {models} --model: give one a model")
    if "otce" in how and not moments:
        raise ConfigError("otce needs the class moments of the source: give --source-moments")
    if every:
        return tuple(name for name in HOW if name != "otce" or moments)
    return tuple(name for name in HOW if name in (how or ["fine-tune"]))


def _show(found: Adapted) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    names = ("val AUROC", "val BA", "test AUROC", "test BA", "gain")
    table = Table(
        Column("way", overflow="fold"),
        Column("models", overflow="fold"),
        *(Column(name, justify="right", no_wrap=True) for name in names),
        title=f"{found.site}: {found.epochs} epochs each, gain in test BA over scratch",
    )
    for row in found.rows:
        scores = [f"{row.scores[name]:.3f}".replace("nan", "-") for name in found.columns]
        gain = "" if row is found.rows[0] else f"{found.gain(row):+.3f}".replace("+nan", "-")
        table.add_row(row.way, ", ".join(row.models), *scores, gain)
    Console().print(table)
    typer.echo(found.sentence)
