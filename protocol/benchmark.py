"""What a benchmark is asked, what it answers, and how two things are timed fairly.

Every figure that counts is a ratio of two things measured in one run, in turns: a busy machine
then slows both alike. Higher is better in all of them.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

GROUP = "fedprint.benchmarks"
"""Entry points of this group are benchmarks: functions from `Options` to `Findings`."""

PACKAGES = ("fedprint", "flwr", "torch", "timm", "numpy", "scipy", "faiss-cpu", "vdna")

Size: TypeAlias = Literal["full", "small"]


@dataclass(frozen=True)
class Options:
    """What a benchmark is asked.

    Attributes
    ----------
    scratch : Path
        An empty folder of its own, deleted afterwards.
    threads : int
        Threads that either side computes with.
    turns : int
        How often the two sides take turns.
    device : str
        As `fl_client.device.choose_device` knows it; empty for the first that is there.
    size : {"full", "small"}
        ``full`` measures at the sizes that ratios are quoted for; ``small`` ends within seconds
        and shows only that everything runs.
    """

    scratch: Path
    threads: int
    turns: int = 5
    device: str = ""
    size: Size = "full"

    def pick(self, full: int, small: int) -> int:
        """Return the number that goes with the size."""
        return full if self.size == "full" else small


@dataclass(frozen=True)
class Ratio:
    """A peer's or a limit's time divided by ours: the median over the turns, and the extremes.

    Attributes
    ----------
    median, low, high : float
        Over the turns.
    meaning : str
        What is divided by what, in a few words for the table.
    """

    median: float
    low: float
    high: float
    meaning: str

    @classmethod
    def over(cls, values: list[float], meaning: str) -> Ratio:
        """Summarise one value a turn."""
        return cls(statistics.median(values), min(values), max(values), meaning)


@dataclass(frozen=True)
class Findings:
    """What a benchmark found.

    Attributes
    ----------
    ratios : mapping of str to Ratio
        Under names that do not change between versions.
    figures : mapping of str to float
        Whatever stands behind the ratios; names end in their unit (``forward_images_per_second``).
    notes : list of str
        Sentences for the reader: which stage is the limit, which peer is not installed.
    """

    ratios: Mapping[str, Ratio]
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Benchmark: TypeAlias = Callable[[Options], Findings]


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], turns: int
) -> tuple[list[float], list[float]]:
    """Time two calls in turns, after one call of each that is not counted.

    Parameters
    ----------
    ours, theirs
        What is compared.
    turns
        How often each is timed.

    Returns
    -------
    tuple of two lists of float
        Seconds of ours, and of the other: of the latter the mean of the calls before and after
        ours, so that a machine that slows down evenly moves no ratio.
    """
    theirs()
    ours()
    mine, others = [], [seconds(theirs)]
    for _ in range(turns):
        mine.append(seconds(ours))
        others.append(seconds(theirs))
    return mine, [(a + b) / 2 for a, b in pairwise(others)]


def ratio(
    ours: Callable[[], object], theirs: Callable[[], object], turns: int, meaning: str
) -> Ratio:
    """Return how many times the other's time is ours, measured by `in_turns`."""
    mine, others = in_turns(ours, theirs, turns)
    return Ratio.over([b / a for a, b in zip(mine, others, strict=True)], meaning)


def machine() -> dict[str, str | int | float]:
    """Return what the figures depend on: processor, memory, system, versions."""
    facts: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gib": round(_memory() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
