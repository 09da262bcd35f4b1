"""Training on frozen features with an augmentation policy: augmented views beside plain images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch.utils.data import Dataset

from fl_client.data_digest import known_digest
from fl_client.device import choose_device
from fl_client.feature_files import keep_features, used
from fl_client.features import cached_features
from fl_client.policy_files import policy_digest
from fl_client.policy_space import AugmentationPolicy
from fl_client.policy_views import PolicyViews
from fl_client.site import Site
from fl_client.splits import split_site
from fl_client.training import Labels, TrainData, feature_data, learnt
from protocol.files import sha256_hex
from protocol.spec import Spec

VIEWS = 4
"""Augmented views of each training image."""


def augmented_data(
    site: Site,
    spec: Spec,
    policy: AugmentationPolicy,
    classes: Sequence[str],
    *,
    views: int = VIEWS,
    seed: int = 0,
    device: str | None = None,
) -> TrainData:
    """Return a site's frozen features with augmented views added to its training split.

    The adapter recipe trains on features computed once, so that its augmentation is a fixed number
    of views. An epoch is longer by them: for an equal budget, divide the epochs by ``1 + views``.

    Parameters
    ----------
    site : Site
        Whose images; features are cached in its state folder.
    spec : Spec
        Backbone and preprocessing; must be calibrated.
    policy : AugmentationPolicy
        How to augment.
    classes : sequence of str
        Keys of the site's classes.
    views : int
        Augmented views of each training image.
    seed : int
        Of the site's splits and of the augmentation.
    device : str or None
        Where to compute; None chooses.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    splits = split_site(site, seed)
    rows = np.tile(splits["train"], views)
    plain, _ = cached_features(site, spec, device)
    added = _views(site, spec, policy, rows, views, seed, device)
    features = np.concatenate([plain, added])
    own = learnt(site)
    labels = np.concatenate([own, own[rows]])
    train = np.concatenate([splits["train"], np.arange(len(plain), len(features))])
    return feature_data(features, labels, classes, splits | {"train": train})


class DrawnViews(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Frozen features, each time of the plain training image or of one of its augmented views.

    An epoch is as long as without augmentation, so that the budget is exactly the same.

    Parameters
    ----------
    plain : ndarray of float32, shape [n, m]
        Features of all images.
    added : ndarray of float32, shape [v * t, m]
        Features of the views of the training images, all first views before all second ones.
    labels : ndarray
        What is learnt of all images, see `fl_client.training.Labels`.
    train : ndarray of int64, shape [t]
        Which of the images are for training.
    """

    def __init__(
        self,
        plain: NDArray[np.float32],
        added: NDArray[np.float32],
        labels: Labels,
        train: NDArray[np.int64],
    ) -> None:
        choices = np.stack([plain[train], *added.reshape(-1, len(train), plain.shape[1])])
        self._choices = torch.from_numpy(choices)  # [1 + v, t, m]
        self._labels = torch.from_numpy(labels)
        self._place = {int(row): place for place, row in enumerate(train)}
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        """Start the draws anew: what ran before must not matter."""
        self._draws = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one training image's input, float32 [m], and its label."""
        drawn = int(self._draws.integers(len(self._choices)))
        return self._choices[drawn, self._place[index]], self._labels[index]


def drawn_data(
    site: Site,
    spec: Spec,
    policy: AugmentationPolicy,
    plain: NDArray[np.float32],
    classes: Sequence[str],
    *,
    views: int,
    seed: int,
    device: str | None = None,
) -> TrainData:
    """Return a site's frozen features, augmented in training by `DrawnViews`.

    Parameters
    ----------
    site : Site
        Whose images; the views' features are cached in its state folder.
    spec : Spec
        Backbone and preprocessing; may be a recipe.
    policy : AugmentationPolicy
        How to augment.
    plain : ndarray of float32, shape [n, m]
        Features of all images by this spec.
    classes : sequence of str
        Keys of the site's classes.
    views : int
        Augmented views of each training image.
    seed : int
        Of the site's splits and of the augmentation.
    device : str or None
        Where to compute; None chooses.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    labels = learnt(site)
    data = feature_data(plain, labels, classes, split_site(site, seed))
    train = data.splits["train"]
    added = _views(site, spec, policy, np.tile(train, views), views, seed, device)
    return replace(data, train=DrawnViews(plain, added, labels, train))


def _views(
    site: Site,
    spec: Spec,
    policy: AugmentationPolicy,
    rows: NDArray[np.int64],
    views: int,
    seed: int,
    device: str | None,
) -> NDArray[np.float32]:
    """Return the features [k, m] of the views, computed once."""
    names = (policy_digest(policy), spec.digest, known_digest(site), choose_device(device).type)
    key = sha256_hex(f"{' '.join(names)} {views} {seed} {rows.tolist()}".encode())
    path = site.state / "features" / f"{key[:32]}.safetensors"
    try:
        kept = safetensors.numpy.load_file(path)["views"]
        if kept.shape == (len(rows), spec.features):
            used(path)
            return kept
    except (OSError, SafetensorError, KeyError):
        pass  # absent or damaged: computed anew
    images = len(rows) // views
    pairs = [(int(row), place // images) for place, row in enumerate(rows)]
    made = PolicyViews(site, spec, device, seed).features(policy, pairs)
    keep_features(path, safetensors.numpy.save({"views": made}))
    return made
