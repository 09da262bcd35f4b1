"""How benchmarks time and summarise."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import benchmark
from protocol.benchmark import Options, Ratio, available_cores, in_turns, machine


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=20))
def test_a_ratio_is_the_median_over_the_turns(values: list[float]) -> None:
    ratio = Ratio.over(values, "peer / ours")
    assert ratio == Ratio(statistics.median(values), min(values), max(values), "peer / ours")


def test_two_calls_take_turns_after_one_of_each_that_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    calls: list[str] = []
    theirs_cost = iter([100.0, 2.0, 4.0, 6.0])  # the first is the warm-up

    def ours() -> None:
        nonlocal now
        calls.append("ours")
        now += 1.0

    def theirs() -> None:
        nonlocal now
        calls.append("theirs")
        now += next(theirs_cost)

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now)
    mine, others = in_turns(ours, theirs, turns=2)
    assert calls == ["theirs", "ours", "theirs", "ours", "theirs", "ours", "theirs"]
    assert mine == [1.0, 1.0]
    assert others == [3.0, 5.0]  # the mean of the calls before and after


def test_the_size_picks_the_number(tmp_path: Path) -> None:
    assert Options(tmp_path, 1).pick(2000, 10) == 2000
    assert Options(tmp_path, 1, size="small").pick(2000, 10) == 10


def test_the_machine_names_what_figures_depend_on() -> None:
    facts = machine()
    assert facts["cores"] == available_cores() >= 1
    assert {"processor", "memory_gib", "system", "python", "numpy", "torch", "flwr"} <= set(facts)
