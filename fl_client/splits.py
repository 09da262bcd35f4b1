"""Which of a site's images are for training, validation and test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_client.site import Site

SHARES = {"train": 0.6, "test": 0.2, "val": 0.2}
"""Wanted shares, in the order in which a tiny class is dealt out."""

Split = dict[str, NDArray[np.int64]]


def split_site(site: Site, seed: int = 0) -> Split:
    """Split a site's images by subject.

    The site's own splits hold where its files name them (validation data is taken off the training
    data when they name none). Otherwise subjects are dealt out, whole, so that each
    class comes near 60 % training, 20 % validation and 20 % test; of a multi-label task each label,
    and the images without any.

    A class with very few subjects goes to training first, then to test, then to validation: every
    class is trained on. From ten images of at least three subjects on, validation and test data
    are never empty.

    Parameters
    ----------
    site : Site
        Whose images.
    seed : int
        Seed of the deal; the same seed gives the same split.

    Returns
    -------
    dict
        ``train``, ``val`` and ``test``: int64 indices into `site.images`, ascending.
    """
    given = [item.split for item in site.images]
    if any(split is not None for split in given):
        own = {name: np.flatnonzero([split == name for split in given]) for name in SHARES}
        return own if len(own["val"]) else _with_validation(site, own, seed)
    return _deal(site, np.arange(len(site.images)), SHARES, seed)


def _with_validation(site: Site, own: Split, seed: int) -> Split:
    """Take validation data off the training data of a site that names none."""
    share = SHARES["val"] / (SHARES["train"] + SHARES["val"])
    dealt = _deal(site, own["train"], {"train": 1 - share, "val": share}, seed)
    return {"train": dealt["train"], "val": dealt["val"], "test": own["test"]}


def _deal(site: Site, rows: NDArray[np.int64], shares: dict[str, float], seed: int) -> Split:
    """Deal subjects out, each to the part that lacks most of what the subject has.

    Stratified and grouped at once, as scikit-learn's `StratifiedGroupKFold`, but for unequal
    shares, and with the order of preference for tiny classes that `split_site` promises. Images
    with several labels count for each of them, and those with none are dealt as a class of their
    own: the iterative stratification of Sechidis et al. (ECML PKDD 2011), by subject.
    """
    parts = list(shares)
    subjects = np.array([site.images[row].subject for row in rows])
    names, group = np.unique(subjects, return_inverse=True)  # [s], [n]
    shown = site.targets[rows]  # [n, classes]
    shown = np.column_stack([shown, ~shown.any(axis=1)])
    held = np.zeros((len(names), shown.shape[1]))  # [s, classes + 1]
    np.add.at(held, group, shown)
    sizes = np.bincount(group, minlength=len(names))  # [s]
    totals = held.sum(axis=0)  # [classes + 1]
    wanted = np.array([shares[part] for part in parts])[:, None] * totals  # [parts, classes + 1]
    missing = wanted.copy()
    place = np.empty(len(names), dtype=np.int64)
    tie = np.random.default_rng(seed).permutation(len(names))
    # rare classes first, then large subjects, which have the least choice
    rarity = np.where(held > 0, totals, np.inf).min(axis=1)  # [s]
    for subject in np.lexsort((tie, -sizes, rarity)):
        has = held[subject]  # [classes + 1]
        own = has > 0
        # how far each part still is from its share of the subject's classes
        lack = (missing[:, own] / np.maximum(wanted[:, own], 1e-12)).mean(axis=1)  # [parts]
        chosen = int(np.argmax(np.round(lack, 9)))
        place[subject] = chosen
        missing[chosen] -= has
    _fill_empty(place, sizes, len(rows), len(parts))
    return {part: rows[place[group] == number] for number, part in enumerate(parts)}


def _fill_empty(
    place: NDArray[np.int64], sizes: NDArray[np.int64], images: int, parts: int
) -> None:
    """Give an empty part the smallest subject of the fullest part, from ten images on."""
    if images < 10 or len(place) < parts:
        return
    for part in range(parts):
        if not np.any(place == part):
            filled = np.bincount(place, minlength=parts)
            giver = np.flatnonzero(place == int(np.argmax(filled)))
            place[giver[np.argmin(sizes[giver])]] = part
