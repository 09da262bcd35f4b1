"""Files that are damaged or lie: one message each, nothing that hangs or unpacks without bound."""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from fl_client.images import resize_shorter
from fl_client.readers import Cut, find_images, open_file, read_arrays, read_manifest, slides
from fl_client.readers.dicom_codestream import stream_size
from protocol.errors import DataError
from protocol.spec import Preprocess


def test_archives(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2), }" + b" " * 20000
    long = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("train_images.npy", long)
        archive.writestr("train_labels.npy", b"")
    with pytest.raises(DataError, match=r"^[^\n]+: write it again$"):
        read_arrays(tmp_path, "a.npz", Path("site.toml"))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("train_images", b"")
        archive.writestr("train_labels.npy", b"")
    with pytest.raises(DataError, match="cannot be read"):
        read_arrays(tmp_path, "b.npz", Path("site.toml"))


@pytest.mark.parametrize("name", ["a\0.png", "a" * 400, "loop.png"])
def test_paths_of_a_manifest(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "m.csv").write_text(f"path,label,subject_id\n{name},x,1\n")
    says = r"line 2: .* is no path that can be used: correct it"
    if name == "loop.png" and sys.version_info >= (3, 13):  # whose pathlib lets circles be
        says = r"line 2: image loop\.png does not exist: restore it"
    with pytest.raises(DataError, match=says):
        read_manifest(tmp_path, "m.csv", Path("site.toml"))


def test_an_affine_that_leaves_out_an_axis(tmp_path: Path) -> None:
    content = bytearray(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)).to_bytes())
    struct.pack_into("<h", content, 254, 1)
    struct.pack_into("<12f", content, 280, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(DataError, match="its affine leaves out an axis"):
        open_file(tmp_path / "a.nii")[0].pixels()


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert find_images(tmp_path) == []


def test_a_thread_of_pixels_is_refused() -> None:
    preprocess = Preprocess(resize=160, crop=160, mean=[0, 0, 0], std=[1, 1, 1])
    with pytest.raises(DataError, match="65000 x 1 pixels is too thin"):
        resize_shorter(np.zeros((1, 65000, 3), np.uint8), preprocess)


@pytest.mark.parametrize("said", ["0", "nan", "inf"])
def test_a_slide_of_no_resolution(said: str) -> None:
    class Slide:
        properties = {"openslide.mpp-x": said}  # noqa: RUF012

    with pytest.raises(DataError, match="does not say its micrometres"):
        slides._read_at(Slide(), Cut(tile=256, mpp=0.5), Path("a.svs"))


def test_a_jpeg_with_rubbish_before_its_size_does_not_say_it() -> None:
    buffer = io.BytesIO()
    Image.new("L", (64, 32)).save(buffer, "JPEG")
    stream = buffer.getvalue()
    assert stream_size(stream) == (32, 64)
    assert stream_size(stream[:2] + b"\0" + stream[2:]) is None
