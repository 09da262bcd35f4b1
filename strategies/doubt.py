"""How sure groups are, when what is known of noise and sampling is taken at its word."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from strategies.alike import Level, leaves
from strategies.mixture import GROUP, Mixture
from strategies.noise import Coordinates
from strategies.search import Fit, fit, placement
from strategies.stability import together

__all__ = ["notes", "noticed", "placed", "redrawn", "sureness"]

FloatArray = NDArray[np.float64]

_FAR = 0.5  # how far tasks commonly lie apart, as a share of the spread of images


def sureness(
    levels: Sequence[Level], features: int, kin: float, draws: int, seed: int
) -> tuple[list[float] | None, list[float]]:
    """Return how steady each site's group is when redrawn, and how sure it is in all.

    Parameters
    ----------
    levels
        How the groups were found.
    features, kin
        Number of features, and what sites of one group may differ by.
    draws, seed
        Number of redrawings, 0 for none, and their seed.

    Returns
    -------
    stability, confidence
        Length k; the stability is None without redrawings. The confidence is the least of the
        stability, of the probability of the site's group given all others, at any level, of
        `noticed`, and of the share of its group that was noticed: on pools with a known truth the
        true overlap was about that.
    """
    k = len(levels[0].members)
    seen = noticed(levels[0].found.sites)
    steady, sure = np.ones(k), seen.copy()
    for group in leaves(levels):  # who was put in it for want of anything to see may not belong
        mates = (1.0 + seen[group].sum() - seen[group]) / len(group)
        sure[group] = np.minimum(sure[group], mates)
    for level in levels:
        sure[level.members] = np.minimum(sure[level.members], placed(level.found))
        if draws:
            again = redrawn(level, features, kin, draws, seed)
            steady[level.members] = np.minimum(steady[level.members], again)
    if not draws:
        return None, sure.tolist()
    return steady.tolist(), np.minimum(steady, sure).tolist()


def noticed(sites: Mixture) -> FloatArray:
    r"""Return whether each site would have been told from those of another task at all.

    Where noise hides everything all sites look the same, and redrawing them does not show it. A
    site of precision A from a centre of its own at variance t adds
    :math:`\tfrac12 \sum_d (t A - \log(1 + t A))` to the evidence on average, less what one more
    group costs.

    Parameters
    ----------
    sites
        The k sites.

    Returns
    -------
    numpy.ndarray
        Shape ``[k]``: 1 less the odds against another group, between 0 and 1.
    """
    clear = _FAR * sites.scale * sites.precision  # [k, D]
    gain = sites.temper * 0.5 * (clear - np.log1p(clear)).sum(axis=1) + GROUP
    return np.asarray(1.0 - np.exp(-np.maximum(gain, 0.0)))


def placed(found: Fit) -> FloatArray:
    """Return the probability of each site's group, given the groups of all others.

    Parameters
    ----------
    found
        The groups of k sites.

    Returns
    -------
    numpy.ndarray
        Shape ``[k]``, between 0 and 1.
    """
    label = found.label
    chance = np.empty(len(label))
    for site, own in enumerate(label):
        gains = placement(found.sites, label, site, found.strength)
        alone = np.count_nonzero(label == own) == 1
        if alone:  # its own group is empty without it: the same as a new one
            gains[own] = -np.inf
        chance[site] = softmax(gains)[-1 if alone else own]
    return chance


def redrawn(level: Level, features: int, kin: float, draws: int, seed: int) -> FloatArray:
    """Mean overlap of each site's group with its group in redrawn fingerprints.

    The sites are drawn anew from the mixture: centres from what is believed of them, sites around
    them with all their noise and sampling. Nothing but the released counts is needed for it.

    Parameters
    ----------
    level
        The groups of k sites.
    features, kin
        Number of features, and what sites of one group may differ by.
    draws, seed
        Number of redrawings and their seed.

    Returns
    -------
    numpy.ndarray
        Jaccard index of the members, mean over the draws; shape ``[k]``.
    """
    rng = np.random.default_rng(seed)
    found, sites = level.found, level.found.sites
    prior = found.strength * sites.scale  # [D]
    precision = np.stack([sites.precision[g].sum(axis=0) for g in found.groups])  # [G, D]
    weighted = np.stack([sites.weighted[g].sum(axis=0) for g in found.groups])
    spread = prior / (1.0 + prior * precision)  # [G, D] variance of what is believed of a centre
    label = found.label
    member = together(found.groups, len(label))  # [k, k]
    total = np.zeros(len(label))
    for _ in range(draws):
        centres = spread * weighted + np.sqrt(spread) * rng.normal(size=spread.shape)
        noise = rng.normal(size=sites.precision.shape) / np.sqrt(sites.precision)  # [k, D]
        again = Coordinates(centres[label] + noise, level.points.variance, level.points.scale)
        now = together(fit(again, features, kin, (found.strength,)).groups, len(label))
        total += (member & now).sum(axis=1) / (member | now).sum(axis=1)
    return total / draws


def notes(
    groups: Sequence[Sequence[int]],
    other: Sequence[Sequence[int]],
    names: Sequence[str],
    truth: str,
) -> list[str]:
    """Say for each site what the other way of grouping would have done with its group.

    Parameters
    ----------
    groups, other
        Groups of indices, and those by the other truth.
    names
        Names of the k sites.
    truth
        ``"task"`` or ``"data"``: what the groups have in common.

    Returns
    -------
    list of str
        A sentence a site, or nothing.
    """
    here, there = (together(list(map(list, g)), len(names)) for g in (groups, other))  # [k, k]
    if truth == "data":
        told = ~here & there
        text = "It seems to share its task with {}, but to hold other classes or kinds of images."
    else:
        told = here & ~there
        text = (
            "It shares its task with {}, but beyond chance holds other classes or kinds of images."
        )
    return [text.format(_list(names, row)) if row.any() else "" for row in told]


def _list(names: Sequence[str], chosen: NDArray[np.bool_]) -> str:
    few = sorted(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen)
    return few[0] if len(few) == 1 else f"{few[0]} and {len(few) - 1} more"
