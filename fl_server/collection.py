"""Read the fingerprints of a folder: a run's, or what sites brought to one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocol.errors import DataError
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec, load_spec
from protocol.verify import verify_local


@dataclass(frozen=True)
class Collection:
    """Fingerprints of one spec, in the order of their sites' names."""

    spec: Spec
    fingerprints: list[Fingerprint]

    @property
    def names(self) -> list[str]:
        """The sites."""
        return [fingerprint.site for fingerprint in self.fingerprints]


def read_collection(folder: Path) -> Collection:
    """Read and check every fingerprint of a run folder or a folder of fingerprints.

    Raises
    ------
    DataError
        If the folder holds no spec or no fingerprint.
    VerificationError
        If a fingerprint is not what its envelope signed, or of another spec.
    """
    spec_file = folder / "spec.json"
    if not spec_file.is_file():
        raise DataError(
            f"{folder} holds no spec.json: give a run folder, or make fingerprints with "
            f"`fedprint fingerprint FOLDER --out {folder}`"
        )
    spec = load_spec(spec_file).require_ready()
    inner = folder / "fingerprints"
    held = inner if inner.is_dir() else folder
    sites = sorted(p.name.removesuffix(".safetensors") for p in held.glob("*.safetensors"))
    if not sites:
        raise DataError(f"{held} holds no fingerprints (*.safetensors)")
    return Collection(spec, [verify_local(held, site, spec).fingerprint for site in sites])
