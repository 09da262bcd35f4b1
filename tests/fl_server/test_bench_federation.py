"""What the benchmark of federations is made of: its app, its sites, and its look at memory."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from fl_client.bench.federation import FAMILIES, make_counts
from fl_client.site import read_site
from fl_server.bench.federation import IMAGES, _ratios, federation_app, write_sites
from fl_server.bench.memory import PeakMemory


def test_the_app_is_fedprints_with_other_components(tmp_path: Path) -> None:
    app = federation_app(tmp_path / "app")
    flower = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert (flower["config"]["steps"], flower["config"]["reply-bytes"]) == ("", 0)
    for component in flower["components"].values():
        module, _, name = component.partition(":")
        text = (app / f"{module.replace('.', '/')}.py").read_text()
        assert f"\n{name} = " in text


def test_virtual_sites_can_be_read_and_sort_by_number(tmp_path: Path) -> None:
    write_sites(tmp_path, 11)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert (names[0], names[-1], len(names)) == ("site-00", "site-10", 11)
    assert len(read_site(tmp_path / "site-10").images) == IMAGES


def test_made_up_counts_are_of_few_families() -> None:
    counts = np.stack([make_counts(number, 60, 20, 10) for number in (0, 1, FAMILIES)])
    assert (counts.sum(axis=2) == 60).all()
    apart = np.abs(counts[:, None] - counts[None]).sum(axis=(2, 3))
    assert 0 < apart[0, 2] < apart[0, 1] / 2


def test_others_count_as_the_mean_of_before_and_after() -> None:
    assert _ratios([2.0, 4.0], [1.0, 3.0, 5.0]) == [1.0, 1.0]


def test_memory_of_children_is_seen() -> None:
    pytest.importorskip("psutil")
    held = "held = b'x' * (64 << 20); print(len(held), flush=True); input()"
    with PeakMemory() as memory:
        child = subprocess.Popen(
            [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"67108864"
    child.communicate(b"\n")
    assert 2**26 < memory.peak < 2**28
