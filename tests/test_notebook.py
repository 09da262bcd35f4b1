"""The notebook: executed as it is, with a kernel that reaches no network."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

FILE = Path(__file__).parents[1] / "notebooks" / "first_steps.ipynb"
ALONE = """
import socket

def refuse(*_):
    raise OSError("this kernel has no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def outputs(cell: NotebookNode, kind: str) -> str:
    found = [each["data"][kind] for each in cell.outputs if kind in each.get("data", {})]
    assert len(found) == 1, cell.outputs
    return str(found[0])


def test_it_is_kept_without_outputs() -> None:
    book = nbformat.read(FILE, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.id for cell in book.cells] == [f"step-{n + 1:02}" for n in range(len(book.cells))]
    links = [part.split(")")[0] for cell in book.cells for part in cell.source.split("](")[1:]]
    assert links
    assert all((FILE.parent / link).is_file() for link in links)


def test_it_runs_from_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(FILE, as_version=4)
    book.cells.insert(0, nbformat.v4.new_code_cell(ALONE))
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    done = {cell.source.splitlines()[0]: cell for cell in book.cells if cell.cell_type == "code"}
    said = outputs(done['found.members, found.partners["digits-4"]'], "text/plain")
    members = {frozenset(sites) for sites in eval(said)[0].values()}
    assert members == {
        frozenset({"brain-3"}),
        frozenset({"land-3"}),
        frozenset({"digits-3", "digits-4"}),
        frozenset({"texture-2", "texture-3"}),
    }
    assert eval(said)[1][0] == "digits-3"
    for first in ("prints = [", "apart = ", "found = ", "asking = ", "site = "):
        cell = next(cell for line, cell in done.items() if line.startswith(first))
        assert outputs(cell, "text/html").startswith("<table")
    advice = next(cell for line, cell in done.items() if line.startswith("asking = "))
    assert "Train together with digits-3 " in outputs(advice, "text/plain").splitlines()[4]
    figures = [cell for line, cell in done.items() if "plt" in cell.source]
    for cell in figures:
        assert base64.b64decode(outputs(cell, "image/png")).startswith(b"\x89PNG")
    assert not any(each.output_type == "stream" for cell in done.values() for each in cell.outputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ipython", "runs"]
