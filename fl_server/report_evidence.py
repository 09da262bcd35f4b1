"""What a report says of the evidence: what left the sites beside fingerprints, and what decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.descriptors import KINDS, Kind
from protocol.errors import ConfigError
from strategies.measures import get

if TYPE_CHECKING:
    from strategies.measures import Need

GROUNDS: dict[Need, str] = {
    "fingerprint": "signed histograms",
    "card": "task cards",
    "moments": "signed means and covariances",
    "class-moments": "signed moments of each class",
    "fisher": "signed Fisher embeddings",
    "features": "the images' features",
    "scores": "scores of one another's models",
}
CONTENT: dict[Kind, str] = {
    "moments": "mean and covariance of the features over all images",
    "class-moments": "mean and variance of the features, and number of images, of each class",
    "fisher": "how sensitive each filter of the public network is to the task's labels",
    "features": "features and class of every single image; in simulations only",
}
SCORED = (
    "how well models that other sites trained alone fit this site's images; the models travelled"
)


@dataclass(frozen=True)
class Beside:
    """Files of one kind that lie beside the fingerprints.

    Attributes
    ----------
    kind : str
        Kind of the descriptor, or ``scores``.
    sizes : list of int
        Bytes of each site's file.
    content : str
        What it tells of a site.
    """

    kind: str
    sizes: list[int]
    content: str


def beside_fingerprints(run: Path) -> list[Beside]:
    """List the descriptors and scores of a run folder, a kind an entry."""
    found = [
        Beside(kind, _sizes(run / "descriptors", f".{kind}.safetensors"), CONTENT[kind])
        for kind in KINDS
    ]
    found.append(Beside("scores", _sizes(run / "scores", ".dsse.json"), SCORED))
    return [entry for entry in found if entry.sizes]


def grounds(measure: str) -> str:
    """Return what the groups of a measure come from, in words; empty of another package's.

    A report is made of the run's files: it is the same where that package is not installed.
    """
    try:
        found = get(measure)
    except ConfigError:
        return ""
    if not type(found).__module__.startswith("strategies."):
        return ""
    return " and ".join(GROUNDS[need] for need in GROUNDS if need in found.needs)


def _sizes(folder: Path, ending: str) -> list[int]:
    return [path.stat().st_size for path in sorted(folder.glob(f"*{ending}"))]
