"""What a learner trains on: features or images, augmented as the run or its plan has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fl_client.candidate_features import CandidateFeatures
from fl_client.candidates import Candidate
from fl_client.device import choose_device
from fl_client.features import cached_features
from fl_client.policy_files import augmentation, policy_of
from fl_client.policy_space import AugmentationPolicy
from fl_client.policy_training import drawn_data
from fl_client.site import Site
from fl_client.splits import split_site
from fl_client.training import TrainData, feature_data, learnt
from protocol.experiment import Policy
from protocol.sharing import Recipe
from protocol.spec import Spec

VIEWS = 2
"""Augmented views of each training image, beside the plain one, where features are frozen."""


def learner_data(
    site: Site,
    network: Spec | Candidate,
    recipe: Recipe,
    ordered: Policy | None,
    classes: Sequence[str],
    seed: int,
    device: str | None,
) -> TrainData:
    """Return a site's data as a recipe takes them.

    Parameters
    ----------
    site : Site
        Whose data; features are cached in its state folder.
    network : Spec or Candidate
        The run's own spec, or another architecture.
    recipe : str
        ``adapter`` takes features, ``fine-tune`` images.
    ordered : Policy or None
        How to augment; None as the recipe does by itself.
    classes : sequence of str
        Keys of the site's classes.
    seed : int
        Of splits and augmentation.
    device : str or None
        Where to compute; None chooses.

    Raises
    ------
    ConfigError
        If the augmentation policy holds anything that is not listed or not within bounds.
    DataError
        If an image cannot be read.
    """
    spec = network.recipe if isinstance(network, Candidate) else network
    policy = None if ordered is None else policy_of(ordered.pipeline, "the ordered augmentation")
    if recipe == "fine-tune":
        data = _images(site, spec, policy, classes, seed)
    elif policy is None:
        features = _features(site, network, device)
        data = feature_data(features, learnt(site), classes, split_site(site, seed))
    else:
        features = _features(site, network, device)
        data = drawn_data(
            site, spec, policy, features, classes, views=VIEWS, seed=seed, device=device
        )
    return replace(data, ranks=tuple(site.card.ranks))


def _images(
    site: Site, spec: Spec, policy: AugmentationPolicy | None, classes: Sequence[str], seed: int
) -> TrainData:
    # albumentations takes longer to import than a small site to train on features
    from fl_client.augment import SiteImages, evaluation_view, training_augmentation

    training = (
        training_augmentation(spec.preprocess, seed)
        if policy is None
        else augmentation(policy, spec.preprocess, seed)
    )
    labels = learnt(site)
    return TrainData(
        SiteImages(site.images, labels, spec, training),
        SiteImages(site.images, labels, spec, evaluation_view(spec.preprocess)),
        labels,
        tuple(classes),
        split_site(site, seed),
    )


def _features(site: Site, network: Spec | Candidate, device: str | None) -> NDArray[np.float32]:
    """Return the features of all images, float32 [n, m]."""
    if isinstance(network, Candidate):
        cache = CandidateFeatures(site, network, choose_device(device))
        return cache.of(np.arange(len(site.images)))
    return cached_features(site, network, device)[0]
