from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from fixtures_sites import picture, write_classes, write_manifest
from PIL import Image

from fl_client.images import read_image
from fl_client.site import read_site, site_stamp
from protocol.errors import DataError

TASK = """
[task]
name = "brain tissue"
modality = "MRI"
keywords = ["brain"]
[task.codes]
grey = "SCT:1"
[data]
manifest = "labels.csv"
"""


def fails(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_site(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "SITE")


def test_class_subfolders(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "north", {"10": 2, "9": 1, "a": 3})
    (folder / ".fedprint" / "x").mkdir(parents=True)
    Image.fromarray(picture(0)).save(folder / ".fedprint" / "x" / "1.png")
    Image.fromarray(picture(0)).save(folder / "a" / ".hidden.png")
    (folder / "a" / "notes.txt").write_text("ignored")
    site = read_site(folder)
    assert site.name == site.card.name == "north"
    assert [c.name for c in site.card.classes] == ["9", "10", "a"]  # numbers by value
    assert site.labels.tolist() == [1, 1, 0, 2, 2, 2]
    assert site.patients is None
    assert site.state == folder / ".fedprint"
    assert read_site(folder, state=tmp_path / "s", name="other").state == tmp_path / "s"


def test_manifest_with_task_card(tmp_path: Path) -> None:
    rows = ["b/2.png,white,p2,val", "a/1.png,grey,p1,train", "c.png,grey,p1,train"]
    folder = write_manifest(tmp_path / "s", rows, "path,label,subject_id,split")
    (folder / "site.toml").write_text(TASK)
    site = read_site(folder)
    assert site.card.name == "brain tissue"
    assert site.card.modality == "MRI"
    assert [(c.name, c.code) for c in site.card.classes] == [("grey", "SCT:1"), ("white", None)]
    assert [item.path.name for item in site.images] == ["1.png", "2.png", "c.png"]
    assert [item.split for item in site.images] == ["train", "val", "train"]
    assert site.patients == 2


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n % 2},p{n}" for n in range(6)]
    first = read_site(write_manifest(tmp_path / "a", rows))
    second = read_site(write_manifest(tmp_path / "b", rows))
    (tmp_path / "b" / "labels.csv").write_text(
        "\n".join(["subject_id,path,label", *(f"p{n},{n}.png,{n % 2}" for n in range(5, -1, -1))])
    )
    again = read_site(tmp_path / "b")
    assert first.data_digest == second.data_digest == again.data_digest
    assert first.labels.tolist() == again.labels.tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.png,,p", "SITE/labels.csv, line 3: label is empty: fill it in"),
        ("1.png,NaN,p", "SITE/labels.csv, line 3: label is NaN: fill it in"),
        ("1.png,x,", "SITE/labels.csv, line 3: subject_id is empty: fill it in"),
        ("gone/1.tif,x,p", "SITE/labels.csv, line 3: image gone/1.tif does not exist"),
        ("../1.png,x,p", "SITE/labels.csv, line 3: ../1.png lies outside the site's folder"),
        ("/etc/1.png,x,p", "SITE/labels.csv, line 3: /etc/1.png lies outside the site's folder"),
        ("0.png,x,p", "SITE/labels.csv, line 3: 0.png is listed twice: keep one line"),
        ("1.txt,x,p", "SITE/labels.csv, line 3: 1.txt is no image that can be read"),
        ("1.png,x", "SITE/labels.csv, line 3: has not as many cells as the header"),
    ],
)
def test_bad_rows(tmp_path: Path, row: str, message: str) -> None:
    assert fails(write_manifest(tmp_path / "s", ["0.png,x,p", row])).startswith(message)


def test_bad_manifests(tmp_path: Path) -> None:
    folder = write_manifest(tmp_path / "s", ["0.png,x,p"])
    table = folder / "labels.csv"
    table.write_text("path,label\n0.png,x\n")
    assert fails(folder) == (
        "manifest SITE/labels.csv lacks the column subject_id: its first line must name "
        "path,label,subject_id[,split] (repeat the path when every image is its own subject)"
    )
    table.write_text("path,label,subject_id\n")
    assert fails(folder).startswith("manifest SITE/labels.csv lists no images")
    table.write_bytes(b"path,label,subject_id\n0.png,\xff\xfe,p\n")
    assert fails(folder).startswith("manifest SITE/labels.csv cannot be read")
    table.write_text('path,label,subject_id\n0.png,"x,p\n')
    assert fails(folder).startswith("manifest SITE/labels.csv cannot be read")
    table.write_text("path,label,subject_id,split\n0.png,x,p,trian\n")
    assert fails(folder).endswith("split is 'trian': write train, val or test")
    table.unlink()
    assert fails(folder).startswith("manifest SITE/labels.csv does not exist")


