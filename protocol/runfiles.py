"""The JSON files of a run folder, as models; their JSON Schemas are published in docs/schemas.

Fields may be added to these files, never taken away: readers must ignore what they do not know.
``python -m protocol.runfiles DIR`` writes the schemas.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from protocol.descriptor_statement import DescriptorStatement
from protocol.enrolment import Enrolment, Invitation
from protocol.experiment import ExperimentStatement
from protocol.files import atomic_json
from protocol.names import Sha256Hex, SiteName
from protocol.plan import PlanStatement
from protocol.scores import ScoreStatement
from protocol.spec import Spec
from protocol.statement import BindingStatement, ReleaseStatement
from protocol.taskcard import TaskCard
from protocol.trials import PlansFile, TrialsFile
from protocol.trust import TrustStore

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _File(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class SpecEntry(_File):
    """The spec of a run: its name and digest."""

    name: str
    digest: Sha256Hex


class SitePrivacy(_File):
    """What a site's release states of its privacy, as the coordinator verified it.

    Parameters
    ----------
    mode : {"plain", "private"}
        Whether noise was added.
    rho, epsilon, delta : float or None
        zCDP budget of this release, and the same as approximate differential privacy.
    sigma : float or None
        Standard deviation of the noise, in images counted a bin.
    neighbours : str or None
        Neighbour relation.
    contribution_cap : int
        At most so many images of one patient were counted; 0 means no cap.
    images : int
        Images that were counted.
    spent_rho, budget_rho : float or None
        What the site has spent in all, with this release, and the most that it will spend.
    ledger : str or None
        SHA-256 of the last line of the site's ledger.
    """

    mode: Literal["plain", "private"]
    rho: float | None = None
    sigma: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    neighbours: str | None = None
    contribution_cap: int = 0
    images: int = Field(ge=1)
    spent_rho: float | None = None
    budget_rho: float | None = None
    ledger: Sha256Hex | None = None


class LedgerTotal(_File):
    """The releases of a run together.

    Parameters
    ----------
    private, plain : int
        How many releases have noise and how many have none.
    rho, epsilon, delta : float or None
        Most that any one site spent: each patient's images are at one site, so what the run
        reveals of a patient is what that site's release does. None with a plain release.
    """

    private: int
    plain: int
    rho: float | None = None
    epsilon: float | None = None
    delta: float | None = None


class LedgerFile(_File):
    """``ledger.json``: the privacy that each site's verified statement declares."""

    sites: dict[SiteName, SitePrivacy]
    total: LedgerTotal


class SiteEntry(_File):
    """One site that took part: its name, its task's name, its number of images, its privacy."""

    site: SiteName
    task: str
    images: int = Field(ge=1)
    privacy: SitePrivacy | None = None


class SiteCheckpoint(_File):
    """What a site answered when it was shown the log.

    Parameters
    ----------
    size : int
        Entries of the log that it keeps a checkpoint of; 0 when it keeps none.
    reason, message : str
        Why not: the code and text of its refusal, or that it did not answer.
    """

    size: int = Field(default=0, ge=0)
    reason: str = ""
    message: str = ""


class LeftOut(_File):
    """A site, or a node that gave no name, that did not take part, with the reason code."""

    site: str
    reason: str
    message: str = ""


class RunFile(_File):
    """``run.json``.

    Parameters
    ----------
    run : str
        Unique name of the run, which every session binding carries.
    mode : str
        ``"simulation"`` or ``"deployment"``.
    spec : SpecEntry
        What made the fingerprints comparable.
    sites : list of SiteEntry
        Who took part, by name.
    left_out : list of LeftOut
        Who did not, and why.
    seed : int
        Seed of everything random.
    versions : dict
        Version of each package.
    started, ended : datetime or None
        RFC 3339.
    seconds : dict
        Wall time of each phase, in seconds.
    settings : dict
        The run-config.
    checkpoints : dict
        What each site answered when it was shown the log.
    """

    run: str = ""
    mode: str
    spec: SpecEntry
    sites: list[SiteEntry]
    left_out: list[LeftOut] = []
    seed: int
    versions: dict[str, str]
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    seconds: dict[str, float] = {}
    settings: dict[str, Any] = {}
    checkpoints: dict[SiteName, SiteCheckpoint] = {}


