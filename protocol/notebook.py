"""How results show themselves: as text, and as a table in a notebook.

The table is plain HTML without scripts, styles of others or anything from a network, and all that
it holds is escaped: names come from elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

from protocol.names import printable

MOST = 60
"""Rows and columns that are shown; the rest is counted."""
SHORT = 24
"""Characters up to which a cell stays in one line."""
T = TypeVar("T")
_CELL = "padding:2px 8px;text-align:left;vertical-align:top;"


@dataclass(frozen=True)
class Table:
    """A titled table.

    Parameters
    ----------
    title : str
        What it shows.
    columns : sequence of str
        Heads of k columns; all empty for a table without a head.
    rows : sequence of sequences of str
        Cells ``[n, k]``.
    shades : sequence of sequences of float, optional
        From 0 to 1 how dark a cell is, ``[n, k]``; NaN is not shaded.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]] | None = None

    def text(self) -> str:
        """Return it as lines of text, cells in columns."""
        head = [self.columns] if any(self.columns) else []
        lines = [[*map(printable, _cut(line))] for line in [*head, *_cut(self.rows)]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]  # [k]
        said = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([printable(self.title), *(f"  {line}" for line in [*said, *self._more()])])

    def html(self) -> str:
        """Return it as one HTML table."""
        blank = [[float("nan")] * len(self.columns)] * len(self.rows)
        shades = self.shades if self.shades is not None else blank
        head = "".join(_tag("th", name) for name in _cut(self.columns)) if any(self.columns) else ""
        lines = [
            "".join(map(_tag, ["td"] * len(_cut(row)), _cut(row), _cut(dark)))
            for row, dark in zip(_cut(self.rows), _cut(shades), strict=True)
        ]
        return (
            f'<table style="border-collapse:collapse"><caption style="{_CELL}font-weight:bold">'
            f"{escape(printable(self.title))}</caption><thead><tr>{head}</tr></thead><tbody>"
            + "".join(f"<tr>{line}</tr>" for line in lines)
            + "</tbody></table>"
            + "".join(f"<p>{line}</p>" for line in self._more())
        )

    def _more(self) -> list[str]:
        """Say what is not shown."""
        counts = {"rows": len(self.rows), "columns": len(self.columns)}
        return [f"and {n - MOST} more {what}" for what, n in counts.items() if n > MOST]


class Shown(ABC):
    """What shows itself by a table, in a terminal as in a notebook."""

    @abstractmethod
    def table(self) -> Table:
        """Return the table that shows it."""

    def __repr__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


def _cut(cells: Sequence[T]) -> Sequence[T]:
    return cells[:MOST]


def _tag(name: str, text: str, shade: float = float("nan")) -> str:
    """Return a cell; a shade is a blue that lets the text be read on light and dark pages."""
    colour = f"background:rgba(31,119,180,{shade:.2f});" if shade == shade else ""
    whole = "white-space:nowrap;" if len(text) <= SHORT else ""
    return f'<{name} style="{_CELL}{whole}{colour}">{escape(printable(text))}</{name}>'
