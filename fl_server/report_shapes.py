"""What the report's figures are made of: plain rectangles, lines and words.

Nothing here writes markup: names and messages come from others, and the template that draws these
shapes escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LABEL = 18
"""Longest name in a figure; the whole name is in the tooltip and in the tables."""


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


@dataclass(frozen=True)
class Dot:
    """A filled circle; `title` is its tooltip."""

    x: float
    y: float
    radius: float
    fill: str
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
    dots: list[Dot] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def short(name: str) -> str:
    """Return a name that fits beside a figure."""
    return name if len(name) <= LABEL else name[: LABEL - 1] + "…"


def margin(names: Sequence[str]) -> float:
    """Return the room that the longest of some names needs, in pixels."""
    return 14 + 6.7 * max((len(short(name)) for name in names), default=0)
