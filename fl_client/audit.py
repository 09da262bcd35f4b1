"""The audit of a release before it leaves: attacks on the site's own pipeline, and what they prove.

An audit fails when an attack wins more often than the declared privacy permits any attack to. All
that can fail does so by chance with a probability of `FALSE_ALARM` at most, by design:
`NOISE_ALARM` of it is spent on the noise that the gate adds, the rest on the bounds of the worst
case's games.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_client import audit_bounds as bounds
from fl_client import audit_population as whole
from fl_client.audit_gate import NOISE_ALARM, ask
from fl_client.audit_mechanism import Mechanism
from fl_client.audit_membership import (
    Features,
    People,
    Scores,
    population,
    realistic,
    worst_case,
)
from fl_client.audit_result import Asked, Attacker, AuditResult, Bounds, Limits, Population
from fl_client.data_digest import known_digest
from fl_client.features import one_view
from fl_client.progress import show_progress
from fl_client.site import Site
from protocol.errors import ConfigError, DataError
from protocol.privacy import DELTA
from protocol.spec import Spec
from protocol.statement import Privacy, utc_now
from protocol.taskcard import ONE_CLASS

FALSE_ALARM = 1e-3
GAMES = 100_000
FPR = 0.01
FEWEST = 10  # images, or patients, without which there is nothing to play with
MOST_VALUES = 20_000_000  # that are noised in the worst case's games; OpenDP draws 100,000 a second
_STEPS = 5
Step = Callable[[int], None]


class Counted(NamedTuple):
    """A site's counted images: features [n, M], patients [n] numbered from 0, labels [n].

    Of a multi-label task all images with the same labels are as if of one class.
    """

    features: Features
    units: NDArray[np.int64]
    labels: NDArray[np.int64]


def counted_images(site: Site, features: Features, cap: int) -> Counted:
    """Choose the images that a release counts, all of them where `cap` is 0.

    Parameters
    ----------
    site : Site
        Whose images.
    features : ndarray of float32, shape [images, M]
        Of all its images, in their order.
    cap : int
        At most so many of each patient.

    Raises
    ------
    DataError
        If there are too few to play with.
    """
    from fl_client.contribution import counted

    chosen = np.array(counted(site, cap) if cap else range(len(site.images)))
    return Counted(features[chosen], _units(site, chosen.tolist()), _kinds(site)[chosen])


def counted_regions(site: Site, spec: Spec, features: Features, cap: int) -> Counted:
    """Choose the regions that a release counts, all of them where `cap` is 0; see `counted_images`.

    `features` [regions, M] are those of `fl_client.regions.regions_of`, in its order.
    """
    from fl_client.regions import choose, regions_of

    regions = regions_of(site, spec)
    place = {region: number for number, region in enumerate(regions)}
    chosen = choose(site, regions, cap) if cap else regions
    units = _units(site, [image for image, _ in chosen])
    labels = np.array([label for _, label in chosen], dtype=np.int64)
    return Counted(features[[place[region] for region in chosen]], units, labels)


def _units(site: Site, images: Sequence[int]) -> NDArray[np.int64]:
    """Number whose images these are, int64 [n]; without subject ids each is its own.

    Raises
    ------
    DataError
        If they are too few to play with.
    """
    subjects = [site.images[i].subject if site.has_subjects else str(i) for i in images]
    units = np.unique(subjects, return_inverse=True)[1].astype(np.int64)
    if (number := len(np.unique(units))) < FEWEST:
        raise DataError(
            f"site {site.name} has {number} patients (or images): an audit needs at least {FEWEST}"
        )
    return units


def _kinds(site: Site) -> NDArray[np.int64]:
    """Return which images are of one kind, int64 [n]: those that show the same classes."""
    if site.card.objective in ONE_CLASS:
        return site.labels
    return np.unique(site.targets, axis=0, return_inverse=True)[1].astype(np.int64)


def audit(
    site: Site,
    spec: Spec,
    mechanism: Mechanism,
    counted: Counted,
    privacy: Privacy,
    *,
    cap: int = 1,
    games: int = GAMES,
    seed: int = 0,
    progress: bool = False,
) -> AuditResult:
    """Attack a release with every attack.

    Parameters
    ----------
    site, spec
        Whose release of what.
    mechanism : Mechanism
        How the site makes releases.
    counted : Counted
        The images that it counts.
    privacy : Privacy
        Declared terms; in mode plain nothing is declared and nothing can fail.
    cap : int
        Images of one patient that are counted, 0 for all.
    games : int
        Of the worst-case attacker, fewer where `MOST_VALUES` would be passed; the realistic one
        plays a fifth.
    seed : int
        Of the games. The noise has none.
    progress : bool
        Show how far it is.

    Raises
    ------
    ConfigError
        If the spec counts anything but one centre view of each image.
    """
    if not one_view(spec):
        raise ConfigError(
            f"spec {spec.name} counts other views than one centre view of each image: an audit "
            "needs one like lite0-private or lite0-100"
        )
    sigma, rng = privacy.sigma or 0.0, np.random.default_rng(seed)
    if sigma:
        games = min(games, MOST_VALUES // (2 * spec.width))
    with show_progress("auditing", _STEPS, "attacks") if progress else nullcontext() as advance:
        step = advance or _quietly
        asked = _ask(mechanism, counted, sigma, rng.spawn(1)[0]) if sigma else None
        step(1)
        answers = asked.different if asked else 1
        people = population(mechanism, spec, counted.features, counted.units, counted.labels)
        others = counted.features[counted.units != 0]
        worst = worst_case(mechanism, spec, others, max(1, cap), games, answers, rng)
        step(1)
        real = realistic(mechanism, people, sigma, max(100, games // 5), answers, rng)
        step(1)
        alpha, delta = FALSE_ALARM - NOISE_ALARM, privacy.delta or DELTA
        proved = bounds.certify(*worst, delta=delta, alpha=alpha)
        told = _population(mechanism, people, sigma, rng, step)
    limits = _limits(privacy)
    return AuditResult(
        site=site.name,
        spec=spec.name,
        spec_digest=spec.digest,
        data_digest=known_digest(site),
        time=utc_now(),
        seed=seed,
        privacy=privacy,
        cap=cap,
        unit="patient" if site.has_subjects else "image",
        images=len(counted.units),
        units=len(np.unique(counted.units)),
        realistic=_attacker(real),
        worst=_attacker(worst),
        bounds=Bounds(confidence=1 - FALSE_ALARM, **proved._asdict()),
        limits=limits,
        asked=asked,
        population=told,
        findings=_findings(privacy, proved, limits, asked, counted, cap),
    )


def _quietly(_: int) -> None:
    """Show nothing."""


def _ask(mechanism: Mechanism, counted: Counted, sigma: float, rng: np.random.Generator) -> Asked:
    return ask(mechanism, mechanism.counts(counted.features), len(counted.units), sigma, rng)


def _population(
    mechanism: Mechanism, people: People, sigma: float, rng: np.random.Generator, step: Step
) -> Population:
    classes = whole.split_classes(people, rng)
    shares = whole.class_shares(mechanism, classes, rng) if classes else None
    rare = whole.rare_subgroup(mechanism, classes, sigma, rng) if classes else None
    step(1)
    rebuilt = whole.rebuild(mechanism, people, rng)
    step(1)
    return Population(
        shares_error=shares.error if shares else None,
        shares_trivial=shares.trivial if shares else None,
        rare_auc=rare,
        rebuilt_auc=rebuilt.auc,
        rebuilt_first=rebuilt.first,
        rebuilt_chance=rebuilt.chance,
    )


def _attacker(scores: Scores) -> Attacker:
    return Attacker(
        games=len(scores.inside) + len(scores.outside),
        auc=bounds.auc(*scores),
        tpr=bounds.tpr_at(*scores, FPR),
    )


def _limits(privacy: Privacy) -> Limits | None:
    if privacy.rho is None:
        return None
    mu = bounds.declared_mu(privacy.rho)
    return Limits(mu=mu, auc=bounds.gaussian_auc(mu), tpr=bounds.gaussian_tpr(mu, FPR))


def _findings(
    privacy: Privacy,
    proved: bounds.Certificate,
    limits: Limits | None,
    asked: Asked | None,
    counted: Counted,
    cap: int,
) -> list[str]:
    """Say what is worse than declared."""
    if limits is None or asked is None or privacy.epsilon is None:
        return []
    most = int(np.bincount(counted.units).max())
    found = {
        f"epsilon is at least {proved.epsilon:.2f}, declared is {privacy.epsilon:.2f}": (
            proved.epsilon > privacy.epsilon
        ),
        f"mu is at least {proved.mu:.3f}, declared is {limits.mu:.3f}": proved.mu > limits.mu,
        f"the same request was answered in {asked.different} ways, and averaging them takes the "
        "noise away": asked.different > 1,
        asked.wrong: bool(asked.wrong),
        f"{most} images of one patient are counted, declared are {cap}": most > cap,
    }
    return [text for text, wrong in found.items() if wrong]
