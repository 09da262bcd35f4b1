"""Why a site is in its group: a sentence, a margin, its neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.partners import Partner

__all__ = ["Explanation", "Neighbour", "explain"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbour:
    """Another site, its squared distance, and whether it is in the same group."""

    site: str
    distance: float
    same_group: bool


@dataclass(frozen=True)
class Explanation:
    """Why a site is in its group.

    Parameters
    ----------
    reason
        One or two sentences for people.
    margin
        ``(next - own) / max(next, own)``, from -1 to 1 as a silhouette: own is the mean distance
        to the site's group, next that to the nearest other group. Where one of the two does not
        exist, the cut stands for it. Near 0 the site lies between groups.
    stability
        Mean overlap (Jaccard index) of the site's group with its groups when the histograms are
        resampled; 1 is always the same group-mates. None if not computed.
    nearest
        The nearest sites, nearest first.
    partners
        Directed co-training partners, nearest first.
    """

    reason: str
    margin: float
    stability: float | None
    nearest: list[Neighbour]
    partners: list[Partner]


def explain(
    squared: FloatArray,
    groups: Sequence[Sequence[int]],
    names: Sequence[str],
    cut: float,
    stability: Sequence[float] | None,
    partners: Mapping[str, list[Partner]],
    count: int = 3,
) -> dict[str, Explanation]:
    """Explain every site's place.

    Parameters
    ----------
    squared
        Squared distances, shape ``[k, k]``.
    groups
        Groups of indices.
    names
        Names of the k sites.
    cut
        Squared distance at which groups end.
    stability
        By site, or None.
    partners
        Co-training partners by name.
    count
        Number of nearest sites to name.

    Returns
    -------
    dict of str to Explanation
        By site, sorted by name.
    """
    home = {i: g for g in groups for i in g}
    out: dict[str, Explanation] = {}
    for i in sorted(range(len(names)), key=lambda i: names[i]):
        mates = set(home[i]) - {i}
        own = _mean(squared, i, mates)
        # means, and names where means are equal, so that the wording is the same on every run
        others = sorted(
            (_mean(squared, i, set(g)), sorted(names[j] for j in g)) for g in groups if i not in g
        )
        order = sorted(set(range(len(names))) - {i}, key=lambda j: (squared[i, j], names[j]))
        near = [
            Neighbour(names[j], _distance(float(squared[i, j])), j in mates) for j in order[:count]
        ]
        following = others[0] if others else None
        out[names[i]] = Explanation(
            reason=_reason(near, own, len(mates), following, cut),
            margin=_margin(own if mates else cut, following[0] if following else cut),
            stability=None if stability is None else float(stability[i]),
            nearest=near,
            partners=list(partners.get(names[i], [])),
        )
    return out


def _distance(value: float) -> float:
    return max(float(value), 0.0)  # below 0 is sampling noise around 0


def _mean(squared: FloatArray, i: int, members: set[int]) -> float:
    return _distance(float(np.mean(squared[i, sorted(members)]))) if members else 0.0


def _margin(own: float, following: float) -> float:
    widest = max(own, following)
    return (following - own) / widest if widest > 0 else 0.0


def _reason(
    near: Sequence[Neighbour],
    own: float,
    mates: int,
    following: tuple[float, list[str]] | None,
    cut: float,
) -> str:
    if not near:
        return "The only site: there is nobody to group it with."
    if mates:
        close = [n.site for n in near if n.same_group]
        first = (
            f"Nearest: {', '.join(close)}. "
            if close
            else f"Nearest is {near[0].site} of another group; sizes of groups decided. "
        )
        first += f"Distance {own:.3f} to its group"
    else:
        first = f"Alone: nobody within the cut at {cut:.3f}"
        if near[0].distance <= cut:
            first = f"Alone, though {near[0].site} is within the cut at {cut:.3f}: its group is not"
    if following is None:
        return f"{first}; there is no other group."
    label = following[1][0] + (f" and {len(following[1]) - 1} more" if following[1][1:] else "")
    return f"{first}, {following[0]:.3f} to the next group ({label})."
