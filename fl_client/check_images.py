"""Checks of a site's images: that they are there, and can be read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from fl_client.finding import Check, Finding, Visit, failed, ok
from fl_client.progress import show_progress
from fl_client.site import ImageItem, read_site
from protocol.errors import DataError

T = TypeVar("T")

_THREADS = 16  # reading headers waits for the disk or the network, not for the processor
_UNREADABLE = "replace them, or take them out"


def check_data(visit: Visit) -> Iterator[Finding]:
    """See that the site's folder, manifest or npz file can be read."""
    site = visit.site
    try:
        site = site or read_site(visit.settings.folder)
    except DataError as error:  # once more, for what is wrong
        yield failed("data", str(error), "correct the data or [data] in site.toml", "bad-data")
        return
    patients = "no subject ids" if site.patients is None else f"{site.patients} patients"
    yield ok("data", f"{len(site.images)} images, {len(site.card.classes)} classes, {patients}")


def check_images(visit: Visit) -> Iterator[Finding]:
    """Read the header of every image."""
    site = visit.site
    if site is None:
        return
    faults = _faults("image headers", site.images, _header_fault)
    if faults:
        yield failed("images", _some(faults, len(site.images)), _UNREADABLE, "unreadable-images")
    else:
        yield ok("images", f"the headers of all {len(site.images)} can be read")


def check_sample(visit: Visit) -> Iterator[Finding]:
    """Decode some images fully; the same ones each time."""
    site = visit.site
    if site is None or not visit.images:
        return
    chosen = random.Random(0).sample(site.images, min(visit.images, len(site.images)))
    faults = _faults("images decoded", chosen, _pixel_fault)
    if faults:
        yield failed("sample", _some(faults, len(chosen)), _UNREADABLE, "unreadable-images")
    else:
        yield ok("sample", f"{len(chosen)} images could be decoded")


def _faults(
    label: str, items: Sequence[ImageItem], look: Callable[[ImageItem], str | None]
) -> list[str]:
    return [fault for fault in each(label, items, look) if fault is not None]


def each(label: str, items: Sequence[ImageItem], work: Callable[[ImageItem], T]) -> Iterator[T]:
    """Do something with each image, several at a time, and show how far it is."""
    with ThreadPoolExecutor(_THREADS) as pool, show_progress(label, len(items)) as advance:
        for result in pool.map(work, items):
            advance(1)
            yield result


def _header_fault(item: ImageItem) -> str | None:
    if item.array is not None:
        return _pixel_fault(item) if item.array.size < 1 or item.array.dtype.kind != "u" else None
    try:
        with Image.open(item.path) as image:
            return f"{image_name(item)} (32-bit pixels)" if image.mode in ("I", "F") else None
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        return f"{image_name(item)} ({type(error).__name__})"


def _pixel_fault(item: ImageItem) -> str | None:
    try:
        item.pixels()
    except DataError:
        return image_name(item)
    return None


def image_name(item: ImageItem) -> str:
    """Name an image for the site's own eyes."""
    return item.subject if item.array is not None else f"{item.path.parent.name}/{item.path.name}"


def _some(faults: list[str], among: int) -> str:
    more = ", ..." if len(faults) > 3 else ""
    return f"{len(faults)} of {among} cannot be read: {', '.join(faults[:3])}{more}"


IMAGE_CHECKS: tuple[Check, ...] = (check_data, check_images, check_sample)
