"""Several labels an image, and grades: read from every form of listing, checked, split."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from fixtures_sites import write_classes
from numpy.typing import NDArray
from PIL import Image
from pyarrow.parquet import write_table

from fl_client.check_labels import check_labels
from fl_client.finding import DataVisit, Finding
from fl_client.site import Site, read_site
from fl_client.splits import split_site
from protocol.errors import DataError
from tests.objectives import GRADES, LABELS, names_of, pictures, write_graded, write_several

NAMES = list(LABELS)
TASK = '[task]\nobjective = "multilabel"\n[data]\n'


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_several(tmp_path_factory.mktemp("several") / "site", 0, 40)


def truth(number: int = 40) -> NDArray[np.uint8]:
    return np.array([[name in names_of(d) for name in NAMES] for d in pictures(0, number)[1]])


def fails(folder: Path, text: str = "") -> str:
    if text:
        (folder / "site.toml").write_text(text)
    with pytest.raises(DataError) as caught:
        read_site(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "SITE")


def test_names_in_one_column(several: Path) -> None:
    site = read_site(several)
    assert site.card.objective == "multilabel"
    assert [card.name for card in site.card.classes] == NAMES
    assert np.array_equal(site.targets, truth())
    assert site.targets.dtype == np.uint8
    by_class = {
        name: len({n // 2 for n, shown in enumerate(column) if shown})
        for name, column in zip(NAMES, truth().T, strict=True)
    }
    assert site.patients_by_class == by_class
    with pytest.raises(DataError) as caught:
        _ = site.labels
    assert str(caught.value) == (
        "what is asked for needs one class an image, which only the objectives classification and "
        "ordinal have: that of site site is multilabel"
    )


def test_every_form_of_listing_says_the_same(several: Path, tmp_path: Path) -> None:
    shades, _ = pictures(0, 40)
    held, named = truth().astype(np.uint8), f"labels = {NAMES}\n".replace("'", '"')
    columns, npz, listed, ticked = (tmp_path / name for name in ("columns", "npz", "list", "tick"))
    for folder in (columns, npz, listed, ticked):
        folder.mkdir()
    (columns / "site.toml").write_text(f'{TASK}manifest = "labels.csv"\n{named}')
    lines = [f"path,{','.join(NAMES)},subject_id"]
    for number, row in enumerate(held):
        cells = ",".join(("0", "1")[v] if number % 2 else ("False", "1.0")[v] for v in row)
        lines.append(f"{number:03}.png,{cells},p{number // 2}")
        Image.fromarray(shades[number]).save(columns / f"{number:03}.png")
    (columns / "labels.csv").write_text("\n".join(lines))
    (npz / "site.toml").write_text(f'{TASK}npz = "site.npz"\n{named}')
    np.savez(npz / "site.npz", train_images=shades, train_labels=held)
    pictured = {"image": [Image.fromarray(shade) for shade in shades]}
    kind = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Sequence(datasets.ClassLabel(names=NAMES))}
    )
    numbers = {"label": [np.flatnonzero(row).tolist() for row in held]}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(pictured | numbers, features=kind).save_to_disk(listed / "d")
    (listed / "site.toml").write_text(f'{TASK}dataset = "d"\n')
    one_each = {name: held[:, c].tolist() for c, name in enumerate(NAMES)}
    datasets.Dataset.from_dict(pictured | one_each).save_to_disk(ticked / "d")
    (ticked / "site.toml").write_text(f'{TASK}dataset = "d"\n{named}')
    parquet = shutil.copytree(several, tmp_path / "parquet")
    table = {
        "path": [f"{number:03}.png" for number in range(40)],
        "labels": [[name for name, v in zip(NAMES, row, strict=True) if v] for row in held],
        "subject_id": [number // 2 for number in range(40)],
    }
    write_table(pyarrow.table(table), parquet / "labels.parquet")
    (parquet / "site.toml").write_text(f'{TASK}manifest = "labels.parquet"\n')
    first = read_site(several)
    for folder in (columns, npz, listed, ticked, parquet):
        site = read_site(folder)
        assert site.card.classes == first.card.classes
        assert np.array_equal(site.targets, first.targets), folder
    (npz / "site.toml").write_text(f'{TASK}npz = "site.npz"\n')
    assert [card.name for card in read_site(npz).card.classes] == ["0", "1", "2"]


def test_listings_that_cannot_be_meant(tmp_path: Path) -> None:
    folder = write_several(tmp_path / "s", 0, 4)
    rest = (folder / "labels.csv").read_text().splitlines()[2:]

    def first(cell: str, task: str = TASK) -> str:
        lines = ["path,labels,subject_id", f"000.png,{cell},p0", *rest]
        (folder / "labels.csv").write_text("\n".join(lines))
        return fails(folder, f'{task}manifest = "labels.csv"')

    assert first("even|loop|even") == ("SITE/labels.csv, line 2: labels name even twice: keep one")
    assert first("none") == (
        "SITE/labels.csv, line 2: labels is none: leave it empty where there are none"
    )
    assert first("even", "[data]\n") == (
        "manifest SITE/labels.csv lacks the column label: its first line must name "
        'path,label,subject_id[,split], or say objective = "multilabel" in [task]'
    )
    ticks = TASK + 'labels = ["labels"]\n'
    assert first("-1", ticks) == "SITE/labels.csv, line 2: labels is -1: write 0 or 1"
    assert first("", ticks) == "SITE/labels.csv, line 2: labels is empty: write 0 or 1"
    assert first("1", '[data]\nlabels = ["labels"]\n') == (
        'SITE/site.toml: [data] labels belongs to objective = "multilabel" in [task]'
    )
    assert first("1", TASK + 'labels = ["a", "a"]\n') == (
        "SITE/site.toml: [data] labels names a class twice: keep one"
    )
    subfolders = write_classes(tmp_path / "sub", {"a": 1, "b": 1})
    assert fails(subfolders, TASK) == (
        "SITE/site.toml: class subfolders give each image one label: name a manifest, npz or "
        "dataset of the multilabel task"
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1]), "has shape (2,) for 2 images: give one column of 0 and 1 a class, or "),
        (np.eye(3), "has shape (3, 3) for 2 images: give one column of 0 and 1 a class, or "),
        (np.ones((2, 4)), "has 4 classes and [data] labels names 3: name each"),
        (np.full((2, 3), 2), "holds other values than 0 and 1: mend them"),
        (np.full((2, 3), np.nan), "holds other values than 0 and 1: mend them"),
        (np.full((2, 3), "1"), "holds other values than 0 and 1: mend them"),
    ],
)
def test_arrays_that_are_no_labels(
    tmp_path: Path, labels: NDArray[np.generic], message: str
) -> None:
    images = np.zeros((2, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    said = fails(tmp_path, f'{TASK}npz = "a.npz"\nlabels = ["a", "b", "c"]')
    assert said.startswith(f"npz file SITE/a.npz: train_labels {message}")


def test_a_grade_may_be_called_none(tmp_path: Path) -> None:
    site = write_graded(tmp_path / "g", 0, 30)
    for name in ("labels.csv", "site.toml"):
        path = site / name
        path.write_text(path.read_text().replace("low", "none"))
    assert read_site(site).card.classes[0].name == "none"
    table = site / "labels.csv"
    table.write_text(table.read_text().replace("none", "nan"))
    assert fails(site, (site / "site.toml").read_text()).endswith("label is nan: fill it in")


def test_grades_keep_the_order_and_the_distances_of_their_task(tmp_path: Path) -> None:
    site = read_site(write_graded(tmp_path / "g", 0, 30))
    assert [card.name for card in site.card.classes] == ["low", "middle", "highest"]
    assert (site.card.order, site.card.ranks) == (list(GRADES), [0, 1, 3])
    assert site.targets.sum(axis=1).tolist() == [1] * 30
    assert np.array_equal(site.targets.argmax(axis=1), site.labels)
    manifest = '[data]\nmanifest = "labels.csv"'
    assert fails(site.folder, f'[task]\nobjective = "ordinal"\n{manifest}') == (
        "SITE/site.toml: task: an ordinal task needs its grades from the lowest on: "
        'order = ["none", "mild", ...]'
    )
    order = 'order = ["low", "highest"]'
    assert fails(site.folder, f'[task]\nobjective = "ordinal"\n{order}\n{manifest}') == (
        "SITE/site.toml: grade middle is not in [task] order: add it, or mend it"
    )
    assert fails(site.folder, f"[task]\n{order}\n{manifest}") == (
        'SITE/site.toml: task: order belongs to objective = "ordinal"'
    )


def found(folder: Path) -> Finding:
    (finding,) = check_labels(DataVisit(folder, 0))
    return finding


def test_check_shows_rare_labels_and_images_without_any(several: Path, tmp_path: Path) -> None:
    sizes = truth().sum(axis=0)
    none = int((~truth().any(axis=1)).sum())
    shown = ", ".join(f"{name}: {size}" for name, size in zip(NAMES, sizes, strict=True))
    good = found(several)
    assert (good.state, good.found) == ("ok", f"{shown}; none of them: {none}")
    rows = ["path,a,b,c,subject_id", *(f"{n:03}.png,{n % 2},{n // 9},0,p{n}" for n in range(10))]
    rare = write_several(tmp_path / "rare", 0, 10)
    (rare / "labels.csv").write_text("\n".join(rows))
    for names, state, said, reason in (
        ('["a", "b"]', "warning", "fewer than 5 images of b (a: 5, b: 1; none", "small-class"),
        ('["a", "b", "c"]', "warning", "no image shows c (a: 5, b: 1; none", "no-contrast"),
        ('["c"]', "failed", "no image shows any class", "no-labels"),
    ):
        (rare / "site.toml").write_text(f'{TASK}manifest = "labels.csv"\nlabels = {names}')
        finding = found(rare)
        assert (finding.state, finding.reason) == (state, reason)
        assert finding.found.startswith(said)
    text = (rare / "labels.csv").read_text().replace(",0,p", ",1,p")
    (rare / "labels.csv").write_text(text)
    assert found(rare).found.startswith("every image shows c (")


def shares(site: Site, seed: int) -> NDArray[np.float64]:
    """Return the share of each label, and of no label, that each part holds."""
    shown = np.column_stack([site.targets, ~site.targets.any(axis=1)])
    parts = split_site(site, seed)
    return np.array([shown[parts[p]].sum(axis=0) / shown.sum(axis=0) for p in ("train", "val")])


def test_every_label_comes_near_its_share_and_no_subject_is_torn(tmp_path: Path) -> None:
    site = read_site(write_several(tmp_path / "s", 0, 200))
    for seed in range(3):
        held = shares(site, seed)
        assert np.abs(held - [[0.6], [0.2]]).max() < 0.05
        parts = split_site(site, seed)
        of = [{site.images[row].subject for row in rows} for rows in parts.values()]
        assert sum(map(len, of)) == len(set().union(*of))
        assert sorted(np.concatenate(list(parts.values()))) == list(range(200))
