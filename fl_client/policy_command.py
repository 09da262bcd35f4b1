"""The command ``fedprint site augmentation``: learn an augmentation policy on own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client.options import (
    Device,
    ExperimentsFile,
    JsonFile,
    ReleaseFile,
    StateFolder,
    require_writable,
)
from protocol.errors import ConfigError
from protocol.files import atomic_json, atomic_write
from protocol.options import file_to_write

if TYPE_CHECKING:
    from fl_client.policy_result import Found

SHOWN = 8
# torch and albumentations are imported inside the command: `--help` starts at once


def add(app: typer.Typer) -> None:
    """Add the command to ``fedprint site``."""
    app.command(
        "augmentation",
        epilog="Example: fedprint site augmentation hospitals/north --out policy.json",
    )(policy)


def policy(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    budget: Annotated[
        int, typer.Option(min=1, help="Augmented views to compute at most; each a forward pass.")
    ] = 4000,
    spec: Annotated[str, typer.Option(help="Name of a spec, or its JSON file.")] = "lite0-100",
    candidate: Annotated[
        list[Path] | None,
        typer.Option(help="An augmentation policy from elsewhere to try, too; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(callback=file_to_write, help="Write the augmentation policy here, if any."),
    ] = None,
    release: ReleaseFile = None,
    experiments: ExperimentsFile = None,
    state: StateFolder = None,
    device: Device = "",
    json_file: JsonFile = None,
) -> None:
    """Learn how to augment this site's images in training: an augmentation policy.

    Nothing leaves the site. Candidates are judged on training images by the features of the frozen
    backbone; validation images tell whether the best one helps, and only then is it written to
    --out, as albumentations writes pipelines. The release policy is another thing: it says
    what may leave the site.
    """
    if experiments is not None and release is None:
        raise ConfigError("--experiments needs --release: experiments name the task by its release")
    from fl_client.architecture_search import target_of
    from fl_client.policy_files import read_policy, write_policy
    from fl_client.policy_search import search_policy
    from fl_client.progress import show_progress
    from fl_client.site import read_site
    from protocol.spec import load_spec

    given = {
        f"{number}: {path.name}": read_policy(path)
        for number, path in enumerate(candidate or (), 1)
    }
    chosen, site = load_spec(spec).require_ready(), read_site(folder, state)
    target = None if release is None else target_of(release)
    require_writable(site.state, "state folder", "--state")
    with show_progress("augmented", budget, "views") as advance:
        found = search_policy(
            site,
            chosen,
            budget,
            seed=seed,
            device=device or None,
            given=given,
            progress=advance,
        )
    lines = [] if target is None else found.experiments(target)
    if json_file is not None:
        dumped = [line.model_dump(mode="json") for line in lines]
        atomic_json(json_file, found.summary() | {"experiments": dumped})
    if experiments is not None:
        atomic_write(experiments, "".join(f"{line.model_dump_json()}\n" for line in lines))
    if out is not None and found.helps:
        write_policy(out, found.policy)
    _show(found)
    if out is not None:
        told = f"written to {out}" if found.helps else f"it does not help: {out} is not written"
        typer.echo(f"augmentation policy {found.best}: {told}")


def _show(found: Found) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    names = ("loss", "BA", "augmented BA", "views")
    table = Table(
        Column("policy", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in names),
        title=f"{found.site}: training images left out",
    )
    table.add_row("none", f"{found.plain.loss:.3f}", f"{found.plain.recall:.3f}", "-", "0")
    for course in found.race.ranking[:SHOWN]:
        judged = found.judgements[course.name]
        views = str(int(sum(trial.cost for trial in course.trials)))
        mark = "" if judged.passes else " lost"
        cells = (f"{judged.use.loss:.3f}", f"{judged.use.recall:.3f}")
        table.add_row(course.name, *cells, f"{judged.density.recall:.3f}{mark}", views)
    Console().print(table)
    if not found.apart:
        typer.echo("few subjects: images left out were of the same subjects as those fitted on")
    typer.echo(found.sentence)
