from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.site import ImageItem, Site
from fl_client.splits import split_site
from protocol.taskcard import ClassCard, TaskCard


def make_site(rows: list[tuple[int, str, str | None]]) -> Site:
    classes = [ClassCard(name=str(n)) for n in range(max(label for label, _, _ in rows) + 1)]
    images = [ImageItem(Path(f"{n}.png"), *row) for n, row in enumerate(rows)]
    return Site("s", Path(), TaskCard(name="t", classes=classes), images, Path(), True)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), min_size=1, max_size=150),
    st.integers(0, 3),
)
@settings(max_examples=60)
def test_a_partition_by_whole_subjects(rows: list[tuple[int, int]], seed: int) -> None:
    site = make_site([(label, f"p{subject}", None) for label, subject in rows])
    split = split_site(site, seed)
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(len(rows)))
    subjects = {k: {site.images[i].subject for i in rows_} for k, rows_ in split.items()}
    assert not subjects["train"] & subjects["val"]
    assert not subjects["train"] & subjects["test"]
    assert not subjects["val"] & subjects["test"]
    if len(rows) >= 10 and len({subject for _, subject in rows}) >= 3:
        assert all(len(rows_) for rows_ in split.values())
    again = split_site(site, seed)
    assert all(np.array_equal(split[k], again[k]) for k in split)


def test_stratified_by_class() -> None:
    site = make_site([(n % 3, f"p{n}", None) for n in range(150)])
    split = split_site(site)
    for part, count in (("train", 30), ("val", 10), ("test", 10)):
        assert np.bincount(site.labels[split[part]]).tolist() == [count] * 3


def test_tiny_classes_are_trained_on_first() -> None:
    rows = [(0, f"p{n}", None) for n in range(30)] + [
        (1, "a", None),
        (2, "b", None),
        (2, "c", None),
    ]
    site = make_site(rows)
    split = split_site(site)
    assert {0, 1, 2} == set(site.labels[split["train"]].tolist())
    assert 2 in site.labels[split["test"]]


def test_the_sites_own_split_holds() -> None:
    rows = [(n % 2, f"p{n}", ("train", "val", "test")[n % 3]) for n in range(12)]
    split = split_site(make_site(rows))
    assert split["val"].tolist() == [1, 4, 7, 10]
    assert split["test"].tolist() == [2, 5, 8, 11]


def test_validation_data_is_taken_off_the_training_data() -> None:
    rows = [(n % 2, f"p{n}", "train" if n < 40 else "test") for n in range(60)]
    split = split_site(make_site(rows))
    assert [len(split[k]) for k in ("train", "val", "test")] == [30, 10, 20]
    assert split["test"].tolist() == list(range(40, 60))
