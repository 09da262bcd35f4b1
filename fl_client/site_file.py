"""``site.toml``: the site's task, where its data lie, and how it takes part in a federation."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    model_validator,
)

from fl_client.readers.cut import Cut, Plane
from fl_client.readers.folders import find_folders
from fl_client.readers.labels import Labels
from fl_client.readers.masks import mask_values
from fl_client.readers.records import Records
from fl_client.tracking import TrackingTable
from protocol.errors import DataError, one_line
from protocol.names import SiteName
from protocol.taskcard import Objective, TaskProperties

SITE_FILE = "site.toml"

STATE = ".fedprint"
"""Default folder inside a site's folder for what fedprint itself keeps there; readers ignore it."""

RECORD_KEYS = ("image", "label", "subject", "partition", "partitions")
"""Keys of ``[data]`` that say which part of a dataset is meant."""

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _with_hyphens(field: str) -> str:
    return field.replace("_", "-")


class SiteTable(BaseModel):
    """``[site]``: who the site is, and how it is deployed; all may be left out in a simulation.

    Parameters
    ----------
    name : str or None
        Name of the site; by default that of its folder.
    superlink : str or None
        The coordinator's ``HOST:PORT``.
    certificates : str
        Certificate file of the authority that the coordinator's certificate comes from.
    key : str
        Private key with which Flower authenticates the node.
    signing_key : str or None
        Key that signs what leaves, a file or the URI of a hardware module; by default `key`.
    public_key : str or None
        PEM file with the public half of a `signing_key` that is a URI.
    policy : str
        The release policy.
    state : str or None
        Folder for what fedprint keeps at the site.
    device : str
        What computes; the first that is there by default.
    port : int
        Port on 127.0.0.1 on which Flower's processes at the site talk; 0 takes a free one.
    """

    model_config = ConfigDict(
        extra="forbid", alias_generator=_with_hyphens, validate_by_name=False, frozen=True
    )

    name: SiteName | None = None
    superlink: _Name | None = None
    certificates: _Name = "ca.crt"
    key: _Name = "keys/node"
    signing_key: _Name | None = None
    public_key: _Name | None = None
    policy: _Name = "policy.toml"
    state: _Name | None = None
    device: str = ""
    port: int = Field(default=0, ge=0, le=65535)


class TaskTable(BaseModel):
    """``[task]``: what the task card says beside the names of the classes.

    Parameters
    ----------
    name, modality, anatomy, keywords, objective, shares_weights
        See `protocol.taskcard.TaskCard`.
    order : list of str
        All grades of an ordinal task from the lowest to the highest.
    classes : dict
        Of a segmentation: name of the class by the value of its pixels in the masks.
    codes : dict
        Code of a public vocabulary, by the name of the class.
    properties : TaskProperties
        What an expert says of the images, see `protocol.taskcard.TaskProperties`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name | None = None
    modality: str = ""
    anatomy: str = ""
    keywords: list[str] = []
    objective: Objective = "classification"
    order: list[_Name] = []
    classes: dict[str, _Name] = {}
    codes: dict[str, str] = {}
    properties: TaskProperties = TaskProperties()
    shares_weights: StrictBool = False

    @model_validator(mode="after")
    def _has_grades(self) -> Self:
        if self.objective == "ordinal" and len(self.order) < 2:
            raise ValueError(
                'an ordinal task needs its grades from the lowest on: order = ["none", "mild", ...]'
            )
        if self.objective != "ordinal" and self.order:
            raise ValueError('order belongs to objective = "ordinal"')
        return self

    @model_validator(mode="after")
    def _has_regions(self) -> Self:
        if self.objective == "segmentation" and not self.classes:
            raise ValueError(
                'a segmentation needs [task.classes]: a line such as 1 = "lesion" for each value '
                "of the masks' pixels"
            )
        if self.objective != "segmentation" and self.classes:
            raise ValueError('classes belongs to objective = "segmentation"')
        mask_values(self.classes)
        return self


class DataTable(BaseModel):
    """``[data]``: where the images lie, how they are listed, and how files are cut into images.

    Parameters
    ----------
    folder : str or None
        Where the images lie; what else is named lies in it.
    manifest, npz, dataset : str or None
        What lists them, at most one of these; else class subfolders do.
    labels : list of str
        Of a multi-label task: columns of 0 and 1, or names of the columns of an npz file's labels.
    image, label, subject, partition, partitions
        Of a dataset, see `fl_client.readers.records.Records`.
    plane, slices, tile, mpp, level
        Of volumes and whole slides, see `fl_client.readers.Cut`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: _Name | None = None
    manifest: _Name | None = None
    npz: _Name | None = None
    dataset: _Name | None = None
    labels: list[_Name] = []
    image: _Name | None = None
    label: _Name | None = None
    subject: _Name | None = None
    partition: int | None = Field(default=None, ge=0)
    partitions: int | None = Field(default=None, ge=1)
    plane: Plane | None = None
    slices: int | None = Field(default=None, ge=0)
    tile: int | None = Field(default=None, ge=16, le=4096)
    mpp: float | None = Field(default=None, gt=0, le=100)
    level: int | None = Field(default=None, ge=0, le=30)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        own = [name for name in RECORD_KEYS if getattr(self, name) is not None]
        if own and self.dataset is None:
            raise ValueError(f"{own[0]} belongs to a dataset, and none is named")
        if (self.partition is None) != (self.partitions is None):
            raise ValueError("partition and partitions belong together")
        if (self.partition or 0) >= (self.partitions or 1):
            raise ValueError("partition counts from 0, and must be below partitions")
        if self.mpp is not None and self.level is not None:
            raise ValueError("mpp and level both say where tiles are read, keep one")
        if self.tile is None and (self.mpp is not None or self.level is not None):
            raise ValueError("mpp and level belong to tile")
        return self

    @property
    def listed(self) -> bool:
        """Whether something names the images and their labels: a table, arrays or a dataset."""
        return bool(self.manifest or self.npz or self.dataset)

    @property
    def cut(self) -> Cut:
        """How files with several images are cut."""
        return Cut(
            plane=self.plane or "axial",
            slices=self.slices or 0,
            tile=self.tile or 0,
            mpp=self.mpp,
            level=self.level or 0,
        )

    @property
    def records(self) -> Records:
        """Which dataset, and which of its columns."""
        return Records(
            dataset=self.dataset or "",
            image=self.image or "image",
            label=self.label or "label",
            subject=self.subject,
            partition=self.partition or 0,
            partitions=self.partitions or 0,
        )

    def listings(self, root: Path) -> list[Path]:
        """Return the files that list the images, where the data lie in `root`."""
        named = [name for name in (self.manifest, self.npz) if name]
        own = ""
        if self.dataset:
            own = self.dataset.rpartition(":")[2]
            named += [f"{own}/dataset_dict.json", f"{own}/state.json", own]
        # the splits of a dataset, and class subfolders, change without the folder around them
        below = find_folders(root / own) if self.dataset else []
        states = [folder / "state.json" for folder in below]
        return [*(root / name for name in named), *below, *states]


