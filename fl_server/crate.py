"""A finished run as an RO-Crate: a copy that says in JSON-LD what every file is, for archives.

The crate holds no key, no site's folder, no person, and of models only those that all sites of
their group hand on. What it describes is the run as its log was closed.

Formats: RO-Crate 1.1 (w3id.org/ro/crate/1.1) and Process Run Crate 0.5 (w3id.org/ro/wfrun/process).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fl_server.runfolder import CHECKPOINT
from fl_server.weights_out import MODELS, model_files
from protocol.errors import BadLog, ConfigError, DataError
from protocol.files import atomic_json, file_digest
from protocol.log import ENTRIES, check_files, folder_digests, read_log
from protocol.model_card import CARD, WEIGHTS
from protocol.runfiles import RunFile, SiteEntry

METADATA = "ro-crate-metadata.json"
RUN = "run"
CRATE = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
UNSTATED = "not stated: the coordinator and its sites decide"

ABOUT = {
    "run.json": "The run: sites, settings, versions, times",
    "ledger.json": "Privacy that each site's signed statement declares",
    "spec.json": "What makes the fingerprints comparable",
    "trust.dsse.json": "Keys of the sites, signed by the coordinator",
    "coordinator.pub.pem": "Public key of the coordinator",
    "fingerprints": "What a site released, or its signature",
    "descriptors": "What a site released beside its fingerprint, or its signature",
    "scores": "Scores of others' models, signed by the site that computed them",
    "distances.csv": "Distances of tasks: row = source, column = target, lower = closer",
    "groups.json": "Who should train together, and why",
    "recommendations.json": "What each site was advised to try",
    "metrics.json": "How well each arm's models did at each site",
    "trials.json": "What was tried for plans",
    "plans.json": "By which plan each group trained",
    "plans": "Signed plan of a group",
    "experiments.jsonl": "Outcomes of what was tried",
    "report.html": "The report, for people",
    "log": "Transparency log, or its signed checkpoint",
    MODELS: "Model of a group, or its card",
}
"""What a file is, by the first part of its name."""
FORMATS = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".csv": "text/csv",
    ".html": "text/html",
    ".md": "text/markdown",
    ".pem": "application/x-pem-file",
}
USED = ("spec.json", "trust.dsse.json", "fingerprints", "descriptors", "scores")
"""What a run decides from; all else is what came of it."""


def write_crate(run: Path, out: Path, licence: str = "") -> Path:
    """Copy a finished run into a new folder and describe it there.

    Parameters
    ----------
    run : Path
        The run folder.
    out : Path
        The crate; must not exist, or be empty.
    licence : str
        URL of the licence that the run's owners chose.

    Returns
    -------
    Path
        The metadata file.

    Raises
    ------
    ConfigError
        If `out` cannot be taken, or lies in the run folder.
    DataError, VerificationError
        If the run is not finished, or not as it was when its log was closed.
    """
    file = _finished(run)
    if out.resolve().is_relative_to(run.resolve()):
        raise ConfigError(
            f"{out} lies in the run folder, whose log covers it: choose another --out"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already: choose another --out")
    digests = dict(_copied(run))
    try:
        for name in digests:
            (out / RUN / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / name, out / RUN / name)
        atomic_json(out / METADATA, metadata(file, out, digests, licence))
    except OSError as error:
        raise ConfigError(
            f"cannot write to {out}: {error.strerror}; choose another --out"
        ) from error
    return out / METADATA


def metadata(file: RunFile, out: Path, digests: dict[str, str], licence: str) -> dict[str, Any]:
    """Return the crate's JSON-LD.

    Parameters
    ----------
    file : RunFile
        The run.
    out : Path
        The crate, with the files in it.
    digests : dict of str to str
        SHA-256 of every file, by its name in the run folder.
    licence : str
        URL, empty where nobody chose one.
    """
    files = [_file(name, out / RUN / name, sha256, file) for name, sha256 in digests.items()]
    used = [one for name, one in zip(digests, files, strict=True) if _first(name) in USED]
    made = [one for name, one in zip(digests, files, strict=True) if _first(name) not in USED]
    owners = {"@id": licence or "#licence", "@type": "CreativeWork", "name": licence or UNSTATED}
    graph = [
        {
            "@id": METADATA,
            "@type": "CreativeWork",
            "conformsTo": {"@id": CRATE},
            "about": {"@id": "./"},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"fedprint run {file.run}",
            "description": _description(file),
            "datePublished": _time(file, "ended"),
            "license": _link(owners),
            "conformsTo": {"@id": PROFILE},
            "hasPart": [_link(one) for one in files],
            "mentions": {"@id": "#run"},
        },
        owners,
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {
            "@id": "#run",
            "@type": "CreateAction",
            "name": f"Run {file.run}",
            "startTime": _time(file, "started"),
            "endTime": _time(file, "ended"),
            "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
            "instrument": {"@id": "#fedprint"},
            "object": [_link(one) for one in used],
            "result": [_link(one) for one in made],
        },
        *_software(file),
        *(_site(entry) for entry in file.sites),
        *files,
    ]
    extra = {"sha256": "http://schema.org/sha256"}  # younger than the crate's own context
    return {"@context": [f"{CRATE}/context", extra], "@graph": graph}


def _finished(run: Path) -> RunFile:
    """Return the run's file, having compared the folder with its closed log."""
    if not (run / CHECKPOINT).is_file():
        raise DataError(f"{run} holds no finished run: run it to its end")
    log = read_log(run, (run / "coordinator.pub.pem").read_text(encoding="utf-8"))
    if differs := check_files(run, log):
        raise BadLog(
            f"{run} is not as it was when its log was closed ({differs[0]}): take an unharmed copy"
        )
    return RunFile.model_validate_json((run / "run.json").read_bytes())


