"""The preview as one page: what would leave the site, and a picture of every count in it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_client.preview import Summary, facts
from protocol.fingerprint import Fingerprint, counts_from_bytes
from protocol.spec import Spec

TEMPLATE = Path(__file__).parent / "templates" / "preview.html"

SINGLES = 6
"""Features that are shown as bars, from the narrowest to the widest."""

_MOST_BARS = 50
_LARGEST = (2000, 1000)  # features and bins of the picture; a larger one is averaged


class Bars(NamedTuple):
    """One feature's histogram: its index, its edges, and the height of each bar from 0 to 1."""

    feature: int
    lower: float
    upper: float
    heights: list[float]
    largest: int


def render_preview(summary: Summary, spec: Spec, payload: bytes) -> str:
    """Return the page; it refers to nothing outside itself and holds no script.

    Parameters
    ----------
    summary : Summary
        See `fl_client.preview.summarise`.
    spec : Spec
        Whose bin edges the bars lie between.
    payload : bytes
        The safetensors file that would leave.
    """
    counts = counts_from_bytes(payload, (spec.width, spec.bins))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = Fingerprint(summary.site, counts, spec.digest, summary.images)
    return template.render(
        summary=summary,
        facts=facts(summary),
        picture=_data_uri(_picture(shown.rows)),
        singles=_singles(spec, counts, shown.rows),
    )


def _picture(rows: NDArray[np.float64]) -> Image.Image:
    """Draw all histograms [m, b]: a column a feature, the lowest bin at the bottom."""
    shades = np.sqrt(rows / max(float(rows.max()), 1e-12))  # [m, b]; the root shows small counts
    white, blue = np.array([255.0, 255.0, 255.0]), np.array([0.0, 60.0, 120.0])
    colours = white + shades.T[::-1, :, None] * (blue - white)  # [b, m, 3]
    image = Image.fromarray(colours.astype(np.uint8))
    size = (min(image.width, _LARGEST[0]), min(image.height, _LARGEST[1]))
    return image if size == image.size else image.resize(size, Image.Resampling.BOX)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _singles(spec: Spec, counts: NDArray[np.integer[Any]], rows: NDArray[np.float64]) -> list[Bars]:
    """Choose features by how many bins they fill, evenly from the fewest to the most."""
    filled = -np.sum(rows * np.log(np.maximum(rows, 1e-300)), axis=1)  # entropy [m]
    order = np.argsort(filled, kind="stable")
    chosen = np.unique(np.linspace(0, len(order) - 1, SINGLES).round().astype(int))
    return [_bars(spec, counts, int(order[place])) for place in chosen]


def _bars(spec: Spec, counts: NDArray[np.integer[Any]], feature: int) -> Bars:
    parts = np.array_split(counts[feature].astype(np.int64), min(_MOST_BARS, spec.bins))
    sums = np.array([part.sum() for part in parts])
    largest = max(int(sums.max()), 1)
    lower, upper = spec.lower_array[feature], spec.upper_array[feature]
    heights = (np.maximum(sums, 0) / largest).tolist()
    return Bars(feature, float(lower), float(upper), heights, largest)
