"""Which views of which images are counted, in an order that content alone decides."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fl_client.images import Pixels, chance_of, make_views, pixel_digest, view_labels
from fl_client.site import ImageItem
from protocol.errors import DataError
from protocol.spec import Sampling, Spec

View = tuple[int, int]  # index of an image, and number of the draw that chose it
_T = TypeVar("_T")
_R = TypeVar("_R")

AHEAD = 64  # images whose digests are computed ahead


def order_views(
    images: Sequence[ImageItem],
    sampling: Sampling,
    pool: Executor,
    window: tuple[float, float] | None = None,
) -> list[View]:
    """Decide which images are viewed by which draws, and in which order.

    The order goes by SHA-256 of the images' content, so that neither names nor order of the files
    matter; all draws of one image follow one another. The window is that of the spec.
    """
    if sampling.rule == "each-once":
        digests = list(in_order(pool, ImageItem.content_digest, images, AHEAD))
        return [(index, 0) for index in sorted(range(len(images)), key=digests.__getitem__)]
    # here the choice itself depends on the order, so it goes by decoded pixels, not by files
    digests = list(in_order(pool, partial(_pixel_digest, window), images, AHEAD))
    ranked = sorted(range(len(images)), key=digests.__getitem__)
    everything = hashlib.sha256(b"".join(digests[index] for index in ranked)).digest()
    drawn = (
        (int.from_bytes(chance_of(sampling, everything, draw), "little") % len(images), draw)
        for draw in range(sampling.draws or 0)
    )
    return [(ranked[rank], draw) for rank, draw in sorted(drawn)]


def write_views(
    images: Sequence[ImageItem], spec: Spec, views: Sequence[View], out: Pixels
) -> None:
    """Decode images and write views of them into ``out[: len(views)]``; zero the rest.

    Where the spec counts regions, a fourth channel holds the class of each pixel: 0 for none, else
    its index plus 1.

    Parameters
    ----------
    images, spec
        What to view, and how.
    views : sequence of View
        Which views; an image whose draws follow one another is decoded once.
    out : ndarray of uint8, shape [k, crop, crop, channels of the spec]
        Of at least as many places as there are views.

    Raises
    ------
    DataError
        If an image cannot be read, or its mask does not lie on it.
    """
    place = 0
    for index, group in groupby(views, key=itemgetter(0)):
        draws = [draw for _, draw in group]
        pixels = images[index].pixels(spec.preprocess.window)
        out[place : place + len(draws), ..., :3] = make_views(pixels, spec, draws)
        if spec.regions is not None:
            out[place, ..., 3] = view_labels(_labels(images[index], pixels), spec.preprocess)
        place += len(draws)
    out[place:] = 0


def channels(spec: Spec) -> int:
    """Return how many bytes a pixel of a view has: its colours, and its class for regions."""
    return 3 if spec.regions is None else 4


def _labels(item: ImageItem, pixels: Pixels) -> NDArray[np.uint8]:
    """Return the class of each pixel of an image, see `fl_client.readers.masks.Mask.classes`."""
    assert item.mask is not None
    labels = item.mask.classes()
    if labels.shape != pixels.shape[:2]:
        raise DataError(
            f"mask {item.mask.source.name} has {labels.shape[1]} x {labels.shape[0]} pixels, its "
            f"image {pixels.shape[1]} x {pixels.shape[0]}: save both on one grid"
        )
    return labels


def in_order(
    pool: Executor, work: Callable[[_T], _R], entries: Iterable[_T], ahead: int
) -> Iterator[_R]:
    """Map in a pool, in order, with at most `ahead` results waiting; whoever stops cancels."""
    rest, waiting = iter(entries), deque[Future[_R]]()
    try:
        while True:
            more = islice(rest, ahead - len(waiting))
            waiting.extend(pool.submit(work, entry) for entry in more)
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def chunks(views: Sequence[View], size: int) -> Iterator[Sequence[View]]:
    """Cut a sequence into parts of a size; the last may be shorter."""
    return (views[start : start + size] for start in range(0, len(views), size))


def _pixel_digest(window: tuple[float, float] | None, item: ImageItem) -> bytes:
    return pixel_digest(item.pixels(window))
