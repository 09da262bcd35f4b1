"""The journal: what was kept comes back exactly, or counts as never kept."""

from __future__ import annotations

import math
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_server.journal import Journal
from fl_server.models import load_model, save_model
from fl_server.scores import ArmOutcome
from protocol.errors import DataError
from protocol.sharing import GroupPlan

PLAN = GroupPlan(
    group="grouped-1",
    sites=["a", "b"],
    shared_classes=["x"],
    holders={"x": ["a", "b"]},
    trainable=True,
    expectation="A gain.",
)


def content(number: float = 1.0) -> RecordDict:
    """Return a reply to training."""
    arrays = ArrayRecord({"body.w": Array(np.full((2, 3), number, np.float32))})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 7})})


def same(one: RecordDict, other: RecordDict) -> bool:
    """Tell whether two contents are the same to the last bit, NaN and order included."""
    return list(one) == list(other) and repr(one) == repr(other)


FLOATS = st.floats(width=64)
ARRAYS = st.dictionaries(
    st.text(max_size=8),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ).map(Array),
    max_size=3,
).map(ArrayRecord)
METRICS = st.dictionaries(
    st.text(max_size=8),
    st.one_of(st.integers(-(2**63), 2**64 - 1), FLOATS, st.lists(FLOATS, max_size=3)),
    max_size=4,
).map(MetricRecord)
CONFIGS = st.dictionaries(
    st.text(max_size=8),
    st.one_of(st.booleans(), st.text(max_size=9), st.binary(max_size=9), FLOATS, st.integers(0, 9)),
    max_size=4,
).map(ConfigRecord)
CONTENTS = st.dictionaries(
    st.text(max_size=8), st.one_of(ARRAYS, METRICS, CONFIGS), min_size=1, max_size=3
).map(RecordDict)


@given(CONTENTS)
@settings(max_examples=60)
def test_any_content_comes_back_exactly(sent: RecordDict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        journal.keep("alone/train", "north", sent)
        back = Journal(Path(folder)).recall("alone/train", "north")
        assert back is not None
        assert same(back, sent)


@given(st.dictionaries(st.sampled_from("abcdef"), CONTENTS, max_size=4), st.integers(1, 10_000))
@settings(max_examples=30)
def test_any_round_comes_back_exactly(sent: dict[str, RecordDict], number: int) -> None:
    losses = [("z", "did not answer in time", False), ("y", "sent «w» in another shape", True)]
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        journal.keep_round("grouped-1", number, sent, losses)
        back = Journal(Path(folder)).recall_round("grouped-1", number)
        assert back is not None
        assert list(back.replies) == list(sent)  # the order is that of the sum
        assert all(same(back.replies[site], sent[site]) for site in sent)
        assert back.losses == losses


def test_nothing_is_recalled_of_what_was_not_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "none")
    assert journal.recall("alone/train", "a") is None
    assert journal.recall_round("grouped-1", 1) is None
    assert journal.recall_outcome("alone") is None
    journal.clear("alone")
    assert not (tmp_path / "none").exists()


