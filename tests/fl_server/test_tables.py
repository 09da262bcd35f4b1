"""Tables on the terminal and in files."""

import re

import pytest
from rich.console import Console

from fl_server.tables import show_matrix, show_table


def test_a_table_in_a_file_keeps_every_cell_in_one_piece(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = ["3fa9c1" * 4, "a sentence of many words " * 10 + "[end]"]
    show_table("tasks: 1", ["id", "in words"], [cells])
    assert any(all(cell in line for cell in cells) for line in capsys.readouterr().out.splitlines())


class _Terminal(Console):
    """One hundred columns, whatever the test runs in."""

    def __init__(self) -> None:
        super().__init__(width=100, force_terminal=True, no_color=True)


def test_a_matrix_is_continued_below_where_the_terminal_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console.Console", _Terminal)
    names = [f"hospital-{number:02}" for number in range(17)]
    cells = [[f"{row}.{column:05}" for column in range(17)] for row in range(17)]
    show_matrix("vdna", names, cells)
    shown = capsys.readouterr().out
    assert all(cell in shown for row in cells for cell in row)
    assert "columns 1 to 6 of 17" in shown
    assert "columns 13 to 17 of 17" in shown
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()) <= 100


def test_a_matrix_in_a_file_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"hospital-{number:02}" for number in range(40)]
    show_matrix("vdna", names, [["0.12345"] * 40] * 40)
    shown = capsys.readouterr().out
    assert shown.count("source") == 1
    assert "columns" not in shown


def test_names_in_a_terminal_stay_in_one_piece(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console.Console", _Terminal)
    show_table("measures", list("abcdef"), [["bkld-large-unweighted", *["some words " * 5] * 5]])
    assert "bkld-large-unweighted" in capsys.readouterr().out
