"""Markdown that references are made of, and the nodes that come of it."""

from __future__ import annotations

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown, without the columns in which nothing is said."""
    said = [column for column in range(len(heads)) if any(row[column] for row in rows)]
    lines = [[heads[column] for column in said], ["---"] * len(said)]
    lines += [[_cell(row[column]) for column in said] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def target(label: str, title: str, level: int) -> str:
    """Return a heading that other pages link to as ``#label``."""
    return f"({label})=\n{'#' * level} {title}"
