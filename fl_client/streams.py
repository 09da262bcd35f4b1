"""From views to features, in the order of the views: one way for a CPU, another for a GPU.

On a CPU every worker takes a few views all the way from their files to features, alone with its
share of the threads: nothing waits for another, and what the layers hand on stays in the cache.
On a GPU the workers decode ahead into page-locked memory, which is copied while the network
computes. Either way memory does not grow with the number of images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fl_client.images import Pixels
from fl_client.regions_pooling import RegionHead
from fl_client.site import ImageItem
from fl_client.stages import Clock
from fl_client.viewing import View, channels, chunks, in_order, write_views
from protocol.spec import Spec

FEW = 8
"""Views that a worker takes at once. On a CPU their largest layers stay below 32 MiB, beyond which
glibc asks the system for fresh pages every time."""

BUFFERS = 4  # batches that are decoded ahead for a GPU

Stream: TypeAlias = Iterator[tuple[Sequence[View], Tensor]]


class Network(Protocol):
    """What turns views into what is counted."""

    def __call__(self, views: Tensor, count: int) -> Tensor:
        """Return float32 ``[n, m]`` of the first `count` views, uint8 ``[k, crop, crop, c]``."""
        ...


class Normalised:
    """A backbone that takes views as they are decoded, uint8 ``[k, crop, crop, 3]``.

    Parameters
    ----------
    model : torch.nn.Module
        The backbone, on the device.
    spec : Spec
        Its normalisation.
    device : torch.device
        Where to compute; half precision on CUDA.
    """

    def __init__(self, model: nn.Module, spec: Spec, device: torch.device) -> None:
        self._model, self._device = model, device
        # whole rows of pixels, so that the innermost loop is long: [crop * 3]
        rows = (
            torch.tensor(values, device=device).mul_(255).repeat(spec.preprocess.crop)
            for values in (spec.preprocess.mean, spec.preprocess.std)
        )
        self._mean, self._std = rows

    @torch.inference_mode()
    def __call__(self, views: Tensor, count: int | None = None) -> Tensor:
        """Return features, float32 ``[count, m]``, of the first of some views on the device."""
        rows = views.to(torch.float32).flatten(2)  # [k, crop, crop * 3]
        pixels = rows.sub_(self._mean).div_(self._std).view(views.shape)
        inputs = pixels.permute(0, 3, 1, 2)  # [k, 3, crop, crop], channels last
        half = self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.float16, enabled=half):
            features: Tensor = self._model(inputs)
        return features.float()[:count]


class RegionNetwork:
    """From views with the classes of their pixels, ``[k, crop, crop, 4]``, to features of regions.

    Parameters
    ----------
    maps : Normalised
        Gives feature maps ``[k, c, h, w]`` of views.
    head : RegionHead
        Makes features of them, one row a region.
    """

    def __init__(self, maps: Normalised, head: RegionHead) -> None:
        self._maps, self._head = maps, head

    @torch.inference_mode()
    def __call__(self, views: Tensor, count: int) -> Tensor:
        """Return features, float32 ``[regions, m]``; places beyond `count` hold no class."""
        return self._head(self._maps(views[..., :3]), views[..., 3])


def by_workers(
    network: Network,
    images: Sequence[ImageItem],
    spec: Spec,
    views: Sequence[View],
    pool: Executor,
    workers: int,
    clock: Clock,
    size: int = FEW,
) -> Stream:
    """Yield views and their features, computed on the CPU by whole workers.

    Parameters
    ----------
    network
        From views to features.
    images, spec, views
        What is viewed, by what, in which order.
    pool, workers
        Threads, and their number; each computes with the threads that its initialiser left it.
    clock
        Told how long the stages take.
    size
        Views that a worker takes at once.
    """
    crop = spec.preprocess.crop

    def features_of(part: Sequence[View]) -> Tensor:
        batch = np.empty((size, crop, crop, channels(spec)), np.uint8)
        with clock.time("decoding"):
            write_views(images, spec, part, batch)
        with clock.time("network"):
            return network(torch.from_numpy(batch), len(part))

    parts = list(chunks(views, size))
    return zip(parts, in_order(pool, features_of, parts, 2 * workers), strict=True)


def by_batches(
    network: Network,
    images: Sequence[ImageItem],
    spec: Spec,
    views: Sequence[View],
    pool: Executor,
    size: int,
    device: torch.device,
    clock: Clock,
) -> Stream:
    """Yield views and their features, computed by a device while workers decode ahead.

    Parameters
    ----------
    network, images, spec, views, pool, clock
        Those of `by_workers`.
    size
        Views a batch.
    device
        Where the network is.
    """

    def decode(part: Sequence[View], out: Pixels) -> None:
        with clock.time("decoding"):
            write_views(images, spec, part, out)

    def fill(batch: Sequence[View], buffer: Staging) -> list[Future[None]]:
        places = range(0, size, FEW)
        return [pool.submit(decode, batch[p : p + FEW], buffer.views[p : p + FEW]) for p in places]

    side = _side_stream(device)
    crop, batches = spec.preprocess.crop, chunks(views, size)
    free = deque(Staging((size, crop, crop, channels(spec)), device, side) for _ in range(BUFFERS))
    filling = deque[tuple[Sequence[View], Staging, list[Future[None]]]]()
    try:
        while True:
            while free and (batch := next(batches, None)) is not None:
                buffer = free.popleft()
                buffer.wait()
                filling.append((batch, buffer, fill(batch, buffer)))
            if not filling:
                return
            batch, buffer, futures = filling.popleft()
            for future in futures:
                future.result()
            sent = buffer.send(clock)
            free.append(buffer)
            with clock.time("network"):
                features = network(sent, len(batch))
            yield batch, features
    finally:
        for _, _, futures in filling:
            for future in futures:
                future.cancel()


def _side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Make the stream that copies; None where the device has none."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


class Staging:
    """A buffer of views on its way to a device; page-locked, and copied aside, on CUDA.

    Parameters
    ----------
    shape : tuple of int
        ``(k, crop, crop, 3)``.
    device : torch.device
        Where the views go.
    side : torch.cuda.Stream or None
        The stream that copies; None where the device has none.

    Attributes
    ----------
    views : ndarray of uint8, shape [k, crop, crop, 3]
        What is sent next. May be written to once `wait` has returned.
    """

    def __init__(
        self, shape: tuple[int, ...], device: torch.device, side: torch.cuda.Stream | None
    ) -> None:
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=side is not None)
        self._device, self._side = device, side
        self._copied: torch.cuda.Event | None = None
        self.views: Pixels = self._host.numpy()

    def wait(self) -> None:
        """Wait until the last copy has left the buffer."""
        if self._copied is not None:
            self._copied.synchronize()

    def send(self, clock: Clock) -> Tensor:
        """Return the views on the device, ready for what its current stream does next."""
        if self._side is None:
            with clock.time("transfer"):
                return self._host.to(self._device, copy=True)
        with torch.cuda.stream(self._side):
            with clock.time("transfer"):
                sent = self._host.to(self._device, non_blocking=True)
            self._copied = self._side.record_event()
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._side)
        sent.record_stream(current)
        return sent
