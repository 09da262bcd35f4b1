"""Hugging Face datasets, whole or one partition of them, through flwr-datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_client.images import Pixels, picture_size, read_image
from fl_client.readers.labels import ONE, Labels
from fl_client.readers.rows import Row, check_splits, inside, split_named
from fl_client.readers.source import Picture, Source, Window
from protocol.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_NOTHING = (None, "")


@dataclass(frozen=True)
class Records:
    """Which dataset, and which of its columns; from ``[data]`` of a ``site.toml``.

    Attributes
    ----------
    dataset : str
        Folder that ``save_to_disk`` wrote or of class subfolders (``imagefolder:FOLDER``), relative
        to the data folder, or a name on the hub.
    image, label : str
        Columns.
    subject : str or None
        Column; without one each image is its own subject.
    partition, partitions : int
        Which of how many parts of equal size the site holds; 0 partitions: all of it.
    """

    dataset: str
    image: str = "image"
    label: str = "label"
    subject: str | None = None
    partition: int = 0
    partitions: int = 0


@dataclass(frozen=True, eq=False)
class Record(Source):
    """An encoded picture in a row of a dataset."""

    rows: Any = None  # datasets.Dataset, the image's column undecoded
    column: str = "image"
    number: int = 0

    @property
    def name(self) -> str:
        return self.place

    @property
    def size(self) -> tuple[int, int]:
        return picture_size(self._where, self._content())

    def pixels(self, window: Window | None = None) -> Pixels:
        return read_image(self._where, self._content())

    @property
    def extent(self) -> tuple[int, str]:
        return len(self._content()), ""

    def content_digest(self) -> bytes:
        """Return the SHA-256 of the encoded picture."""
        return hashlib.sha256(self._content()).digest()

    @property
    def _where(self) -> Path:
        return self.path / self.place

    def _file(self, named: str) -> Path:
        """Return a file that a row names: beside the row, or what the hub's package unpacked."""
        from datasets import config

        file, roots = Path(named).resolve(), (self.path.parent, Path(config.HF_DATASETS_CACHE))
        if not any(file.is_relative_to(root.resolve()) for root in roots):
            raise PermissionError
        return file

    def _content(self) -> bytes:
        try:
            cell = self.rows[self.number][self.column]
            return bytes(cell["bytes"] or self._file(cell["path"]).read_bytes())
        except Exception as error:  # an empty cell, or a file that is gone
            raise DataError(
                f"image {self._where} cannot be read ({type(error).__name__}): mend the dataset"
            ) from error


def read_dataset(folder: Path, records: Records, named_in: Path, labels: Labels = ONE) -> list[Row]:
    """List the images of a dataset.

    Splits named train, val or test (in any of the usual spellings) are the site's splits, unless
    there is only one.

    Parameters
    ----------
    folder : Path
        Where the data lie.
    records : Records
        Which dataset.
    named_in : Path
        The ``site.toml`` that names it.
    labels : Labels
        Whether an image has several: then the label's column holds lists, or columns hold 0 and 1.

    Raises
    ------
    DataError
        If flwr-datasets is missing, or the dataset cannot be loaded or lacks a column.
    """
    try:
        import flwr_datasets  # noqa: F401, brings datasets along
    except ImportError as error:
        raise DataError(
            f"{named_in} names a Hugging Face dataset: run "
            'pip install "fedprint[datasets]" to read it'
        ) from error
    parts, path = _load(folder, records, named_in)
    rows: list[Row] = []
    for name in sorted(parts):
        split = split_named(name, f"{named_in}: dataset") if len(parts) > 1 else None
        state = path.parent / name / "state.json"  # the list of splits stays when one is replaced
        own = state if path.name == "dataset_dict.json" else path
        part = _part_of(parts[name], records, labels, named_in)
        rows += _rows(part, name, split, records, labels, own)
    if not rows:
        raise DataError(f"{named_in}: dataset {records.dataset} holds no images: correct it")
    if records.subject is not None:
        check_splits(Path(records.dataset), rows)
    return rows


