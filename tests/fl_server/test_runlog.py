"""The log while it grows: one wait for the disk a block, and the last entry of a site at once."""

from __future__ import annotations

import errno
import json
import os
from contextlib import nullcontext as block
from pathlib import Path

import pytest

from fl_server import runlog
from fl_server.runlog import RunLog
from protocol.errors import BadLog
from protocol.runfiles import LeftOut


def on_disk(run: Path) -> list[str]:
    path = run / "log" / "entries.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [json.loads(line)["kind"] for line in lines]


def test_entries_of_a_block_reach_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, waits, append = RunLog.open(tmp_path), 0, runlog.append

    def counted(path: Path, data: bytes) -> None:
        nonlocal waits
        waits += 1
        append(path, data)

    monkeypatch.setattr(runlog, "append", counted)
    with log.together():
        log.requested("north", "1")
        with log.together():
            log.requested("south", "2")
        log.add_once("request", site="north", nonce=log.entries[0]["nonce"])
        assert (len(log), on_disk(tmp_path)) == (2, [])
    assert (on_disk(tmp_path), waits) == (["request"] * 2, 1)
    with log.together():
        pass
    log.requested("west", "3")
    assert (on_disk(tmp_path), waits) == (["request"] * 3, 2)
    assert RunLog.open(tmp_path).entries == log.entries


def test_what_was_entered_before_a_failure_is_kept(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path)

    def fail() -> None:
        with log.together():
            log.requested("north", "1")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert on_disk(tmp_path) == ["request"]


@pytest.mark.parametrize("together", [False, True])
def test_a_full_disk_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    log, write = RunLog.open(tmp_path), os.write
    log.requested("north", "1")

    def half(handle: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:40])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left"), log.together() if together else block():
            log.requested("south", "2")
    assert on_disk(tmp_path) == ["request"]  # not a part of a line
    log.requested("west", "3")
    assert on_disk(tmp_path) == ["request"] * 3
    assert RunLog.open(tmp_path).entries == log.entries


def test_the_last_word_on_a_site_counts() -> None:
    log = RunLog()
    said = {"key": "k", "payload": "p", "release": "r", "binding": "b"}
    gone = LeftOut(site="north", reason="no-reply", message="")
    for _ in range(2):
        log.released("north", said)
        log.released("south", said)
        log.left_out(gone)
        log.left_out(gone)
    assert [entry["kind"] for entry in log.entries] == [
        *("release", "release", "left out"),
        *("release", "left out"),
    ]
    assert (log.release_of("north"), log.release_of("south")) == (3, 1)
    assert RunLog(log.as_log("run").lines).release_of("north") == 3
    with pytest.raises(BadLog, match=r"^the log has no release of west$"):
        log.release_of("west")
    log.add("checkpoint", site="north", size=3)
    log.add("checkpoint", site="north", size=5)
    assert (log.seen_by("north"), log.seen_by("south")) == (5, 0)


def test_a_person_who_approved_is_entered_before_the_release() -> None:
    log = RunLog()
    log.add_once("awaiting-approval", site="north")
    log.released("north", {"release": "r"})
    assert [entry["kind"] for entry in log.entries][1:] == ["approval", "release"]
