"""How far a site's stated confidence in its group can be trusted, on the pools of hard_pools.py.

For each range of confidence: the share of sites in it, the mean overlap (Jaccard index) of their
group with the true one, and the share whose group is exactly the true one.

    python benchmarks/certainty.py IMAGES --cache CACHE [--choosing] [--seeds 3]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script

from benchmarks import pool_sites as sites
from benchmarks.hard_pools import DELTA, ROWS, Row, pools
from protocol.privacy import rho_of
from protocol.spec import load_spec
from strategies.grouping import GroupingOptions, group

RANGES = ((0.0, 0.5), (0.5, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0))


def judged(
    row: Row, pool: sites.Pool, form: sites.Counted, seed: int
) -> Iterator[tuple[float, float]]:
    """Yield each site's confidence and the overlap of its group with the true one."""
    rng = np.random.default_rng([seed, 1])
    released = form.release(pool, rho_of(row.epsilon, DELTA), rng)
    truth = {f.site: site.group for f, site in zip(released, pool, strict=True)}
    grouping = group(released, form.spec, GroupingOptions(truth=row.truth))
    for found in grouping.groups:
        for site in found.sites:
            true = {other for other, of in truth.items() if of == truth[site]}
            overlap = len(true.intersection(found.sites)) / len(true.union(found.sites))
            yield grouping.sites[site].confidence or 0.0, overlap


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="folder written by benchmarks/pool_images.py")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the features")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--choosing", action="store_true", help="the tasks that chose the settings")
    options = parser.parse_args()
    names = sites.CHOOSING_NAMES if options.choosing else sites.JUDGING_NAMES
    tasks = sites.load_all(names, options.images, options.cache)
    form = sites.Counted(tasks, load_spec("lite0-private"))
    table = np.array(
        [
            pair
            for row in ROWS
            for seed in range(options.seeds)
            for _, pool in pools(row, tasks, seed)
            for pair in judged(row, pool, form, seed)
        ]
    )  # [sites, 2]
    for low, high in RANGES:
        inside = (table[:, 0] >= low) & (table[:, 0] < high + (high == 1.0))
        overlap = table[inside, 1]
        print(
            f"confidence {low} to {high}: {inside.mean():.3f} of {len(table)} sites, "
            f"overlap {overlap.mean():.3f}, exact {(overlap == 1).mean():.3f}"
        )


if __name__ == "__main__":
    main()