def _load(folder: Path, records: Records, named_in: Path) -> tuple[DatasetDict, Path]:
    """Return the dataset by split, and the file or folder whose change means another dataset."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    kind, _, rest = records.dataset.rpartition(":")
    place = inside(folder, rest, f"{named_in}: dataset") if kind else folder / records.dataset
    try:
        if kind == "imagefolder":
            return load_dataset("imagefolder", data_dir=str(place)), place
        if place.is_dir():
            inside(folder, records.dataset, f"{named_in}: dataset")
            found = load_from_disk(str(place))
            state = "dataset_dict.json" if isinstance(found, DatasetDict) else "state.json"
            whole = found if isinstance(found, DatasetDict) else DatasetDict({"train": found})
            return whole, place / state
        found = load_dataset(records.dataset)
        return found, Path(next(iter(found.values())).cache_files[0]["filename"])
    except DataError:
        raise
    except Exception as error:  # a dataset can be wrong in nearly any way
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{named_in}: dataset {records.dataset} cannot be loaded ({detail}): correct [data] "
            "dataset"
        ) from error


def _part_of(rows: Dataset, records: Records, labels: Labels, named_in: Path) -> Dataset:
    """Return the site's partition with its image column undecoded."""
    from datasets import Image
    from flwr_datasets.partitioner import IidPartitioner

    held = labels.names or (records.label,)
    wanted = [name for name in (records.image, *held, records.subject) if name]
    missing = [name for name in wanted if name not in rows.column_names]
    if missing:
        raise DataError(
            f"{named_in}: dataset {records.dataset} lacks the column {', '.join(missing)}, it has "
            f"{', '.join(rows.column_names)}: correct [data] image, label or subject"
        )
    if not isinstance(rows.features[records.image], Image):
        raise DataError(
            f"{named_in}: column {records.image} of dataset {records.dataset} holds no images: "
            "correct [data] image"
        )
    if records.partitions:
        divided = IidPartitioner(records.partitions)
        divided.dataset = rows
        rows = divided.load_partition(records.partition)
    return rows.cast_column(records.image, Image(decode=False))


def _rows(
    part: Dataset, name: str, split: str | None, records: Records, labels: Labels, path: Path
) -> list[Row]:
    held = labels.names or (records.label,)
    cells = part.select_columns([c for c in (*held, records.subject) if c])
    rows: list[Row] = []
    for number, row in enumerate(cells):
        where = f"{name}-{number}"
        own = _labels(row, part, records, labels, f"dataset {records.dataset}, row {where}")
        subject = row[records.subject] if records.subject else where
        if subject in _NOTHING:
            raise DataError(
                f"dataset {records.dataset}, row {where}: {records.subject} is empty: fill it in"
            )
        source = _source(part, number, Record(path, where, part, records.image, number))
        rows.append(Row(source, own, str(subject).strip(), split))
    return rows


def _labels(
    row: Mapping[str, Any], part: Dataset, records: Records, labels: Labels, where: str
) -> tuple[str, ...]:
    """Return the labels of one row."""
    from datasets import ClassLabel

    if labels.names:
        return labels.of({name: str(row[name]) for name in labels.names}, where)
    value, feature = row[records.label], part.features[records.label]
    given = value if labels.several and isinstance(value, list) else [value]
    if any(one in _NOTHING or not isinstance(one, (str, int)) for one in given) or (
        labels.several and not isinstance(value, list)
    ):
        several = "a list of names or numbers" if labels.several else "one name or number"
        raise DataError(f"{where}: {records.label} is {value!r}: give {several} an image")
    kind = getattr(feature, "feature", feature)  # of what a list holds
    try:
        names = tuple(
            kind.int2str(one) if isinstance(kind, ClassLabel) else str(one).strip() for one in given
        )
    except ValueError:  # -1 stands for no label in many datasets
        names = ("",)
    if "" in names:
        raise DataError(f"{where}: {records.label} is {value!r}, which names no class: mend it")
    return names


def _source(part: Dataset, number: int, record: Record) -> Source:
    """Return the row's picture: a file of its own where the dataset only names one."""
    if not record.path.is_dir():
        return record
    file = Path(part[number][record.column]["path"])
    if not file.resolve().is_relative_to(record.path.resolve()):
        raise DataError(f"image {file} is a link out of {record.path}: copy the file instead")
    return Picture(file)