def _copied(run: Path) -> Iterator[tuple[str, str]]:
    """Yield what goes into the crate, with its SHA-256; a group's model only by consent of all."""
    agreed = {Path(name).parent.name for name, _ in model_files(run) if name.endswith(WEIGHTS)}
    for name, sha256 in folder_digests(run).items():
        path = Path(name)
        kept = path.parent == Path(MODELS) and path.suffix == ".safetensors"
        if not kept or path.stem in agreed:
            yield name, sha256
    for name in (f"log/{ENTRIES}", CHECKPOINT):
        yield name, file_digest(run / name)


def _first(name: str) -> str:
    return name.partition("/")[0]


def _file(name: str, path: Path, sha256: str, run: RunFile) -> dict[str, Any]:
    described: dict[str, Any] = {
        "@id": quote(f"{RUN}/{name}"),
        "@type": "File",
        "name": name,
        "description": ABOUT.get(_first(name), "File of the run"),
        "contentSize": str(path.stat().st_size),
        "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
        "sha256": sha256,
    }
    model = path.with_name(WEIGHTS)
    if path.name == CARD and model.is_file():
        described["about"] = {"@id": quote(f"{RUN}/{MODELS}/{path.parent.name}/{WEIGHTS}")}
    site = next((e.site for e in run.sites if name.startswith(f"fingerprints/{e.site}.")), None)
    return described | ({"creator": {"@id": _site_id(site)}} if site else {})


def _software(file: RunFile) -> Iterator[dict[str, Any]]:
    others = {name: v for name, v in file.versions.items() if name != "fedprint"}
    yield {
        "@id": "#fedprint",
        "@type": "SoftwareApplication",
        "name": "fedprint",
        "version": file.versions.get("fedprint", "not known"),
        "softwareRequirements": [{"@id": f"#{quote(name)}"} for name in others],
    }
    for name, version in others.items():
        yield {
            "@id": f"#{quote(name)}",
            "@type": "SoftwareApplication",
            "name": name,
            "version": version,
        }


def _site(entry: SiteEntry) -> dict[str, Any]:
    return {
        "@id": _site_id(entry.site),
        "@type": "Organization",
        "name": entry.site,
        "description": f"Site with {entry.images} images of the task {entry.task}",
    }


def _site_id(site: str) -> str:
    return f"#site-{quote(site)}"


def _description(file: RunFile) -> str:
    trained = file.settings.get("arms")
    what = f"arms {', '.join(trained)}" if trained else "no training"
    return (
        f"Task fingerprints of {len(file.sites)} sites, exchanged under spec {file.spec.name}, the "
        f"groups found from them, and {what}. No image is in it."
    )


def _time(file: RunFile, name: str) -> str:
    value = getattr(file, name)
    return value.isoformat() if value else "not known"


def _link(entity: dict[str, Any]) -> dict[str, Any]:
    return {"@id": entity["@id"]}