def test_a_subject_lies_in_one_split(tmp_path: Path) -> None:
    folder = write_manifest(
        tmp_path / "s", ["0.png,x,p,train", "1.png,x,p,test"], "path,label,subject_id,split"
    )
    assert fails(folder).startswith("SITE/labels.csv: subject p is in both train and test")


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "s", {"a": 1})
    Image.fromarray(picture(0)).save(tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", folder / "a" / "link.png")
    assert fails(folder) == "image SITE/a/link.png is a link out of SITE: copy the file instead"


def test_bad_folders(tmp_path: Path) -> None:
    assert fails(tmp_path / "no").endswith("does not exist or is no folder")
    assert fails(tmp_path).startswith("site folder SITE holds no images: expected SITE/<class>/")
    Image.fromarray(picture(0)).save(tmp_path / "1.png")
    assert fails(tmp_path).startswith("image SITE/1.png lies in no class subfolder")


def test_a_folder_of_sites_is_no_site(tmp_path: Path) -> None:
    for name in ("south", "north"):
        write_classes(tmp_path / name, {"a": 1, "b": 1})
    (tmp_path / "north" / "site.toml").touch()
    assert fails(tmp_path) == (
        "SITE holds sites, not classes: north has a site.toml of its own; give one site, such as "
        "SITE/north"
    )


def test_data_that_lie_elsewhere(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "images", {"a": 2, "b": 1})
    (tmp_path / "rows.csv").write_text("never read")
    folder = tmp_path / "site"
    folder.mkdir()
    for named in (str(data), "../images"):
        (folder / "site.toml").write_text(f'[site]\nname = "north"\n[data]\nfolder = "{named}"\n')
        site = read_site(folder)
        assert (site.name, site.card.name, site.folder) == ("north", "north", folder)
        assert len(site.images) == 3
        assert site.state == folder / ".fedprint"
    assert read_site(folder, name="other").name == "other"
    (folder / "site.toml").write_text('[site]\nstate = "kept"\n[data]\nfolder = "../images"\n')
    assert read_site(folder).state == folder / "kept"
    assert read_site(folder).name == "site"
    Image.fromarray(picture(0)).save(tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", data / "a" / "link.png")
    assert fails(folder).endswith("is a link out of SITE/../images: copy the file instead")


def test_a_manifest_is_relative_to_the_data(tmp_path: Path) -> None:
    data = write_manifest(tmp_path / "images", ["0.png,x,p", "1.png,y,q"])
    folder = tmp_path / "site"
    folder.mkdir()
    table = f'[data]\nfolder = "{data}"\nmanifest = "labels.csv"\n'
    (folder / "site.toml").write_text(table)
    assert read_site(folder).patients == 2
    (folder / "site.toml").write_text(table.replace("labels", "../labels"))
    assert fails(folder).startswith("SITE/site.toml: manifest: ../labels.csv lies outside")
    (folder / "site.toml").write_text(table.replace("labels", "other"))
    assert fails(folder).endswith("other.csv does not exist: create it or correct SITE/site.toml")
    (folder / "site.toml").write_text('[data]\nfolder = "no"\n')
    assert fails(folder) == (
        "SITE/site.toml: data folder SITE/no does not exist or is no folder: correct it"
    )
    (folder / "site.toml").write_text('[task]\nshares_weights = "yes"\n')
    assert fails(folder) == "SITE/site.toml: task.shares_weights: Input should be a valid boolean"


def test_the_stamp_changes_with_what_describes_the_site(tmp_path: Path) -> None:
    data = write_manifest(tmp_path / "images", ["0.png,x,p", "1.png,y,q"])
    folder = tmp_path / "site"
    folder.mkdir()
    stamps = [site_stamp(folder)]
    (folder / "site.toml").write_text(f'[data]\nfolder = "{data}"\nmanifest = "labels.csv"\n')
    stamps.append(site_stamp(folder))
    with (data / "labels.csv").open("a") as table:
        table.write("2.png,y,q\n")
    stamps.append(site_stamp(folder))
    assert len(set(stamps)) == 3
    assert site_stamp(folder) == stamps[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[task\n", "SITE/site.toml is not readable TOML"),
        ("[task]\nnaem = 'x'\n", "SITE/site.toml: unknown key 'task.naem'; [task] takes name"),
        ("[task]\nkeywords = 'x'\n", "SITE/site.toml: task.keywords: "),
        ("[data]\nmanifest = 'a'\nnpz = 'b'\n", "SITE/site.toml: [data] names both"),
        ("[data]\nnpz = '../b.npz'\n", "SITE/site.toml: npz: ../b.npz lies outside"),
        ("[data]\nnpz = 'b.npz'\n", "npz file SITE/b.npz does not exist"),
    ],
)
def test_bad_site_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    assert fails(tmp_path).startswith(message)


def write_npz(folder: Path, **arrays: object) -> Path:
    folder.mkdir()
    (folder / "site.toml").write_text('[data]\nnpz = "d.npz"\n')
    np.savez_compressed(folder / "d.npz", **arrays)  # type: ignore[arg-type]
    return folder


def test_npz(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 9), np.uint8)
    labels = np.array([[3], [1], [10], [1], [3]])
    folder = write_npz(
        tmp_path / "s",
        train_images=images,
        train_labels=labels,
        test_images=images[:2, :, :, None].repeat(3, axis=3),
        test_labels=labels[:2, 0],
    )
    site = read_site(folder)
    assert [c.name for c in site.card.classes] == ["1", "3", "10"]
    assert [item.split for item in site.images] == ["train"] * 5 + ["test"] * 2
    assert np.array_equal(site.images[4].pixels(), images[4][..., None].repeat(3, axis=2))
    assert np.array_equal(site.images[5].pixels(), site.images[0].pixels())
    assert isinstance(site.images[0].source.array, np.memmap)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "has the keys x: expected train_images, train_labels"),
        ({"train_images": np.zeros((2, 4, 4))}, "has train_images but no train_labels"),
        (
            {"train_images": np.zeros((2, 4, 4)), "train_labels": np.zeros((2, 3))},
            "train_labels has shape (2, 3) for 2 images: give one label an image",
        ),
        (
            {"train_images": np.zeros((2, 4, 4)), "train_labels": np.array([0, np.nan])},
            "train_labels holds NaN, infinity or fractions",
        ),
        (
            {"train_images": np.zeros((2, 4, 4)), "train_labels": np.array([0, np.inf])},
            "train_labels holds NaN, infinity or fractions: mend them",
        ),
        (
            {"train_images": np.zeros((2, 4, 4)), "train_labels": np.array([0, 1e300])},
            "train_labels holds NaN, infinity or fractions: mend them",
        ),
        (
            {"train_images": np.zeros((2, 4, 4)), "train_labels": np.array([None, 1])},
            "cannot be read (train_labels holds Python objects)",
        ),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    assert message in fails(write_npz(tmp_path / "s", **arrays))


