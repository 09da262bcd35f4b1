"""How good an augmentation policy is for a site, judged on the features of a frozen backbone.

Two questions, both asked of training images that the probe has not seen:

* *density*: does a probe of plain images still classify augmented ones? An augmentation that takes
  images out of their class fails here. Fast AutoAugment chooses by this alone (Lim et al.,
  arXiv 1905.00397, eq. 3), which favours what hardly changes an image.
* *use*: does a probe that was fitted to plain and augmented images classify plain ones better?

A policy must pass the first; those that do are ranked by the loss of the second. All probes are
regularised as suits plain images best, so that it is the images that make the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fl_client.policy_probe import (
    STRENGTHS,
    Features,
    Labels,
    Rows,
    Scale,
    Verdict,
    fit_probe,
    folds_of,
    judge,
    mean_verdict,
)
from fl_client.site import Site

KEPT = 0.5
"""Share of what plain images are classified better than by chance that augmented ones must keep."""


@dataclass(frozen=True)
class Judgement:
    """What was found of an augmentation policy.

    Attributes
    ----------
    use : Verdict
        On plain images, by probes of plain and augmented ones.
    density : Verdict
        On augmented images, by probes of plain ones.
    passes : bool
        Whether augmented images are still classified.
    """

    use: Verdict
    density: Verdict
    passes: bool

    @property
    def score(self) -> float:
        """Higher is better: whatever passes is above whatever does not."""
        return -self.use.loss if self.passes else -1000.0 - self.density.loss


class Judges:
    """Judges of one site's augmentation policies.

    Parameters
    ----------
    site : Site
        Whose policies.
    features : ndarray of float32, shape [n, m]
        Of the site's plain images.
    rows : ndarray of int64
        The training images.
    seed : int
        Of the folds.

    Raises
    ------
    DataError
        If there are too few training images.
    """

    def __init__(self, site: Site, features: Features, rows: Rows, seed: int) -> None:
        self.rows, self.labels, self.classes = rows, site.labels[rows], len(site.card.classes)
        self.folds, self.apart = folds_of(site, rows, seed)
        self.scale = Scale.of(features[rows])
        self._plain = self.scale(features[rows])  # [n, m]
        tried = {strength: self._of_plain(strength) for strength in STRENGTHS}
        self.strength = min(tried, key=lambda strength: (tried[strength][0].loss, strength))
        self.plain, self._probes = tried[self.strength]

    def _of_plain(self, strength: float) -> tuple[Verdict, list[object]]:
        """Return how probes of plain images classify those left out, and the probes."""
        probes, found = [], []
        for fitted, out in self.folds:
            x, y = self._plain[fitted], self.labels[fitted]
            probes.append(probe := fit_probe(x, y, fitted, self.classes, strength))
            found.append(judge(probe, self._plain[out], self.labels[out], self.classes))
        return mean_verdict(found), probes

    def judge(self, views: Features, places: Rows) -> Judgement:
        """Judge an augmentation policy by some of its views.

        Parameters
        ----------
        views : ndarray of float32, shape [k, m]
            Features of augmented images.
        places : ndarray of int64, shape [k]
            Which of the training images each is of.
        """
        scaled = self.scale(views)
        still = self._density(scaled, places)
        chance = 1 / len(np.unique(self.labels))
        passes = still.recall >= chance + KEPT * (self.plain.recall - chance)
        return Judgement(self._use(scaled, places), still, passes)

    def _density(self, scaled: Features, places: Rows) -> Verdict:
        found = []
        for (_, out), probe in zip(self.folds, self._probes, strict=True):
            if (outside := np.isin(places, out)).any():
                labels = self.labels[places[outside]]
                found.append(judge(probe, scaled[outside], labels, self.classes))
        return mean_verdict(found)

    def _use(self, scaled: Features, places: Rows) -> Verdict:
        found = []
        for fitted, out in self.folds:
            inside = np.isin(places, fitted)
            own = np.concatenate([fitted, places[inside]])
            both = np.concatenate([self._plain[fitted], scaled[inside]])
            probe = fit_probe(both, self.labels[own], own, self.classes, self.strength)
            found.append(judge(probe, self._plain[out], self.labels[out], self.classes))
        return mean_verdict(found)

    def on(self, features: Features, labels: Labels, views: Features, places: Rows) -> Verdict:
        """Judge other images by one probe of all plain and these augmented training images.

        Parameters
        ----------
        features, labels : ndarray, shapes [j, m] and [j]
            Of the other images.
        views, places : ndarray, shapes [k, m] and [k]
            As for `judge`; none for no augmentation.
        """
        own = np.concatenate([np.arange(len(self.rows)), places])
        both = np.concatenate([self._plain, self.scale(views)])
        probe = fit_probe(both, self.labels[own], own, self.classes, self.strength)
        return judge(probe, self.scale(features), labels, self.classes)
