"""A figure of a comparison: which measures agree, what they find, and how they fit transfers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from protocol.errors import ConfigError

__all__ = ["check_plot", "plot_comparison"]

INK, UNKNOWN = "#333333", "#c8c8c8"
METRICS = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}


def check_plot(path: Path) -> None:
    """Raise ConfigError unless a figure can be written to a file of this name."""
    if path.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot {path}: give a file that ends in .png or .svg")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ConfigError("--plot needs matplotlib; install it: pip install matplotlib") from None


def plot_comparison(tables: Mapping[str, Any], path: Path) -> None:
    """Draw the agreement of all measures, and beside it what each finds, row by row.

    Bars are shares of families found, dots weighted taus with 95 % intervals over the targets.

    Parameters
    ----------
    tables
        What `comparison_tables` returned.
    path
        A .png or .svg file.

    Raises
    ------
    ConfigError
        See `check_plot`.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [row["name"] for row in tables["measures"]]
    values = np.array(tables["agreement"], dtype=np.float64)  # [n, n], None becomes NaN
    order = _alike_together(values)
    scenarios = list(dict.fromkeys((t["origin"], t["scenario"]) for t in tables["transfer"]))
    found = tables["families"] is not None
    ratios = [max(4.0, 0.36 * len(names))] + [2.6] * (found + len(scenarios))
    height = 1.9 + 0.36 * len(names)
    with mpl.rc_context({"svg.hashsalt": "fedprint", "svg.fonttype": "none"}):
        figure = Figure(figsize=(sum(ratios) + 2.6, height), layout="constrained")
        axes = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0]
        _agreement(axes[0], figure, [names[i] for i in order], values[np.ix_(order, order)])
        rows = {names[i]: y for y, i in enumerate(order)}
        if found:
            _families(axes[1], tables, rows)
        for ax, (origin, scenario) in zip(axes[1 + found :], scenarios, strict=True):
            here = (origin, scenario)
            transfer = [t for t in tables["transfer"] if (t["origin"], t["scenario"]) == here]
            _transfer(ax, transfer, rows)
            ax.set_title(f"{scenario} ({origin})", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        undated = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=150, metadata=undated)


def _alike_together(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[int]:
    """Return an order of the measures in which those that agree stand side by side."""
    if len(values) < 3:
        return list(range(len(values)))
    apart = 1 - np.nan_to_num(values)
    tree = linkage(squareform(apart, checks=False), "average", optimal_ordering=True)
    return [int(i) for i in leaves_list(tree)]


def _agreement(ax: Any, figure: Any, names: list[str], values: Any) -> None:
    ax.set_facecolor(UNKNOWN)
    image = ax.imshow(values, vmin=-1, vmax=1, cmap="RdBu", aspect="auto")
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_title("rank correlation between measures", fontsize=9)
    figure.colorbar(image, ax=ax, location="left", shrink=0.6, pad=0.02).ax.tick_params(labelsize=7)


def _families(ax: Any, tables: Mapping[str, Any], rows: Mapping[str, int]) -> None:
    bars = {"adjusted_rand": ("adjusted Rand index", -0.2), "nearest": ("nearest is kin", 0.2)}
    for key, (label, offset) in bars.items():
        own = [row for row in tables["measures"] if row[key] is not None]
        y = [rows[row["name"]] + offset for row in own]
        ax.barh(y, [row[key] for row in own], height=0.36, label=label)
    if tables["nearest_by_chance"] is not None:
        ax.axvline(tables["nearest_by_chance"], color=INK, lw=0.8, ls=":")
    ax.axvline(0, color=INK, lw=0.8)
    ax.set_title("known families found", fontsize=9)
    _finish(ax, "share, dotted: kin by chance")


def _transfer(ax: Any, transfer: list[dict[str, Any]], rows: Mapping[str, int]) -> None:
    known = [r for r in transfer if r["measure"] in rows and r["weightedtau"] is not None]
    metrics = list(dict.fromkeys(row["metric"] for row in known))
    for i, metric in enumerate(metrics):
        own = [r for r in known if r["metric"] == metric]
        value = np.array([row["weightedtau"] for row in own])
        low = np.array([row["weightedtau_low"] for row in own])
        high = np.array([row["weightedtau_high"] for row in own])
        y = [rows[row["measure"]] + (i - (len(metrics) - 1) / 2) * 0.3 for row in own]
        error = np.maximum([value - low, high - value], 0)
        ax.errorbar(value, y, xerr=error, fmt="o", ms=3, lw=1, label=METRICS.get(metric, metric))
    ax.axvline(0, color=INK, lw=0.8, ls=":")
    _finish(ax, "weighted tau")


def _finish(ax: Any, label: str) -> None:
    ax.set_xlabel(label, fontsize=8)
    ax.tick_params(axis="x", labelsize=7)
    ax.tick_params(axis="y", labelleft=False)
    from matplotlib.transforms import offset_copy

    below = offset_copy(ax.transAxes, ax.figure, y=-30, units="points")  # whatever the height
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below)
