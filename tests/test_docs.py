"""The documentation: it builds without a warning, loads nothing, and names what there is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
import typer.main
from PIL import Image

from fl_client.policy import Policy
from protocol.cli import build_app
from tests.fl_server.running import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LOADED = {"src", "srcset", "data", "poster"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does."""
    folder = tmp_path_factory.mktemp("docs")
    [command] = re.findall(r"sphinx-build (.*) build/site", (ROOT / "Makefile").read_text())
    options = command.replace("build/doctrees", str(folder / "doctrees")).split()
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, folder / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (built.returncode, built.stderr) == (0, "")
    return folder / "site"


class Loaded(HTMLParser):
    """What a page has a browser load."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the addresses of a tag, but where a reader has to click."""
        wanted = LOADED | ({"href"} if tag == "link" else set())
        self.found += [value or "" for name, value in attrs if name in wanted]


def test_the_site_is_whole_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert all((site / page).is_file() for page in pages)
    for page in site.rglob("*.html"):
        loaded = Loaded(page).found
        assert not [address for address in loaded if re.match(r"([a-z]+:)?//", address)], page
        here = [address.partition("?")[0].partition("#")[0] for address in loaded]
        assert all((page.parent / address).exists() for address in here if address[:5] != "data:")
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text()), style


def test_references_show_what_they_are_made_of(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text()
    for words, command in leaves(typer.main.get_command(build_app()), ()):
        assert f'<section id="fedprint-{"-".join(words)}">' in commands
        for parameter in command.params:
            names = parameter.opts if isinstance(parameter, click.Option) else []
            assert all(f'<span class="pre">{name}</span>' in commands for name in names)
    files = (site / "reference" / "files.html").read_text()
    for path in (DOCS / "schemas").glob("*.json"):
        for key in json.loads(path.read_text())["properties"]:
            assert f'<span class="pre">{key}</span>' in files
    assert "zCDP budget of this release" in files
    assert "<math" in (site / "reference" / "strategies.html").read_text()


def leaves(
    command: click.Command, words: tuple[str, ...]
) -> list[tuple[tuple[str, ...], click.Command]]:
    """Return all commands that do something, with the words that call them."""
    if not isinstance(command, click.Group):
        return [(words, command)]
    return [
        leaf for name, part in command.commands.items() for leaf in leaves(part, (*words, name))
    ]


def command_lines() -> list[tuple[str, str]]:
    """Return the pages, and every command of fedprint that they have people type."""
    found = set()
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        fenced = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        typed = [block for language, block in fenced if language in ("", "sh")]
        typed += re.findall(r"^ {4}(fedprint .*\n)", text, re.MULTILINE)
        lines = [line for line in "".join(typed).splitlines() if "fedprint " in line]
        commands = [command for line in lines for command in split(line)]
        found |= {(page.name, shlex.join(c)) for c in commands if c[:1] == ["fedprint"]}
    return sorted(found)


def split(line: str) -> list[list[str]]:
    """Return the commands of a line, without what a shell does with them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|<>"):
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def test_commands_of_all_pages_exist_with_their_options() -> None:
    lines = command_lines()
    assert len(lines) > 60
    top = typer.main.get_command(build_app())
    for page, line in lines:
        words, command = shlex.split(line)[1:], top
        while isinstance(command, click.Group) and words:
            assert words[0] in command.commands, f"{page}: {line}"
            command = command.commands[words.pop(0)]
        try:  # parsed as it would be, but nothing is run
            command.make_context("fedprint", words).close()
        except click.ClickException as error:
            pytest.fail(f"{page}: {line}: {error.format_message()}")


def test_the_policy_page_has_every_field_and_its_default() -> None:
    page = (DOCS / "reference" / "policy.md").read_text()
    table = page.split("| field |")[1].split("##")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (.+?) \|", table, re.MULTILINE)
    told = {}
    for names, defaults in rows:
        values = defaults.split(", ")
        fields = re.findall(r"`(\w+)`", names)
        told |= dict(zip(fields, values * len(fields) if len(values) == 1 else values, strict=True))
    told = {name: value.strip("`").strip('"') for name, value in told.items()}
    fields = {name: field.get_default() for name, field in Policy.model_fields.items()}
    empty: dict[object, str] = {"[]": "none", "None": "no limit", "True": "true", "False": "false"}
    assert {name: _number(value) for name, value in told.items() if name in fields} == {
        name: _number(empty.get(str(value), str(value))) for name, value in fields.items()
    }


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def test_the_readme_is_one_screen_with_a_picture() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 80
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    picture = ROOT / "docs" / "images" / "report.png"
    assert picture.stat().st_size < 150_000
    assert Image.open(picture).mode == "P"
