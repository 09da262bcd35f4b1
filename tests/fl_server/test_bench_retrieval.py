"""The benchmark of retrieval: its ratio, and what stands behind it, at a size that says little."""

import sys
from pathlib import Path

import pytest

from fl_server.bench import retrieval
from fl_server.bench.retrieval import FAISS_MISSING, measure
from protocol.benchmark import Options


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr(retrieval, "FAMILIES", 12)
    return Options(tmp_path, threads=1, turns=1, size="small")


def test_ratios_and_figures(options: Options) -> None:
    pytest.importorskip("faiss")
    found = measure(options)
    assert set(found.ratios) == {"of_faiss"}
    assert found.notes == []
    assert found.figures["fingerprints"] == 200
    assert found.figures["unchanged_stored"] == 1  # whatever rounding does, answers are exact
    assert 0 <= found.figures["unchanged_uint8"] <= found.figures["unchanged_float16"] <= 1
    # 500 images fit two bytes a bin; eight for the normaliser and four for the total of a feature
    assert found.figures["stored_bytes"] == 32 * (2 * 100 + 8 + 4)
    assert found.figures["float32_bytes"] == 4 * 32 * 100


def test_without_faiss(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    found = measure(options)
    assert found.ratios == {}
    assert found.notes == [FAISS_MISSING]
    assert found.figures["seconds"] > 0
