"""Regions of a segmentation task: which of a site's images have which, and which are counted.

What an image is to a fingerprint of whole images, a region is to one of regions: what one class
covers in one image. Which regions there are follows from masks and spec alone, without a network.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fl_client.data_digest import known_digest
from fl_client.feature_files import keep_features, used
from fl_client.images import view_labels
from fl_client.site import ImageItem, Site
from protocol.errors import DataError
from protocol.files import canonical_json, sha256_hex
from protocol.spec import Spec

Region: TypeAlias = tuple[int, int]
"""Index of an image in `Site.images`, and index of a class in the site's task card."""

_THREADS = 4


def has_masks(site: Site) -> bool:
    """Tell whether a site holds a mask of every image."""
    return bool(site.images) and all(item.mask is not None for item in site.images)


def require_masks(site: Site, spec: Spec) -> None:
    """Raise unless a site has what a spec of regions counts.

    Raises
    ------
    DataError
        If it has no masks.
    """
    if not has_masks(site):
        raise DataError(no_masks(site, spec))


def no_masks(site: Site, spec: Spec) -> str:
    """Say that a spec counts regions and a site has none."""
    return (
        f"spec {spec.name} counts regions, and site {site.name} has no masks: take a spec of whole "
        'images, or give masks and say objective = "segmentation" in site.toml'
    )


def regions_of(site: Site, spec: Spec) -> list[Region]:
    """Return all regions of a site that a spec counts, by image and class.

    A class is a region of an image where it covers at least `spec.regions.pixels` of its view.
    Every mask is read once; what was found is kept in the site's state folder, and holds while
    neither images nor masks change.

    Raises
    ------
    DataError
        If the site has no masks, one cannot be read, or no region is large enough.
    """
    require_masks(site, spec)
    assert spec.regions is not None
    seen = np.argwhere(_areas(site, spec) >= spec.regions.pixels)  # [r, 2]
    if not len(seen):
        raise DataError(
            f"no class covers {spec.regions.pixels} pixels or more of any view of site "
            f"{site.name}: check its masks with fedprint site check, or take a larger crop"
        )
    return [(image, label) for image, label in seen.tolist()]


def patients_with(site: Site) -> dict[str, int]:
    """Return the number of subjects in whose masks each class of the task card is."""
    shown = _areas(site, None) > 0  # [n, classes]
    subjects = np.unique([item.subject for item in site.images], return_inverse=True)[1]
    return {
        held.name: len(np.unique(subjects[shown[:, index]]))
        for index, held in enumerate(site.card.classes)
    }


def choose(site: Site, regions: Sequence[Region], cap: int) -> list[Region]:
    """Choose the regions that a private release counts: of each subject at most `cap`.

    Those with the smallest SHA-256 of image, mask and class are taken, so the choice goes by no
    name and no order, and what one subject's images are never changes which regions of another are
    counted. Without subject ids each image is its own subject.
    """
    held: dict[str, list[tuple[bytes, Region]]] = defaultdict(list)
    for image, label in regions:
        held[_subject(site, image)].append((region_digest(site, (image, label)), (image, label)))
    return sorted(region for those in held.values() for _, region in sorted(those)[:cap])


def chosen_number(site: Site, regions: Sequence[Region], cap: int) -> int:
    """Return how many regions `choose` takes."""
    sizes = Counter(_subject(site, image) for image, _ in regions)
    return sum(min(size, cap) for size in sizes.values())


def subjects_with(site: Site, regions: Iterable[Region]) -> set[str]:
    """Return the subjects of some regions; without subject ids each image is its own."""
    return {_subject(site, image) for image, _ in regions}


def region_digest(site: Site, region: Region) -> bytes:
    """Return 32 bytes that name a region by its content."""
    image, label = region
    return hashlib.sha256(site.images[image].content_digest() + bytes([label])).digest()


def items_of(site: Site, regions: Iterable[Region]) -> list[ImageItem]:
    """Return the images of some regions, in whose masks nothing else counts."""
    classes: dict[int, set[int]] = defaultdict(set)
    for image, label in regions:
        classes[image].add(label)
    found = []
    for image in sorted(classes):
        item = site.images[image]
        assert item.mask is not None
        found.append(replace(item, mask=replace(item.mask, only=frozenset(classes[image]))))
    return found


def _subject(site: Site, image: int) -> str:
    return site.images[image].subject if site.has_subjects else str(image)


def _areas(site: Site, spec: Spec | None) -> NDArray[np.int64]:
    """Return how many pixels of each view each class covers, int64 [n, classes].

    Without a spec of the whole masks.
    """
    view = None if spec is None else spec.preprocess.model_dump(mode="json")
    names = [held.name for held in site.card.classes]
    key = sha256_hex(canonical_json([known_digest(site), view, names]))
    path = site.state / "regions" / f"{key[:32]}.safetensors"
    shape = (len(site.images), len(names))
    with suppress(OSError, SafetensorError, KeyError):
        kept = safetensors.numpy.load_file(path)["areas"]
        if kept.shape == shape and kept.dtype == np.int64:
            used(path)
            return np.asarray(kept)

    def one(item: ImageItem) -> NDArray[np.int64]:
        assert item.mask is not None
        labels = item.mask.classes()
        shown = labels if spec is None else view_labels(labels, spec.preprocess)
        return np.bincount(shown.ravel(), minlength=len(names) + 1)[1:].astype(np.int64)

    with ThreadPoolExecutor(_THREADS) as pool:
        areas = np.stack(list(pool.map(one, site.images))).reshape(shape)
    with suppress(OSError):  # without the file the next call reads the masks again
        keep_features(path, safetensors.numpy.save({"areas": areas}))
    return areas
