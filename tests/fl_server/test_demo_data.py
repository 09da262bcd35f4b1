"""The demo's site folders: honest splits, promised sizes, the same bytes for the same seed."""

import csv
import hashlib
import itertools
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fl_server import demo_tasks
from fl_server.demo_data import PRIVATE_SITES, SITES, SPLITS, SitePlan, deal, write_demo_sites
from fl_server.demo_tasks import Pool, package_file
from protocol.errors import FedprintError
from protocol.spec import load_spec


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_demo_sites(tmp_path_factory.mktemp("demo"), seed=0)


def test_plan_is_what_the_demo_promises() -> None:
    tasks = Counter(plan.task for plan in SITES)
    assert len(SITES) >= 12
    assert sum(count >= 2 for count in tasks.values()) >= 5
    assert {min(p.images for p in SITES), max(p.images for p in SITES)} == {30, 600}
    digits = [set(p.classes) for p in SITES if p.task == "handwritten digits"]
    assert all(len(a & b) == 4 for a, b in itertools.pairwise(digits))
    for plan in SITES:
        if tasks[plan.task] == 1:  # nobody else holds any class of a site that is its own task
            others = {c for p in SITES if p is not plan for c in p.classes}
            assert not others & set(plan.classes)


def test_folders_hold_what_was_planned(demo: list[Path]) -> None:
    for folder, plan in zip(demo, SITES, strict=True):
        table = rows(folder)
        assert folder.name == plan.name
        assert len(table) == plan.images
        assert {row["label"] for row in table} == set(plan.classes)
        for split, share in SPLITS.items():
            labels = [row["label"] for row in table if row["split"] == split]
            assert set(labels) == set(plan.classes)
            assert len(labels) == round(share * plan.images)
        for row in table:
            with Image.open(folder / row["path"]) as image:
                assert image.format == "PNG"
                image.load()
        site = tomllib.loads((folder / "site.toml").read_text())
        assert site["task"]["name"] == plan.task
        assert site["task"]["objective"] == "classification"
        assert site["data"] == {"manifest": "labels.csv"}


def test_no_subject_is_in_two_splits_or_at_two_sites(demo: list[Path]) -> None:
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for folder, plan in zip(demo, SITES, strict=True):
        for row in rows(folder):
            home = (plan.name, row["split"])
            assert seen.setdefault((plan.data, row["subject_id"]), home) == home


def digest(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_seed_decides_everything(
    demo: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("textures", "land cover")
    monkeypatch.setattr(
        "fl_server.demo_data.TASKS", {name: demo_tasks.TASKS[name] for name in names}
    )
    sites = tuple(plan for plan in SITES if plan.data in names)
    first = write_demo_sites(tmp_path / "a", 3, sites)
    again = write_demo_sites(tmp_path / "b", 3, sites)
    other = write_demo_sites(tmp_path / "c", 4, sites)
    for one, two, three in zip(first, again, other, strict=True):
        assert digest(one) == digest(two)
        assert digest(one) != digest(three)


@settings(max_examples=50)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.integers(10, 60), min_size=1, max_size=4),
    st.integers(0, 99),
)
def test_deal_never_shares_a_subject(
    per_subject: int, classes: int, sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(classes)]
    count = 100 * classes
    subjects = [f"s{i}" for i in range(count) for _ in range(per_subject)]
    labels = [names[i % classes] for i in range(count) for _ in range(per_subject)]
    pool = Pool([np.zeros((1, 1), np.uint8)] * len(labels), labels, subjects)
    plans = [SitePlan(f"p{i}", "t", "d", tuple(names), n) for i, n in enumerate(sizes)]
    homes: dict[str, tuple[int, str]] = {}
    for site, dealt in enumerate(deal(pool, plans, rng)):
        for split, chosen in dealt.items():
            assert len(set(chosen.tolist())) == len(chosen) <= round(SPLITS[split] * sizes[site])
            for row in chosen.tolist():
                assert homes.setdefault(subjects[row], (site, split)) == (site, split)


def test_missing_package_says_how_to_get_it() -> None:
    with pytest.raises(FedprintError) as error:
        package_file("no_such_package", "data/x.png")
    assert str(error.value) == (
        "the demo's images need the package no_such_package (data/x.png not found): "
        'run pip install "fedprint[demo]"'
    )


def test_private_sites_have_patients_enough(tmp_path: Path) -> None:
    for folder in write_demo_sites(tmp_path, sites=PRIVATE_SITES):
        with (folder / "labels.csv").open() as file:
            subjects = {row["subject_id"] for row in csv.DictReader(file)}
        assert len(subjects) >= 10 * load_spec("lite0-private").bins
