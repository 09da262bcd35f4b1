"""Fingerprints of made-up tasks: each task has its own feature distributions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import Fingerprint
from protocol.spec import Preprocess, Spec, Weights, edges_digest


def make_spec(features: int = 8, bins: int = 10, name: str = "test") -> Spec:
    """Return a ready spec whose features lie between 0 and 1, 2, 3, ..."""
    lower = np.zeros(features)
    upper = np.arange(1.0, features + 1.0)
    return Spec(
        name=name,
        backbone="none",
        weights=Weights(source="none", sha256="0" * 64),
        preprocess=Preprocess(resize=32, crop=32, mean=[0.5] * 3, std=[0.5] * 3),
        features=features,
        bins=bins,
        lower=lower.tolist(),
        upper=upper.tolist(),
        edges_sha256=edges_digest(lower, upper),
    )


def task_images(
    rng: np.random.Generator, task: int, images: int, spec: Spec, shift: float = 0.0
) -> NDArray[np.int64]:
    """Bin indices [n, m] of the features of n images; the task moves, widens and skews them.

    Features of an image depend on each other, as real ones do, through a few hidden factors.
    """
    own = np.random.default_rng(1000 + task)
    centre = own.uniform(0.3, 0.7, spec.features)  # [m]
    width = own.uniform(0.05, 0.35)  # tasks differ in entropy, which misleads the raw divergence
    mixing = own.normal(size=(5, spec.features)) / np.sqrt(5)  # [5, m]
    noise = 0.7 * rng.normal(size=(images, 5)) @ mixing + 0.7 * rng.normal(
        size=(images, spec.features)
    )  # [n, m]
    values = centre + shift * own.normal(size=spec.features) * width + width * noise  # [n, m]
    return np.asarray(np.clip((values * spec.bins).astype(np.int64), 0, spec.bins - 1))


def count(indices: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """Counts [m, b] of bin indices [n, m]."""
    return np.stack([np.bincount(column, minlength=bins) for column in indices.T])


def make_sites(
    sizes: Sequence[Sequence[int]], spec: Spec, seed: int = 0, shift: float = 0.0
) -> tuple[list[Fingerprint], dict[str, int]]:
    """Return fingerprints and the task of each site; ``sizes[t]``: image numbers of task t."""
    rng = np.random.default_rng(seed)
    sites, truth = [], {}
    for task, numbers in enumerate(sizes):
        for copy, images in enumerate(numbers):
            name = f"site-{task}-{copy}"
            indices = task_images(rng, task, images, spec, shift * float(rng.normal()))
            counts = count(indices, spec.bins)
            sites.append(Fingerprint(name, counts, spec.digest, images))
            truth[name] = task
    return sites, truth
