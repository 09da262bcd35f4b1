"""Why a site is in its group: a sentence, a margin, its neighbours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.partners import Partner

__all__ = ["CERTAIN", "Explanation", "Neighbour", "explain"]

FloatArray = NDArray[np.float64]

CERTAIN = 0.9
"""From this confidence on a group is certain: nine of ten such sites had just their true mates."""


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
    certain
        Whether the group is beyond doubt; None if nobody looked.
    confidence
        How sure the group is, from 0 to 1: about the overlap with the true one to expect. None if
        nobody looked.
    """

    reason: str
    margin: float
    stability: float | None
    nearest: list[Neighbour]
    partners: list[Partner]
    certain: bool | None = None
    confidence: float | None = None


def explain(
    squared: FloatArray,
    groups: Sequence[Sequence[int]],
    names: Sequence[str],
    cut: float,
    stability: Sequence[float] | None,
    partners: Mapping[str, list[Partner]],
    count: int = 3,
    confidence: Sequence[float] | None = None,
    notes: Sequence[str] | None = None,
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
    confidence
        How sure the group of each site is, or None.
    notes
        One more sentence a site, empty for nothing, where groups were weighed by evidence; None
        where they were cut by distance.

    Returns
    -------
    dict of str to Explanation
        By site, sorted by name.
    """
    home = {i: n for n, g in enumerate(groups) for i in g}
    members = [sorted(g) for g in groups]
    labels = [sorted(names[j] for j in g) for g in groups]
    means = [squared[:, g].mean(axis=1) for g in members]  # [groups][k]
    by_name = np.argsort(np.argsort(np.array(names, dtype=object), kind="stable"))  # [k] ranks
    out: dict[str, Explanation] = {}
    for i in sorted(range(len(names)), key=lambda i: names[i]):
        mates = set(groups[home[i]]) - {i}
        own = _mean(squared, i, mates)
        # means, and names where means are equal, so that the wording is the same on every run
        following = min(
            (
                (_distance(float(means[n][i])), labels[n])
                for n in range(len(groups))
                if n != home[i]
            ),
            default=None,
        )
        order = [j for j in np.lexsort((by_name, squared[i]))[: count + 1] if j != i][:count]
        near = [Neighbour(names[j], _distance(float(squared[i, j])), j in mates) for j in order]
        sure = None if confidence is None else float(confidence[i])
        reason = _reason(near, own, len(mates), following, cut, weighed=notes is not None)
        out[names[i]] = Explanation(
            reason=" ".join(filter(None, [reason, notes[i] if notes else "", _doubt(sure)])),
            margin=_margin(own if mates else cut, following[0] if following else cut),
            stability=None if stability is None else float(stability[i]),
            nearest=near,
            partners=list(partners.get(names[i], [])),
            certain=None if sure is None else sure >= CERTAIN,
            confidence=sure,
        )
    return out


def _doubt(confidence: float | None) -> str:
    if confidence is None or confidence >= CERTAIN:
        return ""
    shown = math.floor(100 * confidence) / 100  # never rounded up to what would be certain
    return f"Not certain: confidence {shown:.2f}, so look at the data before relying on it."


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
    weighed: bool,
) -> str:
    if not near:
        return "The only site: there is nobody to group it with."
    decided = "all sites together or sizes decided" if weighed else "sizes of groups decided"
    if mates:
        close = [n.site for n in near if n.same_group]
        first = (
            f"Nearest: {', '.join(close)}. "
            if close
            else f"Nearest is {near[0].site} of another group; {decided}. "
        )
        first += f"Distance {own:.3f} to its group"
    elif weighed:
        first = "Alone: no group is like it, noise and number of images considered"
    else:
        first = f"Alone: nobody within the cut at {cut:.3f}"
        if near[0].distance <= cut:
            first = f"Alone, though {near[0].site} is within the cut at {cut:.3f}: its group is not"
    if following is None:
        return f"{first}; there is no other group."
    label = following[1][0] + (f" and {len(following[1]) - 1} more" if following[1][1:] else "")
    return f"{first}, {following[0]:.3f} to the next group ({label})."
