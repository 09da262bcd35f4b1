"""What a report is made of: the files of a run folder, read, checked and put in one order."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from fl_server.report_evidence import Beside, beside_fingerprints
from protocol.errors import DataError, FedprintError, VerificationError, one_line
from protocol.runfiles import GroupsFile, MetricsFile, RunFile
from protocol.spec import Spec, load_spec
from protocol.trials import PlansFile, TrialsFile
from protocol.trust import TrustStore, open_store
from protocol.verify import VerifiedRelease, verify_local
from strategies.grouping_by_distance import there_and_back

FloatArray = NDArray[np.float64]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class SiteRelease:
    """One release as it lies in the run folder, checked again.

    Attributes
    ----------
    site : str
        Name of the site.
    bytes : int
        Size of the fingerprint file.
    verified : VerifiedRelease or None
        What was signed; None when the check failed.
    enrolled : bool
        Whether the trust store of the run holds the key for this site.
    problem : str
        Reason code and message of what failed, else empty.
    """

    site: str
    bytes: int
    verified: VerifiedRelease | None
    enrolled: bool
    problem: str = ""


@dataclass(frozen=True)
class RunData:
    """A run folder's content.

    Attributes
    ----------
    run, groups, metrics
        The JSON files; metrics is None when only fingerprints were exchanged.
    trials, plans
        What was tried and decided beyond groups; None where nobody asked for it.
    spec : Spec
        The spec of the run.
    releases : dict
        Release by site.
    sites : list of str
        Sites in the order of the figures: groups stay together, neighbours are close.
    between : float64 array
        Symmetrised excess divergence ``[k, k]`` in the order of `sites`: unlike the directed one,
        it does not favour sources whose histograms are sharp.
    linkage : float64 array
        Average linkage ``[k - 1, 4]`` of the symmetrised excess; its leaves count in `sites`.
    beside : list of Beside
        What left sites beside their fingerprints, as it lies in the folder.
    """

    run: RunFile
    spec: Spec
    groups: GroupsFile
    metrics: MetricsFile | None
    releases: dict[str, SiteRelease]
    sites: list[str]
    between: FloatArray
    linkage: FloatArray
    trials: TrialsFile | None = None
    plans: PlansFile | None = None
    beside: list[Beside] = field(default_factory=list)

    @property
    def measure(self) -> str:
        """Name of the measure that decided."""
        return str(self.run.settings.get("measure", "bkld-large-unweighted"))


def read_run(run: Path) -> RunData:
    """Read a run folder.

    Parameters
    ----------
    run : Path
        The folder.

    Returns
    -------
    RunData
        Everything the report shows.

    Raises
    ------
    DataError
        A file is missing or malformed; the message names it.
    """
    run_file = _read_json(run, "run.json", RunFile)
    groups = _read_json(run, "groups.json", GroupsFile)
    names, distances = read_distances(run / "distances.csv")
    grouped = [site for group in groups.groups for site in group.sites]
    if sorted(grouped) != sorted(names) or len(set(grouped)) < len(grouped):
        raise DataError(
            f"{run}: the sites of groups.json are not those of distances.csv: run "
            f"fedprint groups {run} --out {run / 'groups.json'}"
        )
    order = site_order(distances, [[names.index(site) for site in g.sites] for g in groups.groups])
    ordered = distances[np.ix_(order, order)]  # [k, k]
    spec = load_spec(run / "spec.json")
    return RunData(
        run=run_file,
        spec=spec,
        groups=groups,
        metrics=_read_if_there(run, "metrics.json", MetricsFile),
        releases=_releases(run, spec),
        sites=[names[i] for i in order],
        between=there_and_back(ordered),
        linkage=average_linkage(ordered),
        trials=_read_if_there(run, "trials.json", TrialsFile),
        plans=_read_if_there(run, "plans.json", PlansFile),
        beside=beside_fingerprints(run),
    )


def read_distances(path: Path) -> tuple[list[str], FloatArray]:
    """Read a distance table.

    Parameters
    ----------
    path : Path
        CSV file with the sites' names in the first row and the first column.

    Returns
    -------
    names : list of str
        The k sites.
    distances : float64 array
        Shape ``[k, k]``, row = source, column = target; NaN where nothing is known.

    Raises
    ------
    DataError
        The table is missing, not square, or holds something that is no number, or infinite.
    """
    try:
        table = list(csv.reader(io.StringIO(_text(path))))
        names = table[0][1:]
        values = np.array([[float(x) for x in row[1:]] for row in table[1:]])
    except (ValueError, IndexError, csv.Error) as error:
        raise DataError(f"{path} is not a table of distances: {error}") from None
    square = values.shape == (len(names), len(names)) and names == [row[0] for row in table[1:]]
    if not (names and square and not np.isinf(values).any()):
        raise DataError(f"{path} is not a square table of finite distances with names on both axes")
    return names, values


def average_linkage(distances: FloatArray) -> FloatArray:
    """Return the average linkage of the symmetrised excess, its leaves ordered by nearness.

    Parameters
    ----------
    distances : float64 array
        Shape ``[k, k]``.

    Returns
    -------
    float64 array
        Shape ``[k - 1, 4]``, as scipy's; empty for a single site.
    """
    if len(distances) < 2:
        return np.empty((0, 4))
    condensed = squareform(there_and_back(distances), checks=False)  # [k (k - 1) / 2]
    tree: FloatArray = linkage(condensed, "average")
    if len(distances) <= 400:  # the ordering takes the cube of the number of sites
        tree = optimal_leaf_ordering(tree, condensed)
    return tree


def site_order(distances: FloatArray, groups: list[list[int]]) -> list[int]:
    """Order sites by the leaves of the dendrogram, but keep every group together.

    Parameters
    ----------
    distances : float64 array
        Shape ``[k, k]``.
    groups : list of lists of int
        A partition of the k sites.

    Returns
    -------
    list of int
        The k sites in the order of the figures.
    """
    tree = average_linkage(distances)
    leaves = leaves_list(tree).tolist() if len(tree) else list(range(len(distances)))
    place = {site: position for position, site in enumerate(leaves)}
    ranked = sorted(groups, key=lambda group: float(np.mean([place[site] for site in group])))
    return [site for group in ranked for site in sorted(group, key=place.__getitem__)]


def _releases(run: Path, spec: Spec) -> dict[str, SiteRelease]:
    """Check every release of the run folder once more."""
    folder = run / "fingerprints"
    store = _trust_store(run)
    keys = {(e.site, e.key_id) for e in store.entries if e.status == "active"} if store else set()
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        site, size = path.name.removesuffix(".safetensors"), path.stat().st_size
        try:
            verified = verify_local(folder, site, spec)
        except FedprintError as error:
            reason = error.reason if isinstance(error, VerificationError) else "unreadable"
            found[site] = SiteRelease(site, size, None, False, f"{reason}: {error}")
        else:
            enrolled = (site, verified.key_id) in keys
            found[site] = SiteRelease(site, size, verified, enrolled)
    return found


def _trust_store(run: Path) -> TrustStore | None:
    store, coordinator = run / "trust.dsse.json", run / "coordinator.pub.pem"
    if not (store.is_file() and coordinator.is_file()):
        return None
    try:
        return open_store(store.read_bytes(), coordinator.read_text())
    except (FedprintError, UnicodeDecodeError):
        return None


def _read_if_there(run: Path, name: str, model: type[Model]) -> Model | None:
    return _read_json(run, name, model) if (run / name).is_file() else None


def _read_json(run: Path, name: str, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(_text(run / name))
    except ValidationError as error:
        raise DataError(f"{run / name} is not as it should be: {one_line(error)}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{path.parent} has no {path.name}: give the folder of a finished run"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text: give the folder of a finished run") from None
