"""DICOM: real files of all kinds, and what is refused."""

from __future__ import annotations

import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fixtures_readers import dicom, write_dicom, write_png
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import decoders
from pydicom.sequence import Sequence

from fl_client.readers import Cut, Source, open_file
from fl_client.readers.dicom_window import to_grey
from fl_client.readers.source import Window
from fl_client.site import read_site
from protocol.errors import DataError


def sample(name: str) -> list[Source]:
    path = get_testdata_file(name, download=False)
    assert path is not None
    return open_file(Path(str(path)))


def shown(source: Source, window: Window | None = None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the samples are odd on purpose
        return source.pixels(window)


def fault(source: Source) -> str:
    with pytest.raises(DataError) as caught:
        shown(source)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(source.path), "FILE")


# transfer syntaxes and colours, on real files


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
     "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm"],
)  # fmt: skip
def test_every_lossless_syntax_gives_the_same_pixels(name: str) -> None:
    (expected,), (got,) = sample("MR_small.dcm"), sample(name)
    assert np.array_equal(shown(got), shown(expected))
    assert got.size == (64, 64)
    assert (expected.place, expected.content_digest()) != ("", got.content_digest())


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("SC_rgb_rle.dcm", 0), ("SC_rgb_16bit.dcm", 0), ("SC_rgb_expb_16bit.dcm", 0),
     ("SC_rgb_32bit.dcm", 0), ("SC_ybr_full_uncompressed.dcm", 6), ("SC_rgb_jpeg_dcmtk.dcm", 6),
     ("SC_rgb_gdcm_KY.dcm", 0)],
)  # fmt: skip
def test_every_colour_becomes_rgb(name: str, tolerance: int) -> None:
    (expected,), (got,) = sample("SC_rgb.dcm"), sample(name)
    difference = np.abs(shown(got).astype(int) - shown(expected).astype(int))
    assert difference.max() <= tolerance
    assert shown(expected)[5, 50].tolist() == [255, 0, 0]


def test_palettes(tmp_path: Path) -> None:
    (plain,), (packed,) = sample("OBXXXX1A.dcm"), sample("OBXXXX1A_rle.dcm")
    assert np.array_equal(shown(plain), shown(packed))
    assert shown(plain).max() == 254
    (swapped,) = sample("OBXXXX1A_expb.dcm")
    assert fault(swapped) == (
        "image FILE has a palette in big-endian bytes: save it with another syntax"
    )


def test_every_frame_is_an_image() -> None:
    frames = sample("emri_small.dcm")
    assert [frame.place for frame in frames] == [f"frame {n}" for n in range(1, 11)]
    packed = sample("emri_small_jpeg_ls_lossless.dcm")
    pixels = [shown(frame) for frame in frames]
    assert all(np.array_equal(a, shown(b)) for a, b in zip(pixels, packed, strict=True))
    assert len({p.tobytes() for p in pixels}) == 10
    assert len(sample("examples_ybr_color.dcm")) == 30


# grey values


def test_the_files_own_window() -> None:
    (source,) = sample("693_UNCI.dcm")  # of type CT
    read = pydicom.dcmread(source.path)
    units = read.pixel_array.astype(float) * read.RescaleSlope + read.RescaleIntercept
    centre, width = float(read.WindowCenter), float(read.WindowWidth)
    assert width > 1
    share = (units - (centre - 0.5)) / (width - 1) + 0.5  # PS3.3 C.11.2.1.2.1
    expected = np.rint(np.clip(share, 0, 1) * 255)
    assert np.array_equal(shown(source)[..., 0], expected)
    window = (-160.0, 240.0)
    expected = np.rint(np.clip((units + 160) / 400, 0, 1) * 255)
    assert np.array_equal(shown(source, window)[..., 1], expected)


def test_look_up_tables_of_modality_and_window() -> None:
    for name in ("mlut_18.dcm", "vlut_04.dcm"):
        assert shown(sample(name)[0]).std() > 30


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, RAMP),
        ({"PhotometricInterpretation": "MONOCHROME1"}, 255 - RAMP),
        ({"RescaleSlope": 2, "RescaleIntercept": -100}, RAMP),  # the full range of the bits
        ({"BitsStored": 4, "HighBit": 3}, np.minimum(RAMP, 15) * 17),
        ({"WindowCenter": 128, "WindowWidth": 256}, RAMP),
        ({"WindowCenter": 100, "WindowWidth": 1}, np.where(RAMP > 99.5, 255, 0)),
        ({"WindowCenter": [100, 7], "WindowWidth": [1, 9]}, np.where(RAMP > 99.5, 255, 0)),
        (
            {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"},
            RAMP,
        ),
        (
            {"WindowCenter": 100, "WindowWidth": 40, "VOILUTFunction": "SIGMOID"},
            np.rint(255 / (1 + np.exp(-(RAMP.astype(float) - 100) / 10))),
        ),
    ],
)
def test_windows(elements: dict[str, object], expected: np.ndarray) -> None:
    got = to_grey(RAMP, dicom(RAMP, **elements), None, "image")
    if elements.get("PhotometricInterpretation") == "MONOCHROME1":
        got = 255 - got
    if "BitsStored" in elements:
        got, expected = got.ravel()[:16], expected.ravel()[:16]
    assert np.array_equal(got, expected)


