"""Do plans pay, and does a pool make the next run wiser? The demo's sites, paired differences.

Usage: python benchmarks/plans.py [--seeds 10 11 12] [--shots 2] [--out runs/plans] [--json FILE]

For each seed two runs on the same sites: the first with an empty pool, the second with what the
first left there. Of its own outcomes no site is told; those of the others are what the pool knows.
Arms: alone, grouped and planned, on the same rounds and epochs. A pair is one site in one seed;
intervals are Student's t over the pairs, which takes sites as independent.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from demo_seeds import difference
from scipy.stats import spearmanr

from fl_server.demo_data import write_demo_sites

Row = dict[str, object]
ARMS = ("alone", "grouped", "planned", "final")


def run_once(sites: Path, out: Path, pool: Path, seed: int, shots: int) -> None:
    """Run the demo's sites by plan unless the run folder is there."""
    if (out / "run.json").exists():
        return
    config = f'arms="alone,grouped,planned" seed={seed} shots={shots}'
    command = [str(Path(sys.executable).parent / "fedprint"), "simulate", str(sites)]
    options = ["--out", str(out), "--pool", str(pool), "--run-config", config]
    subprocess.run([*command, *options], check=True)


def rows_of(run: Path, seed: int) -> list[Row]:
    """Return one row a site."""
    sites = json.loads((run / "metrics.json").read_text())["sites"]
    return [{"seed": seed, "site": site, **row} for site, row in sites.items()]


def choices_of(run: Path) -> Counter[str]:
    """Count what groups took in each scenario."""
    plans = json.loads((run / "plans.json").read_text())["plans"]
    return Counter(f"{c['scenario']}: {c['label']}" for plan in plans for c in plan["choices"])


def gains_of(run: Path) -> list[dict[str, float]]:
    """Return every shot's mean gains over its group's sites, by score."""
    found = []
    for trial in json.loads((run / "trials.json").read_text())["trials"]:
        for tried in trial["tried"]:
            differences: dict[str, list[float]] = {}
            for site, scores in tried["scores"].items():
                for name, value in scores.items():
                    before = trial["baseline"][site].get(name)
                    if value is not None and before is not None:
                        differences.setdefault(name, []).append(value - before)
            found.append({name: float(np.mean(each)) for name, each in differences.items()})
    return found


def foresight(gains: list[dict[str, float]]) -> str:
    """Say how well gains on validation data go with those in balanced accuracy on test data."""
    parts = []
    for name in ("val_balanced_accuracy", "val_auroc"):
        both = [(g[name], g["test_balanced_accuracy"]) for g in gains if name in g]
        parts.append(f"{name} {spearmanr(*zip(*both, strict=True)).statistic:.2f}")
    return f"rank correlation with test gains over {len(gains)} shots: " + ", ".join(parts)


def said(name: str, rows: list[Row]) -> str:
    """Return one line of the table."""
    means = [f"{100 * np.mean([float(r[arm]) for r in rows]):.1f}" for arm in ARMS]  # type: ignore[arg-type]
    gaps = [difference(rows, "planned", "grouped"), difference(rows, "final", "alone")]
    return "| " + " | ".join([name, str(len(rows)), *means, *gaps]) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--shots", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/plans"))
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    found: dict[str, list[Row]] = {"first": [], "second": []}
    taken = {name: Counter[str]() for name in found}
    gains: list[dict[str, float]] = []
    for seed in options.seeds:
        folder = options.out / str(seed)
        if not (folder / "sites").exists():
            write_demo_sites(folder / "sites", seed=seed)
        pool = folder / f"pool-{options.shots}.db"
        for name, rows in found.items():
            run = folder / f"{name}-{options.shots}"
            run_once(folder / "sites", run, pool, seed, options.shots)
            rows += rows_of(run, seed)
            taken[name] += choices_of(run)
        gains += gains_of(folder / f"first-{options.shots}")
    print("| run | pairs | " + " | ".join(ARMS) + " | planned - grouped | final - alone |")
    print("|---" * (len(ARMS) + 4) + "|")
    for name, rows in found.items():
        print(said(name, rows))
    both = [{**b, "first": a["planned"]} for a, b in zip(*found.values(), strict=True)]
    print(f"\nplanned, second run - first run: {difference(both, 'planned', 'first')}")
    print(foresight(gains))
    for name, counted in taken.items():
        print(f"{name}: " + ", ".join(f"{what} ({n})" for what, n in sorted(counted.items())))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
