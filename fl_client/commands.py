"""The site's commands: ``fedprint fingerprint``, and those of `fl_client.spec_commands`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fl_client import audit_commands, site_commands, spec_commands
from fl_client.options import BatchSize, Cap, Device, JsonFile, Workers
from protocol.files import atomic_json
from protocol.options import Panel

# torch, timm and Pillow are imported inside the commands: `--help` and `spec list` start at once


def register(app: typer.Typer) -> None:
    """Add the site's commands to the command line."""
    app.command("fingerprint", rich_help_panel=Panel.STEPS)(fingerprint)
    spec_commands.register(app)
    site_commands.register(app)
    audit_commands.register(app)


def fingerprint(
    folder: Annotated[Path, typer.Argument(help="The site's folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the signed fingerprint.")],
    spec: Annotated[
        str,
        typer.Option(
            help="Name of a spec, or its JSON file; lite0-100, with --private lite0-private."
        ),
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the site; the folder's by default.")] = "",
    key: Annotated[Path | None, typer.Option(help="Private key file (PEM or OpenSSH).")] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Add noise: differential privacy.")
    ] = False,
    epsilon: Annotated[
        float | None, typer.Option(help="Private: most that this release spends, 2 by default.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Private: ... at this delta, 1e-5 by default.")
    ] = None,
    cap: Cap = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Private: most epsilon of all releases together, 8 by default."),
    ] = None,
    also: Annotated[
        str,
        typer.Option(
            help="Descriptors to release besides, with commas: moments,class-moments,fisher.",
            metavar="KINDS",
        ),
    ] = "",
    state: Annotated[
        Path | None,
        typer.Option(help="Where ledger and features lie; FOLDER/.fedprint by default."),
    ] = None,
    device: Device = "",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    json_file: JsonFile = None,
) -> None:
    """Fingerprint a site's images and sign the result.

    Writes NAME.safetensors, NAME.dsse.json and spec.json into the folder --out, in which the
    fingerprints of several sites can be collected. Without --key it signs with a key of yours that
    is made once and kept in your configuration folder.

    With --private noise is drawn once and kept, and its cost written into a ledger: a second call
    gives the same bytes and spends nothing.

    Descriptors are what some measures need beside histograms (`fedprint measures`); they go into
    the folder's subfolder descriptors. With --private only moments leave, with noise of their own.

    Example: fedprint fingerprint hospitals/north --private --epsilon 2 --out prints
    """
    from fl_client import api

    made = api.fingerprint(
        folder,
        spec,
        out=out,
        name=name,
        key=key,
        private=private,
        epsilon=epsilon,
        delta=delta,
        cap=cap,
        budget=budget,
        also=also,
        state=state,
        device=device,
        batch_size=batch_size,
        workers=workers,
        progress=True,
    )
    if json_file is not None:
        atomic_json(
            json_file,
            {
                "site": made.name,
                "images": made.terms.images,
                "patients": made.terms.patients,
                "spec": {"name": made.spec.name, "digest": made.spec.digest},
                "key_id": made.verified.key_id,
                **made.facts,
                "stages": asdict(made.stages) if made.stages else None,
                "descriptors": {kind: len(data) for kind, (data, _) in made.descriptors.items()},
                "out": str(out),
            },
        )
    typer.echo(f"{made.line}, in {out}" + (f". {made.warning}" if made.warning else ""))
    from fl_client.readers.folders import perhaps_sites

    if names := perhaps_sites(folder):
        typer.echo(
            f"{names[0]} and {names[1]} were taken for classes, and hold the same subfolders: if "
            f"they are sites, fingerprint each, as {folder / names[0]}",
            err=True,
        )
    if made.stages:
        from fl_client.stages import limit_line

        if line := limit_line(made.stages):
            typer.echo(line)
