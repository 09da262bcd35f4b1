"""Checks of a site's images: that they are there, and can be read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fl_client.check_sizes import odd_sizes
from fl_client.finding import DataCheck, DataVisit, Finding, failed, ok, warning
from fl_client.progress import show_progress
from fl_client.readers.source import BurntIn, NeedsWindow
from fl_client.site import ImageItem, read_site
from protocol.errors import DataError

T = TypeVar("T")

_THREADS = 16  # reading headers waits for the disk or the network, not for the processor
_ANY_WINDOW = (0.0, 1.0)  # to see whether the rest of the image is well


def check_data(visit: DataVisit) -> Iterator[Finding]:
    """See that the site's folder, manifest or npz file can be read."""
    site = visit.site
    try:
        site = site or read_site(visit.folder)
    except DataError as error:  # once more, for what is wrong
        yield failed("data", str(error), "correct the data or [data] in site.toml", "bad-data")
        return
    patients = "no subject ids" if site.patients is None else f"{site.patients} patients"
    classes = f"{number} classes" if (number := len(site.card.classes)) != 1 else "one class"
    yield ok("data", f"{len(site.images)} images, {classes}, {patients}")


def check_images(visit: DataVisit) -> Iterator[Finding]:
    """Read the header of every image: whether it can be used, and whether its size is usual."""
    site = visit.site
    if site is None:
        return
    looked = list(zip(site.images, each("image headers", site.images, _header), strict=True))
    burnt = [item for item, found in looked if isinstance(found, BurntIn)]
    if faults := _faults(looked):
        yield _unreadable("images", faults, len(site.images))
    else:
        yield ok("images", f"the headers of all {len(site.images) - len(burnt)} can be read")
    if burnt:
        names = _some([item.held.name for item in burnt])
        found = f"{len(burnt)} of {len(site.images)} have text burnt into their pixels: {names}"
        mend = "blank the text and correct the tag, or take them out"
        yield failed("burnt-in text", found, mend, "burnt-in")
    yield from odd_sizes((item.held.name, s) for item, s in looked if isinstance(s, tuple))


def check_sample(visit: DataVisit) -> Iterator[Finding]:
    """Decode some images fully; the same ones each time."""
    site = visit.site
    if site is None or not visit.images:
        return
    chosen = random.Random(0).sample(site.images, min(visit.images, len(site.images)))
    looked = list(zip(chosen, each("images decoded", chosen, _decoded), strict=True))
    faults = [(item, error) for item, error in _faults(looked) if isinstance(_header(item), tuple)]
    if faults:  # those whose header already shows it are listed above
        yield _unreadable("sample", faults, len(chosen))
    else:
        good = sum(not isinstance(found, DataError) for _, found in looked)
        yield ok("sample", f"{good} images could be decoded")
    if unshown := sum(found is NeedsWindow for _, found in looked):
        found = (
            f"{unshown} of {len(chosen)} hold values in scanner units, which a spec's window shows"
        )
        mend = (
            "take a spec with a window, or make it: fedprint spec calibrate ... --window LOW HIGH"
        )
        yield warning("window", found, mend, "needs-window")


def each(label: str, items: Sequence[ImageItem], work: Callable[[ImageItem], T]) -> Iterator[T]:
    """Do something with each image, several at a time, and show how far it is."""
    with ThreadPoolExecutor(_THREADS) as pool, show_progress(label, len(items)) as advance:
        for result in pool.map(work, items):
            advance(1)
            yield result


def _header(item: ImageItem) -> tuple[int, int] | DataError:
    try:
        return item.held.size
    except DataError as error:
        return error


def _decoded(item: ImageItem) -> object:
    """Return what is wrong with an image, or that it needs a window."""
    try:
        try:
            item.pixels()
        except NeedsWindow:
            item.pixels(_ANY_WINDOW)
            return NeedsWindow
    except DataError as error:
        return error
    return None


def _faults(looked: Sequence[tuple[ImageItem, object]]) -> list[tuple[ImageItem, DataError]]:
    """Return the images that cannot be read; burnt-in text is another finding."""
    return [
        (item, found)
        for item, found in looked
        if isinstance(found, DataError) and not isinstance(found, BurntIn)
    ]


def _unreadable(name: str, faults: list[tuple[ImageItem, DataError]], among: int) -> Finding:
    shown = _some([f"{item.held.name} ({_reason(item, error)})" for item, error in faults])
    mend = str(faults[0][1]).rpartition(": ")[2]
    found = f"{len(faults)} of {among} cannot be read: {shown}"
    return failed(name, found, mend, "unreadable-images")


def _reason(item: ImageItem, error: DataError) -> str:
    """Say in few words what is wrong: the name of the image and what to do stand beside it."""
    if error.__cause__ is not None:
        return type(error.__cause__).__name__
    return str(error).removeprefix(f"image {item.path} ").rpartition(": ")[0]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


IMAGE_CHECKS: tuple[DataCheck, ...] = (check_data, check_images, check_sample)
