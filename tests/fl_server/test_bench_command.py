"""``fedprint bench``: every benchmark runs, and says what it promised to say."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from protocol.benchmark import GROUP
from tests.fl_server.bad import Run

RATIOS = {
    "distances": {"of_sgemm", "over_pairwise"},
    "extract": {"of_forward", "of_slower_stage"},
    "federation": {"of_bare_flower"},
    "retrieval": {"of_faiss"},
    "wire": {"of_hash_and_verify", "over_raw_float32"},
}
"""What each measures in any case; a peer that is not installed adds none."""


def test_each_room_registers_its_benchmarks() -> None:
    assert {entry.name for entry in entry_points(group=GROUP)} == set(RATIOS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.engine] if name == "federation" else [])
        for name in RATIOS
    ],
)
def test_a_small_benchmark_writes_its_ratios(name: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    outcome = run("bench", name, "--size", "small", "--turns", 1, "--threads", 1, "--json", out)
    assert outcome.code == 0, outcome.err
    written = json.loads(out.read_text())
    assert set(written["ratios"]) >= RATIOS[name]
    assert set(written["turns"]) == set(written["ratios"])
    assert all(value > 0 for value in written["ratios"].values())
    assert written["options"] == {"threads": 1, "turns": 1, "device": "", "size": "small"}
    assert written["machine"]["cores"] >= 1
    for key in RATIOS[name]:
        assert key in outcome.out


def test_an_unknown_benchmark_is_named(run: Run) -> None:
    outcome = run("bench", "speed")
    assert (outcome.code, outcome.err) == (
        1,
        "fedprint: error: unknown benchmark 'speed': known are distances, extract, federation, "
        "retrieval, wire, all\n",
    )


def test_a_file_that_cannot_be_written_is_found_before_any_work(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", "distances", "--json", tmp_path)
    assert outcome.code == 1
    assert outcome.err == (
        f"fedprint: error: --json {tmp_path} is a folder: name the file to write\n"
    )
