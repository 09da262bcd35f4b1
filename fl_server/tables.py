"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

WIDEST = 10_000
"""Characters of a line that nobody's terminal has to show."""


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the terminal; long cells are folded, and nothing is markup.

    Into a file or a pipe it is as wide as its cells need, so that ids stay in one piece.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    if not console.is_terminal:
        boundless = console.options.update(width=WIDEST)
        console = Console(
            width=max(console.width, Measurement.get(console, boundless, table).maximum)
        )
    console.print(table)
