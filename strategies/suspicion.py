"""Fingerprints that a member cannot have made honestly, or hardly so.

Signatures say who sent a release, not that it is true. Here the counts themselves are questioned:
whether their noise is the declared one, whether two sites released the same, and whether images
could have given such counts at all. The three tests with a null distribution share a level of
`LEVEL` over the whole pool, so of a hundred pools of honest sites at most one gets any of those
findings. The looks at the backbone's range have no such law; their limits were measured on real
tasks, see `strategies.plausible`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.copies import shared_noise, shared_sample
from strategies.declared_noise import impossible_counts, too_little_noise, too_much_noise
from strategies.excess import Overlap, overlap
from strategies.measures import require_one_spec
from strategies.plausible import counted_below, far_from_all, smooth, spread_of

__all__ = ["CERTAIN", "LEVEL", "Suspicion", "suspicions"]

LEVEL = 0.01
"""Chance that a pool of honest sites gets any finding of the tests with a null distribution."""

CERTAIN = 1e-6
"""Below this chance over the whole pool, nobody needs to ask whether it was chance."""

_FAMILIES = 4  # noise too low, noise too high, impossible counts, duplicates
_SMOOTH = 0.5  # honest counts scatter by 0.97 to 1.09 of what sampling causes
_ALIKE = 0.02  # spread; images of one class of one real data set have 0.045 or more
_WIDE = 0.95  # of the spread of evenly filled bins; real tasks have up to 0.71
_FAR = 1.5  # distance to the nearest other site; the only site of a real task has up to 1.49
_HUGE = 100  # times the images of the median site; hospitals of one pool commonly differ by ten
_ERRORS = 3  # standard errors beyond a limit of the spread


@dataclass(frozen=True)
class Suspicion:
    """What speaks against a fingerprint.

    Parameters
    ----------
    site
        Whose fingerprint.
    kind
        ``"noise"``, ``"impossible"``, ``"duplicate"``, ``"smooth"``, ``"spread"``, ``"far"`` or
        ``"size"``.
    message
        One sentence for the coordinator.
    certain
        Whether chance is ruled out. Otherwise ask the site before anything else is done.
    """

    site: str
    kind: str
    message: str
    certain: bool


def suspicions(
    fingerprints: Sequence[Fingerprint], spec: Spec, found: Overlap | None = None
) -> list[Suspicion]:
    """Look for fingerprints that are not what they claim.

    Parameters
    ----------
    fingerprints
        All of the pool, one a site, made by the spec. Names play no part.
    spec
        What they were made by.
    found
        Of their `strategies.plausible.counted_below`, where that is at hand.

    Returns
    -------
    list of Suspicion
        By site and kind, at most one of each; empty where nothing speaks against anybody.

    Raises
    ------
    SpecMismatch
        If a fingerprint was made by another spec.
    """
    if not fingerprints:
        return []
    require_one_spec(fingerprints, spec)
    found = found or overlap(counted_below(fingerprints))
    looks: Sequence[Callable[[Sequence[Fingerprint], Spec], Iterator[Suspicion]]] = (
        _noise,
        _impossible,
        partial(_duplicates, found=found),
        _smooth,
        partial(_spread, found=found),
        partial(_far, found=found),
        _size,
    )
    worst: dict[tuple[str, str], Suspicion] = {}
    everything = (suspicion for look in looks for suspicion in look(fingerprints, spec))
    for suspicion in sorted(everything, key=lambda s: (not s.certain, s.message)):
        worst.setdefault((suspicion.site, suspicion.kind), suspicion)
    return [worst[key] for key in sorted(worst)]


def _noise(fingerprints: Sequence[Fingerprint], spec: Spec) -> Iterator[Suspicion]:
    """Compare the noise that can be seen with the declared one."""
    noised = [f for f in fingerprints if f.sigma > 0]
    for f in noised:
        low, high = too_little_noise(f), too_much_noise(f)
        for chance, what in (
            (low, "less noise than it declares: it protects less than it says, or was made up"),
            (high, "more noise than it declares: it was changed after the noise was drawn"),
        ):
            chance = _over_pool(chance, len(noised))
            if chance < LEVEL:
                yield Suspicion(
                    f.site,
                    "noise",
                    f"the release of {f.site} holds {what} (declared: {f.sigma:.3g} counts)",
                    chance < CERTAIN,
                )


def _impossible(fingerprints: Sequence[Fingerprint], spec: Spec) -> Iterator[Suspicion]:
    """Look for counts that no images could have given."""
    for f in fingerprints:
        chance = _over_pool(impossible_counts(f, spec.sampling.draws), len(fingerprints))
        if chance < LEVEL:
            yield Suspicion(
                f.site,
                "impossible",
                f"the counts of {f.site} cannot come from {f.n_images} images, whatever they show: "
                "they were made up or damaged",
                chance < CERTAIN,
            )


def _duplicates(
    fingerprints: Sequence[Fingerprint], spec: Spec, found: Overlap
) -> Iterator[Suspicion]:
    """Look for two sites that released the same noise, or the same images."""
    pairs = len(fingerprints) * (len(fingerprints) - 1) // 2
    # the rows of a plain one add up to n and those of a noised one do not: none copied the other
    indices = [i for i, f in enumerate(fingerprints) if f.sigma == 0]
    plain = [fingerprints[i] for i in indices]
    noised = [f for f in fingerprints if f.sigma > 0]
    if len(plain) > 1:
        chances = shared_sample(plain, spec.sampling.draws, found.among(indices))
        yield from _copies(plain, chances, pairs, "counts of the same images")
    if len(noised) > 1:
        yield from _copies(noised, shared_noise(noised), pairs, "the same noise")


def _copies(
    fingerprints: Sequence[Fingerprint], chances: NDArray[np.float64], pairs: int, what: str
) -> Iterator[Suspicion]:
    """Name both sites of every pair that chance ``[k, k]`` does not explain."""
    for i, j in np.argwhere(np.triu(chances * max(pairs, 1) * _FAMILIES < LEVEL, 1)):
        chance = _over_pool(float(chances[i, j]), pairs)
        for site, other in (
            (fingerprints[i].site, fingerprints[j].site),
            (fingerprints[j].site, fingerprints[i].site),
        ):
            yield Suspicion(
                site,
                "duplicate",
                f"{site} and {other} released {what}: one copied the other, or both hold the same "
                "data; keep one of them",
                chance < CERTAIN,
            )


def _smooth(fingerprints: Sequence[Fingerprint], spec: Spec) -> Iterator[Suspicion]:
    for f in fingerprints:
        if f.sigma == 0 and smooth(f) < _SMOOTH:
            yield Suspicion(
                f.site,
                "smooth",
                f"the counts of {f.site} are smoother than any {f.n_images} images give: they look "
                "computed, not counted",
                False,
            )


def _spread(fingerprints: Sequence[Fingerprint], spec: Spec, found: Overlap) -> Iterator[Suspicion]:
    even = (spec.bins + 1) / (3 * spec.bins)  # the spread where every bin holds as many
    for f, plain in zip(fingerprints, found.spread, strict=True):
        value, error = spread_of(f) if f.sigma > 0 else (float(plain), 0.0)
        if value + _ERRORS * error < _ALIKE:
            yield Suspicion(
                f.site,
                "spread",
                f"the images of {f.site} give nearly one and the same features: is it one image "
                "over and over, or an empty one?",
                False,
            )
        if value - _ERRORS * error > _WIDE * even:
            yield Suspicion(
                f.site,
                "spread",
                f"the features of {f.site} scatter wider than those of any real task over the "
                "range of the public images: they look made up",
                False,
            )


def _far(fingerprints: Sequence[Fingerprint], spec: Spec, found: Overlap) -> Iterator[Suspicion]:
    for site, (value, error) in far_from_all(fingerprints, found).items():
        if value - error > _FAR:
            yield Suspicion(
                site,
                "far",
                f"{site} is far from every other site: a task of another kind, or no real images; "
                "look at its card and ask the site",
                False,
            )


def _size(fingerprints: Sequence[Fingerprint], spec: Spec) -> Iterator[Suspicion]:
    """Look for numbers of images that nobody can check and that would weigh down the pool."""
    median = float(np.median([f.n_images for f in fingerprints]))
    for f in fingerprints:
        if f.n_images > _HUGE * max(median, 1.0):
            yield Suspicion(
                f.site,
                "size",
                f"{f.site} states {f.n_images} images, more than {_HUGE} times the median of the "
                f"pool ({median:.0f}): ask the site whether it has them",
                False,
            )


def _over_pool(chance: float, tests: int) -> float:
    """Correct a chance for all tests of the pool (Bonferroni)."""
    return min(1.0, chance * max(tests, 1) * _FAMILIES)
