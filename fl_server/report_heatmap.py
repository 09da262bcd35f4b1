"""The report's heatmap: which tasks look alike, in the order of the groups."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_server.report_shapes import Figure, Label, Rect, margin, short
from protocol.runfiles import GroupEntry

FloatArray = NDArray[np.float64]

NEAR_TO_FAR = np.array(  # ColorBrewer's Blues, dark is near
    [
        (8, 48, 107), (8, 81, 156), (33, 113, 181), (66, 146, 198), (107, 174, 214),
        (158, 202, 225), (198, 219, 239), (222, 235, 247), (247, 251, 255),
    ]
)  # fmt: skip
GROUP_EDGE = "#d55e00"
MOST_CELLS = 60  # sites above which the heatmap is a picture instead of cells with words


def heatmap(sites: Sequence[str], between: FloatArray, groups: Sequence[GroupEntry]) -> Figure:
    """Draw which tasks look alike: darker = nearer, a frame a group.

    Parameters
    ----------
    sites : sequence of str
        Names in the order of rows and columns; the sites of a group are neighbours.
    between : float64 array
        Symmetrised excess distances, shape ``[k, k]``.
    groups : sequence of GroupEntry
        Framed on the diagonal.
    """
    count = len(sites)
    cell = min(30.0, max(640.0 / count, 2.0))
    left = top = margin(sites) if cell >= 9 else 8.0
    figure = Figure(
        "heatmap",
        "Distances between sites, ordered by group",
        f"Symmetrised excess distance of {count} sites, darker is nearer. Frames are groups. A "
        "number is the rank of the row's site among the neighbours of the column's, 1 = nearest.",
    )
    shade = np.sqrt((between / max(float(between.max()), 1e-12)).clip(0, 1))  # [k, k]
    colours = _blend(shade)  # [k, k, 3]
    if count > MOST_CELLS:
        figure.picture = _picture(colours)
        figure.frame = Rect(left, top, count * cell, count * cell)
    else:
        _cells(figure, sites, between, colours, (left, top, cell))
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
    _legend(figure, left, top + count * cell + 14, float(between.max()))
    return figure


def ranks(between: FloatArray) -> NDArray[np.int64]:
    """Return the rank of each row in every column, 1 = nearest, 0 on the diagonal."""
    others = between + np.diag(np.full(len(between), -np.inf))
    places: NDArray[np.int64] = others.argsort(axis=0, kind="stable").argsort(axis=0)  # [k, k]
    return places


def _cells(
    figure: Figure,
    sites: Sequence[str],
    between: FloatArray,
    colours: NDArray[np.uint8],
    place: tuple[float, float, float],
) -> None:
    left, top, cell = place
    rank = ranks(between)
    for i, row in enumerate(sites):
        for j, column in enumerate(sites):
            red, green, blue = colours[i, j].tolist()
            x, y = left + j * cell, top + i * cell
            tip = f"{row} and {column}: {between[i, j]:.4f}, rank {rank[i, j]} for {column}"
            fill = f"#{red:02x}{green:02x}{blue:02x}"
            figure.rects.append(Rect(x, y, cell, cell, fill, title=tip if i != j else row))
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
