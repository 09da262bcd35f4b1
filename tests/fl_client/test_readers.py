"""The same real images in every form that hospitals keep them in: one fingerprint."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from fixtures_readers import Grey, brain, dicom, write_dicom, write_nifti, write_png

from fl_client.extract import extract
from fl_client.readers import Cut
from fl_client.site import Site, read_site
from fl_client.site_file import SiteFile
from protocol.errors import DataError
from protocol.spec import Spec

# two classes of six axial slices each: low in the head, and high
LOW, HIGH = slice(40, 64), slice(100, 124)
CUT = Cut(slices=6)


@pytest.fixture(scope="module")
def volumes() -> dict[str, Grey]:
    whole = brain()
    return {"low": whole[..., LOW], "high": whole[..., HIGH]}


@pytest.fixture(scope="module")
def slices(volumes: dict[str, Grey]) -> dict[str, list[Grey]]:
    """The chosen slices as a radiologist sees them."""
    return {
        label: [np.rot90(volume[..., k]).copy() for k in CUT.chosen(volume.shape[2])]
        for label, volume in volumes.items()
    }


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, slices: dict[str, list[Grey]]
) -> tuple[Path, Spec]:
    from fixtures_sites import tiny_spec

    root = tmp_path_factory.mktemp("forms")
    for label, images in slices.items():
        for number, pixels in enumerate(images):
            write_png(root / "folders" / label / f"{number}.png", pixels)
    return root, tiny_spec(root)


def counts(site: Site, spec: Spec) -> np.ndarray:
    found = extract(site.images, spec, device="cpu").counts
    assert found is not None
    return found


def as_png(root: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]) -> None:
    rows = ["path,label,subject_id"]
    for label, images in slices.items():
        for number, pixels in enumerate(images):
            write_png(root / f"{label}{number}.png", pixels)
            rows.append(f"{label}{number}.png,{label},{number}")
    (root / "labels.csv").write_text("\n".join(rows))
    (root / "site.toml").write_text('[data]\nmanifest = "labels.csv"')


def as_parquet(root: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]) -> None:
    as_png(root, volumes, slices)
    lines = [line.split(",") for line in (root / "labels.csv").read_text().splitlines()]
    columns = dict(zip(lines[0], zip(*lines[1:], strict=True), strict=True))
    columns["subject_id"] = [int(number) for number in columns["subject_id"]]  # type: ignore[assignment]
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "labels.parquet")
    (root / "site.toml").write_text('[data]\nmanifest = "labels.parquet"')


def as_dicom(root: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]) -> None:
    for label, images in slices.items():
        for number, pixels in enumerate(images):
            write_dicom(root / label / f"IM{number}", pixels, PatientID=f"{label} {number // 2}")


def as_frames(root: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]) -> None:
    for label, images in slices.items():
        write_dicom(
            root / label / "all.dcm",
            255 - np.stack(images),
            PhotometricInterpretation="MONOCHROME1",
        )


def as_nifti(root: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]) -> None:
    write_nifti(root / "low" / "one.nii.gz", volumes["low"], "LPS")
    write_nifti(root / "high" / "one.nii", volumes["high"], "SAR")
    (root / "site.toml").write_text('[data]\nplane = "axial"\nslices = 6')


def as_npz(root: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]) -> None:
    images = np.concatenate([np.stack(images) for images in slices.values()])
    root.mkdir()
    np.savez(root / "site.npz", train_images=images, train_labels=np.repeat([0, 1], 6)[:, None])
    (root / "site.toml").write_text('[data]\nnpz = "site.npz"')


def as_npz_3d(root: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]) -> None:
    stacks = np.stack([np.rot90(volume).transpose(2, 0, 1) for volume in volumes.values()])
    root.mkdir()
    np.savez(root / "site.npz", train_images=stacks, train_labels=[0, 1])
    (root / "site.toml").write_text('[data]\nnpz = "site.npz"\nslices = 6')


FORMS: list[Callable[[Path, dict[str, Grey], dict[str, list[Grey]]], None]] = [
    as_png, as_parquet, as_dicom, as_frames, as_nifti, as_npz, as_npz_3d
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_fingerprint(
    form: Callable[[Path, dict[str, Grey], dict[str, list[Grey]]], None],
    tmp_path: Path,
    volumes: dict[str, Grey],
    slices: dict[str, list[Grey]],
    folders: tuple[Path, Spec],
) -> None:
    root, spec = folders
    form(tmp_path / "site", volumes, slices)
    site = read_site(tmp_path / "site")
    expected = counts(read_site(root / "folders"), spec)
    assert expected.sum() == 12 * spec.width
    assert np.array_equal(counts(site, spec), expected)
    seen = {item.pixels().tobytes() for item in site.images}
    assert seen == {np.dstack([x] * 3).tobytes() for images in slices.values() for x in images}


def test_whose_images_they_are(
    tmp_path: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]
) -> None:
    patients = {}
    for form in FORMS:
        form(tmp_path / form.__name__, volumes, slices)
        patients[form.__name__] = read_site(tmp_path / form.__name__).patients
    assert patients == {
        "as_png": 6,
        "as_parquet": 6,
        "as_dicom": 6,  # two images a PatientID
        "as_frames": 2,  # no PatientID: the file
        "as_nifti": 2,
        "as_npz": None,
        "as_npz_3d": 2,
    }


def test_content_digests_keep_the_images_of_a_file_together(
    tmp_path: Path, volumes: dict[str, Grey], slices: dict[str, list[Grey]]
) -> None:
    as_nifti(tmp_path / "site", volumes, slices)
    site = read_site(tmp_path / "site")
    digests = [item.content_digest() for item in site.images]
    assert len(set(digests)) == 12
    assert all(len(digest) == 32 for digest in digests)
    ordered = [site.images[i].path for i in sorted(range(12), key=lambda i: digests[i])]
    assert len(set(ordered[:6])) == len(set(ordered[6:])) == 1
    assert site.data_digest == read_site(tmp_path / "site").data_digest
    (tmp_path / "site" / "site.toml").write_text('[data]\nplane = "coronal"\nslices = 6')
    assert set(digests).isdisjoint(i.content_digest() for i in read_site(tmp_path / "site").images)
    path = tmp_path / "site" / "high" / "one.nii"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert read_site(tmp_path / "site").images[0].content_digest() not in digests


@pytest.mark.parametrize(
    ("cut", "depth", "chosen"),
    [
        (Cut(), 3, [0, 1, 2]),
        (Cut(slices=5), 3, [0, 1, 2]),
        (Cut(slices=1), 9, [4]),
        (Cut(slices=4), 8, [1, 3, 5, 7]),
    ],
)
def test_slices_are_evenly_spaced(cut: Cut, depth: int, chosen: list[int]) -> None:
    assert cut.chosen(depth) == chosen


# what is wrong


def fails(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_site(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "SITE")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            'plane = "oblique"',
            "SITE/site.toml: data.plane: Input should be 'axial', 'coronal' or 'sagittal'",
        ),
        ("slices = -1", "SITE/site.toml: data.slices: Input should be greater than or equal to 0"),
        (
            'label = "x"',
            "SITE/site.toml: data: label belongs to a dataset, and none is named",
        ),
        ("mpp = 0.5", "SITE/site.toml: data: mpp and level belong to tile"),
        (
            'dataset = "d"\npartition = 2\npartitions = 2',
            "SITE/site.toml: data: partition counts from 0, and must be below partitions",
        ),
        (
            'dataset = "d"\npartition = 2',
            "SITE/site.toml: data: partition and partitions belong together",
        ),
        (
            'manifest = "a"\nnpz = "b"',
            "SITE/site.toml: [data] names both manifest and npz, keep one",
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "site.toml").write_text(f"[data]\n{table}\n")
    assert fails(tmp_path) == message


def test_bad_parquet(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[data]\nmanifest = "m.parquet"')
    path = tmp_path / "m.parquet"

    def wrong(**columns: list[object]) -> str:
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return fails(tmp_path)

    assert wrong(path=["a.png"], label=[1]).startswith(
        "manifest SITE/m.parquet lacks the column subject_id: its first line must name path,label"
    )
    write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    row = {"path": ["a.png"], "label": [1], "subject_id": ["p"]}
    assert wrong(**row | {"label": [None]}) == ("SITE/m.parquet, row 1: label is empty: fill it in")
    assert wrong(**row | {"label": [float("nan")]}) == (
        "SITE/m.parquet, row 1: label is nan: fill it in"
    )
    assert wrong(**row | {"path": ["../a.png"]}).startswith(
        "SITE/m.parquet, row 1: ../a.png lies outside the site's folder: copy it into"
    )
    assert wrong(path=[], label=[], subject_id=[]).startswith(
        "manifest SITE/m.parquet lists no images"
    )
    path.write_bytes(path.read_bytes()[:-9])
    message = fails(tmp_path)
    assert message.startswith("manifest SITE/m.parquet cannot be read (Parquet magic bytes not")
    assert message.endswith("): write it again")


def test_an_npz_file_that_lies_about_its_size(tmp_path: Path) -> None:
    import zipfile

    (tmp_path / "site.toml").write_text('[data]\nnpz = "d.npz"')
    header = np.lib.format.magic(1, 0)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**6}, {10**6}), }}"
    text += " " * (63 - (len(header) + 2 + len(text)) % 64) + "\n"
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr(
            "train_images.npy", header + len(text).to_bytes(2, "little") + text.encode()
        )
        archive.writestr("train_labels.npy", b"")
    assert fails(tmp_path) == (
        "npz file SITE/d.npz cannot be read (train_images declares 1000000000000 bytes and holds "
        "0): write it again"
    )


@pytest.mark.parametrize("kept", [30, 3000])
def test_a_truncated_npz_file(tmp_path: Path, kept: int) -> None:
    (tmp_path / "site.toml").write_text('[data]\nnpz = "d.npz"')
    np.savez(tmp_path / "d.npz", train_images=np.zeros((9, 20, 20), np.uint8), train_labels=[0] * 9)
    (tmp_path / "d.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:kept])
    assert fails(tmp_path) == (
        "npz file SITE/d.npz cannot be read (File is not a zip file): write it again"
    )


def test_links_and_paths_that_leave_the_folder(tmp_path: Path) -> None:
    outside = write_dicom(tmp_path / "outside.dcm", np.zeros((4, 4), np.uint8))
    folder = tmp_path / "site"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "IM0").symlink_to(outside)
    assert fails(folder) == "image SITE/a/IM0 is a link out of SITE: copy the file instead"
    (folder / "site.toml").write_text('[data]\nmanifest = "m.csv"')
    for name in ("a/IM0", "../outside.dcm", str(outside)):
        (folder / "m.csv").write_text(f"path,label,subject_id\n{name},x,p\n")
        assert fails(folder) == (
            f"SITE/m.csv, line 2: {name} lies outside the site's folder: copy it into SITE"
        )
    for key in ("manifest", "npz"):
        (folder / "site.toml").write_text(f'[data]\n{key} = "../m"')
        assert fails(folder) == (
            f"SITE/site.toml: {key}: ../m lies outside the site's folder: copy it into SITE"
        )


def test_a_mixed_site(tmp_path: Path, slices: dict[str, list[Grey]]) -> None:
    first, second, *_ = slices["low"]
    write_png(tmp_path / "a" / "1.png", first)
    write_dicom(tmp_path / "b" / "2", second, PatientID="x")
    write_nifti(tmp_path / "b" / "3.nii", second[..., None])
    site = read_site(tmp_path)
    assert [item.held.name for item in site.images] == ["a/1.png", "b/2", "b/3.nii (axial 0)"]
    assert site.patients == 3


def test_labels_with_several_columns(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[data]\nnpz = "d.npz"')
    np.savez(tmp_path / "d.npz", train_images=np.zeros((2, 4, 4), np.uint8), train_labels=np.eye(2))
    assert fails(tmp_path) == (
        "npz file SITE/d.npz: train_labels has shape (2, 2) for 2 images: "
        'give one label an image, or say objective = "multilabel"'
    )


def test_a_picture_that_declares_too_many_pixels(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "a" / "bomb.png"
    path.parent.mkdir()
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError) as caught:
        read_site(tmp_path).images[0].pixels()
    assert str(caught.value) == (
        f"image {path} declares more than 100000000 pixels: make it smaller, or take it out"
    )


def test_what_a_file_holds_counts_not_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.png"
    path.parent.mkdir()
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )  # Pillow would run a program
    with pytest.raises(DataError, match=r"^image .*x\.png cannot be read \(cannot identify"):
        read_site(tmp_path).images[0].pixels()


def test_a_kind_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    write_dicom(tmp_path / "a" / "x.dcm", np.zeros((4, 4), np.uint8))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError) as caught:
        read_site(tmp_path).images[0].pixels()
    assert str(caught.value) == (
        f'image {tmp_path}/a/x.dcm is DICOM: run pip install "fedprint[dicom]" to read it'
    )
    assert dicom(np.zeros((4, 4), np.uint8)).Rows == 4


def test_every_site_file_in_the_documentation_is_valid() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "data.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 8
    for block in blocks:
        SiteFile.model_validate(tomllib.loads(block))