def test_signed_values_and_windows_of_single_frames(tmp_path: Path) -> None:
    values = np.array([[-32768, 0, 32767]], np.int16)
    path = write_dicom(tmp_path / "s.dcm", values)
    assert open_file(path)[0].pixels()[0, :, 0].tolist() == [0, 128, 255]

    def group(centre: float) -> Dataset:
        made, window = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 1
        made.FrameVOILUTSequence = Sequence([window])
        return made

    frames = np.stack([RAMP, RAMP])
    path = write_dicom(
        tmp_path / "two.dcm",
        frames,
        PerFrameFunctionalGroupsSequence=Sequence([group(50), group(200)]),
    )
    bright = [int((source.pixels()[..., 0] == 255).sum()) for source in open_file(path)]
    assert bright == [256 - 50, 256 - 200]


# whose images they are


def test_a_patient_is_one_subject_and_is_never_named(tmp_path: Path) -> None:
    for number, patient in enumerate(["Meyer^Anna", "Meyer^Anna", "Adler^Paul"]):
        write_dicom(tmp_path / "a" / f"{number}.dcm", RAMP + number, PatientID=patient)
    write_dicom(tmp_path / "b" / "3.dcm", RAMP, StudyInstanceUID="1.2.3")
    write_dicom(tmp_path / "b" / "4", RAMP, StudyInstanceUID="1.2.3", PatientID=" ")
    write_png(tmp_path / "b" / "5.png", RAMP)
    (tmp_path / "b" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "b" / "notes").write_text("no image")
    site = read_site(tmp_path)
    assert site.patients == 4
    subjects = [item.subject for item in site.images]
    assert subjects[0] == subjects[1] != subjects[2]
    assert subjects[3] == subjects[4]
    assert subjects[5] == "b/5.png"
    assert "Meyer" not in repr(site.images) + "".join(subjects)


# what is refused


def test_text_burnt_in(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a" / "x.dcm", RAMP, BurnedInAnnotation="YES", PatientID="Meyer")
    (source,) = open_file(path)
    assert fault(source) == (
        "image FILE has text burnt into its pixels (BurnedInAnnotation is YES): blank the text "
        "and correct the tag, or take the image out"
    )
    write_dicom(path, RAMP, BurnedInAnnotation="NO")
    assert np.array_equal(open_file(path)[0].pixels()[..., 0], RAMP)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "MR_truncated.dcm",
            "cannot be read as DICOM (ValueError): replace it or remove it from the site",
        ),
        (
            "no_meta.dcm",
            "cannot be read as DICOM (InvalidDicomError): replace it or remove it from the site",
        ),
        ("image_dfl.dcm", "is deflated as a whole: save it with another transfer syntax"),
        ("rtplan.dcm", "is DICOM without pixels (RT Plan Storage): take it out"),
        ("rtdose_1frame.dcm", "has 32 bits and no window: take a spec with one"),
        ("test-SR.dcm", "is DICOM without pixels (Comprehensive SR Storage): take it out"),
    ],
)
def test_real_files_that_cannot_be_used(name: str, message: str) -> None:
    assert fault(sample(name)[0]) == f"image FILE {message}"


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (
            {"Rows": 60000, "Columns": 60000},
            "declares 60000 x 60000 pixels, between 1 and 100000000 are read: take it out",
        ),
        (
            {"NumberOfFrames": 2**30},
            "declares 1073741824 frames, at most 10000 are read: split it",
        ),
        (
            {"PhotometricInterpretation": "HSV"},
            "has the photometric interpretation 'HSV': convert it to RGB",
        ),
        (
            {"WindowCenter": 3, "WindowWidth": 0},
            "has a window of width 0: correct WindowWidth",
        ),
        (
            {"Rows": 17},
            "cannot be read as DICOM (ValueError): replace it or remove it from the site",
        ),
    ],
)
def test_headers_that_lie(tmp_path: Path, elements: dict[str, object], message: str) -> None:
    (source,) = open_file(write_dicom(tmp_path / "x.dcm", RAMP, **elements))
    assert fault(source) == f"image FILE {message}"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("SC_rgb_jpeg_dcmtk.dcm", struct.pack(">2H", 100, 100)),
        ("SC_rgb_jpeg_gdcm.dcm", struct.pack(">2H", 100, 100)),
        ("MR_small_jpeg_ls_lossless.dcm", struct.pack(">2H", 64, 64)),
        ("MR_small_jp2klossless.dcm", struct.pack(">2I", 64, 64)),
    ],
)
def test_a_compressed_frame_that_lies(tmp_path: Path, name: str, size: bytes) -> None:
    raw = sample(name)[0].path.read_bytes()
    path = tmp_path / "x.dcm"
    path.write_bytes(raw)
    (source,) = open_file(path)
    assert np.array_equal(shown(source), shown(sample(name)[0]))
    at = raw.index(size, raw.index(b"\xe0\x7f\x10\x00"))  # after the tag of the pixel data
    path.write_bytes(raw[:at] + b"\xff\xdc" * (len(size) // 2) + raw[at + len(size) :])
    side = {4: 0xFFDC, 8: 0xFFDCFFDC}[len(size)]
    assert fault(source).endswith(f" pixels and its compressed frame {side} x {side}: take it out")


def test_a_syntax_without_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = sample("MR_small_jpeg_ls_lossless.dcm")
    path = tmp_path / "x.dcm"
    shutil.copy(source.path, path)
    monkeypatch.setattr(decoders.JPEGLSLosslessDecoder, "_available", {})
    assert fault(open_file(path)[0]) == (
        "image FILE is stored as JPEG-LS Lossless Image Compression: run pip install "
        '"fedprint[dicom]" for its decoder'
    )


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", RAMP, BurnedInAnnotation="YES")
    (source,) = open_file(path, Cut())
    fault(source)
    write_dicom(path, RAMP[:8], BurnedInAnnotation="NO")
    assert source.size == (8, 16)
    path.unlink()
    assert fault(source) == "image FILE cannot be read: No such file or directory"
