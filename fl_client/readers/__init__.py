"""Readers of a site's data.

*Listing* says which images there are, with their labels, subjects and splits: class subfolders, a
manifest, an npz file, a Hugging Face dataset. *Decoding* says what a listed file holds: a picture,
DICOM, a volume, a whole slide. A file may hold several images; each is a `Source`.
"""

from fl_client.readers.arrays import read_arrays
from fl_client.readers.cut import Cut
from fl_client.readers.folders import (
    find_folders,
    find_images,
    know_subjects,
    list_images,
    read_subfolders,
)
from fl_client.readers.kinds import open_file
from fl_client.readers.labels import Labels
from fl_client.readers.manifest import read_manifest
from fl_client.readers.records import read_dataset
from fl_client.readers.rows import Row
from fl_client.readers.source import ArraySlice, Picture, Source, Unreadable

__all__ = [
    "ArraySlice",
    "Cut",
    "Labels",
    "Picture",
    "Row",
    "Source",
    "Unreadable",
    "find_folders",
    "find_images",
    "know_subjects",
    "list_images",
    "open_file",
    "read_arrays",
    "read_dataset",
    "read_manifest",
    "read_subfolders",
]