def test_only_the_coordinator_can_read_it(tmp_path: Path) -> None:
    fill(Journal(tmp_path / "journal"))
    files = [path for path in (tmp_path / "journal").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def fill(journal: Journal) -> None:
    """Keep one of each kind."""
    journal.keep("alone/train", "north", content())
    journal.keep_round("grouped-1", 3, {"north": content()}, [("south", "gone", False)])
    arrays = content().array_records["arrays"]
    outcome = ArmOutcome(plans=[PLAN], lost={"c": "gone"}, models={"grouped-1": arrays})
    journal.keep_outcome("grouped", outcome)


KINDS: dict[str, Callable[[Journal], Any]] = {
    "alone/train/north.bin": lambda journal: journal.recall("alone/train", "north"),
    "grouped-1/round-00003.bin": lambda journal: journal.recall_round("grouped-1", 3),
    "outcome-grouped.bin": lambda journal: journal.recall_outcome("grouped"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_cut_short_anywhere_counts_as_absent(tmp_path: Path, name: str) -> None:
    journal, recall = Journal(tmp_path), KINDS[name]
    fill(journal)
    whole = (tmp_path / name).read_bytes()
    assert recall(journal) is not None
    for length in {*range(40), *range(40, len(whole), 29), len(whole) - 1}:
        (tmp_path / name).write_bytes(whole[:length])
        assert recall(journal) is None
    (tmp_path / name).write_bytes(whole)
    assert recall(journal) is not None


@pytest.mark.parametrize("name", KINDS)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=25)
def test_a_single_flipped_bit_counts_as_absent(name: str, place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        fill(journal)
        data = bytearray((Path(folder) / name).read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        (Path(folder) / name).write_bytes(data)
        assert KINDS[name](journal) is None


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_of_another_name_or_version_counts_as_absent(
    tmp_path: Path, name: str
) -> None:
    journal = Journal(tmp_path)
    fill(journal)
    others = [(tmp_path / other).read_bytes() for other in KINDS if other != name]
    for other in others:
        (tmp_path / name).write_bytes(other)
        assert KINDS[name](journal) is None
    journal._write(name.removesuffix(".bin"), {"of": "another version"}, [])
    assert KINDS[name](journal) is None


def test_a_round_that_is_made_again_voids_what_followed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in (1, 2, 3, 10):
        journal.keep_round("grouped-1", number, {"a": content(number)})
    journal.keep_round("grouped-2", 3, {"b": content()})
    journal.keep("grouped-1/body", "a", content())
    journal.keep("grouped-1/evaluate", "a", content())
    journal.keep("grouped-2/evaluate", "b", content())
    journal.keep_round("grouped-1", 2, {"a": content(7)})
    kept = [journal.recall_round("grouped-1", number) is not None for number in (1, 2, 3, 10)]
    assert kept == [True, True, False, False]
    assert journal.recall("grouped-1/evaluate", "a") is None
    assert journal.recall("grouped-1/body", "a") is not None
    assert journal.recall_round("grouped-2", 3) is not None
    assert journal.recall("grouped-2/evaluate", "b") is not None


def test_an_arm_is_cleared_and_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    fill(journal)
    journal.keep("grouped-12/evaluate", "a", content())
    journal.clear("grouped")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "outcome-grouped.bin"]
    assert journal.recall_outcome("grouped") is not None


def test_an_outcome_comes_back_with_nan_and_models(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    arrays = content(0.1).array_records["arrays"]
    outcome = ArmOutcome(
        plans=[PLAN],
        scores={"a": {"test_balanced_accuracy": math.nan, "test_loss": math.inf, "x": 0.1}},
        examples={"a": 3},
        keeps_group={"a": True, "b": False},
        lost={"c": "did not answer in time"},
        returned={"b": "node is gone"},
        seconds=1.25,
        models={"grouped-1": arrays},
    )
    journal.keep_outcome("grouped", outcome)
    back = journal.recall_outcome("grouped")
    assert back is not None
    assert repr(back) == repr(outcome)
    assert outcome.models == {"grouped-1": arrays}


def test_models_are_written_as_float32_for_the_coordinator_alone(tmp_path: Path) -> None:
    turned = np.arange(6, dtype=np.float64).reshape(2, 3).T  # neither contiguous nor float32
    record = ArrayRecord({"body.w": Array(turned), "scalar": Array(np.full((), 2.5))})
    path = tmp_path / "models" / "grouped-1.safetensors"
    save_model(path, record)
    back = load_model(path)
    assert list(back) == ["body.w", "scalar"]  # by name, whatever the file's order
    np.testing.assert_array_equal(back["body.w"], turned)
    assert back["scalar"].shape == ()
    assert {value.dtype for value in back.values()} == {np.dtype(np.float32)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_model_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(DataError, match=r"^cannot read .*m\.safetensors: No such file"):
        load_model(path)
    path.write_bytes(b"{half")
    with pytest.raises(DataError, match=r"m\.safetensors is no model \(.*\): train the run again$"):
        load_model(path)
