"""Geometry of the report's figures: plain rectangles, lines and words that the template draws.

Nothing here writes markup: names and messages come from others, and the template escapes them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import dendrogram as tree_layout

from fl_server.report_numbers import ARMS
from protocol.runfiles import GroupEntry, SiteMetrics

FloatArray = NDArray[np.float64]

ARM_COLOURS = {  # Okabe and Ito: told apart by colour-blind readers, and in print by lightness
    "alone": "#999999",
    "together": "#e69f00",
    "random": "#56b4e9",
    "grouped": "#0072b2",
    "final": "#111111",
}
NEAR_TO_FAR = np.array(  # ColorBrewer's Blues, dark is near
    [
        (8, 48, 107), (8, 81, 156), (33, 113, 181), (66, 146, 198), (107, 174, 214),
        (158, 202, 225), (198, 219, 239), (222, 235, 247), (247, 251, 255),
    ]
)  # fmt: skip
GROUP_EDGE = "#d55e00"
MOST_CELLS = 60  # sites above which the heatmap is a picture instead of cells with words
LABEL = 18  # longest name in a figure; the whole name is in the tables and in the tooltip


@dataclass(frozen=True)
class Rect:
    """A rectangle; `title` is its tooltip."""

    x: float
    y: float
    width: float
    height: float
    fill: str = "none"
    stroke: str = "none"
    title: str = ""


@dataclass(frozen=True)
class Line:
    """A straight line; `kind` is its class in the template's style sheet."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str = "tree"


@dataclass(frozen=True)
class Label:
    """Words; `anchor` is start, middle or end, `turn` is in degrees, `kind` as for lines."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    kind: str = "label"
    turn: int = 0
    title: str = ""


@dataclass
class Figure:
    """One figure: what it is called, what it says, and its shapes in drawing order."""

    name: str
    title: str
    text: str
    width: float = 0.0
    height: float = 0.0
    picture: str = ""
    frame: Rect = field(default_factory=lambda: Rect(0, 0, 0, 0))
    rects: list[Rect] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def short(name: str) -> str:
    """Return a name that fits beside a figure."""
    return name if len(name) <= LABEL else name[: LABEL - 1] + "…"


def margin(names: Sequence[str]) -> float:
    """Return the room that the longest of some names needs, in pixels."""
    return 14 + 6.7 * max((len(short(name)) for name in names), default=0)


def ranks(divergence: FloatArray) -> NDArray[np.int64]:
    """Return the rank of every source for each target, 1 = nearest, 0 on the diagonal."""
    others = divergence + np.diag(np.full(len(divergence), -np.inf))
    places: NDArray[np.int64] = others.argsort(axis=0, kind="stable").argsort(axis=0)  # [k, k]
    return places


def heatmap(sites: Sequence[str], divergence: FloatArray, groups: Sequence[GroupEntry]) -> Figure:
    """Draw who is near whom: row = source, column = target, darker = nearer.

    Parameters
    ----------
    sites : sequence of str
        Names in the order of rows and columns; the sites of a group are neighbours.
    divergence : float64 array
        Excess divergence, shape ``[k, k]``.
    groups : sequence of GroupEntry
        Framed on the diagonal.
    """
    count = len(sites)
    cell = min(30.0, max(640.0 / count, 2.0))
    left = top = margin(sites) if cell >= 9 else 8.0
    figure = Figure(
        "heatmap",
        "Distances between tasks, ordered by group",
        f"Excess divergence of {count} sources (rows) against {count} targets (columns). Darker is "
        "nearer; frames are groups; a number is the source's rank for that target, 1 = nearest.",
    )
    shade = np.sqrt((divergence / max(float(divergence.max()), 1e-12)).clip(0, 1))  # [k, k]
    colours = _blend(shade)  # [k, k, 3]
    if count > MOST_CELLS:
        figure.picture = _picture(colours)
        figure.frame = Rect(left, top, count * cell, count * cell)
    else:
        _cells(figure, sites, divergence, colours, (left, top, cell))
    if cell >= 9:
        for i, site in enumerate(sites):
            middle = (i + 0.5) * cell
            figure.labels += [
                Label(left - 6, top + middle + 4, short(site), "end", title=site),
                Label(left + middle + 4, top - 6, short(site), turn=-90, title=site),
            ]
    figure.width = left + count * cell + margin([group.name for group in groups])
    figure.height = top + count * cell + 46
    for group in groups:
        first, size = min(sites.index(site) for site in group.sites), len(group.sites)
        x, y = left + first * cell, top + first * cell
        figure.rects.append(Rect(x, y, size * cell, size * cell, stroke=GROUP_EDGE))
        right = left + count * cell + 6
        figure.labels.append(
            Label(right, y + size * cell / 2 + 4, short(group.name), kind="group", title=group.name)
        )
    _legend(figure, left, top + count * cell + 14, float(divergence.max()))
    return figure


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
        f"Average linkage of the symmetrised excess divergence of {len(sites)} sites; the further "
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
    for place, leaf in enumerate(layout["leaves"]):
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
        "model that the site keeps, the dotted line is guessing. The table below has all figures.",
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
            tip = f"{site}, {arm}: {value:.1%}"
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
        words = f"{outcome.final:.0%}" + (f" kept: {outcome.kept}" if outcome.kept else "")
        figure.labels.append(Label(left + span + 10, y + height / 2 + 4, words, kind="tick"))


def _cells(
    figure: Figure,
    sites: Sequence[str],
    divergence: FloatArray,
    colours: NDArray[np.uint8],
    place: tuple[float, float, float],
) -> None:
    left, top, cell = place
    rank = ranks(divergence)
    for i, source in enumerate(sites):
        for j, target in enumerate(sites):
            red, green, blue = colours[i, j].tolist()
            x, y = left + j * cell, top + i * cell
            tip = f"{source} → {target}: excess {divergence[i, j]:.4f}, rank {rank[i, j]}"
            fill = f"#{red:02x}{green:02x}{blue:02x}"
            figure.rects.append(Rect(x, y, cell, cell, fill, title=tip if i != j else source))
            if cell >= 16 and i != j:
                kind = "on-dark" if red + green + blue < 420 else "on-light"
                middle = (x + cell / 2, y + cell / 2 + 4)
                figure.labels.append(Label(*middle, str(rank[i, j]), "middle", kind))


def _legend(figure: Figure, x: float, y: float, widest: float) -> None:
    steps = 24
    for step in range(steps):
        red, green, blue = _blend(np.array((step + 0.5) / steps)).tolist()
        figure.rects.append(Rect(x + step * 6, y, 6.5, 10, f"#{red:02x}{green:02x}{blue:02x}"))
    figure.labels += [
        Label(x, y + 24, "0, alike", kind="tick"),
        Label(x + steps * 6, y + 24, f"{widest:.3g}", "end", "tick"),
    ]


def _blend(shade: FloatArray) -> NDArray[np.uint8]:
    """Return the colour of every shade between 0 (near) and 1 (far)."""
    place = np.linspace(0, 1, len(NEAR_TO_FAR))
    channels = [np.interp(shade, place, NEAR_TO_FAR[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _picture(colours: NDArray[np.uint8]) -> str:
    """Return a picture as a data URI: it is part of the page."""
    data = io.BytesIO()
    Image.fromarray(colours).save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
