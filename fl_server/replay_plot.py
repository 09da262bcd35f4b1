"""A figure of a replay: every selector in every scenario, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from protocol.errors import ConfigError

__all__ = ["plot_replay"]

SHOWN = {"percentile1": "percentile of the first shot", "weightedtau": "weighted tau"}
LEFT_OUT = {"oracle"}  # it would squeeze all others


def plot_replay(tables: dict[str, Any], path: Path) -> None:
    """Draw one panel a scenario and measure: dots for selectors, lines for 95 % intervals.

    Parameters
    ----------
    tables
        What `replay_tables` returned.
    path
        A .png or .svg file.

    Raises
    ------
    ConfigError
        If the ending is another one, or matplotlib is not installed.
    """
    if path.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot {path}: give a file that ends in .png or .svg")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plot needs matplotlib; install it: pip install matplotlib") from None
    rows = [row for row in tables["rows"] if row["selector"] not in LEFT_OUT]
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    lines = [(p, m) for p in protocols for m in SHOWN]
    height = 1.0 + 0.28 * len({row["selector"] for row in rows})
    figure = Figure(figsize=(2.6 * len(scenarios) + 1.5, len(lines) * height), layout="constrained")
    axes = figure.subplots(len(lines), len(scenarios), squeeze=False, sharey="row", sharex="row")
    for (protocol, measure), line in zip(lines, axes, strict=True):
        for scenario, ax in zip(scenarios, line, strict=True):
            here = [r for r in rows if (r["protocol"], r["scenario"]) == (protocol, scenario)]
            _panel(ax, here, measure)
            ax.set_title(f"{scenario.replace('_', ' ')}, {protocol}", fontsize=9)
            ax.set_xlabel(SHOWN[measure], fontsize=8)
    axes[0, 0].legend(fontsize=7, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _panel(ax: Any, rows: list[dict[str, Any]], measure: str) -> None:
    names = sorted({row["selector"] for row in rows}, key=lambda name: (name == "pool", name))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    for i, metric in enumerate(metrics):
        own = [r for r in rows if r["metric"] == metric and r[measure] is not None]
        if not own:
            continue
        value = np.array([row[measure] for row in own])
        error = [
            value - [row[f"{measure}_low"] for row in own],
            np.array([row[f"{measure}_high"] for row in own]) - value,
        ]
        offset = (i - (len(metrics) - 1) / 2) * 0.3
        y = [names.index(row["selector"]) + offset for row in own]
        ax.errorbar(value, y, xerr=np.maximum(error, 0), fmt="o", ms=3, lw=1, label=metric)
    ax.axvline(0.5 if measure.startswith("percentile") else 0.0, color="grey", lw=0.8, ls=":")
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