def test_npz_without_images_or_of_another_type(tmp_path: Path) -> None:
    folder = write_npz(
        tmp_path / "s", train_images=np.zeros((0, 4, 4), np.uint8), train_labels=np.zeros(0)
    )
    assert fails(folder) == "site folder SITE holds no images after reading d.npz: add some"
    other = write_npz(tmp_path / "t", train_images=np.zeros((1, 4, 4)), train_labels=np.zeros(1))
    with pytest.raises(DataError, match=r"shape \(4, 4\) and type float64: give 8- or 16-bit"):
        read_site(other).images[0].pixels()


def test_conversion_to_rgb(tmp_path: Path) -> None:
    rgb = picture(1)
    path = tmp_path / "x.png"

    def saved(image: Image.Image, name: str = "x.png") -> np.ndarray:
        image.save(tmp_path / name)
        return read_image(tmp_path / name)

    image = Image.fromarray(rgb)
    for name in ("x.png", "x.bmp", "x.tif"):
        assert np.array_equal(saved(image, name), rgb)
    assert np.array_equal(saved(Image.fromarray(np.dstack([rgb, rgb[..., :1]]))), rgb)  # RGBA
    palette = image.quantize(16)
    assert np.array_equal(saved(palette), np.asarray(palette.convert("RGB")))
    grey = rgb[..., 0]
    assert np.array_equal(saved(Image.fromarray(grey)), np.dstack([grey] * 3))
    deep = np.array([[0, 128, 129, 257, 65535]], np.uint16)
    assert saved(Image.fromarray(deep))[0, :, 0].tolist() == [0, 0, 1, 1, 255]
    assert saved(Image.fromarray(deep), "x.tif")[0, :, 0].tolist() == [0, 0, 1, 1, 255]
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    image.save(path, exif=turned)
    assert np.array_equal(read_image(path), np.rot90(rgb, -1))


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(picture(0, 200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"^image .*x\.png cannot be read \(.*\): replace it"):
        read_image(path)
    path.write_text("no image")
    with pytest.raises(DataError, match=r"^image .*x\.png cannot be read"):
        read_image(path)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="32-bit pixels without a known range"):
        read_image(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")
