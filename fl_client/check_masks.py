"""Checks of a segmentation's masks: that they lie on their images, and show known classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fl_client.check_images import each
from fl_client.finding import DataVisit, Finding, failed, ok, warning
from fl_client.site import ImageItem
from protocol.errors import DataError

FEW = 5
"""Images below which a class can hardly be learned."""


def check_masks(visit: DataVisit) -> Iterator[Finding]:
    """Read every mask: whether it fits its image, and which classes it shows."""
    site = visit.site
    if site is None or site.card.objective != "segmentation":
        return
    names = [held.name for held in site.card.classes]
    looked = list(zip(site.images, each("masks", site.images, _shown), strict=True))
    faults = [str(found) for _, found in looked if isinstance(found, DataError)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        found, _, mend = faults[0].rpartition(": ")
        said = f"{len(faults)} of {len(looked)} cannot be used: {found}{more}"
        yield failed("masks", said, mend, "bad-masks")
    usable = [(item, found) for item, found in looked if not isinstance(found, DataError)]
    if not usable:
        return
    numbers = np.arange(len(names)) + 1
    shown = np.stack([np.isin(numbers, found) for _, found in usable])  # [n, classes]
    counts = shown.sum(axis=0).tolist()
    sizes = ", ".join(f"{name}: {n}" for name, n in zip(names, counts, strict=True))
    empty = [
        item.held.name
        for item, found in looked
        if not isinstance(found, DataError) and not len(found)
    ]
    if len(empty) == len(usable):
        yield failed("regions", "no mask shows any class", "correct [task.classes]", "no-regions")
        return
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        found = f"no mask shows {', '.join(absent[:5])} ({sizes})"
        yield warning("regions", found, "correct [task.classes], or leave it out", "no-contrast")
    elif small := [name for name, count in zip(names, counts, strict=True) if count < FEW]:
        found = f"fewer than {FEW} images show {', '.join(small[:5])} ({sizes})"
        yield warning("regions", found, "add images, or leave the class out", "small-class")
    else:
        yield ok("regions", f"images that show {sizes}")
    if empty:
        found = f"{len(empty)} of {len(usable)} masks show no class: {', '.join(empty[:3])}"
        mend = (
            "right where nothing is to be seen: such images add nothing to a fingerprint of regions"
        )
        yield warning("empty masks", found, mend, "empty-masks")


def _shown(item: ImageItem) -> NDArray[np.uint8] | DataError:
    """Return which classes a mask shows, numbered from 1, or what is wrong with it."""
    assert item.mask is not None
    try:
        labels = item.mask.classes()
    except DataError as error:
        return error
    try:
        size = item.held.size
        # the header of a photograph that lies on its side says another size than it is shown in
        size = item.pixels((0.0, 1.0)).shape[:2] if size != labels.shape else size
    except DataError:
        size = labels.shape  # the check of the images says so
    if size != labels.shape:
        return DataError(
            f"mask {item.mask.source.name} has {labels.shape[1]} x {labels.shape[0]} pixels, its "
            f"image {size[1]} x {size[0]}: save both on one grid"
        )
    return np.unique(labels[labels > 0])
