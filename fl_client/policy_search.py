"""A site's search for an augmentation policy on its own data, under a budget of augmented views.

Candidates of `fl_client.policy_candidates` are judged on training images alone
(`fl_client.policy_judges`), the better half each time with twice as many views, by
`fl_client.halving`. The best one and the usual policy then meet no augmentation on the
validation images, which took no part in the choice. Test images decide nothing: the same is
measured on them, for the report and for a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import ceil

import numpy as np

from fl_client.features import cached_features
from fl_client.halving import Budget, Trial, successive_halving
from fl_client.policy_candidates import DEFAULT, draw_candidates
from fl_client.policy_judges import Judgement, Judges
from fl_client.policy_probe import Features, Rows, Verdict
from fl_client.policy_result import NONE, Found
from fl_client.policy_space import AugmentationPolicy, applied
from fl_client.policy_training import VIEWS
from fl_client.policy_views import PolicyViews
from fl_client.site import Site
from fl_client.splits import split_site
from protocol.errors import ConfigError
from protocol.spec import Spec

ROUNDS = 4
FEWEST, MOST = 6, 64
"""Candidates of a search, the usual policy and the bare crop among them."""


def planned(images: int, budget: int, given: int = 0) -> tuple[int, list[int]]:
    """Plan a search.

    Parameters
    ----------
    images : int
        Training images of the site.
    budget : int
        Augmented views that may be computed.
    given : int
        Candidates that come from elsewhere; they come on top of the fewest.

    Returns
    -------
    candidates : int
        How many can be tried.
    efforts : list of int
        Views of a candidate up to each round.

    Raises
    ------
    ConfigError
        If the budget is too small for any choice.
    """
    efforts = [ceil(images * VIEWS / 2 ** (ROUNDS - 1 - round_)) for round_ in range(ROUNDS)]
    fewest = FEWEST + given
    possible = [n for n in range(fewest, MOST + given + 1) if _cost(n, efforts) <= budget]
    if not possible:
        least = _cost(fewest, efforts)
        raise ConfigError(
            f"a budget of {budget} views is too small for {images} training images: "
            f"give at least {least}"
        )
    return possible[-1], efforts


def _cost(candidates: int, efforts: list[int]) -> int:
    """Return the most views that a search takes: the default is measured in every round."""
    halving, cost, before = Budget(len(efforts)), 0, 0
    for round_, effort in enumerate(efforts):
        entrants = min(candidates, halving.places(candidates, round_) + 1)
        cost, before = cost + entrants * (effort - before), effort
    return cost


def search_policy(
    site: Site,
    spec: Spec,
    budget: int,
    *,
    seed: int = 0,
    device: str | None = None,
    given: Mapping[str, AugmentationPolicy] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Search an augmentation policy for a site.

    Parameters
    ----------
    site : Site
        Whose data; its plain features are cached in its state folder.
    spec : Spec
        Backbone and preprocessing; must be calibrated.
    budget : int
        Augmented views that may be computed: forward passes of one image.
    seed : int
        Of candidates, augmentation, folds and the split of the site's images.
    device : str or None
        Where to compute; None chooses.
    given : mapping, optional
        Augmentation policies by name that take part beside those drawn.
    progress : callable, optional
        Told how many views were computed since the last call.

    Raises
    ------
    ConfigError
        If the budget is too small.
    DataError
        If the site has too few training images, more than one class an image, or one cannot be
        read.
    """
    site.require_one_class("a search for augmentation policies")
    split = split_site(site, seed)
    rows = split["train"]
    count, efforts = planned(len(rows), budget, len(given or {}))
    features, _ = cached_features(site, spec, device)
    judges = Judges(site, features, rows, seed)
    maker = PolicyViews(site, spec, device, seed)
    policies = draw_candidates(count, seed, given)
    order = _in_turns(judges.labels, seed)
    made: dict[str, Features] = {}
    judgements: dict[str, Judgement] = {}

    def evaluate(name: str, round_: int) -> Trial:
        own = made.get(name, np.empty((0, spec.features), np.float32))
        wanted = range(len(own), efforts[round_])
        pairs = [(int(rows[order[i % len(rows)]]), i // len(rows)) for i in wanted]
        made[name] = np.concatenate([own, maker.features(policies[name], pairs)])
        if progress is not None:
            progress(len(pairs))
        judgements[name] = judges.judge(made[name], np.resize(order, len(made[name])))
        price = float(applied(policies[name]))
        return Trial(judgements[name].score, price=price, cost=len(pairs))

    race = successive_halving(list(policies), evaluate, Budget(ROUNDS), keep=(DEFAULT,))
    nothing = np.empty((0, spec.features), np.float32)
    best = race.ranking[0].name
    contestants = {NONE: nothing, DEFAULT: made[DEFAULT], best: made[best]}
    return Found(
        site=site.name,
        budget=budget,
        seed=seed,
        policies=policies,
        race=race,
        judgements=judgements,
        apart=judges.apart,
        plain=judges.plain,
        strength=judges.strength,
        held_out={
            name: _compare(judges, features, site, split[name], order, contestants)
            for name in ("val", "test")
        },
        ended=datetime.now(UTC),
    )


def _in_turns(labels: Rows, seed: int) -> Rows:
    """Return places in an order that shows each class early: shuffled, and the classes in turns."""
    shuffled = np.random.default_rng([seed, 2]).permutation(len(labels))
    turn = np.empty(len(labels))
    for label in np.unique(labels):
        own = shuffled[labels[shuffled] == label]
        turn[own] = (np.arange(len(own)) + 0.5) / len(own)
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


def _compare(
    judges: Judges,
    features: Features,
    site: Site,
    rows: Rows,
    order: Rows,
    contestants: dict[str, Features],
) -> dict[str, Verdict]:
    """Judge policies by their views, and no augmentation by none, on images held out."""
    if not len(rows):
        return {}
    return {
        name: judges.on(features[rows], site.labels[rows], views, np.resize(order, len(views)))
        for name, views in contestants.items()
    }
