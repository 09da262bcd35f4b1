"""Noised fingerprints of made-up tasks whose sites may hold other classes of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from tests.strategies.synthetic import count, make_spec

SPEC = make_spec(features=8, bins=5, name="private")
APART = 0.05
"""How far the classes of a task lie apart: images of one class scatter by 0.15."""


def class_images(
    rng: np.random.Generator,
    task: int,
    kind: int,
    images: int,
    spec: Spec = SPEC,
    apart: float = APART,
) -> NDArray[np.int64]:
    """Bin indices [n, m]: tasks lie far apart, the classes of a task nearer to each other."""
    task_centre = np.random.default_rng(500 + task).uniform(0.1, 0.9, spec.features)  # [m]
    own = np.random.default_rng(9000 + 97 * task + kind).normal(size=spec.features)  # [m]
    values = task_centre + apart * own + 0.15 * rng.normal(size=(images, spec.features))
    return np.asarray(np.clip((values * spec.bins).astype(np.int64), 0, spec.bins - 1))


def private_sites(
    plan: Sequence[tuple[int, int, Sequence[int]]],
    sigma: float,
    seed: int = 0,
    spec: Spec = SPEC,
    apart: float = APART,
) -> tuple[list[Fingerprint], dict[str, int], dict[str, tuple[int, int]]]:
    """Return fingerprints, and task and data of each site; the plan: (task, class, image numbers).

    Noise is a rounded Gaussian here: grouping sees its standard deviation only.
    """
    rng = np.random.default_rng(seed)
    sites, tasks, data = [], {}, {}
    for task, kind, numbers in plan:
        for copy, images in enumerate(numbers):
            name = f"site-{task}-{kind}-{copy}"
            counts = count(class_images(rng, task, kind, images, spec, apart), spec.bins)
            noise = np.rint(sigma * rng.normal(size=counts.shape)).astype(np.int64)
            sites.append(Fingerprint(name, counts + noise, spec.digest, images, sigma))
            tasks[name], data[name] = task, (task, kind)
    return sites, tasks, data
