"""Files are whole or not there."""

from __future__ import annotations

import json
import resource
import stat
from pathlib import Path

import pytest

from protocol import files
from protocol.files import (
    append,
    atomic_json,
    atomic_write,
    atomic_writes,
    canonical_json,
    create_once,
    sha256_hex,
)
from protocol.taskcard import ClassCard, TaskCard, class_keys


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    atomic_write(path, "größe")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_json(path, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_json(path, {"x": float("nan")})
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        atomic_write(tmp_path / "folder", "text")
    assert json.loads(path.read_text()) == {"x": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "folder"]


def test_create_once(tmp_path: Path) -> None:
    create_once(tmp_path / "a", "first")
    with pytest.raises(FileExistsError):
        create_once(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_many_files_are_whole_before_the_first_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {tmp_path / str(n % 2) / f"{n}": bytes([n]) * n for n in range(40)}
    atomic_writes(many)
    atomic_writes({})
    assert {path: path.read_bytes() for path in many} == many
    assert {stat.S_IMODE(path.stat().st_mode) for path in many} == {0o644}

    def full(_handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        atomic_writes(dict.fromkeys(many, b"new"))
    assert {path: path.read_bytes() for path in many} == many
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(many)


def test_append(tmp_path: Path) -> None:
    append(tmp_path / "a" / "b", b"1\n")
    append(tmp_path / "a" / "b", b"2\n")
    assert (tmp_path / "a" / "b").read_bytes() == b"1\n2\n"


def test_canonical_json() -> None:
    assert canonical_json({"b": [1.0, 0.1], "a": "ü"}) == '{"a":"ü","b":[1.0,0.1]}'.encode()
    assert sha256_hex(b"abc").startswith("ba7816bf")  # FIPS 180-2


def test_class_keys() -> None:
    classes = [
        ClassCard(name=" Grey Matter "),
        ClassCard(name="other", code=" 110"),
        ClassCard(name="x", code=""),
    ]
    card = TaskCard(name="tissue", classes=classes)
    assert class_keys(card) == ("grey matter", "110", "x")


def test_more_files_than_a_process_may_have_open(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = {tmp_path / f"{i}": b"x" for i in range(300)}
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        atomic_writes(many)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert set(tmp_path.iterdir()) == many.keys()
