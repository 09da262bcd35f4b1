"""The site's commands: ``fedprint fingerprint``, and those of `fl_client.spec_commands`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl_client import audit_commands, site_commands, spec_commands
from fl_client.options import BatchSize, Cap, Device, JsonFile, Workers, require_writable
from fl_client.spec_commands import spec_json
from protocol.descriptors import KINDS, parse_kinds
from protocol.errors import ConfigError, one_line
from protocol.files import atomic_json, atomic_write
from protocol.spec import Spec, check_same, load_spec

if TYPE_CHECKING:
    from fl_client.stages import Stages
    from protocol.keys import Signer

# torch, timm and Pillow are imported inside the commands: `--help` and `spec list` start at once


def register(app: typer.Typer) -> None:
    """Add the site's commands to the command line."""
    app.command("fingerprint")(fingerprint)
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
    chosen = load_spec(spec or ("lite0-private" if private else "lite0-100")).require_ready()
    limits = _limits(
        private, epsilon=epsilon, delta=delta, contribution_cap=cap, budget_epsilon=budget
    )
    signing, kinds = _signer(key), parse_kinds(also, "--also")
    from fl_client.local_release import (
        check_descriptors,
        release_descriptors,
        release_plain,
        release_private,
    )
    from fl_client.policy import gate, local_policy
    from fl_client.site import read_site
    from fl_client.stages import limit_line

    site, policy = read_site(folder, state, name=name or None), local_policy(**limits)
    gate(policy, chosen, site, private=private)  # before the work, and again at the release
    check_descriptors(site, chosen, policy, kinds, private=private)
    _check_out(out, chosen)
    if private or kinds:
        require_writable(site.state, "state folder", "--state")
    release = release_private if private else release_plain
    told: list[Stages] = []
    options = {
        "batch_size": batch_size,
        "workers": workers or None,
        "progress": True,
        "tell": told.append,
    }
    made = release(site, chosen, policy, signing, device, options)
    sent = release_descriptors(
        site, chosen, policy, signing, device, kinds, made.payload, private=private
    )
    files = {
        f"descriptors/{site.name}.{kind}.{ending}": data
        for kind, each in sent.items()
        for ending, data in (("safetensors", each.payload), ("dsse.json", each.envelope))
    }
    _write_release(out, site.name, made.payload, made.envelope, chosen, files)
    if json_file is not None:
        atomic_json(
            json_file,
            {
                "site": site.name,
                "images": made.terms.images,
                "patients": site.patients,
                "spec": {"name": chosen.name, "digest": chosen.digest},
                "key_id": signing.public_key.keyid,
                **made.facts,
                "stages": asdict(told[-1]) if told else None,
                "descriptors": {kind: len(each.payload) for kind, each in sent.items()},
                "out": str(out),
            },
        )
    typer.echo(f"{made.line}, in {out}{made.warning}")
    if told and (line := limit_line(told[-1])):
        typer.echo(line)


def _limits(private: bool, **given: float | None) -> dict[str, Any]:
    """Return what the options of a private release change in the policy of local commands."""
    from pydantic import ValidationError

    from fl_client.policy import Policy

    changes = {name: value for name, value in given.items() if value is not None}
    if not private:
        if changes:
            raise ConfigError("--epsilon, --delta, --cap and --budget belong to --private: give it")
        return {}
    try:
        limits = Policy.model_validate(changes)
    except ValidationError as error:
        raise ConfigError(f"private release: {one_line(error)}") from None
    chosen = {"release", "epsilon", "delta", "contribution_cap", "budget_epsilon"}
    return limits.model_dump(include=chosen)


def _signer(path: Path | None) -> Signer:
    from fl_client.site_keys import open_signer
    from protocol.keys import signer, user_key

    return signer(user_key()) if path is None else open_signer(path)


def _check_out(out: Path, spec: Spec) -> None:
    """Refuse a folder that cannot be written or holds fingerprints of another spec."""
    if (out / "spec.json").is_file():
        check_same(load_spec(out / "spec.json"), spec)
    require_writable(out)


def _write_release(
    out: Path, site: str, payload: bytes, envelope: bytes, spec: Spec, more: dict[str, bytes]
) -> None:
    """Write all files, or on a failure none that was not there before.

    Descriptors of an earlier fingerprint of the site would go with none: they are deleted.
    """
    files = {
        out / "spec.json": spec_json(spec).encode(),
        out / f"{site}.safetensors": payload,
        out / f"{site}.dsse.json": envelope,
        **{out / name: data for name, data in more.items()},
    }
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    try:
        for path, data in files.items():
            atomic_write(path, data)
    except BaseException:
        for path, old in before.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                atomic_write(path, old)
        raise
    for kind in KINDS:
        for ending in ("safetensors", "dsse.json"):
            name = f"descriptors/{site}.{kind}.{ending}"
            if name not in more:
                (out / name).unlink(missing_ok=True)
