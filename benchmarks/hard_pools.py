"""Grouping of easy and hard pools of sites, from private and from plain releases.

Adjusted Rand index against the known groups, mean over the seeds with its 95 % interval. Spec and
rule are the shipped ones; the tasks had no part in choosing either. Noise is rounded Gaussian with
a seed, which at these widths is as good as the discrete Gaussian of a real release. Usage:

    python benchmarks/pool_images.py images --packages packages
    python benchmarks/hard_pools.py images --cache features [--seeds 10] [--json FILE]

Columns: the shipped rule on private releases ("private") and without noise; the same releases with
the number of groups known (Ward on shares whose rows are put back to their known sum, no other
correction); the paper's form, 1,280 features in 20 and in 100 bins, at the same epsilon and with
the number known.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import t as student
from sklearn.metrics import adjusted_rand_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script

from benchmarks import pool_sites as sites
from protocol.fingerprint import Fingerprint
from protocol.privacy import rho_of
from protocol.spec import Spec, load_spec, parse_spec
from strategies.grouping import GroupingOptions, group

DELTA = 1e-5
Truth = Literal["task", "data"]


class Row(NamedTuple):
    """A kind of pool, the sizes of its sites in turn, the epsilon of a release, and the truth."""

    kind: str
    sizes: tuple[int, ...]
    epsilon: float
    truth: Truth


ROWS = [
    Row("easy", (150,), 2.0, "task"),
    Row("easy", (150,), 2.0, "data"),
    Row("easy", (60,), 2.0, "task"),
    Row("easy", (280,), 1.31, "task"),
    Row("easy", (280,), 1.31, "data"),
    Row("easy", (60, 240), 2.0, "task"),
    Row("easy", (60, 600), 2.0, "task"),
    Row("subsets", (150,), 2.0, "data"),
    Row("subsets", (60,), 2.0, "data"),
    Row("subsets", (60, 240), 2.0, "data"),
    Row("subsets", (280,), 1.31, "data"),
    Row("nested", (150,), 2.0, "data"),
    Row("nested", (60, 240), 2.0, "data"),
    Row("nested", (150,), 2.0, "task"),
    Row("skew", (150,), 2.0, "task"),
    Row("skew", (60,), 2.0, "task"),
    Row("shifts", (150,), 2.0, "data"),
    Row("shifts", (60,), 2.0, "data"),
]


def pools(row: Row, tasks: sites.Tasks, seed: int) -> Iterator[tuple[str, sites.Pool]]:
    """Yield the pools of a seed with their task; a task without enough images yields none."""
    names = sorted(name for name in tasks if "@" not in name)
    rng = np.random.default_rng([seed, *map(ord, row.kind)])
    if row.kind == "easy":
        made = [("several", sites.easy(rng, tasks, row.sizes))]
    elif row.kind == "skew":
        made = [("several", sites.skewed(rng, tasks, row.sizes))]
    elif row.kind == "nested":
        chosen = rng.permutation(names)[:3]
        nested = [sites.subsets(rng, tasks, str(name), row.sizes) for name in chosen]
        if row.truth == "task":
            nested = [[s._replace(group=str(n)) for s in pool] for n, pool in enumerate(nested)]
        made = [("several", [site for pool in nested for site in pool])]
    elif row.kind == "subsets":
        made = [(name, sites.subsets(rng, tasks, name, row.sizes)) for name in names]
    else:
        made = [(name, sites.shifts(rng, tasks, name, row.sizes)) for name in names]
    yield from ((name, pool) for name, pool in made if len({site.group for site in pool}) > 1)


def by_rule(fingerprints: Sequence[Fingerprint], spec: Spec, truth: Truth) -> list[int]:
    """Group with the shipped rule; return the number of each site's group."""
    found = group(fingerprints, spec, GroupingOptions(truth=truth, draws=0)).groups
    place = {name: number for number, g in enumerate(found) for name in g.sites}
    return [place[fingerprint.site] for fingerprint in fingerprints]


def by_number(fingerprints: Sequence[Fingerprint], groups: int) -> NDArray[np.int32]:
    """Group into a known number by Ward's method on unbiased shares."""
    shares = np.stack([f.shares for f in fingerprints])  # [k, m, b]
    shares -= (shares.sum(axis=2, keepdims=True) - 1) / shares.shape[2]  # each row adds up to 1
    tree = linkage(shares.reshape(len(shares), -1), "ward")
    labels: NDArray[np.int32] = fcluster(tree, groups, "maxclust")
    return labels


def twenty_bins(spec: Spec) -> Spec:
    """Return the paper's form with 20 bins over the same edges."""
    return parse_spec({**spec.model_dump(), "bins": 20, "name": "lite0-20"})


def measure(
    row: Row, tasks: sites.Tasks, forms: dict[str, sites.Counted], seeds: int
) -> dict[str, list[dict[str, float]]]:
    """Return the index of each way by seed and task."""
    rho = rho_of(row.epsilon, DELTA)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        scores: dict[str, dict[str, float]] = {}
        for task, pool in pools(row, tasks, seed):
            truth = [site.group for site in pool]
            for name, form in forms.items():
                rng = np.random.default_rng([seed, 1])
                noised = form.release(pool, rho, rng)
                ways = {f"{name}, number known": by_number(noised, len(set(truth)))}
                if form.spec.projection is not None:
                    ways[name] = np.array(by_rule(noised, form.spec, row.truth))
                    plain = form.release(pool, None, rng)
                    ways["without noise"] = np.array(by_rule(plain, form.spec, row.truth))
                    known = by_number(plain, len(set(truth)))
                    ways["without noise, number known"] = known
                for way, labels in ways.items():
                    index = float(adjusted_rand_score(truth, labels))
                    scores.setdefault(way, {})[task] = index
        for way, by_task in scores.items():
            found.setdefault(way, []).append(by_task)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval (Student)."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="folder written by benchmarks/pool_images.py")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the features")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--choosing", action="store_true", help="the tasks that chose the settings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = sites.CHOOSING_NAMES if options.choosing else sites.JUDGING_NAMES
    tasks = sites.load_all(names, options.images, options.cache)
    full = load_spec("lite0-100")
    forms = {
        "private": sites.Counted(tasks, load_spec("lite0-private")),
        "1280 x 20": sites.Counted(tasks, twenty_bins(full)),
        "1280 x 100": sites.Counted(tasks, full),
    }
    results = []
    for row in ROWS:
        found = measure(row, tasks, forms, options.seeds)
        kind = f"{row.kind} {'/'.join(map(str, row.sizes))}, eps {row.epsilon:g}, {row.truth}"
        summary = {}
        for way, by_seed in found.items():
            mean, half = interval([float(np.mean(list(scores.values()))) for scores in by_seed])
            tasks_ = {name: [s[name] for s in by_seed if name in s] for name in by_seed[0]}
            means = {name: round(float(np.mean(v)), 3) for name, v in tasks_.items()}
            summary[way] = {"mean": round(mean, 3), "half": round(half, 3), "tasks": means}
        shown = "; ".join(f"{way} {s['mean']:.2f} ± {s['half']:.2f}" for way, s in summary.items())
        print(f"{kind}: {shown}", flush=True)
        results.append({**row._asdict(), "ways": summary})
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
