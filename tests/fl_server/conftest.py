"""The command line, run in this process, on two small sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol import cli
from tests.fl_server.bad import Outcome, Run, write_image


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line."""

    def run_command(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(caught.value.code, said.out, said.err)

    return run_command


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """Write two site folders that would do."""
    root = tmp_path / "sites"
    for name in ("north", "south"):
        for label in ("a", "b"):
            write_image(root / name / label / "0.png")
    return root
