"""The tutorial's commands, word for word and in order, and what they are said to print."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fl_server.running import MARK, ROOT, gone

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(
    r"(?:<!-- (?P<how>.*?) -->\n)?```sh\n(?P<commands>.*?)```(?:\n\n```text\n(?P<shown>.*?)```)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """Commands of the page, where they are typed, and what they show (``...``: anything)."""

    commands: str
    shown: str
    how: str


def blocks() -> list[Block]:
    """Return the page's blocks of commands, but those of the installation."""
    _, page = PAGE.read_text().split("## A first run")
    return [Block(m["commands"], m["shown"] or "", m["how"] or "") for m in BLOCK.finditer(page)]


def test_the_installation_is_the_project_s_own() -> None:
    install = BLOCK.search(PAGE.read_text())
    assert install is not None
    assert install["commands"] == "make install\n. .venv/bin/activate\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return a new user's environment, with this interpreter's commands first."""
    paths = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {
        **os.environ,
        "PATH": paths,
        "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        "HOME": str(tmp_path),
        "COLUMNS": "200",
        "PYTHONUNBUFFERED": "1",
        MARK: tmp_path.name,
    }


@pytest.mark.engine
def test_commands_do_what_the_page_shows(tmp_path: Path, environment: dict[str, str]) -> None:
    for block in blocks():
        run = {"at": at_terminal, "in": beside}.get(block.how[:2], in_shell)
        told = run(block, tmp_path, environment)
        assert fits(told, block.shown), f"{block.commands}shows:\n{told}"
    assert gone(environment[MARK]) == []


def fits(told: str, shown: str) -> bool:
    """Return whether a text is what the page shows, ``...`` being anything."""
    parts = [re.escape(words(part)) for part in shown.split("...")]
    return not shown or re.fullmatch(".*".join(parts), words(told)) is not None


def words(text: str) -> str:
    """Return the words of a text, without lines of tables, and doubts that hang on last digits."""
    return " ".join(re.sub(r"[─-╿|]| \(\?\)", " ", text).replace(" ,", ",").split())


def in_shell(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """Run a block as pasted into a shell; the first error ends it."""
    done = subprocess.run(
        ["bash", "-e"],
        input=block.commands,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def at_terminal(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """Run a block at a terminal and type what the page shows after each question."""
    *questions, _ = block.shown.splitlines()
    answers = [line.rpartition(":")[2].strip() for line in questions]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe("bash", ["bash", "-ec", block.commands], environment)
    told = b""
    while piece := _read(terminal):
        told += piece
        if told.endswith(b": ") and answers:
            os.write(terminal, f"{answers.pop(0)}\n".encode())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, told.decode()
    return told.decode().partition("\r\nnext:")[0]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other end was closed
        return b""


def beside(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """Start a block, open the address that it prints, and stop it."""
    process = subprocess.Popen(
        ["bash", "-ec", f"exec {block.commands}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        told = process.stdout.readline()
        found = re.search(r"http://\S+", told)
        assert found, told
        with urllib.request.urlopen(found[0], timeout=60) as page:
            text = page.read().decode()
        assert "first" in text
        assert "second" in text
    finally:
        process.terminate()
        process.wait(timeout=30)
    return told
