"""What a group's training rounds cost in a simulation, against the same training by Lightning.

    python benchmarks/training_rounds.py [--recipe adapter] [--sites 17] [--turns 5] [--json FILE]

One simulation, in which a ServerApp trains one group of demonstration sites in arms of 1 and of 10
rounds, and as many processes as the engine has actors train the same sites without Flower in
between: same model, data, steps, batches, threads, and one scoring an arm. Lightning's side sends,
averages and writes nothing. The first turn is cold (data and models are made) and reported apart.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from fl_server.demo_data import SITES, write_demo_sites
from fl_server.engine import assemble_app, simulate
from protocol.benchmark import available_cores

HERE = Path(__file__).parent
ROUNDS = (1, 10)
Arm = dict[str, float]


def benchmark_app(folder: Path) -> Path:
    """Return fedprint's app with the benchmark's components in place of its own."""
    app = assemble_app(folder)
    for room, name in (("server", "server"), ("client", "client"), ("client", "lightning")):
        shutil.copy(HERE / f"rounds_{name}.py", app / f"fl_{room}" / f"rounds_{name}.py")
    project = (app / "pyproject.toml").read_text()
    project = re.sub(r'serverapp = ".*"', 'serverapp = "fl_server.rounds_server:app"', project)
    project = re.sub(r'clientapp = ".*"', 'clientapp = "fl_client.rounds_client:app"', project)
    (app / "pyproject.toml").write_text(project)
    return app


def measure(folder: Path, recipe: str, sites: int, turns: int) -> dict[str, Any]:
    """Simulate once, and say what an arm costs."""
    chosen = SITES[:sites]
    write_demo_sites(folder / "sites", sites=chosen)
    app, out, notes = benchmark_app(folder / "app"), folder / "out", folder / "notes"
    out.mkdir(exist_ok=True)
    notes.mkdir(exist_ok=True)
    wanted = {"turns": turns, "rounds": ROUNDS, "processes": available_cores()}
    os.environ["FEDPRINT_ROUNDS"] = str(notes)
    os.environ["FEDPRINT_ROUNDS_WANTED"] = json.dumps(wanted)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(app), os.environ.get("PYTHONPATH", "")])
    os.chdir(app)  # the engine's actors look for modules in the working directory first
    values = {
        "sites-dir": str(folder / "sites"),
        "out": str(out),
        "recipe": recipe,
        "min-sites": sites,
        "device": "cpu",
        "release": "plain",
        "spec": "lite0-100",
    }
    simulate(sites, values, app=app)
    arms = json.loads((out / "arms.json").read_text())
    found = [json.loads(line) for f in sorted(notes.glob("*.jsonl")) for line in f.open()]
    return {
        "recipe": recipe,
        "sites": sites,
        "processes": available_cores(),
        "arms": {
            f"{rounds} rounds": _summary([arm for arm in arms if arm["rounds"] == rounds], found)
            for rounds in ROUNDS
        },
    }


def _summary(arms: list[Arm], notes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the ratio of Lightning's time to the arm's, and where the arm's time goes."""
    cold, *warm = arms
    ratios = [arm["lightning"] / arm["seconds"] for arm in warm]
    parts = [_parts(arm, notes) for arm in warm]
    return {
        "of_lightning": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "seconds": statistics.median(arm["seconds"] for arm in warm),
        "lightning_seconds": statistics.median(arm["lightning"] for arm in warm),
        "cold": {"seconds": cold["seconds"], "lightning_seconds": cold["lightning"]},
        "parts": {
            name: statistics.median(part.get(name, 0.0) for part in parts)
            for name in dict.fromkeys(name for part in parts for name in part)
        },
        "cold_parts": _parts(cold, notes),
    }


def _parts(arm: Arm, notes: list[dict[str, Any]]) -> dict[str, float]:
    """Split an arm's seconds; those of sites are divided by the number of processes."""
    own = [note for note in notes if arm["began"] <= note["began"] <= arm["ended"]]
    processes, busy = available_cores(), sum(note["seconds"] for note in own)
    parts: dict[str, float] = {}
    for note in own:
        for name, seconds in note["parts"].items():
            parts[name] = parts.get(name, 0.0) + seconds / processes
    parts["other work of sites"] = busy / processes - sum(parts.values())
    parts["server"] = arm["server"]
    parts["engine, polling, last site"] = arm["seconds"] - arm["server"] - busy / processes
    return parts


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", choices=("adapter", "fine-tune"), default="adapter")
    parser.add_argument("--sites", type=int, default=len(SITES))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedprint-") as scratch:
        result = measure(Path(scratch), args.recipe, args.sites, args.turns)
    text = json.dumps(result, indent=2)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