class GroupEntry(_File):
    """One group of sites."""

    name: str
    sites: list[SiteName]


class PartnerEntry(_File):
    """One suggested co-training partner: lower distance is closer, percentile 1 is the best."""

    site: SiteName
    distance: float
    percentile: Fraction


class NeighbourEntry(_File):
    """One of a site's nearest sites, by squared distance between histograms."""

    site: SiteName
    distance: float
    same_group: bool


class SiteGroupEntry(_File):
    """Why a site is in its group.

    Parameters
    ----------
    reason : str
        A sentence for people.
    margin : float
        From -1 to 1, as a silhouette: near 0 the site lies between groups.
    stability : float or None
        How alike its group stays when the histograms are resampled; 1 is always the same.
    nearest : list of NeighbourEntry
        The nearest sites, nearest first.
    partners : list of PartnerEntry
        Directed co-training partners, in rank order.
    joined : bool
        Whether it came after the groups were made and was placed without another run of the rest.
    certain : bool or None
        Whether the group is beyond doubt, noise included; None where nobody looked.
    confidence : float or None
        From 0 to 1, how sure the group is.
    warnings : list of str
        What speaks against the site's fingerprint.
    """

    reason: str
    margin: float | None
    stability: float | None
    nearest: list[NeighbourEntry] = []
    partners: list[PartnerEntry]
    joined: bool = False
    certain: bool | None = None
    confidence: Fraction | None = None
    warnings: list[str] = []


class GroupsFile(_File):
    """``groups.json``: the groups, and for every site the reason."""

    groups: list[GroupEntry]
    sites: dict[SiteName, SiteGroupEntry]


class Shot(_File):
    """One suggestion, with its evidence in further fields."""

    rank: int = Field(ge=1)
    source: str
    distance: float | None = None
    percentile: Fraction | None = None


class RecommendationsFile(_File):
    """``recommendations.json``: per site and transfer scenario the shots in rank order."""

    sites: dict[SiteName, dict[str, list[Shot]]]


class SiteMetrics(_File):
    """One site's balanced accuracy on its own test data, from 0 to 1.

    Parameters
    ----------
    alone, together, random, grouped, planned : float or None
        After training alone, with everybody, in random groups, in the found group, and there by the
        group's plan; None where the arm did not run.
    final : float or None
        Of the model that the site keeps.
    kept : str or None
        Which one it keeps: ``"alone"`` where the group did not help on validation data.
    """

    alone: Fraction | None = None
    together: Fraction | None = None
    random: Fraction | None = None
    grouped: Fraction | None = None
    planned: Fraction | None = None
    final: Fraction | None = None
    kept: str | None = None


class MetricsFile(_File):
    """``metrics.json``: per site the outcome of every arm."""

    sites: dict[SiteName, SiteMetrics]


SCHEMAS: dict[str, type[BaseModel]] = {
    "run": RunFile,
    "groups": GroupsFile,
    "recommendations": RecommendationsFile,
    "metrics": MetricsFile,
    "ledger": LedgerFile,
    "trials": TrialsFile,
    "plans": PlansFile,
    "plan": PlanStatement,
    "experiment": ExperimentStatement,
    "spec": Spec,
    "card": TaskCard,
    "trust": TrustStore,
    "release": ReleaseStatement,
    "binding": BindingStatement,
    "descriptor": DescriptorStatement,
    "scores": ScoreStatement,
    "enrolment": Enrolment,
    "invitation": Invitation,
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema (draft 2020-12) of every JSON file and signed statement, by name."""
    return {
        name: {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(mode="validation", by_alias=True),
        }
        for name, model in SCHEMAS.items()
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write one ``<name>.json`` a schema; return the paths."""
    paths = []
    for name, schema in json_schemas().items():
        atomic_json(folder / f"{name}.json", schema)
        paths.append(folder / f"{name}.json")
    return paths


if __name__ == "__main__":
    for written in write_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schemas")):
        print(written)
