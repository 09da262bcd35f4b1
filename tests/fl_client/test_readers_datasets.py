"""Hugging Face datasets, from disk: nothing of this asks the hub."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from fixtures_sites import picture, write_classes
from PIL import Image

from fl_client.data_digest import known_digest
from fl_client.site import Site, read_site, site_stamp
from protocol.errors import DataError


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def rows(count: int, first: int = 0) -> object:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["benign", "malignant"]),
            "patient": datasets.Value("int64"),
        }
    )
    return datasets.Dataset.from_dict(
        {
            "image": [Image.fromarray(picture(first + n)) for n in range(count)],
            "label": [n % 2 for n in range(count)],
            "patient": [first + n // 2 for n in range(count)],
        },
        features=features,
    )


def site(root: Path, table: str) -> Site:
    (root / "site.toml").write_text(f"[data]\n{table}\n")
    return read_site(root)


def fails(root: Path, table: str) -> str:
    with pytest.raises(DataError) as caught:
        site(root, table)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "SITE")


def test_a_dataset_on_disk(tmp_path: Path) -> None:
    rows(6).save_to_disk(tmp_path / "d")  # type: ignore[attr-defined]
    whole = site(tmp_path, 'dataset = "d"\nsubject = "patient"')
    assert [c.name for c in whole.card.classes] == ["benign", "malignant"]
    assert whole.labels.tolist() == [0, 1] * 3
    assert whole.patients == 3
    assert all(item.split is None for item in whole.images)
    assert np.array_equal(whole.images[4].pixels(), picture(4))
    assert len({item.content_digest() for item in whole.images}) == 6
    assert whole.images[0].held.size == (24, 30)
    assert site(tmp_path, 'dataset = "d"').patients is None
    before = site_stamp(tmp_path)
    rows(7).save_to_disk(tmp_path / "d")  # type: ignore[attr-defined]
    assert site_stamp(tmp_path) != before


def test_its_splits_are_the_sites(tmp_path: Path) -> None:
    parts = {"train": rows(4), "validation": rows(2, 10), "test": rows(2, 20)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    found = site(tmp_path, 'dataset = "d"\nsubject = "patient"')
    assert sorted({str(item.split) for item in found.images}) == ["test", "train", "val"]
    torn = datasets.DatasetDict({"train": rows(4), "test": rows(2)})
    torn.save_to_disk(tmp_path / "e")
    assert fails(tmp_path, 'dataset = "e"\nsubject = "patient"') == (
        "e: subject 0 is in both test and train: keep each subject in one split"
    )


def test_a_partition(tmp_path: Path) -> None:
    rows(9).save_to_disk(tmp_path / "d")  # type: ignore[attr-defined]
    table = 'dataset = "d"\npartitions = 3\npartition = '
    parts = [site(tmp_path, f"{table}{number}") for number in range(3)]
    assert [len(part.images) for part in parts] == [3, 3, 3]
    seen = {item.content_digest() for part in parts for item in part.images}
    assert len(seen) == 9
    again = site(tmp_path, f"{table}1").data_digest
    assert again == parts[1].data_digest


def test_folders_as_a_dataset_are_the_folders(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", {"a": 3, "b": 2})
    direct = read_site(tmp_path / "images")
    loaded = site(tmp_path, 'dataset = "imagefolder:images"')
    assert {i.content_digest() for i in direct.images} == {
        i.content_digest() for i in loaded.images
    }
    assert [c.name for c in loaded.card.classes] == ["a", "b"]
    before = known_digest(loaded)
    Image.fromarray(picture(99)).save(tmp_path / "images" / "a" / "000.png")
    assert known_digest(site(tmp_path, 'dataset = "imagefolder:images"')) != before
    os.symlink(__file__, tmp_path / "images" / "b" / "link.png")
    assert fails(tmp_path, 'dataset = "imagefolder:images"').endswith(
        "b/link.png is a link out of SITE/images: copy the file instead"
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            'dataset = "d"\nlabel = "diagnosis"',
            "SITE/site.toml: dataset d lacks the column diagnosis, it has image, label, patient: "
            "correct [data] image, label or subject",
        ),
        (
            'dataset = "d"\nimage = "patient"',
            "SITE/site.toml: column patient of dataset d holds no images: correct [data] image",
        ),
        (
            'dataset = "imagefolder:../d"',
            "SITE/site.toml: dataset: ../d lies outside the site's folder: copy it into SITE",
        ),
        (
            'dataset = "../d"',
            "SITE/site.toml: dataset: ../d lies outside the site's folder: copy it into SITE",
        ),
    ],
)
def test_what_does_not_fit(tmp_path: Path, table: str, message: str) -> None:
    root = tmp_path / "site"
    rows(3).save_to_disk(root / "d")  # type: ignore[attr-defined]
    rows(3).save_to_disk(tmp_path / "d")  # type: ignore[attr-defined]
    assert fails(root, table) == message


@pytest.mark.parametrize(("label", "kind"), [(-1, "number"), (" ", "text")])
def test_a_label_that_names_no_class(tmp_path: Path, label: int | str, kind: str) -> None:
    names = datasets.ClassLabel(names=["a", "b"]) if kind == "number" else datasets.Value("string")
    held = {"image": [Image.new("RGB", (9, 9))], "label": [label]}
    features = datasets.Features({"image": datasets.Image(), "label": names})
    datasets.Dataset.from_dict(held, features).save_to_disk(str(tmp_path / "data"))
    said = fails(tmp_path, 'dataset = "data"\nimage = "image"\nlabel = "label"')
    assert said.endswith(f"label is {label!r}, which names no class: mend it")


def test_damage(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    message = fails(tmp_path, 'dataset = "d"')
    assert message.startswith("SITE/site.toml: dataset d cannot be loaded (")
    assert message.endswith("): correct [data] dataset")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    cells = {"image": [{"bytes": b"no image", "path": None}, None], "label": ["x", "y"]}
    datasets.Dataset.from_dict(cells, features=features).save_to_disk(tmp_path / "e")
    broken = site(tmp_path, 'dataset = "e"')
    with pytest.raises(DataError, match=r"^image .*train-0 cannot be read \(cannot identify image"):
        broken.images[0].pixels()
    with pytest.raises(DataError, match=r"^image .*train-1 cannot be read \(TypeError\): mend the"):
        broken.images[1].pixels()
    cells = {"image": [None], "label": [None]}
    datasets.Dataset.from_dict(cells, features=features).save_to_disk(tmp_path / "f")
    assert fails(tmp_path, 'dataset = "f"') == (
        "dataset f, row train-0: label is None: give one name or number an image"
    )


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    assert fails(tmp_path, 'dataset = "d"') == (
        'SITE/site.toml names a Hugging Face dataset: run pip install "fedprint[datasets]" to read '
        "it"
    )


def test_a_split_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    parts = {"train": rows(4), "test": rows(2, 4)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    before = site(tmp_path, 'dataset = "d"')
    digest, stamp = known_digest(before), site_stamp(before.folder)
    rows(4, 6).save_to_disk(tmp_path / "d" / "train")  # type: ignore[attr-defined]
    after = site(tmp_path, 'dataset = "d"')
    assert known_digest(after) == after.data_digest != digest
    assert site_stamp(after.folder) != stamp
