"""The run folder: what a run leaves, readable without fedprint. One function a file.

``run.json`` is written last of the data files: a folder without it is not a finished run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_server.exchange import Exchange
from protocol.files import atomic_json, atomic_write
from protocol.keys import public_pem
from protocol.trust import sign_store


def write_exchange(out: Path, exchange: Exchange) -> None:
    """Write the spec, the signed trust store and, for every site, exactly what was verified."""
    atomic_json(out / "spec.json", exchange.spec)
    atomic_write(out / "trust.dsse.json", sign_store(exchange.store, exchange.key))
    atomic_write(out / "coordinator.pub.pem", public_pem(exchange.key))
    folder = out / "fingerprints"
    folder.mkdir(parents=True, exist_ok=True)
    for site, release in exchange.releases.items():
        atomic_write(folder / f"{site}.safetensors", release.payload)
        atomic_write(folder / f"{site}.dsse.json", release.envelope)
        atomic_write(folder / f"{site}.binding.dsse.json", release.binding)


def distances_csv(names: Sequence[str], distances: NDArray[np.float64]) -> str:
    """Return the distance table: row = source, column = target, lower = closer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", *names])
    for name, row in zip(names, distances.tolist(), strict=True):
        writer.writerow([name, *(repr(value) for value in row)])
    return text.getvalue()


def recommendations(
    partners: Mapping[str, Sequence[Mapping[str, object]]],
) -> dict[str, object]:
    """Return the co-training shots of every site, in rank order with their evidence."""
    return {"sites": {site: {"co-training": list(shots)} for site, shots in partners.items()}}
