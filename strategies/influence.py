"""How much each site changes what is found about the others."""

from collections.abc import Callable, Sequence

from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.grouping import Grouping

__all__ = ["agreement", "influence"]

GroupFunction = Callable[[Sequence[Fingerprint], Spec], Grouping]


def influence(
    fingerprints: Sequence[Fingerprint], spec: Spec, group_fn: GroupFunction
) -> dict[str, float]:
    """Group the others with and without each site, and compare.

    Parameters
    ----------
    fingerprints
        One a site.
    spec
        What they were made by.
    group_fn
        Groups fingerprints, for example `strategies.grouping.group`; called once more than there
        are sites.

    Returns
    -------
    dict of float
        By site: 1 less the adjusted Rand index (Hubert & Arabie 1985) of the others' groups with
        and without it. 0: nobody else's group depends on it; about 1: their groups have nothing to
        do with each other.
    """
    whole = members(group_fn(fingerprints, spec))
    result = {}
    for left_out in fingerprints:
        others = [f for f in fingerprints if f.site != left_out.site]
        without = members(group_fn(others, spec)) if others else {}
        result[left_out.site] = 1.0 - agreement(whole, without)
    return result


def members(grouping: Grouping) -> dict[str, str]:
    """Return the name of each site's group."""
    return {site: group.name for group in grouping.groups for site in group.sites}


def agreement(first: dict[str, str], second: dict[str, str]) -> float:
    """Return the adjusted Rand index of two groupings, over the sites that both hold.

    Parameters
    ----------
    first, second
        Group by site. With fewer than two sites in common they agree.
    """
    from sklearn.metrics import adjusted_rand_score  # slow to import, and rarely needed

    common = sorted(first.keys() & second.keys())
    if len(common) < 2:
        return 1.0
    return float(adjusted_rand_score([first[s] for s in common], [second[s] for s in common]))
