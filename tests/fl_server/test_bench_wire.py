"""The benchmark of the wire names its ratios, and taking in sites holds none of their counts."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from fl_server.bench.wire import measure
from fl_server.bench.wire_sites import MadeGrid
from fl_server.exchange import exchange_fingerprints
from fl_server.received import Received
from fl_server.release import StoredRelease
from protocol.benchmark import Options
from protocol.errors import DigestMismatch
from protocol.spec import load_spec

SPEC = load_spec("lite0-100")
SITES = 96


def test_every_ratio_is_named(tmp_path: Path) -> None:
    found = measure(Options(tmp_path, threads=1, turns=1, size="small"))
    assert list(found.ratios) == [
        "of_hash_and_verify",
        "of_hash_and_one_statement",
        "over_raw_float32",
        "of_hash_and_verify_private",
        "of_hash_and_one_statement_private",
        "over_raw_float32_private",
    ]
    assert found.ratios["over_raw_float32"].median > 5
    assert found.figures["lite0-100_raw_float32_bytes"] == 4 * 1280 * 100
    steps = ("encode", "sign", "unpack", "decode", "verify", "store", "store_durable", "write")
    for spec in ("lite0-100", "lite0-private"):
        assert all(found.figures[f"{spec}_{step}_us"] > 0 for step in steps)


def test_memory_holds_no_fingerprint_that_lies_on_the_disk(tmp_path: Path) -> None:
    grid = MadeGrid(SITES, SPEC, private=False)
    tracemalloc.start()
    try:
        outcome = exchange_fingerprints(grid, SPEC, "run", received=Received(tmp_path))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    one = next(iter(outcome.releases.values()))
    size = len(one.payload)
    assert len(outcome.releases) == SITES
    assert all(isinstance(release, StoredRelease) for release in outcome.releases.values())
    assert held < SITES * size / 8  # statements, keys and lines of the log
    assert peak < 8 * 2**20 + 8 * size + held  # one batch, and what one reply goes through


def test_what_lies_there_must_be_what_was_verified(tmp_path: Path) -> None:
    grid = MadeGrid(2, SPEC, private=False)
    outcome = exchange_fingerprints(grid, SPEC, "run", received=Received(tmp_path))
    release = outcome.releases["site-000001"]
    assert release.verified.statement == release.statement
    assert release.at(7).node_id == 7
    assert release.at(7).digests == release.digests
    for part, ending in (("envelope", "dsse.json"), ("binding", "binding.dsse.json")):
        path = tmp_path / "fingerprints" / f"site-000001.{ending}"
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(DigestMismatch) as caught:
            getattr(release, part)
        assert str(caught.value) == f"{path} is not what was verified: begin the run again"
    path = tmp_path / "fingerprints" / "site-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DigestMismatch, match=r"^the fingerprint of site-000001 is not the one th"):
        release.verified  # noqa: B018
