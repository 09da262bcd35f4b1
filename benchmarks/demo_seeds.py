"""Does grouped training pay? The demo for several seeds: paired differences with 95 % intervals.

Usage: python benchmarks/demo_seeds.py [--seeds 10 11 12] [--out runs/seeds] [--json FILE]

Each seed draws other images for the sites and starts other models. A pair is one site in one seed;
intervals are Student's t over the pairs. Seeds 0 to 4 were looked at while the demo was made.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t as student

ARMS = ("alone", "together", "random", "grouped", "final")


def run_demo(seed: int, out: Path) -> list[dict[str, object]]:
    """Run the demo with one seed unless its run folder is there; return one row a site."""
    run = out / str(seed)
    if not (run / "run.json").exists():
        command = [str(Path(sys.executable).parent / "fedprint"), "demo"]
        subprocess.run([*command, "--seed", str(seed), "--out", str(run)], check=True)
    task_of = {s["site"]: s["task"] for s in json.loads((run / "run.json").read_text())["sites"]}
    sites = json.loads((run / "metrics.json").read_text())["sites"]
    return [
        {"seed": seed, "site": site, "task": task_of[site], **row} for site, row in sites.items()
    ]


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % t interval of paired differences, in points."""
    values = 100 * np.asarray(differences)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def difference(rows: Sequence[dict[str, object]], arm: str, other: str) -> str:
    """Return one paired difference as text."""
    mean, low, high = interval([float(r[arm]) - float(r[other]) for r in rows])  # type: ignore[arg-type]
    return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return the figures as Markdown: all sites, then family by family."""
    families: dict[str, list[dict[str, object]]] = {"all sites": list(rows)}
    held = {task: sum(r["task"] == task for r in rows) for task in {str(r["task"]) for r in rows}}
    seeds = len({r["seed"] for r in rows})
    for row in rows:
        shared = held[str(row["task"])] > seeds
        families.setdefault(str(row["task"]) if shared else "disjoint classes", []).append(row)
    lines = ["| | sites | " + " | ".join(ARMS) + " | grouped - alone | - together | - random |"]
    lines.append("|---" * (len(ARMS) + 5) + "|")
    for name, members in families.items():
        means = [f"{100 * np.mean([float(r[arm]) for r in members]):.1f}" for arm in ARMS]  # type: ignore[arg-type]
        gaps = [difference(members, "grouped", other) for other in ARMS[:3]]
        lines.append("| " + " | ".join([name, str(len(members) // seeds), *means, *gaps]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = [row for seed in options.seeds for row in run_demo(seed, options.out)]
    print(table(rows))
    guarded = difference(rows, "final", "alone")
    kept = sum(row["kept"] == "grouped" for row in rows)
    print(f"\nwith the guard: final - alone {guarded}; the group's model kept {kept}/{len(rows)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
