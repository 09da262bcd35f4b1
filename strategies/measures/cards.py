"""Measures on task cards: what people say of their tasks, no image looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import nan

import numpy as np

from protocol.taskcard import TaskCard
from strategies.measures.base import FloatArray, Measure, Task, register
from strategies.measures.needs import cards_of

CLASS_BANDS = (2, 5, 10, 30)
"""Tasks of up to so many classes are alike in their number."""


def words(card: TaskCard) -> frozenset[str]:
    """Return the words of a card's keywords, modality and anatomy, in lower case."""
    said = " ".join([*card.keywords, card.modality, card.anatomy])
    return frozenset(re.findall(r"\w+", said.casefold()))


def unlike(source: frozenset[str], target: frozenset[str]) -> float:
    """Return 1 less the intersection over union of two sets of words; NaN where one is empty."""
    known = source and target
    return 1.0 - len(source & target) / len(source | target) if known else nan


def larger_first(distances: FloatArray, images: Sequence[int], most_words: int) -> FloatArray:
    r"""Break ties between sources in favour of the larger one, and change no other order.

    Two different fractions of denominators up to u differ by at least :math:`1 / u^2`. So half of
    that, divided by 1 + the number of images, settles ties and nothing else.

    Parameters
    ----------
    distances
        Fractions, shape ``[S, T]``.
    images
        Number of images of each source, length S.
    most_words
        Largest union of two sets, u.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``.
    """
    late = 0.5 / max(most_words, 1) ** 2 / (1.0 + np.asarray(images, dtype=np.float64))  # [S]
    return np.asarray(distances + late[:, None])


def differing(source: Sequence[str | None], target: Sequence[str | None]) -> float:
    """Return the share of properties that differ, of those that both know; NaN of none.

    The Hamming distance, where what is not known counts neither way.
    """
    known = [(a, b) for a, b in zip(source, target, strict=True) if None not in (a, b)]
    return sum(a != b for a, b in known) / len(known) if known else nan


def properties(card: TaskCard) -> list[str | None]:
    """Return what is known of a task: what experts say, and its number of classes in bands."""
    said = card.properties
    named = [said.origin, said.colour, said.shows, said.kind, said.diversity]
    kind = [None if value is None else str(value).strip().casefold() for value in named]
    band = np.searchsorted(CLASS_BANDS, len(card.classes)) if card.classes else None
    return [*kind, None if band is None else str(band)]


@register
class Manual(Measure):
    """What people do without fingerprints: take the task whose description sounds alike.

    As Godau et al. (arXiv 2412.08763) simulate it: intersection over union of keywords, ties
    resolved by preferring the larger source.
    """

    name = "manual"
    needs = frozenset({"card"})
    privacy = "shareable"
    source = "Godau et al., arXiv 2412.08763"
    description = "1 - intersection over union of the cards' words, larger sources first"
    apart = 1.0

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        own, others = ([words(card) for card in cards_of(side)] for side in (sources, targets))
        distances = np.array([[unlike(s, t) for t in others] for s in own])
        most = max(len(s | t) for s in own for t in others)
        return larger_first(distances, [task.images for task in sources], most)


@register
class Properties(Measure):
    """Share of the expert's properties that differ."""

    name = "properties"
    needs = frozenset({"card"})
    privacy = "shareable"
    source = "Hamming distance of expert properties"
    description = "share of the known properties of both cards that differ"
    apart = 1.0

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        own, others = ([properties(card) for card in cards_of(side)] for side in (sources, targets))
        return np.array([[differing(s, t) for t in others] for s in own])
