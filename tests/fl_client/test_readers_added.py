"""The reader of docs/how-to/reader.md, taken from the page, as an installed package has it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_client.readers import Unreadable, kinds
from fl_client.site import read_site
from protocol.errors import DataError

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "reader.md").read_text()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Lay the page's package where Python finds installed ones; return its entry points."""
    code, project = (
        re.search(rf"```{language}\n(.+?)```", PAGE, re.DOTALL) for language in ("python", "toml")
    )
    assert code
    assert project
    (tmp_path / "lib" / "saved.dist-info").mkdir(parents=True)
    (tmp_path / "lib" / "saved_arrays.py").write_text(code[1])
    points = tomllib.loads(project[1])["project"]["entry-points"]["fedprint.readers"]
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    told = tmp_path / "lib" / "saved.dist-info" / "entry_points.txt"
    told.write_text(f"[fedprint.readers]\n{lines}")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    kinds.added.cache_clear()
    yield told
    kinds.added.cache_clear()


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """Write a site of two files with two images each, and one that is no array."""
    for number, name in enumerate("ab"):
        folder = tmp_path / "site" / name
        folder.mkdir(parents=True)
        stack = np.random.default_rng(number).integers(0, 256, (2, 20, 30), dtype=np.uint8)
        np.save(folder / "stack.npy", stack)
    return tmp_path / "site"


def test_files_of_the_new_kind_are_images(package: Path, stacks: Path) -> None:
    site = read_site(stacks)
    assert [item.held.place for item in site.images] == ["image 1", "image 2"] * 2
    assert len({item.subject for item in site.images}) == 2
    assert [item.held.size for item in site.images] == [(20, 30)] * 4
    Image.fromarray(np.load(stacks / "a" / "stack.npy")[1]).save(stacks / "a" / "same.png")
    same = next(item.held for item in read_site(stacks).images if item.path.suffix == ".png")
    assert (site.images[1].pixels() == same.pixels()).all()


def test_a_file_that_cannot_be_read_stays_listed(package: Path, stacks: Path) -> None:
    (stacks / "a" / "stack.npy").write_bytes(b"no array")
    [fault] = [item.held for item in read_site(stacks).images if isinstance(item.held, Unreadable)]
    with pytest.raises(DataError, match=r"^image .*/a/stack\.npy cannot be read: "):
        fault.pixels()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("nowhere", "cannot be loaded: No module named 'nowhere'"),
        ("json", "has no expand()"),
    ],
)
def test_a_reader_that_is_none(value: str, text: str, package: Path, stacks: Path) -> None:
    package.write_text(f"[fedprint.readers]\nnpy = {value}\n")
    with pytest.raises(DataError) as caught:
        read_site(stacks).images[0].pixels()
    assert str(caught.value) == f"the reader of .npy files ({value}) {text}"


def test_a_reader_that_fails_is_one_line(package: Path, stacks: Path) -> None:
    code = package.parents[1] / "failing.py"
    code.write_text("def expand(path, cut):\n    raise KeyError('first\\nsecond')\n")
    package.write_text("[fedprint.readers]\nnpy = failing\n")
    with pytest.raises(DataError, match=r"^image .*stack\.npy cannot be read \(.*\): mend it$"):
        read_site(stacks).images[0].pixels()


def test_an_image_that_fails_when_it_is_read_is_one_line(package: Path, stacks: Path) -> None:
    code = (package.parents[1] / "saved_arrays.py").read_text()
    broken = code.replace("return array_to_rgb(", "raise KeyError(")
    assert broken != code
    (package.parents[1] / "later.py").write_text(broken)
    package.write_text("[fedprint.readers]\nnpy = later\n")
    [first, *_] = read_site(stacks).images
    assert first.held.size == (20, 30)
    with pytest.raises(DataError, match=r"^image .*stack\.npy cannot be read \(.*\): mend it$"):
        first.pixels()


def test_without_the_package_the_kind_is_unknown(stacks: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        read_site(stacks)
