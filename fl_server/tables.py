"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

WIDEST = 10_000
"""Characters of a line that nobody's terminal has to show."""
EDGE = 3
"""Characters that a column needs beside its cells: a line, and a space on both sides."""


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the terminal; long cells are folded, and nothing is markup.

    Names in the first column stay in one piece unless they need more than a third of the terminal.
    Into a file or a pipe the table is as wide as its cells need, so that ids stay in one piece.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.measure import Measurement
    from rich.table import Table

    console = Console()
    short = max((len(row[0]) for row in rows), default=0) <= console.width // 3
    table = Table(title=title)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=short and place == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    if not console.is_terminal:
        boundless = console.options.update(width=WIDEST)
        console = Console(
            width=max(console.width, Measurement.get(console, boundless, table).maximum)
        )
    console.print(table)


def show_matrix(title: str, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print a square table of sites with each cell in one piece.

    What is wider than the terminal is continued below, some columns a table.

    Parameters
    ----------
    title
        What the cells are.
    names
        Of the k sites.
    cells
        Shape ``[k, k]``.
    """
    from rich.console import Console

    console = Console()
    widths = [max(map(len, column)) + EDGE for column in zip(names, *cells, strict=True)]  # [k]
    room = console.width - max(map(len, ["source", *names])) - EDGE - 1
    cuts = list(_cuts(widths, room if console.is_terminal else WIDEST * len(names)))
    for first, end in pairwise(cuts):
        part = f"{title}: columns {first + 1} to {end} of {len(names)}" if cuts[2:] else title
        rows = [[name, *row[first:end]] for name, row in zip(names, cells, strict=True)]
        show_table(part, ["source", *names[first:end]], rows)


def _cuts(widths: Sequence[int], room: int) -> Iterator[int]:
    """Yield where rows are cut so that each part fits; a column that never fits is its own part."""
    yield 0
    used = 0
    for place, width in enumerate(widths):
        if used and used + width > room:
            yield place
            used = 0
        used += width
    yield len(widths)
