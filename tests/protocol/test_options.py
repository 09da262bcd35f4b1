"""What an option names is looked at before any work is put into it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from protocol.errors import ConfigError
from protocol.options import file_to_write

APP = typer.Typer()


@APP.command()
def write(
    out: Annotated[Path | None, typer.Option("--json", callback=file_to_write)] = None,
) -> None:
    """Say what would be written."""
    typer.echo(str(out))


def refusal(path: Path) -> str:
    result = CliRunner().invoke(APP, ["--json", str(path)])
    assert isinstance(result.exception, ConfigError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_a_file_that_can_be_written_is_taken_and_not_yet_written(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new" / "one.json"
    old.write_text("{}")
    for path in (old, new):
        assert CliRunner().invoke(APP, ["--json", str(path)]).stdout == f"{path}\n"
    assert CliRunner().invoke(APP, []).stdout == "None\n"
    assert list(tmp_path.iterdir()) == [old]


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"--json {tmp_path} is a folder: name the file to write"


def test_what_lies_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "one.json"
    assert refusal(path) == (
        f"--json {path} cannot be written into {tmp_path / 'file'}: name another file"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="who may write everywhere is refused nowhere")
def test_a_folder_that_is_closed_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    path = closed / "one.json"
    assert refusal(path) == f"--json {path} cannot be written into {closed}: name another file"
