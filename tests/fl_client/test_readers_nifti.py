"""NIfTI volumes: orientation, windows, and what is refused."""

from __future__ import annotations

import shutil
import tempfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from fixtures_readers import write_nifti
from fixtures_sites import tiny_spec
from nibabel.testing import data_path

from fl_client.extract import extract
from fl_client.readers import Cut, Source, open_file
from fl_client.site import read_site
from protocol.errors import DataError
from protocol.spec import Spec

CUBE = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)  # [right, anterior, superior]


def fault(source: Source) -> str:
    with pytest.raises(DataError) as caught:
        source.pixels()
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(source.path), "FILE")


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_slices_do_not_depend_on_how_they_are_stored(tmp_path: Path, axes: str, name: str) -> None:
    path = write_nifti(tmp_path / name, CUBE, axes)
    planes = {"sagittal": CUBE[2], "coronal": CUBE[:, 2], "axial": CUBE[..., 2]}
    for plane, expected in planes.items():
        sources = open_file(path, Cut(plane=plane))  # type: ignore[arg-type]
        assert sources[2].place == f"{plane} 2"
        pixels = sources[2].pixels()
        assert np.array_equal(pixels[..., 0], np.rot90(expected))
        assert sources[2].size == pixels.shape[:2]
    top = open_file(path, Cut(plane="coronal"))[0].pixels()[0, :, 0]
    assert top.tolist() == CUBE[:, 0, -1].tolist()  # superior is up, right is on the right


def test_a_real_volume_with_a_window() -> None:
    path = Path(data_path) / "anatomical.nii"
    sources = open_file(path, Cut(slices=3))
    assert fault(sources[0]) == (
        "image FILE holds int16 values in scanner units, and the spec has no window for them: "
        "take a spec with one, or make it with `fedprint spec calibrate ... --window LOW HIGH`"
    )
    image = nibabel.as_closest_canonical(nibabel.load(path))
    values = image.get_fdata()[..., int(sources[1].place.split()[1])]
    expected = np.rint(np.clip(np.rot90(values) / 500, 0, 1) * 255)
    assert np.array_equal(sources[1].pixels((0, 500))[..., 0], expected)


def test_the_window_is_the_specs(tmp_path: Path) -> None:
    values = (CUBE.astype(np.int16) - 60) * 10
    write_nifti(tmp_path / "s" / "x" / "a.nii.gz", values)
    write_nifti(tmp_path / "t" / "x" / "a.nii.gz", np.clip(values + 100, 0, 200).astype(np.int16))
    plain = tiny_spec(tmp_path)
    both = [read_site(tmp_path / name).images for name in "st"]
    with pytest.raises(DataError, match="the spec has no window for them"):
        extract(both[0], plain, device="cpu")

    def windowed(low: float, high: float) -> Spec:
        preprocess = plain.preprocess.model_copy(update={"window": (low, high)})
        return plain.model_copy(update={"preprocess": preprocess})

    first = extract(both[0], windowed(-100, 100), device="cpu").counts
    assert np.array_equal(first, extract(both[1], windowed(0, 200), device="cpu").counts)
    assert not np.array_equal(first, extract(both[0], windowed(0, 200), device="cpu").counts)


def test_scaled_bytes_are_no_grey_values(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(CUBE, np.eye(4))
    image.header.set_slope_inter(2, -100)
    nibabel.save(image, tmp_path / "a.nii")
    (source, *_) = open_file(tmp_path / "a.nii")
    assert "holds uint8 values in scanner units" in fault(source)
    values = np.rot90(CUBE[..., 0].astype(float)) * 2 - 100
    assert np.array_equal(source.pixels((-100, 155))[..., 0], np.rint(values + 100))


def test_nan_is_black(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", np.full((3, 3, 1), np.nan, np.float32))
    assert open_file(path)[0].pixels((0, 1)).max() == 0


def test_what_is_refused(tmp_path: Path) -> None:
    path = Path(data_path) / "functional.nii"
    (source,) = open_file(path)
    assert fault(source) == (
        "image FILE has 4 dimensions (17, 21, 3, 20): give one volume a file, for example the "
        "mean over time"
    )
    path = tmp_path / "x.nii"
    path.write_text("no image")
    assert fault(open_file(path)[0]).startswith("image FILE cannot be read as NIfTI (")
    write_nifti(tmp_path / "c.nii", CUBE.astype(np.complex64))
    assert fault(open_file(tmp_path / "c.nii")[0]) == (
        "image FILE holds complex64 values: give one number each"
    )


@pytest.mark.parametrize("name", ["t.nii", "t.nii.gz"])
def test_truncated_volumes(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 40), np.uint8)
    path = write_nifti(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[:30000])
    assert fault(open_file(path)[3]).startswith("image FILE cannot be read as NIfTI (")
    path.unlink()
    assert open_file(path)[0].path == path


def test_a_header_that_declares_too_much(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii", CUBE)
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()  # dim[1] to dim[3]
    path.write_bytes(raw)
    assert fault(open_file(path)[0]) == (
        "image FILE declares 30000 x 30000 x 30000 voxels, between 1 and 1073741824 are read: "
        "crop it"
    )


@pytest.mark.parametrize(("name", "plane"), [("a.nii", "sagittal"), ("a.nii.gz", "axial")])
def test_memory_does_not_grow_with_the_volume(tmp_path: Path, name: str, plane: str) -> None:
    path = write_nifti(tmp_path / name, np.ones((256, 256, 256), np.uint8))
    source = open_file(path, Cut(plane=plane))[100]  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        assert source.pixels().shape == (256, 256, 3)
        assert tracemalloc.get_traced_memory()[1] < 256**3 / 2
    finally:
        tracemalloc.stop()


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", CUBE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    monkeypatch.setattr(tempfile, "tempdir", "/t")
    assert fault(open_file(path)[0]) == (
        "image FILE cannot be read as NIfTI (it takes 120 bytes, /t has 100 free): replace it or "
        "remove it from the site"
    )
