"""Weights on a pool's shelf as shots: those of the tasks that the pool advises to start from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from fl_server.offers import Offer
from fl_server.pool import Pool
from fl_server.shelf import Shelved, clear_withdrawn, shelved
from protocol.experiment import Weights
from protocol.names import printable
from protocol.sharing import Recipe
from strategies.shots import Shot


def fitting(
    pool: Pool, architecture: str, recipe: Recipe, exclude: Collection[str]
) -> dict[str, Shelved]:
    """Return the weights that fit a network and were trained on none of some tasks, by digest.

    Raises
    ------
    DataError
        When a file on the shelf is damaged.
    """
    clear_withdrawn(pool)  # a shelf may be on another machine than the one that withdrew
    return {
        each.sha256: each
        for each in shelved(pool)
        if (each.about.architecture, each.about.recipe) == (architecture, recipe)
        and not {*each.about.sources} & {*exclude}
    }


def starts(shots: Sequence[Shot], shelf: Collection[Shelved]) -> list[Offer]:
    """Return the weights that advised tasks had a part in, in the order of the advice, each once.

    Of the weights of one task those come first that the advice names.
    """
    found: dict[str, Offer] = {}
    for shot in shots:
        of_task = [each for each in shelf if shot.task.id in each.about.sources]
        for each in sorted(of_task, key=lambda each: (not _named(shot, each), each.sha256)):
            found.setdefault(each.sha256, _offer(shot, each))
    return list(found.values())


def with_body(offer: Offer, shelf: dict[str, Shelved]) -> Offer:
    """Return an offer with its arrays.

    Raises
    ------
    DataError
        When the file is damaged.
    """
    assert isinstance(offer.detail, Weights)
    return replace(offer, body=shelf[offer.detail.sha256].load())


def _named(shot: Shot, weights: Shelved) -> bool:
    return isinstance(shot.knowledge, Weights) and shot.knowledge.sha256 == weights.sha256


def _offer(shot: Shot, weights: Shelved) -> Offer:
    about = weights.about
    return Offer(
        printable(f"weights {weights.sha256[:12]} of {shot.task.site}", 200),
        Weights(sha256=weights.sha256, architecture=about.architecture),
        source=shot.task.id,
        sources=tuple(about.sources),
        sentence=shot.sentence,
        evidence=shot,
    )
