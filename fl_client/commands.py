"""The site's commands: ``fedprint fingerprint``, and those of `fl_client.spec_commands`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client import site_commands, spec_commands
from fl_client.options import BatchSize, Device, JsonFile, Workers, require_writable
from fl_client.spec_commands import spec_json
from protocol.files import atomic_json, atomic_write
from protocol.spec import Spec, check_same, load_spec

if TYPE_CHECKING:
    from protocol.keys import Signer

# torch, timm and Pillow are imported inside the commands: `--help` and `spec list` start at once


def register(app: typer.Typer) -> None:
    """Add the site's commands to the command line."""
    app.command("fingerprint")(fingerprint)
    spec_commands.register(app)
    site_commands.register(app)


def fingerprint(
    folder: Annotated[Path, typer.Argument(help="The site's folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the signed fingerprint.")],
    spec: Annotated[str, typer.Option(help="Name of a spec, or its JSON file.")] = "lite0-100",
    name: Annotated[str, typer.Option(help="Name of the site; the folder's by default.")] = "",
    key: Annotated[Path | None, typer.Option(help="Private key file (PEM or OpenSSH).")] = None,
    device: Device = "",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    json_file: JsonFile = None,
) -> None:
    """Fingerprint a site's images and sign the result.

    Writes NAME.safetensors, NAME.dsse.json and spec.json into the folder --out, in which the
    fingerprints of several sites can be collected. Without --key it signs with a key of yours that
    is made once and kept in your configuration folder.

    Example: fedprint fingerprint hospitals/north --spec lite0-100 --out prints
    """
    chosen = load_spec(spec).require_ready()
    signing = _signer(key)
    from fl_client.extract import extract
    from fl_client.policy import gate, local_policy
    from fl_client.release import make_release
    from fl_client.site import read_site

    site, policy = read_site(folder, name=name or None), local_policy()
    gate(policy, chosen, site)  # before the work, and again when it is released
    _check_out(out, chosen)
    result = extract(
        site.images,
        chosen,
        device=device,
        batch_size=batch_size,
        workers=workers or None,
        progress=True,
    )
    assert result.counts is not None
    payload, envelope = make_release(site, result.counts, chosen, signing, policy)
    _write_release(out, site.name, payload, envelope, chosen)
    rate = result.views / max(result.seconds, 1e-9)
    if json_file is not None:
        atomic_json(
            json_file,
            {
                "site": site.name,
                "images": len(site.images),
                "patients": site.patients,
                "spec": {"name": chosen.name, "digest": chosen.digest},
                "key_id": signing.public_key.keyid,
                "views": result.views,
                "seconds": result.seconds,
                "images_per_second": rate,
                "out": str(out),
            },
        )
    typer.echo(
        f"{site.name}: {len(site.images)} images, spec {chosen.name}, "
        f"{result.seconds:.1f} s ({rate:.0f} images/s), signed, in {out}"
    )


def _signer(path: Path | None) -> Signer:
    from fl_client.site_keys import open_signer
    from protocol.keys import signer, user_key

    return signer(user_key()) if path is None else open_signer(path)


def _check_out(out: Path, spec: Spec) -> None:
    """Refuse a folder that cannot be written or holds fingerprints of another spec."""
    if (out / "spec.json").is_file():
        check_same(load_spec(out / "spec.json"), spec)
    require_writable(out)


def _write_release(out: Path, site: str, payload: bytes, envelope: bytes, spec: Spec) -> None:
    """Write all three files, or on a failure none that was not there before."""
    files = {
        out / "spec.json": spec_json(spec).encode(),
        out / f"{site}.safetensors": payload,
        out / f"{site}.dsse.json": envelope,
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
