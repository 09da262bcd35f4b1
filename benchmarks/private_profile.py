"""What a private release should count: directions x bins x noise x images, on tasks set aside.

Sweeps the shape of the private profile (how many public directions, how many bins, which kind of
directions) and shows how far sites that hold disjoint subsets of a task's classes are told apart
by the shipped rule, as adjusted Rand index. Only the tasks meant for choosing are used; the others
judge the result in benchmarks/hard_pools.py. Usage:

    python benchmarks/pool_images.py images --packages packages
    fedprint spec images public --foolbox foolbox
    python benchmarks/private_profile.py images public --cache features --out docs/explanation

writes docs/explanation/privacy-profile.svg and prints the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script

from benchmarks import pool_sites as sites
from benchmarks.hard_pools import DELTA, Row, by_number, by_rule, pools, twenty_bins
from fl_client.calibrate import edges
from fl_client.projection import directions
from protocol.privacy import epsilon_of
from protocol.spec import Calibration, Projection, Spec, load_spec

FloatArray = NDArray[np.float64]

WIDTHS = (2, 3, 4, 6, 8, 12, 16)
BINS = (3, 4, 5, 6, 8, 10)
RHOS = (0.02, 0.05, 0.107, 0.5, None)  # None: no noise
SIZES = (60, 100, 150, 280, 600)
SHIPPED = 8, 5
RHO = 0.107  # epsilon 2 at delta 1e-5
POOLS = [
    Row("subsets", (150,), 2.0, "data"),
    Row("subsets", (60,), 2.0, "data"),
    Row("subsets", (60, 240), 2.0, "data"),
]
EASY = Row("easy", (60,), 2.0, "task")


def standardised(public: sites.Task, count: int) -> FloatArray:
    """Principal directions of features of unit variance."""
    scale = public.features.std(axis=0) + 1e-9
    return np.asarray(directions(public.features / scale, count) / scale, dtype=np.float64)


def within_sets(public: sites.Task, count: int) -> FloatArray:
    """Principal directions within the public sets, not between them."""
    means = np.stack(
        [public.features[public.classes == c].mean(axis=0) for c in np.unique(public.classes)]
    )
    return directions(public.features - means[public.classes], count)


def rotated(public: sites.Task, count: int) -> FloatArray:
    """Principal directions of unit variance in a random rotation: all carry as much."""
    axes = directions(public.features, count)
    axes /= (public.features.astype(np.float64) @ axes.T).std(axis=0)[:, None]
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((count, count)))[0]
    return np.asarray(turn @ axes, dtype=np.float64)


def random(public: sites.Task, count: int) -> FloatArray:
    """Random directions."""
    return np.random.default_rng(0).standard_normal((count, public.features.shape[1]))


KINDS: dict[str, Callable[[sites.Task, int], FloatArray]] = {
    "principal": lambda public, count: directions(public.features, count),
    "principal, standardised": standardised,
    "principal, within sets": within_sets,
    "principal, whitened and rotated": rotated,
    "random": random,
}


def profile(public: sites.Task, kind: str, width: int, bins: int) -> Spec:
    """Return the spec that counts so many directions of a kind in so many bins."""
    base = load_spec("lite0-100")
    assert base.weights.sha256 is not None
    projection = Projection.of(KINDS[kind](public, width))
    lower, upper = edges(projection.apply(public.features))
    return base.model_copy(update={"bins": bins, "name": f"{width}x{bins}"}).with_edges(
        lower,
        upper,
        weights_sha256=base.weights.sha256,
        calibration=Calibration(images=["public"], count=len(public.features)),
        projection=projection,
    )


def score(
    form: sites.Counted, row: Row, tasks: sites.Tasks, rho: float | None, seeds: int, rule: bool
) -> float:
    """Return the mean index over seeds and tasks, by the rule or with the number known."""
    indices = []
    for seed in range(seeds):
        for _, pool in pools(row, tasks, seed):
            truth = [site.group for site in pool]
            released = form.release(pool, rho, np.random.default_rng([seed, 1]))
            labels: Sequence[int] | NDArray[np.int32] = (
                by_rule(released, form.spec, row.truth)
                if rule
                else by_number(released, len(set(truth)))
            )
            indices.append(adjusted_rand_score(truth, labels))
    return float(np.mean(indices)) if indices else float("nan")


def sweep_shapes(public: sites.Task, tasks: sites.Tasks, seeds: int) -> FloatArray:
    """Return the mean index over `POOLS` of every shape, [widths, bins], and print all."""
    grid = np.empty((len(WIDTHS), len(BINS)))
    for i, width in enumerate(WIDTHS):
        for j, bins in enumerate(BINS):
            form = sites.Counted(tasks, profile(public, "principal", width, bins))
            each = [score(form, row, tasks, RHO, seeds, rule=True) for row in POOLS]
            grid[i, j] = np.mean(each)
            print(f"{width:2d} x {bins:2d}: {' '.join(f'{v:.2f}' for v in each)}", flush=True)
    return grid


def sweep_noise(public: sites.Task, tasks: sites.Tasks, seeds: int) -> dict[str, list[float]]:
    """Return the index by number of images for each budget, and for the paper's form."""
    rows = [Row("subsets", (size,), 2.0, "data") for size in SIZES]
    form = sites.Counted(tasks, profile(public, "principal", *SHIPPED))
    lines = {}
    for rho in RHOS:
        name = "no noise" if rho is None else f"ε = {epsilon_of(rho, DELTA):.2g} (ρ {rho:g})"
        lines[name] = [score(form, row, tasks, rho, seeds, rule=True) for row in rows]
    paper = sites.Counted(tasks, twenty_bins(load_spec("lite0-100")))
    name = "1,280 features x 20 bins, ε = 2,\nnumber of groups known"
    lines[name] = [score(paper, row, tasks, RHO, seeds, rule=False) for row in rows]
    for name, line in lines.items():
        print(f"{' '.join(name.split())}: {' '.join(f'{v:.2f}' for v in line)}", flush=True)
    return lines


