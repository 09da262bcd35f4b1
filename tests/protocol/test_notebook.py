"""Tables as text and in notebooks."""

from __future__ import annotations

import math
from html.parser import HTMLParser

from protocol.notebook import MOST, Table


class Tags(HTMLParser):
    """Collects the tags of a page and the text of its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_cells_stand_in_columns() -> None:
    table = Table("sites", ["name", "n"], [["north", "5"], ["w", "12"]])
    assert table.text() == "sites\n  name   n\n  north  5\n  w      12"
    assert Table("facts", ["", ""], [["task", "digits"]]).text() == "facts\n  task  digits"
    assert Table("nobody", ["name"], []).text() == "nobody\n  name"
    assert Table("nothing", [""], []).text() == "nothing"


def test_nothing_that_a_cell_holds_is_markup() -> None:
    evil = '<script src="//evil.example">alert(1)</script>\x1b[2J\n'
    table = Table(evil, [evil], [[evil]], shades=[[0.5]])
    page = Tags(table.html())
    assert set(page.tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert page.texts == ['<script src="//evil.example">alert(1)</script>?[2J'] * 3
    assert all(sign.isprintable() or sign == "\n" for sign in table.text())


def test_cells_are_shaded_unless_nothing_is_known() -> None:
    page = Tags(Table("t", ["a", "b"], [["1", "2"]], shades=[[0.25, math.nan]]).html())
    assert ["rgba(31,119,180,0.25)" in style for style in page.styles[-2:]] == [True, False]


def test_a_large_table_says_what_it_leaves_out() -> None:
    n = MOST + 5
    table = Table("t", ["c"] * n, [["x"] * n] * n, shades=[[0.0] * n] * n)
    assert table.text().splitlines()[-2:] == ["  and 5 more rows", "  and 5 more columns"]
    page = Tags(table.html())
    assert page.tags.count("td") == MOST * MOST
    assert page.texts[-2:] == ["and 5 more rows", "and 5 more columns"]
