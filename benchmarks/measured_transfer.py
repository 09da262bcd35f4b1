"""Which measure foresees transfer? All pairs of nineteen small real tasks, trained and judged.

Usage: python benchmarks/measured_transfer.py [--packages DIR] [--seeds 0 1 2 3 4] [--out DIR]

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
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script

from benchmarks.transfer_judging import among_strangers, judge_all, table
from benchmarks.transfer_tables import families_of, write_cards, write_distances, write_outcomes
from benchmarks.transfer_tasks import siblings, write_tasks
from benchmarks.transfer_training import Kept, learners, measure_all, trainings
from fl_server.replay_data import read_replay
from protocol.errors import ConfigError
from protocol.spec import load_spec
from strategies.measures import Task, available, get

HERE = Path(__file__).resolve().parent / "transfer"
SPEC, PROJECTED = "lite0-100", "lite0-private"
DEFAULT = "bkld-large-unweighted"


def measure(packages: Path, work: Path, out: Path, seeds: list[int]) -> None:
    """Train all pairs and write the folder of recorded outcomes."""
    from benchmarks.transfer_describing import describe
    from benchmarks.transfer_pool import write_pool

    folders = write_tasks(work / "sites", packages)
    every = learners(folders, load_spec(SPEC))
    kept, started, done = Kept(work / "measured.jsonl", seeds), time.monotonic(), 0
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
    write_measures(out, describe(every, seeds, work / "fisher"))
    write_pool(work / "pool.db", every, kept)


def write_measures(out: Path, tasks: Sequence[Task]) -> None:
    """Write the distances of every measure, and say how long each took.

    Those that are there stay, but scores, which depend on the seeds: OTCE alone takes minutes.
    """
    from benchmarks.transfer_describing import projected

    names = [task.name for task in tasks]
    for name in available():
        if (out / "distances" / f"{name}.csv").exists() and "scores" not in get(name).needs:
            continue
        started = time.monotonic()
        try:
            found = get(name).distances(tasks, tasks)
        except ConfigError:  # one that works in a projection alone
            other = projected(tasks, load_spec(PROJECTED))
            found = get(name).distances(other, other)
        seconds = (time.monotonic() - started) / len(tasks) ** 2
        print(f"{name}: {1000 * seconds:.2f} ms a pair", flush=True)
        write_distances(out, name, names, found)


def judge(folder: Path) -> None:
    """Print a table a scenario: all sources, then without siblings."""
    data, families = read_replay(folder), families_of(folder)
    for title, some in (
        ("All sources", data),
        ("Without siblings", among_strangers(data, families)),
    ):
        found = judge_all(some)
        for scenario in data.scenarios:
            print(f"\n{title}: {scenario}\n\n{table(some, found, scenario, DEFAULT)}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--packages", type=Path, help="folder of unpacked packages: train")
    parser.add_argument("--work", type=Path, default=Path("runs/transfer"), help="images, models")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of recorded outcomes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    if options.packages:
        measure(options.packages, options.work, options.out, options.seeds)
    judge(options.out)


if __name__ == "__main__":
    main()
