"""A folder that the fingerprints of several sites are collected in."""

from __future__ import annotations

from pathlib import Path

from fl_client.options import require_writable
from fl_client.spec_commands import spec_json
from protocol.descriptors import KINDS
from protocol.files import atomic_write
from protocol.signed import ENDINGS, SignedFingerprint
from protocol.spec import Spec, check_same, load_spec


def check_folder(folder: Path, spec: Spec) -> None:
    """Refuse a folder that cannot be written or holds fingerprints of another spec.

    Raises
    ------
    SpecMismatch, DataError
    """
    if (folder / "spec.json").is_file():
        check_same(load_spec(folder / "spec.json"), spec)
    require_writable(folder)


def write_fingerprint(folder: Path, made: SignedFingerprint) -> Path:
    """Write all files, or on a failure none that was not there before.

    Descriptors of an earlier fingerprint of the site would go with none: they are deleted.

    Returns
    -------
    Path
        The signed statement, ``NAME.dsse.json``.
    """
    site = made.name
    parts = {
        site: (made.payload, made.envelope),
        **{f"descriptors/{site}.{kind}": each for kind, each in made.descriptors.items()},
    }
    files = {folder / "spec.json": spec_json(made.spec).encode()} | {
        folder / f"{name}.{ending}": data
        for name, both in parts.items()
        for ending, data in zip(ENDINGS, both, strict=True)
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
        for ending in ENDINGS:
            path = folder / "descriptors" / f"{site}.{kind}.{ending}"
            if path not in files:
                path.unlink(missing_ok=True)
    return folder / f"{site}.dsse.json"
