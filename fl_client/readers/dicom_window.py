"""From a DICOM frame's stored values to 8 bits: rescale, then window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from fl_client.readers.source import NeedsWindow, Window
from fl_client.readers.window import to_eight_bits
from protocol.errors import DataError

_PER_FRAME = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def of_frame(header: Dataset, frame: int) -> Dataset:
    """Return the header with what multi-frame files say of this frame in functional groups."""
    shared = header.get("SharedFunctionalGroupsSequence") or []
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*shared[:1], *own[frame : frame + 1]]
    merged = Dataset()
    merged.update(header)
    for name in _PER_FRAME:
        for group in groups:
            if sequence := group.get(name):
                merged.update(sequence[0])
    return merged


def to_grey(
    stored: NDArray[np.generic], header: Dataset, window: Window | None, where: str
) -> NDArray[np.uint8]:
    """Rescale and window one frame.

    Parameters
    ----------
    stored : ndarray of int, shape [h, w]
        Stored values.
    header : Dataset
        See `of_frame`.
    window : (float, float) or None
        Takes the place of the file's own, in scanner units.
    where : str
        The image, for messages.

    Returns
    -------
    ndarray of uint8, shape [h, w]

    Raises
    ------
    DataError
        If the file's window is narrower than its function allows, or there is none for more than
        16 bits.
    """
    values = apply_modality_lut(stored, header)
    if window is not None:
        return to_eight_bits(values, window)
    if luts := header.get("VOILUTSequence"):
        bits = int(luts[0].LUTDescriptor[2])
        return to_eight_bits(apply_voi(values, header, 0), (0, 2**bits - 1))
    if header.get("WindowWidth") is None or header.get("WindowCenter") is None:
        if int(header.BitsStored) > 16:  # of which nothing would be seen
            raise NeedsWindow(
                f"{where} has {header.BitsStored} bits and no window: take a spec with one"
            )
        return to_eight_bits(values, _full_range(header))
    centre, width = _first(header.WindowCenter), _first(header.WindowWidth)
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if width < (1 if function == "LINEAR" else 1e-9):
        raise DataError(f"{where} has a window of width {width:g}: correct WindowWidth")
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values.astype(np.float64) - centre) / width, -700, 700)
        return to_eight_bits(1 / (1 + np.exp(exponent)), (0, 1))
    if function == "LINEAR":  # PS3.3 C.11.2.1.2.1: the window covers whole values
        centre, width = centre - 0.5, width - 1
    return to_eight_bits(values, (centre - width / 2, centre + width / 2))


def _first(value: object) -> float:
    """Return the first of one or several decimal strings."""
    return float(value[0] if isinstance(value, MultiValue) else value)  # type: ignore[arg-type]


def _full_range(header: Dataset) -> Window:
    """Return what all of the file's bits could say, rescaled."""
    bits = int(header.BitsStored)
    if luts := header.get("ModalityLUTSequence"):
        return 0.0, float(2 ** int(luts[0].LUTDescriptor[2]) - 1)
    least = -(2 ** (bits - 1)) if header.get("PixelRepresentation") == 1 else 0
    ends = apply_modality_lut(np.array([least, least + 2**bits - 1]), header)
    return float(ends.min()), float(ends.max())