def plot(grid: FloatArray, lines: dict[str, list[float]], path: Path) -> None:
    """Draw both sweeps, the same bytes for the same figures."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "fedprint", "svg.fonttype": "none", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    left.imshow(grid, cmap="viridis", vmin=0.3, vmax=1, aspect="auto")
    for i, j in np.ndindex(*grid.shape):
        shipped = (WIDTHS[i], BINS[j]) == SHIPPED
        colour = "black" if grid[i, j] > 0.65 else "white"
        weight = "bold" if shipped else "normal"
        text = f"[{grid[i, j]:.2f}]" if shipped else f"{grid[i, j]:.2f}"
        left.text(j, i, text, ha="center", va="center", color=colour, weight=weight)
    left.set_xticks(range(len(BINS)), [str(b) for b in BINS])
    left.set_yticks(range(len(WIDTHS)), [str(w) for w in WIDTHS])
    left.set(xlabel="bins", ylabel="public directions", title="ε = 2: mean of three pools")
    for number, (name, line) in enumerate(lines.items()):
        style = "--" if number == len(lines) - 1 else "-"
        right.plot(range(len(SIZES)), line, style, marker="o", markersize=3, label=name)
    right.set_xticks(range(len(SIZES)), [str(size) for size in SIZES])
    right.set(xlabel="images a site", ylabel="adjusted Rand index", ylim=(-0.05, 1.05))
    right.set_title(f"disjoint class subsets, {SHIPPED[0]} x {SHIPPED[1]}")
    right.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="folder written by benchmarks/pool_images.py")
    parser.add_argument("public", type=Path, help="that of `fedprint spec images`")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the features")
    parser.add_argument("--out", type=Path, default=Path("docs/explanation"))
    parser.add_argument("--seeds", type=int, default=16)
    options = parser.parse_args()
    tasks = sites.load_all(sites.CHOOSING_NAMES, options.images, options.cache)
    public = sites.load(options.public, options.cache)
    print("directions, 8 x 5: subsets 150, 60, 60/240; easy 60")
    for kind in KINDS:
        form = sites.Counted(tasks, profile(public, kind, *SHIPPED))
        each = [score(form, row, tasks, RHO, options.seeds, rule=True) for row in [*POOLS, EASY]]
        print(f"{kind}: {' '.join(f'{v:.2f}' for v in each)}", flush=True)
    grid = sweep_shapes(public, tasks, options.seeds)
    plot(grid, sweep_noise(public, tasks, options.seeds), options.out / "privacy-profile.svg")


if __name__ == "__main__":
    main()
