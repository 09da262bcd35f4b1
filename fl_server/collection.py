"""Read the fingerprints of a folder: a run's, or what sites brought to one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from protocol.verify import read_fingerprints


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
    ConfigError
        If the folder holds no spec or no fingerprint.
    VerificationError
        If a fingerprint is not what its envelope signed, or of another spec.
    """
    spec, releases = read_fingerprints(folder)
    return Collection(spec.require_ready(), [release.fingerprint for release in releases])
