"""Slices of the MNI152 brain, and the files that hospitals would keep them in."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from fl_server.demo_tasks import package_file

Grey = NDArray[np.uint8]


def brain() -> Grey:
    """Return the MNI152 T1 volume, uint8 [197, 233, 189]: right, anterior, superior."""
    name = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return np.asarray(nibabel.load(package_file("nilearn", name)).dataobj, dtype=np.uint8)


def dicom(pixels: NDArray[np.generic], **elements: object) -> FileDataset:
    """Return a secondary capture: [h, w] or [frames, h, w] of grey, or of RGB if so named."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    colour = elements.get("PhotometricInterpretation") in ("RGB", "YBR_FULL")
    frames = pixels.shape[0] if pixels.ndim == 3 + colour else None
    made.Rows, made.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = (
        (3, "RGB") if colour else (1, "MONOCHROME2")
    )
    if colour:
        made.PlanarConfiguration = 0
    if frames is not None:
        made.NumberOfFrames = frames
    bits = pixels.dtype.itemsize * 8
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def write_dicom(path: Path, pixels: NDArray[np.generic], **elements: object) -> Path:
    """Write `dicom` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dicom(pixels, **elements), enforce_file_format=True)
    return path


def write_nifti(path: Path, values: NDArray[np.generic], axes: str = "RAS") -> Path:
    """Write values [right, anterior, superior], stored in another order of axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.eye(4))
    wanted = nibabel.orientations.axcodes2ornt(tuple(axes))
    nibabel.save(image.as_reoriented(wanted), path)
    return path


def write_png(path: Path, pixels: Grey) -> Path:
    """Write a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
