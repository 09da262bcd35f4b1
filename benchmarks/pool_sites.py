"""Pools of sites: images of real tasks, dealt to sites so that it is known who belongs together.

A pool is easy (several tasks, no two sites alike but by task) or hard: sites hold disjoint subsets
of one task's classes, or images of one task acquired in different ways, or classes in different
shares. No image is dealt twice. Made for the folders that benchmarks/pool_images.py writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.pool_images import CHOOSING, CONDITIONS, JUDGING, SHIFTED
from fl_client.extract import extract
from fl_client.readers import find_images
from fl_client.site import ImageItem
from protocol.fingerprint import Fingerprint
from protocol.privacy import sensitivity, sigma_for
from protocol.spec import Spec, load_spec

CHOOSING_NAMES = tuple(task.__name__ for task in CHOOSING)
JUDGING_NAMES = tuple(task.__name__ for task in JUDGING)

Indices = NDArray[np.int64]


class Task(NamedTuple):
    """Features of a task's images, float32 [n, M], and their classes, int [n]."""

    features: NDArray[np.float32]
    classes: Indices


class Site(NamedTuple):
    """A site's images, as indices into its task, and the group that it belongs to."""

    task: str
    images: Indices
    group: str


Tasks = Mapping[str, Task]
Pool = list[Site]


def load(folder: Path, cache: Path) -> Task:
    """Return a folder's task, whose classes are its subfolders; features are kept in `cache`."""
    kept = cache / f"{folder.name}.npz"
    if not kept.exists():
        paths = find_images(folder)
        items = [ImageItem(path, 0, str(path.relative_to(folder))) for path in paths]
        features = extract(items, load_spec("lite0-100"), want_features=True).features
        classes = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(kept, F=features, L=classes)  # type: ignore[arg-type]
    stored = np.load(kept)
    return Task(stored["F"], stored["L"])


def load_all(names: Sequence[str], images: Path, cache: Path) -> dict[str, Task]:
    """Return the named tasks, and their acquisitions as ``task@condition``."""
    wanted = list(names)
    wanted += [f"{name}@{kind}" for name in names if name in SHIFTED for kind in CONDITIONS]
    return {name: load(images / name, cache) for name in wanted}


def deal(
    rng: np.random.Generator, images: Indices, sizes: Sequence[int], most: int, fewest: int = 2
) -> list[Indices]:
    """Deal images to at most `most` sites, whose sizes are `sizes` in turn; none if too few."""
    images, at, dealt = rng.permutation(images), 0, list[Indices]()
    for number in range(most):
        size = sizes[number % len(sizes)]
        if at + size > len(images):
            break
        dealt.append(images[at : at + size])
        at += size
    return dealt if len(dealt) >= fewest else []


def easy(rng: np.random.Generator, tasks: Tasks, sizes: Sequence[int]) -> Pool:
    """Two to five sites of each of some tasks; a group is a task."""
    names = sorted(name for name in tasks if "@" not in name)
    chosen = rng.permutation(names)[: rng.integers(3, len(names), endpoint=True)]
    return [
        Site(str(name), part, str(name))
        for name in chosen
        for part in deal(
            rng, np.arange(len(tasks[name].classes)), sizes, int(rng.integers(2, 6)), fewest=1
        )
    ]


def subsets(
    rng: np.random.Generator, tasks: Tasks, name: str, sizes: Sequence[int], parts: int = 3
) -> Pool:
    """Sites of one task with disjoint subsets of its classes; a group is a subset."""
    classes = tasks[name].classes
    pool = []
    for number, kinds in enumerate(np.array_split(rng.permutation(np.unique(classes)), parts)):
        images = np.flatnonzero(np.isin(classes, kinds))
        pool += [Site(name, part, f"{name}/{number}") for part in deal(rng, images, sizes, 4)]
    return pool


def shifts(rng: np.random.Generator, tasks: Tasks, name: str, sizes: Sequence[int]) -> Pool:
    """Sites of one task acquired in different ways; a group is a way."""
    ways = [f"{name}@{kind}" for kind in CONDITIONS if f"{name}@{kind}" in tasks]
    return [
        Site(way, part, way)
        for way in ways
        for part in deal(rng, np.arange(len(tasks[way].classes)), sizes, 4)
    ]


def skewed(
    rng: np.random.Generator, tasks: Tasks, sizes: Sequence[int], alpha: float = 0.5
) -> Pool:
    """Sites of four tasks whose shares of the classes are Dirichlet(alpha); a group is a task."""
    pool: Pool = []
    for name in rng.permutation(sorted(name for name in tasks if "@" not in name))[:4]:
        classes = tasks[name].classes
        left = [list(rng.permutation(np.flatnonzero(classes == c))) for c in np.unique(classes)]
        for number in range(int(rng.integers(3, 5))):
            size = sizes[number % len(sizes)]
            if sum(map(len, left)) < size:
                break
            shares = rng.dirichlet(np.full(len(left), alpha))
            take = _draw(rng, shares, np.array([len(images) for images in left]), size)
            images = [
                image for kind, count in zip(left, take, strict=True) for image in kind[:count]
            ]
            left = [kind[count:] for kind, count in zip(left, take, strict=True)]
            pool.append(Site(str(name), np.array(images), str(name)))
    return pool


def _draw(
    rng: np.random.Generator, shares: NDArray[np.float64], room: Indices, size: int
) -> Indices:
    """Draw so many images of each class by the shares, never more than there are."""
    take = np.minimum(rng.multinomial(size, shares), room)
    while (missing := size - take.sum()) > 0:  # a class ran out: the others fill up
        free = np.where(take < room, shares + 1e-3, 0.0)
        take = np.minimum(take + rng.multinomial(missing, free / free.sum()), room)
    return take


class Counted:
    """The bins of every task's images under a spec, counted once for many pools."""

    def __init__(self, tasks: Tasks, spec: Spec) -> None:
        self.spec = spec
        self._bins = {name: self._place(task.features) for name, task in tasks.items()}

    def _place(self, features: NDArray[np.float32]) -> NDArray[np.int32]:
        spec = self.spec
        values = features.astype(np.float64)
        values = values if spec.projection is None else spec.projection.apply(values)  # [n, m]
        low, high = spec.lower_array, spec.upper_array
        place = np.floor((values - low) / (high - low) * spec.bins)  # [n, m]
        place = place.clip(0, spec.bins - 1) + np.arange(spec.width) * spec.bins
        return place.astype(np.int32)

    def release(self, pool: Pool, rho: float | None, rng: np.random.Generator) -> list[Fingerprint]:
        """Return the sites' fingerprints; with noise that spends `rho`, of numpy and seeded."""
        spec = self.spec
        sigma = 0.0 if rho is None else sigma_for(rho, sensitivity(spec.width))
        made = []
        for number, site in enumerate(pool):
            flat = self._bins[site.task][site.images].ravel()
            counts = np.bincount(flat, minlength=spec.width * spec.bins).reshape(spec.width, -1)
            if sigma:
                counts = counts + np.rint(rng.normal(0, sigma, counts.shape)).astype(np.int64)
            name, images = f"site-{number:02d}", len(site.images)
            made.append(Fingerprint(name, counts, spec.digest, images, sigma))
        return made
