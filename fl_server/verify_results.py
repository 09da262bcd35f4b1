"""Checks of what was decided: run.json, distances, groups and partners, computed once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version

import numpy as np

from fl_server.decisions import Decision, compare, decide_as
from fl_server.descriptor_folder import read_descriptors
from fl_server.outcomes import recommendations_file
from fl_server.privacy import site_privacy
from fl_server.received import Release
from fl_server.report_data import read_distances
from fl_server.runfolder import SUSPICIOUS
from fl_server.score_folder import read_scores
from fl_server.tasks import make_tasks
from fl_server.verify_evidence import Broken, Evidence, Finding
from fl_server.verify_joined import base_of, check_joined, joined_sites
from fl_server.verify_same import CLOSE, TINY, differences
from protocol.errors import FedprintError
from protocol.files import sha256_hex
from protocol.runfiles import GroupsFile, RecommendationsFile
from strategies.measures import Task, get


def check_run(evidence: Evidence) -> Iterator[Finding]:
    """Check what run.json says of spec, sites and privacy, and who was left out."""
    said, spec = evidence.run_file, evidence.spec
    if (said.spec.name, said.spec.digest) != (spec.name, spec.digest):
        yield Finding("run.json", "names another spec than spec.json")
    if [entry.site for entry in said.sites] != evidence.members:
        yield Finding("run.json", "its sites are not those that the log names")
    for entry in said.sites:
        release = evidence.release(entry.site)
        if (entry.task, entry.images) != (release.card.name, release.fingerprint.n_images):
            yield Finding("run.json", f"says another task or number of images than {entry.site}")
        signed = site_privacy(Release(0, release, b"", b"", b""))
        if entry.privacy is not None:
            for line in differences(entry.privacy, signed):
                yield Finding("run.json", f"privacy of {entry.site}: {line}")
    last = {e["site"]: e.get("reason") for e in evidence.entries if e["kind"] == "left out"}
    for gone in said.left_out:
        if last.get(gone.site) != gone.reason:
            yield Finding("run.json", f"left out {gone.site} ({gone.reason}), the log does not")


def check_distances(evidence: Evidence) -> Iterator[Finding]:
    """Check every distance against what was released."""
    evidence.read("distances.csv")
    names, found = read_distances(evidence.run / "distances.csv")
    if names != evidence.members:
        yield Finding("distances.csv", "its sites are not those that the log names")
        return
    try:
        wanted = compare(get(evidence.settings.measure), _tasks(evidence, names))  # [k, k]
    except FedprintError as error:
        raise Broken("distances.csv", f"cannot be computed again: {error}") from None
    off = np.argwhere(~np.isclose(found, wanted, rtol=CLOSE, atol=TINY, equal_nan=True))
    if len(off):
        i, j = off[0].tolist()
        yield Finding(
            "distances.csv",
            f"{names[i]} to {names[j]} is {found[i, j]:.9g}, the counts give {wanted[i, j]:.9g}"
            + (f" (and {len(off) - 1} more)" if len(off) > 1 else ""),
        )


def check_groups(evidence: Evidence) -> Iterator[Finding]:
    """Check groups, reasons and partners against what was released and the run's settings."""
    found = evidence.model("groups.json", GroupsFile)
    recommended = evidence.model("recommendations.json", RecommendationsFile)
    logged = [e.get("sha256") for e in evidence.entries if e["kind"] == "groups"]
    if [sha256_hex(evidence.read("groups.json"))] != logged[-1:]:
        yield Finding("groups.json", "is not the file that the log names")
    decision = _decide(evidence)
    late = joined_sites(evidence)
    for line in differences(base_of(found, late), decision.groups):
        yield Finding("groups.json", line + writer(evidence))
    yield from check_joined(evidence, found, late)
    settled = Decision(decision.names, decision.distances, found)
    for line in differences(_partners_only(recommended), recommendations_file(settled)):
        yield Finding("recommendations.json", line)


def _partners_only(file: RecommendationsFile) -> RecommendationsFile:
    """Return what follows from the counts alone: other shots are a pool's advice at that time."""
    sites = {
        site: {name: shots for name, shots in said.items() if name == "co-training"}
        for site, said in file.sites.items()
    }
    return file.model_copy(update={"sites": sites})


def writer(evidence: Evidence) -> str:
    """Name the version of fedprint that wrote the run, where it is another."""
    own, made_by = version("fedprint"), evidence.run_file.versions.get("fedprint", "unknown")
    return "" if own == made_by else f" (fedprint {made_by} wrote it, this is {own})"


def _tasks(evidence: Evidence, sites: Sequence[str]) -> list[Task]:
    """Return what the folder holds of these sites' tasks, in the order of their names."""
    releases = {site: evidence.release(site) for site in sites}
    named = {site: evidence.release(site) for site in sorted(evidence.named)}
    found = read_descriptors(evidence.run, named, evidence.spec)
    descriptors = {
        site: {kind: verified.descriptor for kind, verified in kinds.items()}
        for site, kinds in found.items()
    }
    return make_tasks(evidence.spec, releases, descriptors, read_scores(evidence.run, named))


def _decide(evidence: Evidence) -> Decision:
    """Decide again, as the coordinator did before anyone joined."""
    late = set(joined_sites(evidence))
    gone = {e.site for e in evidence.run_file.left_out if e.reason == SUSPICIOUS}
    sites = [s for s in evidence.members if s not in late] + sorted(gone & evidence.named.keys())
    try:
        return decide_as(evidence.settings, _tasks(evidence, sites))
    except FedprintError as error:
        raise Broken("groups.json", f"cannot be computed again: {error}") from None
