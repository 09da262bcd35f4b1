"""Tables on the terminal and in files."""

import pytest

from fl_server.tables import show_table


def test_a_table_in_a_file_keeps_every_cell_in_one_piece(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = ["3fa9c1" * 4, "a sentence of many words " * 10 + "[end]"]
    show_table("tasks: 1", ["id", "in words"], [cells])
    assert any(all(cell in line for cell in cells) for line in capsys.readouterr().out.splitlines())
