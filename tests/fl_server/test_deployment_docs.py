"""The commands that docs/deployment.md has people copy exist, with these options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main
import yaml

from protocol.cli import build_app
from tests.fl_server.running import ROOT

PAGE = ROOT / "docs" / "deployment.md"
FOLDER = ROOT / "docs" / "deployment"


def commands() -> list[str]:
    """Return every line of fedprint's in the page's blocks of code."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("fedprint ")]


@pytest.mark.parametrize("line", commands())
def test_commands_exist_with_their_options(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = typer.main.get_command(build_app())
    while isinstance(command, click.Group) and words:
        command = command.commands[words.pop(0)]
    # parsed as it would be, but nothing is run
    with command.make_context("fedprint", words, resilient_parsing=False) as context:
        assert context.params


def test_links_lead_somewhere() -> None:
    text = PAGE.read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (PAGE.parent / target).exists(), target
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_the_run_file_has_known_settings() -> None:
    import tomllib

    from fl_server.simulation import check_settings

    [block] = re.findall(r"<<'END'\n(.*?)^END", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    check_settings(tomllib.loads(block))


def test_compose_file_starts_what_the_commands_make() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert services["coordinator"]["entrypoint"] == ["/srv/fedprint/superlink.sh"]
    assert services["site"]["command"] == ["site", "start", "/srv/fedprint"]
    for file in sorted(Path(FOLDER).glob("*.service")):
        assert "ExecStart=/opt/fedprint/bin/fedprint s" in file.read_text()