class SiteFile(BaseModel):
    """The whole of ``site.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    site: SiteTable = SiteTable()
    task: TaskTable = TaskTable()
    data: DataTable = DataTable()
    tracking: TrackingTable = TrackingTable()

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if self.data.labels and self.task.objective != "multilabel":
            raise ValueError('[data] labels belongs to objective = "multilabel" in [task]')
        if len(set(self.data.labels)) < len(self.data.labels):
            raise ValueError("[data] labels names a class twice: keep one")
        return self

    @property
    def labels(self) -> Labels:
        """How the listing gives labels."""
        objective = self.task.objective
        names, grades = tuple(self.data.labels), tuple(self.task.order)
        return Labels(objective == "multilabel", names, objective == "segmentation", grades)

    def data_folder(self, folder: Path) -> Path:
        """Return where the images of the site in this folder lie."""
        return resolve(folder, self.data.folder) if self.data.folder else folder

    def state_folder(self, folder: Path) -> Path:
        """Return where fedprint keeps what it keeps at the site in this folder."""
        return resolve(folder, self.site.state or STATE)


def resolve(folder: Path, name: str) -> Path:
    """Return the path that ``site.toml`` in this folder names: absolute, or relative to it."""
    return folder / Path(name).expanduser()


def read_site_file(path: Path) -> SiteFile:
    """Read a ``site.toml``; a missing one is one that says nothing.

    Raises
    ------
    DataError
        If it is no TOML, or has an unknown or wrong field.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return SiteFile()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is not readable TOML ({error}): correct it") from error
    try:
        return SiteFile.model_validate(content)
    except ValidationError as error:
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
        if unknown:
            raise DataError(f"{path}: {_unknown(unknown[0])}") from error
        raise DataError(f"{path}: {one_line(error)}") from error


def _unknown(location: tuple[int | str, ...]) -> str:
    key = ".".join(str(part) for part in location)
    tables: dict[str, type[BaseModel]] = {
        "site": SiteTable,
        "task": TaskTable,
        "data": DataTable,
        "tracking": TrackingTable,
    }
    if location[0] not in tables:
        *most, last = (f"[{name}]" for name in tables)
        return f"unknown key {key!r}; the file has the tables {', '.join(most)} and {last}"
    tables["task.properties"] = TaskProperties
    table = ".".join(str(part) for part in location[:-1])
    names = [field.alias or name for name, field in tables[table].model_fields.items()]
    return f"unknown key {key!r}; [{table}] takes {', '.join(names[:-1])} and {names[-1]}"
