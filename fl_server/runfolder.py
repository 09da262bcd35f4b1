"""The run folder: what a run leaves, readable without fedprint. One function a file."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_server.exchange import Exchange, Release
from fl_server.privacy import ledger_file, site_privacy
from fl_server.release import ENDINGS as ENDINGS
from fl_server.settings import RunSettings
from protocol.files import atomic_json, atomic_write, atomic_writes, sha256_hex
from protocol.keys import signer_pem
from protocol.runfiles import RunFile, SiteCheckpoint, SiteEntry, SpecEntry
from protocol.trust import sign_store

PACKAGES = ("fedprint", "flwr", "torch", "timm", "pytorch-lightning", "numpy", "scipy")

PLANNING = ("trials.json", "plans.json", "plans", "experiments.jsonl")
"""Written by a run with the arm ``planned``."""

RUN_FILES = (
    "run.json",
    "spec.json",
    "trust.dsse.json",
    "coordinator.pub.pem",
    "fingerprints",
    "descriptors",
    "scores",
    "ledger.json",
    "distances.csv",
    "groups.json",
    "recommendations.json",
    "metrics.json",
    *PLANNING,
    "report.html",
    "log",
    "models",
    "state",
)
"""All that a run may write; nothing else in a run folder is ever touched."""

SUSPICIOUS = "suspicious"
"""Reason for which a verified release was left out: it cannot have been made honestly."""

CHECKPOINT = "log/checkpoint.dsse.json"
"""Written last: a folder without it is not a finished run."""


def write_exchange(out: Path, exchange: Exchange) -> None:
    """Write spec, signed trust store, privacy ledger and, for every site, what was verified.

    What lies there of others goes, a release that was only doubted stays.
    """
    signed = exchange.signed_store or sign_store(exchange.store, exchange.signer)
    atomic_json(out / "spec.json", exchange.spec)
    atomic_write(out / "trust.dsse.json", signed)
    atomic_write(out / "coordinator.pub.pem", signer_pem(exchange.signer))
    folder = out / "fingerprints"
    folder.mkdir(parents=True, exist_ok=True)
    for site, release in exchange.releases.items():
        parts = (release.payload, release.envelope, release.binding)
        paths = (folder / f"{site}{ending}" for ending in ENDINGS.values())
        atomic_writes({p: c for p, c in zip(paths, parts, strict=True) if not _holds(p, c)})
    atomic_json(out / "ledger.json", ledger_file(exchange.releases))
    doubted = {gone.site for gone in exchange.left_out if gone.reason == SUSPICIOUS}
    held = exchange.releases.keys() | doubted
    kept = {site + ending for site in held for ending in ENDINGS.values()}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def _holds(path: Path, content: bytes) -> bool:
    """Tell whether a file has this content already: sites' releases lie there as they come."""
    return path.is_file() and path.read_bytes() == content


def run_file(
    exchange: Exchange,
    settings: RunSettings,
    seconds: dict[str, float],
    started: datetime,
    ended: datetime,
    checkpoints: Mapping[str, SiteCheckpoint] | None = None,
) -> RunFile:
    """Return who took part, who did not and why, with what settings and software."""
    return RunFile(
        run=exchange.run,
        mode="deployment" if settings.server_dir else "simulation",
        spec=SpecEntry(name=exchange.spec.name, digest=exchange.spec.digest),
        sites=[site_entry(site, release) for site, release in exchange.releases.items()],
        left_out=exchange.left_out,
        seed=settings.seed,
        versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        started=started,
        ended=ended,
        seconds={phase: round(value, 2) for phase, value in seconds.items()},
        settings=settings.model_dump(mode="json"),
        checkpoints=dict(checkpoints or {}),
    )


def site_entry(site: str, release: Release) -> SiteEntry:
    """Return what ``run.json`` says of a site that takes part."""
    stated = release.statement.predicate
    return SiteEntry(
        site=site,
        task=stated.task_card.name,
        images=stated.images,
        privacy=site_privacy(release),
    )


def distances_csv(names: Sequence[str], distances: NDArray[np.float64]) -> str:
    """Return the distance table: row = source, column = target, lower = closer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", *names])
    for name, row in zip(names, distances.tolist(), strict=True):
        writer.writerow([name, *(repr(value) for value in row)])
    return text.getvalue()


def write_log(out: Path, exchange: Exchange) -> None:
    """Write the transparency log; its closing entry covers every other file of the folder."""
    exchange.enter()
    exchange.log.add_once("groups", sha256=sha256_hex((out / "groups.json").read_bytes()))
    exchange.log.close(exchange.run, out, exchange.signer)
