"""From images to counts in one stream: decode, forward pass, histogram.

Memory does not grow with the number of images: a bounded number of images is decoded ahead, every
batch is counted on the device and forgotten. Batches have one shape (the last is padded) and the
images come in the order of their content's SHA-256, so that a fingerprint does not depend on the
number of workers, nor on names and order of files.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.backbone import load_backbone
from fl_client.device import choose_device
from fl_client.folding import fold_batch_norm
from fl_client.histogram import BinCounter
from fl_client.images import Pixels, chance_of, check_preprocess, make_views, pixel_digest
from fl_client.progress import show_progress
from fl_client.site import ImageItem
from protocol.errors import ConfigError, DataError
from protocol.spec import Sampling, Spec

BATCH_SIZE = 32
VIEWS = 8  # of one image that are made at once
_T = TypeVar("_T")
_R = TypeVar("_R")
Order = list[tuple[int, list[int]]]  # index of an image, and the draws that chose it


@dataclass(frozen=True)
class Extraction:
    """What an extraction ended with.

    Attributes
    ----------
    counts : ndarray of int64, shape [m, b], or None
        How many views fell in each bin of each feature; None when the spec is a recipe.
    features : ndarray of float32, shape [n, m], or None
        Features of the images in the order they were given, if wanted.
    views : int
        Number of views that were counted.
    seconds : float
        Wall time of the stream (decoding, forward passes, counting).
    """

    counts: NDArray[np.int64] | None
    features: NDArray[np.float32] | None
    views: int
    seconds: float


def extract(
    images: Sequence[ImageItem],
    spec: Spec,
    *,
    device: torch.device | str | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    want_features: bool = False,
    progress: bool = False,
    backbone: torch.nn.Module | None = None,
) -> Extraction:
    """Fingerprint images by a spec.

    Parameters
    ----------
    images : sequence of ImageItem
        What to fingerprint, in any order.
    spec : Spec
        Backbone, preprocessing, sampling and bin edges. A recipe gives features only.
    device : torch.device or str, optional
        See `fl_client.device.choose_device`.
    batch_size : int
        Views a forward pass.
    workers : int, optional
        Threads that decode; by default one a core, at most eight.
    want_features : bool
        Also return the features, which then are held in memory; only for ``each-once``.
    progress : bool
        Show how far it is.
    backbone : torch.nn.Module, optional
        A backbone that `load_backbone` made for this very spec and device.

    Returns
    -------
    Extraction

    Raises
    ------
    DataError
        If there are no images, one cannot be read, or features are not finite.
    ConfigError
        If the spec or an option cannot be used.
    WeightsError
        If the backbone's weights are missing.
    """
    _check(images, spec, batch_size, workers, want_features)
    place = device if isinstance(device, torch.device) else choose_device(device)
    model = fold_batch_norm(load_backbone(spec, place) if backbone is None else backbone)
    counter = BinCounter(spec, place) if spec.ready else None
    features = np.empty((len(images), spec.features), np.float32) if want_features else None
    total = spec.sampling.draws or len(images)
    started = time.monotonic()
    with ThreadPoolExecutor(workers or default_workers(), "decode") as pool:
        order = _order(images, spec.sampling, pool, spec.preprocess.window)
        # on a CPU, decoding during the forward pass would only take its cores away
        overlap = place.type != "cpu"
        ahead = batch_size * (4 if overlap else 1)
        decoded = _decoded(pool, partial(_make, images, spec), order, ahead, overlap)
        views = ((index, v) for (index, _), vs in zip(order, decoded, strict=True) for v in vs)
        with show_progress("fingerprinting", total) if progress else nullcontext() as advance:
            for which, batch in _batches(views, batch_size, spec.preprocess.crop):
                values = forward(model, batch, spec, place)[: len(which)]  # [k, m]
                if counter is not None:
                    counter.add(values)
                if features is not None:
                    features[which] = values.cpu().numpy()
                if advance is not None:
                    advance(len(which))
    counts = None if counter is None else counter.counts()
    return Extraction(counts, features, total, time.monotonic() - started)


def default_workers() -> int:
    """Return the number of decoding threads: one a core, at most eight."""
    import os

    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def _check(
    images: Sequence[ImageItem],
    spec: Spec,
    batch_size: int,
    workers: int | None,
    want_features: bool,
) -> None:
    if not images:
        raise DataError("there are no images to fingerprint: check the folder and its site.toml")
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ConfigError("batch size and workers must be at least 1")
    if not spec.ready and not want_features:
        spec.require_ready()
    if want_features and spec.sampling.rule != "each-once":
        raise ConfigError(f"spec {spec.name} draws with replacement: it has no features per image")
    check_preprocess(spec)


@torch.inference_mode()
def forward(
    model: torch.nn.Module, batch: Pixels, spec: Spec, device: torch.device
) -> torch.Tensor:
    """Run the backbone over a batch of views.

    Parameters
    ----------
    model : torch.nn.Module
        The backbone.
    batch : ndarray of uint8, shape [k, crop, crop, 3]
        Views; normalised on the device, in half precision on CUDA.
    spec, device
        Normalisation, and where to compute.

    Returns
    -------
    torch.Tensor of float32, shape [k, m]
    """
    mean = torch.tensor(spec.preprocess.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(spec.preprocess.std, device=device).view(1, 3, 1, 1)
    raw = torch.from_numpy(batch)
    if device.type == "cuda":
        raw = raw.pin_memory()
    pixels = raw.to(device, non_blocking=True).permute(0, 3, 1, 2)  # [k, 3, crop, crop]
    inputs = pixels.to(torch.float32).sub_(mean * 255).div_(std * 255)  # stays channels last
    with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        features: torch.Tensor = model(inputs)
    return features.float()


def _order(
    images: Sequence[ImageItem],
    sampling: Sampling,
    pool: ThreadPoolExecutor,
    window: tuple[float, float] | None = None,
) -> Order:
    """Decide which image is viewed by which draws, in an order that content alone decides."""
    if sampling.rule == "each-once":
        digests = list(pool.map(ImageItem.content_digest, images))
        return [(index, [0]) for index in sorted(range(len(images)), key=lambda i: digests[i])]
    # here the choice itself depends on the order, so it goes by decoded pixels, not by files
    digests = list(_decoded(pool, partial(_digest_item, window), images, 64, overlap=True))
    ranked = sorted(range(len(images)), key=lambda i: digests[i])
    everything = hashlib.sha256(b"".join(digests[i] for i in ranked)).digest()
    draws: dict[int, list[int]] = {}
    for draw in range(sampling.draws or 0):
        rank = int.from_bytes(chance_of(sampling, everything, draw), "little") % len(images)
        draws.setdefault(rank, []).append(draw)
    # a small site draws each image many times: a few views at a time keep memory flat
    return [
        (ranked[rank], draws[rank][start : start + VIEWS])
        for rank in sorted(draws)
        for start in range(0, len(draws[rank]), VIEWS)
    ]


def _digest_item(window: tuple[float, float] | None, item: ImageItem) -> bytes:
    return pixel_digest(item.pixels(window))


def _make(images: Sequence[ImageItem], spec: Spec, entry: tuple[int, list[int]]) -> Pixels:
    """Decode an image once and make all its views, uint8 ``[k, crop, crop, 3]``."""
    return make_views(images[entry[0]].pixels(spec.preprocess.window), spec, entry[1])


def _decoded(
    pool: ThreadPoolExecutor,
    work: Callable[[_T], _R],
    entries: Iterable[_T],
    ahead: int,
    overlap: bool,
) -> Iterator[_R]:
    """Map in the pool, in order, with at most `ahead` results at a time.

    With `overlap` the pool is always kept busy; without, it rests until all of them were taken.
    """
    rest, waiting = iter(entries), deque[Future[_R]]()
    try:
        while True:
            if overlap or not waiting:
                more = islice(rest, ahead - len(waiting))
                waiting.extend(pool.submit(work, entry) for entry in more)
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _batches(
    views: Iterator[tuple[int, Pixels]], size: int, crop: int
) -> Iterator[tuple[list[int], Pixels]]:
    """Yield batches of one shape: the images' indices, and uint8 ``[size, crop, crop, 3]``."""
    while chunk := list(islice(views, size)):
        batch = np.zeros((size, crop, crop, 3), np.uint8)
        batch[: len(chunk)] = [view for _, view in chunk]
        yield [index for index, _ in chunk], batch
