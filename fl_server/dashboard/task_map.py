"""The map of a run's tasks: near is alike, and a line leads from each to its group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_server.report_shapes import Dot, Figure, Label, Line, short
from protocol.runfiles import GroupEntry

FloatArray = NDArray[np.float64]

COLOURS = (  # Okabe and Ito's, less black and yellow, which paper and screens swallow
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#7f7f7f",
)  # fmt: skip
WIDTH, HEIGHT, EDGE = 720.0, 480.0, 28.0
RADIUS = 6.0
LETTER, ROW = 6.4, 13.0
"""Pixels that a letter takes across, and a label down."""
MOST_LABELS = 80
"""Sites above which dots have no words beside them: they would lie on each other."""


@dataclass(frozen=True)
class TaskMap:
    """A map of tasks.

    Attributes
    ----------
    figure : Figure
        To be drawn.
    places : float64 array
        Shape ``[k, 2]``, in the unit of the distances' square root.
    shown : float
        Share of the squared distances that two dimensions hold, from 0 to 1.
    colours : dict
        Colour of each group.
    """

    figure: Figure
    places: FloatArray
    shown: float
    colours: dict[str, str]


def task_map(sites: Sequence[str], between: FloatArray, groups: Sequence[GroupEntry]) -> TaskMap:
    """Draw sites so that near ones are alike.

    Parameters
    ----------
    sites : sequence of str
        Names of the k sites.
    between : float64 array
        Symmetrised excess distances ``[k, k]``: squared distances between histograms.
    groups : sequence of GroupEntry
        A colour each; every site is joined to the middle of its group, so that paper shows it too.
    """
    places, shown = embed(sites, between)
    at = dict(zip(sites, _on_paper(places).tolist(), strict=True))
    colours = {group.name: COLOURS[i % len(COLOURS)] for i, group in enumerate(groups)}
    figure = Figure(
        "task-map",
        "Map of the tasks",
        f"{len(sites)} sites in two dimensions; near is alike. A site is joined to the middle of "
        f"its group. The map holds {100 * shown:.0f} % of the squared distances.",
        width=WIDTH,
        height=HEIGHT,
    )
    for group in groups:
        middle = np.mean([at[site] for site in group.sites], axis=0)
        for site in group.sites:
            x, y = at[site]
            figure.lines.append(Line(middle[0], middle[1], x, y, "spoke"))
            tip = f"{site}, {group.name}"
            figure.dots.append(Dot(x, y, RADIUS, colours[group.name], title=tip))
    if len(sites) <= MOST_LABELS:
        _label(figure, at)
    return TaskMap(figure, places, shown, colours)


def embed(sites: Sequence[str], squared: FloatArray) -> tuple[FloatArray, float]:
    r"""Place points by classical scaling, the same whatever the order of the sites.

    The eigenvectors of :math:`-\frac12 J D J`, with :math:`J` the centring matrix; the sign of an
    axis is free, so that of its farthest site (the first by name of several) is made positive.

    Parameters
    ----------
    sites : sequence of str
        Names of the k points.
    squared : float64 array
        Squared distances ``[k, k]``.

    Returns
    -------
    places : float64 array
        Shape ``[k, 2]``.
    shown : float
        Share of the positive eigenvalues that the two axes have; 1 where there is nothing to show.
    """
    order = np.argsort(np.array(sites), kind="stable")
    sorted_ = squared[np.ix_(order, order)]
    centred = sorted_ - sorted_.mean(axis=0) - sorted_.mean(axis=1)[:, None] + sorted_.mean()
    values, vectors = np.linalg.eigh(-centred / 2)  # ascending
    values = values[::-1].clip(min=0)
    axes = np.zeros((len(sites), 2))
    for axis in range(min(2, len(sites))):
        points = vectors[:, -1 - axis] * np.sqrt(values[axis])
        size = np.abs(points)
        farthest = int(np.argmax(size >= size.max() * (1 - 1e-9)))
        axes[:, axis] = points if points[farthest] >= 0 else -points
    places = np.empty_like(axes)
    places[order] = axes
    total = float(values.sum())
    return places, float(values[:2].sum()) / total if total > 0 else 1.0


def _on_paper(places: FloatArray) -> FloatArray:
    """Return pixels ``[k, 2]``: one scale for both axes, so that distances stay comparable."""
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array([WIDTH - 2 * EDGE - 120, HEIGHT - 2 * EDGE])  # labels need the right side
    scale = float(np.min(room / np.maximum(high - low, 1e-12)))
    pixels: FloatArray = EDGE + (room - scale * (high - low)) / 2 + scale * (places - low)
    pixels[:, 1] = HEIGHT - pixels[:, 1]
    return pixels


def _label(figure: Figure, at: dict[str, list[float]]) -> None:
    """Write names beside dots; one that would cover another moves down, and a line leads to it."""
    taken = [(x - RADIUS, x + RADIUS, y + 4) for x, y in at.values()]  # left, right, baseline
    for site, (x, y) in sorted(at.items(), key=lambda item: (item[1][1], item[0])):
        words, left, base = short(site), x + 10, y + 4
        right = left + LETTER * len(words)
        while any(a < right and left < b and abs(base - c) < ROW for a, b, c in taken):
            base += 1
        if base > y + ROW:
            figure.lines.append(Line(x, y, left - 2, base - 4, "leader"))
        taken.append((left, right, base))
        figure.labels.append(Label(left, base, words, title=site))
        figure.height = max(figure.height, base + ROW)
