"""The report's dendrogram and bars, as shapes that the template draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram as tree_layout

from fl_server.report_numbers import ARMS
from fl_server.report_shapes import Figure, Label, Line, Rect, margin, short
from protocol.runfiles import GroupEntry, SiteMetrics

FloatArray = NDArray[np.float64]

ARM_COLOURS = {  # Okabe and Ito: told apart by colour-blind readers, and in print by lightness
    "alone": "#999999",
    "together": "#e69f00",
    "random": "#56b4e9",
    "grouped": "#0072b2",
    "planned": "#009e73",
    "final": "#111111",
}


def dendrogram(sites: Sequence[str], linkage: FloatArray, groups: Sequence[GroupEntry]) -> Figure:
    """Draw the tree of the average linkage, leaves to the right, height on a square-root scale.

    Parameters
    ----------
    sites : sequence of str
        Names of the leaves.
    linkage : float64 array
        Shape ``[k - 1, 4]``, as scipy's.
    groups : sequence of GroupEntry
        Named beside the leaves.
    """
    group_of = {site: group.name for group in groups for site in group.sites}
    names = [f"{short(site)} · {short(group_of[site])}" for site in sites]
    step, top, span = max(7.0, min(30.0, 640.0 / len(sites))), 24.0, 330.0
    right = 20 + 6.4 * max(len(name) for name in names)
    figure = Figure(
        "dendrogram",
        "Dendrogram of the sites",
        f"Average linkage of the symmetrised excess distance of {len(sites)} sites; the further "
        "left two branches meet, the less alike they are. The scale is a square root.",
        width=14 + span + right,
        height=top + len(sites) * step + 40,
    )
    layout = tree_layout(linkage, no_plot=True)
    widest = max(float(linkage[:, 2].max()), 1e-12)

    def across(height: float) -> float:
        return 14 + span * (1 - float(np.sqrt(height / widest)))

    def down(place: float) -> float:  # scipy puts leaves at 5, 15, 25, ...
        return top + place / 10 * step

    for (a, b, c, d), (e, f, g, h) in zip(layout["icoord"], layout["dcoord"], strict=True):
        figure.lines += [
            Line(across(e), down(a), across(f), down(b)),
            Line(across(f), down(b), across(g), down(c)),
            Line(across(g), down(c), across(h), down(d)),
        ]
    for place, leaf in enumerate(layout["leaves"] or []):
        y = down(10 * place + 5) + 4
        figure.labels.append(Label(14 + span + 6, y, names[leaf], title=sites[leaf]))
    for share in (0, 0.1, 0.4, 1):
        x, y = across(share * widest), figure.height - 24
        figure.lines.append(Line(x, y - 8, x, y - 3, "axis"))
        anchor = "start" if share == 1 else "middle"
        figure.labels.append(Label(x, y + 10, f"{share * widest:.3g}", anchor, "tick"))
    figure.lines.append(Line(14, figure.height - 32, 14 + span, figure.height - 32, "axis"))
    return figure


def bars(
    sites: Sequence[str],
    metrics: Mapping[str, SiteMetrics],
    groups: Sequence[GroupEntry],
    chance: Mapping[str, float],
) -> Figure:
    """Draw every site's balanced accuracy in each arm, on a scale from 0 to 100 %.

    Parameters
    ----------
    sites : sequence of str
        Order of the rows; the sites of a group are neighbours.
    metrics : mapping of str to SiteMetrics
        Outcomes by site; sites without are left out.
    groups : sequence of GroupEntry
        Named above their first site.
    chance : mapping of str to float
        Balanced accuracy of guessing, where the number of classes is known.
    """
    shown = [site for site in sites if site in metrics]
    arms = [a for a in ARMS[:-1] if any(getattr(metrics[s], a) is not None for s in shown)]
    left, span, thick, y = margin(shown), 470.0, 7.0, 30.0
    figure = Figure(
        "bars",
        "Balanced accuracy on each site's own test images",
        f"Bars from 0 to 100 % for {len(shown)} sites, one colour an arm; the black line marks the "
        "model that the site keeps, the dotted one is guessing. The table below has all figures.",
    )
    group_of = {site: group.name for group in groups for site in group.sites}
    last = ""
    for site in shown:
        if group_of[site] != last:
            last = group_of[site]
            y += 20
            figure.labels.append(Label(left, y - 6, last, kind="group"))
        _site_bars(figure, site, metrics[site], arms, chance.get(site), (left, y, span, thick))
        y += len(arms) * thick + 10
    for percent in range(0, 101, 20):
        x = left + span * percent / 100
        figure.lines.insert(0, Line(x, 26, x, y, "grid"))
        figure.labels.append(Label(x, 18, f"{percent} %", "middle", "tick"))
    figure.width, figure.height = left + span + 150, y + 8
    return figure


def _site_bars(
    figure: Figure,
    site: str,
    outcome: SiteMetrics,
    arms: Sequence[str],
    chance: float | None,
    place: tuple[float, float, float, float],
) -> None:
    left, y, span, thick = place
    height = len(arms) * thick
    for row, arm in enumerate(arms):
        value = getattr(outcome, arm)
        if value is not None:
            tip = f"{site}, {arm}: {100 * value:.1f} %"
            colour = ARM_COLOURS[arm]
            figure.rects.append(
                Rect(left, y + row * thick, span * value, thick - 1, colour, title=tip)
            )
    figure.labels.append(Label(left - 6, y + height / 2 + 4, short(site), "end", title=site))
    if chance is not None:
        x = left + span * chance
        figure.lines.append(Line(x, y - 2, x, y + height + 1, "chance"))
    if outcome.final is not None:
        x = left + span * outcome.final
        figure.lines.append(Line(x, y - 3, x, y + height + 2, "kept"))
        words = f"{100 * outcome.final:.0f} %" + (f", kept {outcome.kept}" if outcome.kept else "")
        figure.labels.append(Label(left + span + 10, y + height / 2 + 4, words, kind="tick"))


def timings(seconds: Mapping[str, float]) -> Figure:
    """Draw the wall time of each phase, in the order given, on a scale from 0 s."""
    left, span, longest = margin(list(seconds)), 400.0, max(*seconds.values(), 1e-9)
    figure = Figure(
        "timings",
        "Wall time of each phase",
        f"Bars from 0 s; the longest of {len(seconds)} phases took {longest:.1f} s.",
        width=left + span + 80,
        height=12 + 24 * len(seconds),
    )
    for row, (phase, value) in enumerate(seconds.items()):
        y, width = 6 + 24 * row, span * value / longest
        figure.labels.append(Label(left - 6, y + 14, short(phase), "end", title=phase))
        figure.rects.append(
            Rect(left, y + 2, width, 16, "#0072b2", title=f"{phase}: {value:.2f} s")
        )
        figure.labels.append(Label(left + width + 6, y + 14, f"{value:.1f} s", kind="tick"))
    return figure
