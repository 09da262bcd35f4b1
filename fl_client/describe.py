"""A site's descriptors, from its images: what each kind is computed of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_client.moments import class_moments, moments
from fl_client.site import Site
from protocol.descriptors import Descriptor, Features, Fisher, Kind
from protocol.spec import Sampling, Spec

# torch is imported inside: asking what a site may release needs none

FISHER_IMAGES = 200
"""Most images that a Fisher embedding is of: each costs a forward and a backward pass."""


def describe(site: Site, spec: Spec, kind: Kind, device: str | None = None) -> Descriptor:
    """Compute a descriptor of a site's task.

    It is of all images, as the fingerprint is; those kinds that need labels see the labels of all.
    Nothing is drawn by a seed of the run's, so that every run is answered the same.

    Parameters
    ----------
    site : Site
        Whose images; features are cached in its state folder.
    spec : Spec
        What makes descriptors comparable.
    kind : str
        One of `protocol.descriptors.KINDS`.
    device : str or None
        Where to compute; None chooses.

    Raises
    ------
    DataError
        If an image cannot be read, there are too few images or classes, or the kind needs one class
        an image and the task's objective is another.
    """
    from fl_client.features import cached_features

    if kind != "moments":
        site.require_one_class(kind)
    raw = cached_features(site, spec, device)[0]  # [n, M]
    if kind == "fisher":
        return site_fisher(site, spec, raw, device)
    features = counted_features(raw, spec)
    if kind == "moments":
        return moments(features)
    if kind == "class-moments":
        return class_moments(features, site.labels, len(site.card.classes))
    return Features(features.astype(np.float32), site.labels.astype(np.int64))


def counted_features(features: NDArray[np.float32], spec: Spec) -> NDArray[np.floating]:
    """Return the features that a spec counts, [n, m], of those that its backbone gives [n, M]."""
    return features if spec.projection is None else spec.projection.apply(features)


def site_fisher(
    site: Site,
    spec: Spec,
    features: NDArray[np.float32],
    device: str | None = None,
    *,
    most: int = FISHER_IMAGES,
    seed: int = 0,
) -> Fisher:
    """Compute a site's Fisher embedding, see `fl_client.fisher`.

    Parameters
    ----------
    site, spec, device
        As in `describe`.
    features : ndarray of float32, shape [n, M]
        The backbone's features of all images, for the head.
    most : int
        Images whose gradients are taken, drawn by `seed`; the head is fitted on all.
    seed : int
        Of that draw, and of the labels.
    """
    import torch

    from fl_client.backbone import load_backbone
    from fl_client.device import choose_device
    from fl_client.fisher import Probe, filter_fisher, fit_head

    weight, bias = fit_head(features, site.labels)
    place = choose_device(device)
    probe = Probe(load_backbone(spec, place), weight, bias)
    chosen = np.random.default_rng(seed).permutation(len(site.images))[:most]
    images = network_inputs(site, spec, np.sort(chosen))
    return Fisher(filter_fisher(probe, torch.from_numpy(images).to(place), seed))


def network_inputs(site: Site, spec: Spec, chosen: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return one normalised centre view of each chosen image, float32 [k, 3, crop, crop]."""
    from fl_client.images import make_views

    centre = spec.model_copy(update={"sampling": Sampling()})
    decoded = (site.images[i].pixels(spec.preprocess.window) for i in chosen)
    views = np.concatenate([make_views(pixels, centre, [0]) for pixels in decoded])
    mean, std = (np.array(part, np.float32) for part in (spec.preprocess.mean, spec.preprocess.std))
    scaled = (views.astype(np.float32) / 255 - mean) / std  # [k, crop, crop, 3]
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
