"""Trying a candidate architecture on a site's own images, with more effort in every round.

What is trained is the adapter
recipe of co-training: frozen features, a small adapter and a head. Beside the features a training
costs next to nothing, so a candidate is judged by cross-validation over training and validation
images: few validation images alone would leave it to chance.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.candidate_features import CandidateFeatures
from fl_client.candidates import Candidate
from fl_client.comparison import balanced_accuracy
from fl_client.efforts import Effort, folds_of, share_of, stratified
from fl_client.extract import BATCH_SIZE
from fl_client.halving import Trial
from fl_client.model import Adapter, SiteModel, class_weights
from fl_client.site import Site
from fl_client.splits import Split, split_site
from fl_client.training import DEFAULT_LR, TrainData, evaluate, feature_data, fit
from protocol.errors import DataError
from protocol.sharing import HIDDEN, initial_adapter, initial_rows
from protocol.taskcard import class_keys

HEAD_BATCH = 16
FEATURE_SIZE = 0.4
"""Root mean square that features are brought to, about that of lite0: one step size fits all."""


@dataclass(frozen=True)
class Measured:
    """All that a trial measured.

    Attributes
    ----------
    effort : Effort
        What went into it.
    rows : ndarray of int64, shape [k]
        Training and validation images, as indices into the site's.
    hits : ndarray of bool, shape [k]
        Which of them the model that was not trained on them classified correctly.
    scores : dict
        ``val_`` and ``test_`` with ``balanced_accuracy``, ``auroc`` and ``loss``; the first of
        these is over all `hits`, the others are means over the folds' models. Test data have no
        part in any decision.
    seconds : float
        What it took.
    """

    effort: Effort
    rows: NDArray[np.int64]
    hits: NDArray[np.bool_]
    scores: dict[str, float]
    seconds: float


class Trials:
    """A site's trials of candidates.

    Parameters
    ----------
    site : Site
        Its images and splits.
    candidates : sequence of Candidate
        What to try.
    efforts : sequence of Effort
        One a round.
    device : torch.device
        Where to compute.
    seed : int
        Of the splits, the shares, the first weights and the order of the batches.
    batch_size, workers
        See `fl_client.extract.extract`.

    Raises
    ------
    DataError
        If the site has fewer than two classes or three subjects, no training images, or another
        objective than one class an image.
    """

    def __init__(
        self,
        site: Site,
        candidates: Sequence[Candidate],
        efforts: Sequence[Effort],
        device: torch.device,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
    ) -> None:
        site.require_one_class("a search for architectures")
        self._site, self._efforts, self._device, self._seed = site, efforts, device, seed
        self.classes, splits = class_keys(site.card), split_site(site, seed)
        if len(set(self.classes)) < 2:
            raise DataError(f"site {site.name} holds one class only: there is nothing to learn")
        if not len(splits["train"]):
            raise DataError(f"site {site.name} has no training images: correct its split column")
        self._order = {name: stratified(rows, site.labels, seed) for name, rows in splits.items()}
        self._candidates = {candidate.name: candidate for candidate in candidates}
        self._features = {
            name: CandidateFeatures(site, candidate, device, batch_size, workers)
            for name, candidate in self._candidates.items()
        }
        self.measured: dict[tuple[str, int], Measured] = {}

    def __call__(self, name: str, round_: int) -> Trial:
        """Try a candidate with the effort of a round; what it measured is kept in `measured`."""
        started = time.monotonic()
        effort = self._efforts[round_]
        rows, splits = self.images(effort.share)
        features = _scaled(self._features[name].of(rows), splits["train"])
        known = np.concatenate([splits["train"], splits["val"]])
        hits, scores = self._judged(features, rows, splits, known, effort.epochs)
        seconds = time.monotonic() - started
        self.measured[name, round_] = Measured(effort, rows[known], hits, scores, seconds)
        score = scores["val_balanced_accuracy"]
        return Trial(score, price=self._candidates[name].gmacs, cost=seconds)

    def images(self, share: float) -> tuple[NDArray[np.int64], Split]:
        """Return the images of a share, and which of them (by position) are of which split."""
        rows, splits, start = [], {}, 0
        for name, order in self._order.items():
            rows.append(chosen := share_of(order, share))
            splits[name] = np.arange(start, start + len(chosen))
            start += len(chosen)
        return np.concatenate(rows), splits

    def _judged(
        self,
        features: NDArray[np.float32],
        rows: NDArray[np.int64],
        splits: Split,
        known: NDArray[np.int64],
        epochs: int,
    ) -> tuple[NDArray[np.bool_], dict[str, float]]:
        """Cross-validate: return the hits on the known images, and scores as `Measured` has them.

        Scores are rounded: what is equal must compare as equal.
        """
        labels, hits = self._site.labels[rows], np.zeros(len(rows), np.bool_)
        subjects = np.array([self._site.images[row].subject for row in rows])
        found = []
        for number, fold in enumerate(folds_of(known, labels, subjects, self._seed)):
            data = feature_data(features, labels, self.classes, fold | {"test": splits["test"]})
            model = self._trained(data, features.shape[1], epochs, self._seed + number)
            found.append(
                {
                    f"{split}_{name}": value
                    for split in ("val", "test")
                    for name, value in evaluate(model, data, split).items()
                }
            )
            hits[fold["val"]] = _guesses(model, features[fold["val"]]) == labels[fold["val"]]
        means = {name: round(float(np.mean([f[name] for f in found])), 12) for name in found[0]}
        score = balanced_accuracy(hits[known], labels[known])
        return hits[known], means | {"val_balanced_accuracy": score}

    def _trained(self, data: TrainData, width: int, epochs: int, seed: int) -> SiteModel:
        weights = class_weights(data.labels[data.splits["train"]], len(self.classes))
        model = SiteModel(Adapter(width), HIDDEN, self.classes, weights, lr=DEFAULT_LR["adapter"])
        model.load_arrays(initial_adapter(width, seed) | initial_rows(self.classes, HIDDEN, seed))
        fit(
            model,
            data,
            epochs=epochs,
            batch_size=HEAD_BATCH,
            seed=seed,
            find_lr=False,
            device=self._device,
        )
        return model


def _guesses(model: SiteModel, features: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class that a trained model gives each image, int64 [k]."""
    place = next(model.parameters()).device
    with torch.inference_mode():
        chosen: NDArray[np.int64] = (
            model(torch.from_numpy(features).to(place)).argmax(1).cpu().numpy()
        )
    return chosen


def _scaled(features: NDArray[np.float32], train: NDArray[np.int64]) -> NDArray[np.float32]:
    """Bring features to one size, by the training images; else small ones would learn slowly."""
    size = float(np.sqrt(np.mean(np.square(features[train], dtype=np.float64))))
    scaled: NDArray[np.float32] = features * np.float32(FEATURE_SIZE / max(size, 1e-12))
    return scaled
