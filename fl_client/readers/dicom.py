"""DICOM: every frame is an image, shown as its window says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless

from fl_client.images import LARGEST, Pixels, array_to_rgb
from fl_client.readers.cut import Cut
from fl_client.readers.dicom_codestream import encoded_size
from fl_client.readers.dicom_window import of_frame, to_grey
from fl_client.readers.source import BurntIn, Source, Stamp, Window, stamp_of
from fl_client.readers.window import grey, to_eight_bits
from protocol.errors import DataError
from protocol.names import printable

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
_MOST_FRAMES = 10_000
_GREYS = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class _Header:
    """What is needed of every file when it is listed; nothing else of it is kept."""

    height: int
    width: int
    frames: int
    subject: str | None
    burnt_in: bool
    fault: str = ""


@dataclass(frozen=True, eq=False)
class Frame(Source):
    """One frame of a DICOM file."""

    frame: int = 0

    @property
    def subject(self) -> str | None:
        """The patient, else the study, as a digest: no identity shows up in a message."""
        return _header(self.path, stamp_of(self.path)).subject

    @property
    def size(self) -> tuple[int, int]:
        header = _header(self.path, stamp_of(self.path))
        if header.burnt_in:
            raise BurntIn(
                f"image {self.path} has text burnt into its pixels (BurnedInAnnotation is YES): "
                "blank the text and correct the tag, or take the image out"
            )
        if header.fault:
            raise DataError(header.fault)
        return header.height, header.width

    def pixels(self, window: Window | None = None) -> Pixels:
        """Decode to RGB, uint8 ``[height, width, 3]``.

        Grey values are rescaled to scanner units and windowed: by `window`, else by the file's
        own LUT or first window, else by the full range of its bits; MONOCHROME1 is inverted.

        Raises
        ------
        DataError
            If it cannot be decoded, or text is burnt into it.
        """
        height, width = self.size  # refuses before anything is allocated
        try:
            return self._decode((height, width), window)
        except DataError:
            raise
        except Exception as error:  # a damaged file can make a decoder raise nearly anything
            raise _unreadable(self.path, error) from error

    def _decode(self, size: tuple[int, int], window: Window | None) -> Pixels:
        header = self._checked_header(size)
        stored = pixel_array(self.path, index=self.frame)  # [h, w] or, in RGB, [h, w, 3]
        if stored.shape[:2] != size:
            raise ValueError(f"it holds {stored.shape[:2]} pixels and declares {size}")
        kind = str(header.PhotometricInterpretation)
        if kind in _GREYS:
            where = f"image {self.path}"
            values = to_grey(stored, of_frame(header, self.frame), window, where)
            return grey(np.bitwise_not(values) if kind == "MONOCHROME1" else values)
        if kind == "PALETTE COLOR":
            shown = apply_color_lut(stored, header)
            return _colour(shown, shown.dtype.itemsize * 8, self.path)
        return _colour(stored, int(header.BitsStored), self.path)

    def _checked_header(self, size: tuple[int, int]) -> FileDataset:
        """Read the whole header; a compressed frame must be of the size that it declares."""
        with self.path.open("rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            if not header.file_meta.TransferSyntaxUID.is_compressed:
                return header
            encoded = encoded_size(file, header, self.frame)
        if encoded is None and header.file_meta.TransferSyntaxUID != RLELossless:
            raise DataError(
                f"image {self.path} has a compressed frame that does not say its size: take it out"
            )
        if encoded is not None and encoded != size:
            raise DataError(
                f"image {self.path} declares {size[1]} x {size[0]} pixels and its compressed frame "
                f"{encoded[1]} x {encoded[0]}: take it out"
            )
        return header


def expand(path: Path, _cut: Cut) -> list[Source]:
    """Return the frames of a file.

    Raises
    ------
    DataError
        If it is no DICOM file with pixels.
    """
    header = _header(path, stamp_of(path))
    if header.frames == 1:
        return [Frame(path)]
    return [Frame(path, f"frame {index + 1}", index) for index in range(header.frames)]


@lru_cache(maxsize=65536)
def _header(path: Path, _stamp: Stamp) -> _Header:
    """Read the header of a file, once as long as it does not change."""
    try:
        if read_file_meta_info(path).TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
            raise DataError(  # it may unpack to a thousand times its size
                f"image {path} is deflated as a whole: save it with another transfer syntax"
            )
        read = pydicom.dcmread(path, stop_before_pixels=True)
        if "Rows" not in read or "PhotometricInterpretation" not in read:
            raise DataError(
                f"image {path} is DICOM without pixels ({_class_of(read)}): take it out"
            )
        frames = int(read.get("NumberOfFrames") or 1)
        burnt = str(read.get("BurnedInAnnotation") or "").strip().upper() == "YES"
        header = _Header(int(read.Rows), int(read.Columns), frames, _subject(read), burnt)
        if not 1 <= frames <= _MOST_FRAMES:
            raise DataError(
                f"image {path} declares {frames} frames, at most {_MOST_FRAMES} are read: split it"
            )
        return replace(header, fault=_fault(read, header, path))
    except DataError:
        raise
    except Exception as error:  # a damaged file can make a parser raise nearly anything
        raise _unreadable(path, error) from error


def _subject(read: FileDataset) -> str | None:
    for names in (("PatientID", "IssuerOfPatientID"), ("StudyInstanceUID",)):
        values = [str(read.get(name) or "").strip() for name in names]
        if values[0]:
            return f"patient {hashlib.sha256(repr(values).encode()).hexdigest()[:16]}"
    return None


def _fault(read: FileDataset, header: _Header, path: Path) -> str:
    """Return why an image that can be read must not be; empty when nothing speaks against it."""
    if header.height * header.width > LARGEST or header.height * header.width < 1:
        return (
            f"image {path} declares {header.width} x {header.height} pixels, between 1 and "
            f"{LARGEST} are read: take it out"
        )
    kind = str(read.PhotometricInterpretation)
    if kind not in (*_COLOURS, *_GREYS, "PALETTE COLOR"):
        return f"image {path} has the photometric interpretation {kind!r}: convert it to RGB"
    return _no_decoder(read, path)


def _no_decoder(read: FileDataset, path: Path) -> str:
    syntax = read.file_meta.TransferSyntaxUID
    palette = str(read.PhotometricInterpretation) == "PALETTE COLOR"
    if syntax == ExplicitVRBigEndian and palette:  # whose bytes nobody agrees how to swap
        return f"image {path} has a palette in big-endian bytes: save it with another syntax"
    try:
        found = get_decoder(syntax).is_available
    except NotImplementedError:
        return f"image {path} is stored as {printable(syntax.name, 80)}, no still image: convert it"
    if found:
        return ""
    return (
        f'image {path} is stored as {syntax.name}: run pip install "fedprint[dicom]" for its '
        "decoder"
    )


def _class_of(read: FileDataset) -> str:
    uid: Any = read.get("SOPClassUID")
    return printable(str(getattr(uid, "name", "no image class")), 80)


def _colour(values: NDArray[np.generic], bits: int, path: Path) -> Pixels:
    """Scale RGB values of any depth by the full range of their bits."""
    if values.dtype != np.uint8 or bits < 8:
        values = to_eight_bits(values, (0, 2**bits - 1))
    return array_to_rgb(values, f"image {path}")


def _unreadable(path: Path, error: Exception) -> DataError:
    """Name the file and the kind of fault; texts of parsers may quote the patient."""
    return DataError(
        f"image {path} cannot be read as DICOM ({type(error).__name__}): replace it or remove it "
        "from the site"
    )
