"""One ranking for a group out of what each of its sites was advised.

A group trains one model, so it can take one suggestion at a time. What several sites expect much
of comes first; a site's word is the standing that was predicted for it, which is in units of the
spread of what is tried there and may therefore be averaged over sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Joint", "Ranked", "joint_ranking"]


class Ranked(NamedTuple):
    """One suggestion to one site.

    Parameters
    ----------
    knowledge
        What is equal for equal knowledge, see `strategies.measurements.knowledge_id`.
    standing
        What the site may expect of it, see `strategies.standing`; None where it was suggested by
        distance alone.
    """

    knowledge: str
    standing: float | None


class Joint(NamedTuple):
    """One suggestion to a group.

    Parameters
    ----------
    knowledge
        As in `Ranked`.
    standing
        Mean over the sites that have outcomes to go by; None where none has.
    place
        Mean of its places in the sites' lists, 1 is the first.
    sites
        To how many sites it was suggested.
    """

    knowledge: str
    standing: float | None
    place: float
    sites: int


def joint_ranking(lists: Sequence[Sequence[Ranked]]) -> list[Joint]:
    """Return every suggestion once, best first.

    The mean standing decides, then the mean place, then the id. A site that was not suggested
    something is taken to expect of it what it expects of its least suggestion, and to have it one
    place behind its last. Sites that were advised by distance alone have no standings and count by
    their places.

    Parameters
    ----------
    lists
        One a site, in rank order; no suggestion twice in a list.
    """
    names = sorted({each.knowledge for ranked in lists for each in ranked})
    filled = [ranked for ranked in lists if ranked]
    learnt = [r for r in filled if all(each.standing is not None for each in r)]
    found = []
    for name in names:
        standings = [_standing(ranked, name) for ranked in learnt]
        places = [_place(ranked, name) for ranked in filled]
        found.append(
            Joint(
                name,
                float(np.mean(standings)) if standings else None,
                float(np.mean(places)),
                sum(name in (each.knowledge for each in ranked) for ranked in filled),
            )
        )
    return sorted(found, key=lambda each: (-(each.standing or 0.0), each.place, each.knowledge))


def _standing(ranked: Sequence[Ranked], name: str) -> float:
    said = {each.knowledge: each.standing for each in ranked if each.standing is not None}
    return said.get(name, min(said.values()))


def _place(ranked: Sequence[Ranked], name: str) -> int:
    names = [each.knowledge for each in ranked]
    return 1 + (names.index(name) if name in names else len(names))
