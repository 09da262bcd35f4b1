"""What an audit found, as it is kept in the site's state folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from protocol.errors import AuditFailed
from protocol.files import atomic_json
from protocol.names import Sha256Hex
from protocol.spec import Spec
from protocol.statement import Privacy

Mode = Literal["plain", "private"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Attacker(_Model):
    """How well one attacker told members from others.

    Attributes
    ----------
    games : int
        Half of them with the image, or patient, inside.
    auc, tpr : float
        Area under the curve, and true positive rate at a false positive rate of 1 %.
    """

    games: int
    auc: float
    tpr: float


class Bounds(_Model):
    """What the worst case's games prove, all together at `confidence`; see `audit_bounds`."""

    confidence: float
    epsilon: float
    epsilon_gaussian: float
    mu: float


class Limits(_Model):
    """What the declared privacy permits at most: no attacker does better."""

    mu: float
    auc: float
    tpr: float


class Asked(_Model):
    """What the release gate answered to the same request.

    Attributes
    ----------
    times, different : int
        How often the same was asked of one state, and how many answers differed, at most.
    states : int
        Fresh states that were asked.
    noise : float
        Standard deviation of what was added, over the declared one.
    noise_least, noise_most : float
        Between these the noise, over all counts, is taken for the declared one.
    wrong : str
        What is wrong with the noise or with what is counted; see `audit_gate`.
    """

    times: int
    different: int
    states: int
    noise: float
    noise_least: float
    noise_most: float
    wrong: str


class Population(_Model):
    """What the release tells of the site as a whole; class figures need two classes.

    Attributes
    ----------
    shares_error, shares_trivial : float or None
        Mean absolute error of estimated class shares, and of guessing that all are equal.
    rare_auc : float or None
        Of telling whether 5 % of the images are of one more class.
    rebuilt_auc : float
        That a counted image fits the release better than another image of the same site.
    rebuilt_first, rebuilt_chance : float
        How often the best fitting image is a counted one, and how often by guessing.
    """

    shares_error: float | None
    shares_trivial: float | None
    rare_auc: float | None
    rebuilt_auc: float
    rebuilt_first: float
    rebuilt_chance: float


class AuditResult(_Model):
    """The audit of what a site would release.

    Attributes
    ----------
    spec, spec_digest, data_digest : str
        What was audited: spec, and the site's images.
    privacy : Privacy
        Declared terms.
    cap : int
        Images of one patient that are counted; 0 for all.
    unit : str
        What one game is about: ``image`` or ``patient``.
    images, units : int
        How many are counted.
    findings : list of str
        What is worse than declared; empty where the audit is passed.
    """

    site: str
    spec: str
    spec_digest: Sha256Hex
    data_digest: Sha256Hex
    time: AwareDatetime
    seed: int
    privacy: Privacy
    cap: int
    unit: Literal["image", "patient"]
    images: int
    units: int
    realistic: Attacker
    worst: Attacker
    bounds: Bounds
    limits: Limits | None
    asked: Asked | None
    population: Population
    findings: list[str]

    def require_passed(self) -> None:
        """Check that nothing is worse than declared.

        Raises
        ------
        AuditFailed
            Otherwise.
        """
        if self.findings:
            raise AuditFailed(
                f"audit of {self.site} failed: {'; '.join(self.findings)}: release nothing until "
                "this is mended"
            )


def audit_file(state: Path, spec: Spec, mode: Mode) -> Path:
    """Return where a site keeps its latest audit of a spec."""
    return state / "audit" / f"{spec.digest[:32]}-{mode}.json"


def keep(result: AuditResult, state: Path, spec: Spec) -> Path:
    """Write an audit into the state folder, instead of an earlier one."""
    path = audit_file(state, spec, result.privacy.mode)
    atomic_json(path, result)
    return path


def kept(state: Path, spec: Spec, mode: Mode | None = None) -> AuditResult | None:
    """Return the latest audit of a spec, of any mode if none is given.

    A damaged or unfitting file counts as absent.
    """
    found = [_read(audit_file(state, spec, m)) for m in ([mode] if mode else _MODES)]
    fitting = [result for result in found if result and result.spec_digest == spec.digest]
    return max(fitting, key=lambda result: result.time, default=None)


_MODES: tuple[Mode, ...] = ("plain", "private")


def _read(path: Path) -> AuditResult | None:
    try:
        return AuditResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
