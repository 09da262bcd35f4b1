"""How long each stage of an extraction took, and which one was the limit."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

Stage: TypeAlias = Literal["decoding", "transfer", "network", "histogram"]
STAGES: tuple[Stage, ...] = ("decoding", "transfer", "network", "histogram")

_ON_DEVICE = frozenset({"transfer", "network", "histogram"})
_WITH_ARTICLE = {"network": "the network", "histogram": "the histogram"}


@dataclass(frozen=True)
class Stages:
    """What each stage of an extraction could do.

    Attributes
    ----------
    rates : mapping of str to float
        Images a second that each stage would do if it were the only one. Stages that took no time
        that could be measured are left out.
    shares : mapping of str to float
        Share of the whole time, 0 to 1, that each stage was busy.
    workers : int
        Decoding threads.
    cores : int
        Cores that this process may use.
    device : str
        What kind of device computed: cpu, cuda or mps.
    """

    rates: Mapping[Stage, float]
    shares: Mapping[Stage, float]
    workers: int
    cores: int
    device: str

    @classmethod
    def of(
        cls,
        seconds: Mapping[Stage, float],
        views: int,
        wall: float,
        *,
        workers: int,
        cores: int,
        device: str,
    ) -> Stages:
        """Make them of the seconds that each stage was busy, of all threads together."""
        threads = {stage: _threads(stage, device, workers) for stage in STAGES}
        busy = {stage: seconds[stage] for stage in STAGES if seconds.get(stage, 0) > 0}
        return cls(
            {stage: views * threads[stage] / spent for stage, spent in busy.items()},
            {stage: spent / threads[stage] / max(wall, 1e-9) for stage, spent in busy.items()},
            workers,
            cores,
            device,
        )

    @property
    def limit(self) -> Stage | None:
        """The slowest stage; None when nothing could be measured."""
        return min(self.rates, key=self.rates.__getitem__, default=None)


def limit_line(stages: Stages) -> str:
    """Say in one line which stage was the limit and what would help; empty if none was measured."""
    limit = stages.limit
    if limit is None:
        return ""
    others = {stage: rate for stage, rate in stages.rates.items() if stage != limit}
    second = min(others, key=others.__getitem__, default=None)
    beside = f"; {_name(second)} could do {others[second]:.0f}" if second is not None else ""
    return (
        f"{_name(limit)} was the limit ({stages.rates[limit]:.0f} images/s{beside}): "
        f"{_advice(limit, stages)}"
    )


class Clock:
    """Adds up how long stages take, in any thread; on CUDA by events, so that nothing waits.

    Parameters
    ----------
    device : torch.device
        Where transfer, network and histogram happen.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._seconds: defaultdict[Stage, float] = defaultdict(float)
        self._events: deque[tuple[Stage, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        """Add the time of what is inside to a stage; of the current stream if it is on CUDA."""
        if self._device.type == "cuda" and stage in _ON_DEVICE:
            stream = torch.cuda.current_stream(self._device)
            first = stream.record_event(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            yield
            last = stream.record_event(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._events.append((stage, first, last))
            self._add_up()
            return
        started = time.perf_counter()
        yield
        if self._device.type == "mps" and stage in _ON_DEVICE:
            torch.mps.synchronize()
        with self._lock:
            self._seconds[stage] += time.perf_counter() - started

    def seconds(self) -> dict[Stage, float]:
        """Return the seconds of every stage so far, all threads together."""
        if self._events:
            torch.cuda.synchronize(self._device)
        self._add_up()
        return dict(self._seconds)

    def _add_up(self) -> None:
        """Add up what has happened already, so that events do not pile up with the images."""
        while self._events and self._events[0][2].query():  # type: ignore[no-untyped-call]
            stage, first, last = self._events.popleft()
            with self._lock:
                self._seconds[stage] += first.elapsed_time(last) / 1000


def _threads(stage: Stage, device: str, workers: int) -> int:
    """How many threads work at a stage at once: on a CPU each worker also runs the network."""
    return workers if stage == "decoding" or (stage == "network" and device == "cpu") else 1


def _name(stage: Stage) -> str:
    return _WITH_ARTICLE.get(stage, stage)


def _advice(limit: Stage, stages: Stages) -> str:
    if limit == "decoding":
        if stages.workers < stages.cores:
            return f"give more --workers, up to {stages.cores}"
        return "use more cores, or store smaller images"
    if limit == "network" and stages.device == "cpu":
        return "a GPU would help, or a spec with a smaller backbone"
    if limit == "network":
        return "a larger --batch-size may help, or a spec with a smaller backbone"
    return "give a larger --batch-size"
