"""Errors of the command line: one line, the right exit code, a traceback only when asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from protocol import cli
from protocol.errors import ConfigError
from protocol.options import Panel


def register(app: typer.Typer) -> None:
    """Stand in for a room's commands, each of which fails in its way."""

    @app.command()
    def good(name: str) -> None:
        typer.echo(f"hello {name}")

    @app.command()
    def wrong() -> None:
        raise ConfigError("no such thing:\n take another")

    @app.command()
    def missing() -> None:
        Path("/nowhere/at/all").read_text()

    @app.command()
    def slow() -> None:
        raise KeyboardInterrupt

    @app.command()
    def broken() -> None:
        raise ZeroDivisionError("a defect of ours")

    @app.command()
    def partly() -> None:
        raise typer.Exit(3)


class Entry:
    """Stand in for an installed entry point."""

    name = "test"

    def load(self) -> object:
        return register


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int | str | None, str, str]:
    monkeypatch.setattr(cli, "entry_points", lambda group: [Entry()])
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["good", "you"], 0, "hello you\n", ""),
        (["wrong"], 1, "", "fedprint: error: no such thing: take another\n"),
        (["missing"], 1, "", "fedprint: error: /nowhere/at/all: No such file or directory\n"),
        (["slow"], 130, "", "fedprint: error: interrupted\n"),
        (["partly"], 3, "", ""),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    out: str,
    err: str,
) -> None:
    assert run(capsys, monkeypatch, *arguments) == (code, out, err)


@pytest.mark.parametrize("arguments", [["nope"], ["good"], ["good", "a", "--x"]])
def test_usage_errors_are_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    code, out, err = run(capsys, monkeypatch, *arguments)  # the middle is click's wording
    assert (code, out) == (2, "")
    assert err.startswith("fedprint: error: ")
    assert err.endswith(" (see --help)\n")
    assert err.count("\n") == 1


def test_help_lists_the_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "--help")
    assert code == 0
    assert "wrong" in out
    assert "Example: fedprint demo" in out
    assert run(capsys, monkeypatch, "--version")[1].startswith("fedprint ")
    assert run(capsys, monkeypatch)[0] == 2


def test_help_begins_with_whole_runs_and_leaves_no_command_out() -> None:
    help_page = CliRunner().invoke(cli.build_app(), ["--help"]).stdout
    places = [help_page.index(f"─ {panel.value} ") for panel in Panel]
    assert places == sorted(places)
    assert "─ Commands ─" not in help_page
    assert help_page.index("│ demo ") < help_page.index("│ fingerprint ")
    assert help_page.index("│ fingerprint ") < help_page.index("│ distances ")


@pytest.mark.parametrize("arguments", [["--debug", "wrong"], ["wrong", "--debug"]])
def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [Entry()])
    with pytest.raises(ConfigError, match="no such thing"):
        cli.main(arguments)


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [Entry()])
    monkeypatch.setattr(sys, "argv", ["fedprint", "broken"])
    with pytest.raises(ZeroDivisionError):
        cli.main()
