"""Which measure foresees transfer? All pairs of nineteen small real tasks, trained and judged.

Usage: python benchmarks/measured_transfer.py [--packages DIR] [--seeds 0 1 2] [--out DIR]

With ``--packages`` (a folder of unpacked packages, see benchmarks/pool_images.py) it writes the
tasks' site folders, trains what is not trained yet (`benchmarks/transfer_training.py`), computes
every measure and writes the folder of recorded outcomes; a killed run goes on where it was.
Without, it judges the folder that is there.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script

from benchmarks.transfer_tables import write_cards, write_outcomes
from benchmarks.transfer_tasks import siblings, write_tasks
from benchmarks.transfer_training import Kept, learners, measure_all, trainings
from protocol.spec import load_spec

HERE = Path(__file__).resolve().parent / "transfer"


def measure(packages: Path, work: Path, out: Path, seeds: list[int]) -> None:
    """Train all pairs and write the folder of recorded outcomes."""
    folders = write_tasks(work / "sites", packages)
    every = learners(folders, load_spec("lite0-100"))
    kept, started, done = Kept(work / "measured.jsonl"), time.monotonic(), 0
    total = trainings(len(every), len(seeds))

    def step() -> None:
        nonlocal done
        done += 1
        if done % 50 == 0 or done == total:
            print(f"{done}/{total} trainings, {time.monotonic() - started:.0f} s", flush=True)

    measure_all(every, seeds, kept, step)
    out.mkdir(parents=True, exist_ok=True)
    write_outcomes(out, kept)
    write_cards(out, every, siblings())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--packages", type=Path, help="folder of unpacked packages: train")
    parser.add_argument("--work", type=Path, default=Path("runs/transfer"), help="images, models")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of recorded outcomes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.packages:
        measure(options.packages, options.work, options.out, options.seeds)


if __name__ == "__main__":
    main()
