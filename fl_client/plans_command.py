"""The command ``fedprint site plans``: what this site agreed to train by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client.options import JsonFile
from protocol.files import atomic_json

if TYPE_CHECKING:
    from fl_client.plans import KeptPlan

# the plans bring Flower along: they are imported inside, so that `--help` starts at once


def add(app: typer.Typer) -> None:
    """Add the command to ``fedprint site``."""
    app.command("plans")(plans)


def plans(
    folder: Annotated[Path, typer.Argument(help="The site's folder, or its state folder.")] = Path(
        "."
    ),
    plan: Annotated[str, typer.Option(help="Show this plan: the beginning of its SHA-256.")] = "",
    json_file: JsonFile = None,
) -> None:
    """Show the plans that this site accepted: what its group trains with, and why.

    Several are listed; one is shown in words.

    Example: fedprint site plans /srv/fedprint
    """
    from fl_client.plan_words import facts, headline, summary

    state = _state(folder)
    kept = _kept(folder, state, plan)
    if json_file is not None:
        atomic_json(json_file, {"plans": [summary(one) for one in kept]})
    if not kept:
        typer.echo(f"no plan was accepted: {state / 'plans'} has none")
    elif len(kept) == 1:
        for name, text in facts(kept[0]):
            typer.echo(f"{name:<18} {text}")
    else:
        for one in kept:
            typer.echo(headline(one))
        typer.echo(
            f"to see one in words: fedprint site plans {folder} --plan {kept[-1].sha256[:12]}"
        )


def _state(folder: Path) -> Path:
    """Return the state folder of a site's folder, or the folder if it is one itself."""
    from fl_client.site_file import SITE_FILE, read_site_file
    from protocol.errors import ConfigError

    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: name a site's folder")
    if (folder / "plans").is_dir() and not (folder / SITE_FILE).is_file():
        return folder
    return read_site_file(folder / SITE_FILE).state_folder(folder)


def _kept(folder: Path, state: Path, plan: str) -> list[KeptPlan]:
    from fl_client.plans import Plans
    from protocol.errors import ConfigError

    kept = [one for one in Plans(state).all() if one.sha256.startswith(plan)]
    if plan and not kept:
        raise ConfigError(
            f"no plan of {folder} begins with {plan!r}: `fedprint site plans {folder}` lists them"
        )
    if plan and len(kept) > 1:
        raise ConfigError(
            f"{len(kept)} plans of {folder} begin with {plan!r}: give more of one's SHA-256"
        )
    return kept
