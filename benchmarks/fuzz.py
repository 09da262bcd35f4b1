"""Spoilt messages against every decoder that sees bytes from outside: a count, and no crash.

Usage: python benchmarks/fuzz.py [--messages 1000000] [--seed 0] [--processes 1] [--json FILE]

Whole messages of every kind are spoilt (bits, truncation, splices, doubled keys, deep or hostile
JSON, huge integers, NaN, surrogates; see `mutations`) and handed to the decoders (see `doors`).
Whatever happens must be a `FedprintError` or a proper result; anything else is printed with its
message, and the exit code is 1. Memory is the largest resident size of the process.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script

from benchmarks.doors import Door, doors
from benchmarks.mutations import spoil
from protocol.errors import FedprintError


class Tally(NamedTuple):
    """What came of some messages."""

    outcomes: Counter[str]  # by class of the error, or "accepted"
    crashes: dict[str, str]  # traceback and message, by door and class
    slowest: tuple[float, str]  # seconds of one message, and its door
    grown: float  # MB by which the largest resident size grew


def knock(open_doors: Mapping[str, Door], count: int, seed: int, until: float = 1e18) -> Tally:
    """Spoil and hand in so many messages, or as many as there is time for.

    Parameters
    ----------
    open_doors : mapping
        See `benchmarks.doors.doors`.
    count : int
        Most messages.
    seed : int
        The same messages come of the same seed and keys.
    until : float
        Time of `time.monotonic` when to stop.
    """
    rng = random.Random(seed)
    names, messages = sorted(open_doors), [door.message for door in open_doors.values()]
    outcomes: Counter[str] = Counter()
    crashes: dict[str, str] = {}
    slowest, before = (0.0, ""), _peak()
    for number in range(count):
        name = names[number % len(names)]
        message = spoil(open_doors[name].message, messages, rng)
        start = time.monotonic()
        if start > until:
            break
        try:
            open_doors[name].read(message)
            outcomes["accepted"] += 1
        except FedprintError as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:
            outcomes["CRASH"] += 1
            kind = f"{name}: {type(error).__name__}"
            crashes.setdefault(kind, f"{traceback.format_exc(limit=-6)}\n{_short(message)}")
        slowest = max(slowest, (time.monotonic() - start, name))
    return Tally(outcomes, crashes, slowest, _peak() - before)


def _peak() -> float:
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _short(message: Any) -> str:
    text = repr(message)
    return text if len(text) < 1500 else f"{text[:1500]}... ({len(text)} characters)"


def _work(task: tuple[int, int]) -> Tally:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        open_doors = doors(Path(folder))
        knock(open_doors, 20 * len(open_doors), seed=-1)  # all is imported, pools are filled
        return knock(open_doors, *task)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    start, each = time.monotonic(), -(-options.messages // options.processes)
    tasks = [(each, options.seed + i) for i in range(options.processes)]
    if options.processes == 1:
        tallies = [_work(tasks[0])]
    else:
        with ProcessPoolExecutor(options.processes) as pool:
            tallies = list(pool.map(_work, tasks))
    seconds = time.monotonic() - start
    outcomes: Counter[str] = sum((tally.outcomes for tally in tallies), Counter())
    crashes = {kind: text for tally in tallies for kind, text in tally.crashes.items()}
    result = {
        "messages": outcomes.total(),
        "crashes": outcomes["CRASH"],
        "outcomes": dict(outcomes.most_common()),
        "slowest": max(tally.slowest for tally in tallies),
        "grown_mb": round(max(tally.grown for tally in tallies), 1),
        "seconds": round(seconds, 1),
        "per_second": round(outcomes.total() / seconds),
    }
    for kind, text in crashes.items():
        print(f"CRASH {kind}\n{text}\n", file=sys.stderr)
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(1 if crashes else 0)


if __name__ == "__main__":
    main()
