"""From images to counts in one stream: decode, forward pass, histogram.

Memory does not grow with the number of images: a bounded number of images is decoded ahead, every
batch is counted on the device and forgotten. Batches have one shape (the last is padded) and the
images come in the order of their content's SHA-256, so that a fingerprint does not depend on the
number of workers, nor on names and order of files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.backbone import load_backbone
from fl_client.device import choose_device
from fl_client.folding import fold_batch_norm
from fl_client.fusing import fuse
from fl_client.histogram import BinCounter
from fl_client.images import Pixels, check_preprocess
from fl_client.progress import show_progress
from fl_client.regions import require_masks
from fl_client.regions_pooling import FeatureMap, RegionHead
from fl_client.site import ImageItem, Site
from fl_client.stages import Clock, Stages
from fl_client.streams import FEW, Network, Normalised, RegionNetwork, by_batches, by_workers
from fl_client.viewing import channels, chunks, order_views, write_views
from protocol.benchmark import available_cores
from protocol.errors import ConfigError, DataError
from protocol.spec import Spec

BATCH_SIZE = 32
MOST_WORKERS = 8  # beyond, threads of one Python process wait for each other


@dataclass(frozen=True)
class Extraction:
    """What an extraction ended with.

    Attributes
    ----------
    counts : ndarray of int64, shape [m, b], or None
        How many views, or regions of them, fell in each bin of each feature; None when the spec is
        a recipe.
    features : ndarray of float32, shape [n, m], or None
        Features of the images in the order they were given, if wanted.
    views : int
        Number of views that were counted.
    seconds : float
        Wall time of the stream (decoding, forward passes, counting).
    stages : Stages
        How fast each stage of it was.
    """

    counts: NDArray[np.int64] | None
    features: NDArray[np.float32] | None
    views: int
    seconds: float
    stages: Stages


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
    tell: Callable[[Stages], object] | None = None,
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
        Views a forward pass; on a CPU at most `fl_client.streams.FEW`.
    workers : int, optional
        Threads that decode, and on a CPU also run the network; by default one for each thread of
        PyTorch's, or a core where a device computes; at most eight.
    want_features : bool
        Also return the features, which then are held in memory; only for ``each-once``.
    progress : bool
        Show how far it is.
    backbone : torch.nn.Module, optional
        A backbone that `load_backbone` made for this very spec and device.
    tell : callable, optional
        Also told how fast the stages were, where the caller does not see the result.

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
    classes = max((len(item.mask.values) for item in images if item.mask is not None), default=0)
    place = device if isinstance(device, torch.device) else choose_device(device)
    model = load_backbone(spec, place) if backbone is None else backbone
    network = prepare(model, spec, place, classes=classes)
    threads = workers or default_workers(place)
    counter = BinCounter(spec, place) if spec.ready else None
    features = np.empty((len(images), spec.features), np.float32) if want_features else None
    started, clock = time.monotonic(), Clock(place)
    with _pool(threads, place) as pool, _on(place):
        views = order_views(images, spec.sampling, pool, spec.preprocess.window)
        if place.type == "cpu":
            few = min(batch_size, FEW)
            stream = by_workers(network, images, spec, views, pool, threads, clock, few)
        else:
            stream = by_batches(network, images, spec, views, pool, batch_size, place, clock)
        with show_progress("fingerprinting", len(views)) if progress else nullcontext() as advance:
            for batch, values in stream:  # values: [k, m]
                if counter is not None:
                    with clock.time("histogram"):
                        counter.add(values)
                if features is not None:
                    features[[index for index, _ in batch]] = values.cpu().numpy()
                if advance is not None:
                    advance(len(batch))
        counts = None if counter is None else counter.counts()
        seconds, spent = time.monotonic() - started, clock.seconds()
    stages = Stages.of(
        spent, len(views), seconds, workers=threads, cores=available_cores(), device=place.type
    )
    if tell is not None:
        tell(stages)
    return Extraction(counts, features, len(views), seconds, stages)


def region_features(site: Site, spec: Spec, device: str | None = None) -> NDArray[np.float32]:
    """Return the features of all regions of a site, float32 [r, M].

    They are in the order of `fl_client.regions.regions_of`. An extraction counts them and keeps
    none; who attacks a release needs each.

    Parameters
    ----------
    site, spec
        Whose regions, by what.
    device
        See `fl_client.device.choose_device`.

    Raises
    ------
    DataError
        If the site has no masks, or an image or mask cannot be read.
    """
    require_masks(site, spec)
    place, crop = choose_device(device), spec.preprocess.crop
    network = prepare(load_backbone(spec, place), spec, place, classes=len(site.card.classes))
    found = []
    for part in chunks([(index, 0) for index in range(len(site.images))], FEW):
        batch = np.empty((FEW, crop, crop, channels(spec)), np.uint8)
        write_views(site.images, spec, part, batch)
        found.append(network(torch.from_numpy(batch).to(place), len(part)).cpu().numpy())
    return np.concatenate(found)


def prepare(model: torch.nn.Module, spec: Spec, device: torch.device, classes: int = 0) -> Network:
    """Return the backbone in the form that is fastest on a device; it takes decoded views.

    Where the spec counts regions, masks have so many `classes`.
    """
    folded = fold_batch_norm(model if spec.regions is None else FeatureMap(model))
    cpu = device.type == "cpu"
    ready = Normalised(fuse(folded, spec.preprocess.crop) if cpu else folded, spec, device)
    if spec.regions is None:
        return ready
    return RegionNetwork(ready, RegionHead(model, spec, device, classes))


def default_workers(device: torch.device) -> int:
    """Return the number of workers: on a CPU no more than threads that PyTorch may use."""
    most = torch.get_num_threads() if device.type == "cpu" else available_cores()
    return min(MOST_WORKERS, most)


@contextmanager
def _pool(workers: int, device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Make the workers; on a CPU each, and who waits for them, takes a share of the threads."""
    whole = torch.get_num_threads()
    share = max(1, whole // workers) if device.type == "cpu" else whole
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(workers, "worker", torch.set_num_threads, (share,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(whole)


def _on(device: torch.device) -> torch.cuda.device | nullcontext[None]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


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
    if spec.regions is not None and (want_features or any(item.mask is None for item in images)):
        raise ConfigError(
            f"spec {spec.name} counts regions of masks: it has no features per image, and none of "
            "images without masks"
        )
    if want_features and spec.sampling.rule != "each-once":
        raise ConfigError(f"spec {spec.name} draws with replacement: it has no features per image")
    check_preprocess(spec)


def forward(
    model: torch.nn.Module, batch: Pixels, spec: Spec, device: torch.device
) -> torch.Tensor:
    """Run the backbone over a batch of views, uint8 ``[k, crop, crop, 3]``, to ``[k, m]``."""
    return Normalised(model, spec, device)(torch.from_numpy(batch).to(device))
