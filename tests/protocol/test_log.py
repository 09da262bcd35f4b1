"""The transparency log: canonical files, signed checkpoints, closing entries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from protocol.errors import BadLog, UnknownKey
from protocol.keys import generate_key, public_pem, signer
from protocol.log import Log, check_files, folder_digests, open_checkpoint, read_log
from protocol.merkle import leaf_hash, root_hash, verify_consistency, verify_inclusion


def a_run(folder: Path, key: PrivateKeyTypes) -> Log:
    (folder / "fingerprints").mkdir()
    (folder / "fingerprints" / "north.safetensors").write_bytes(b"counts")
    (folder / "run.json").write_text("{}")
    log = Log("run-1")
    log.append("release", site="north", sha256="0" * 64)
    log.append("release", site="süd", sha256="1" * 64)
    log.close(folder)
    log.write(folder, signer(key))
    return log


def test_a_log_is_read_back_and_checked(any_key: PrivateKeyTypes, tmp_path: Path) -> None:
    log = a_run(tmp_path, any_key)
    restored = read_log(tmp_path, public_pem(any_key))
    assert restored.lines == log.lines
    assert check_files(tmp_path, restored) == []
    lines = (tmp_path / "log" / "entries.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["release", "release", "close"]
    checkpoint = open_checkpoint(
        (tmp_path / "log" / "checkpoint.dsse.json").read_bytes(), public_pem(any_key)
    )
    assert checkpoint.origin == "run-1"
    assert checkpoint.root == root_hash([leaf_hash(line) for line in lines]).hex()


def test_proofs_are_checked_with_the_checkpoint_alone(tmp_path: Path) -> None:
    log = a_run(tmp_path, generate_key())
    old, new = log.checkpoint(), log
    new.append("report")
    later = new.checkpoint()
    assert verify_consistency(
        old.size,
        later.size,
        new.consistency(old.size),
        bytes.fromhex(old.root),
        bytes.fromhex(later.root),
    )
    for index, line in enumerate(new.lines):
        proof = new.inclusion(index)
        root = bytes.fromhex(later.root)
        assert verify_inclusion(leaf_hash(line), index, later.size, proof, root)


def test_a_later_report_appends_a_new_closing_entry(tmp_path: Path) -> None:
    key = generate_key()
    log = a_run(tmp_path, key)
    (tmp_path / "report.html").write_text("<html>")
    (tmp_path / "run.json").write_text("{ }")
    (tmp_path / "fingerprints" / "north.safetensors").unlink()
    assert check_files(tmp_path, log) == [
        "fingerprints/north.safetensors: missing",
        "report.html: added",
        "run.json: changed",
    ]
    log.close(tmp_path)
    assert check_files(tmp_path, log) == []
    assert "log/entries.jsonl" not in folder_digests(tmp_path)


def test_a_log_that_was_touched(tmp_path: Path) -> None:
    key = generate_key()
    log = a_run(tmp_path, key)
    path, pem = tmp_path / "log" / "entries.jsonl", public_pem(key)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"north", b"nor"))
    with pytest.raises(BadLog, match="the log's 3 entries are not the 3 that were signed"):
        read_log(tmp_path, pem)
    path.write_bytes(data[: data.index(b"\n") + 1])
    with pytest.raises(BadLog, match="the log's 1 entries are not the 3 that were signed"):
        read_log(tmp_path, pem)
    path.write_bytes(data[:-1])
    with pytest.raises(BadLog, match="last line is cut off"):
        read_log(tmp_path, pem)
    with pytest.raises(UnknownKey, match="not the coordinator's"):
        read_log(tmp_path, public_pem(generate_key()))
    log.lines[0] = b'{"kind": "release"}'
    log.write(tmp_path, signer(key))
    with pytest.raises(BadLog, match="line 1 of the log is not in canonical form"):
        read_log(tmp_path, pem)
    with pytest.raises(BadLog, match="no closing entry"):
        check_files(tmp_path, Log("run-2"))
