"""Weights that lie beside a pool: models of groups whose sites all agreed to hand them on.

The database knows weights by their digest only. The files are in ``FILE.weights`` beside a SQLite
pool; those of a PostgreSQL pool in the data folder of whoever works with it. A file is called by
the digest of its arrays, and its header says what network they belong to and whose images they were
trained on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from sqlalchemy import select

from fl_server.pool.engine import is_file
from fl_server.pool.models import WithdrawalRow
from fl_server.pool.session import Pool
from fl_server.pool_vectors import name_of
from protocol.errors import DataError, one_line
from protocol.experiment import Name
from protocol.files import atomic_write
from protocol.names import Sha256Hex
from protocol.sharing import Arrays, Recipe
from protocol.weights import body_of, weights_sha256

ENDING = ".safetensors"
HEADER = "fedprint"
"""The one key of the file's header; its value is JSON."""


class About(BaseModel):
    """What weights are.

    Parameters
    ----------
    architecture : str
        Name of the network.
    recipe : {"adapter", "fine-tune"}
        How it was trained: an adapter on its features, or the network itself.
    sources : list of str
        Releases of the tasks that they were trained on.
    run : str
        In which run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Name
    recipe: Recipe
    sources: Annotated[list[Sha256Hex], Field(min_length=1, max_length=10_000)]
    run: str = ""


@dataclass(frozen=True)
class Shelved:
    """Weights on the shelf: their file, the digest of their arrays, and what they are."""

    path: Path
    sha256: str
    about: About

    def load(self) -> Arrays:
        """Read the arrays, by name.

        Raises
        ------
        DataError
            When they are not those that the file is called by.
        """
        try:
            arrays: Arrays = safetensors.numpy.load(self.path.read_bytes())
        except (OSError, SafetensorError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read ({error}): delete it") from error
        plain = all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())
        if not arrays or not plain or arrays.keys() != body_of(arrays).keys():
            raise DataError(f"{self.path} is no network's body in finite float32: delete it")
        if weights_sha256(arrays) != self.sha256:
            raise DataError(f"{self.path} holds other weights than its name says: delete it")
        return arrays


def folder_of(pool: Pool) -> Path:
    """Return where the weights of a pool lie."""
    url = pool.engine.url
    if is_file(url):
        return Path(f"{url.database}.weights")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "fedprint" / "pools" / f"{name_of(pool)}.weights"


def put(pool: Pool, body: Arrays, about: About) -> bool:
    """Put weights on the shelf; tell whether they were not there before.

    Weights that came of other tasks too are theirs as well: they go when any of them is withdrawn.

    Raises
    ------
    DataError
        When what lies there by that name is damaged.
    """
    path = folder_of(pool) / f"{weights_sha256(body)}{ENDING}"
    known = path.exists()
    if known:
        there = _about(path)
        sources = sorted({*there.sources, *about.sources})
        if sources == there.sources:
            return False
        about = there.model_copy(update={"sources": sources})
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = safetensors.numpy.save(body, {HEADER: about.model_dump_json()})
    atomic_write(path, content, mode=0o600)
    return not known


def shelved(pool: Pool) -> list[Shelved]:
    """Return all weights of a pool, by digest.

    Raises
    ------
    DataError
        When a file is called by no digest, or its header says nothing that can be used.
    """
    return [_shelved(path) for path in _files(pool)]


@contextmanager
def all_or_nothing(pool: Pool) -> Iterator[None]:
    """Take new weights off the shelf again if what they came with fails; nobody else may write."""
    before = {*_files(pool)}
    try:
        yield
    except BaseException:
        for path in {*_files(pool)} - before:
            path.unlink(missing_ok=True)
        raise


def clear_withdrawn(pool: Pool) -> None:
    """Remove the weights that were trained on tasks which were withdrawn from the pool.

    Their bytes are overwritten, as those of whatever else is withdrawn.

    Raises
    ------
    DataError
        When of a file cannot be told whose weights it holds; all others were looked at by then.
    """
    with pool.reading() as session:
        withdrawn = {*session.scalars(select(WithdrawalRow.task_id))}
    unknown = None
    for path in _files(pool):
        try:
            sources = _about(path).sources
        except DataError as error:
            unknown = unknown or error
            continue
        if withdrawn & {*sources}:
            _overwrite(path)
            path.unlink(missing_ok=True)
    if unknown:
        raise unknown


def _files(pool: Pool) -> list[Path]:
    return sorted(folder_of(pool).glob(f"*{ENDING}"))


def _shelved(path: Path) -> Shelved:
    sha256 = path.name.removesuffix(ENDING)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise DataError(f"{path} is not called by the digest of weights: delete it")
    return Shelved(path, sha256, _about(path))


def _about(path: Path) -> About:
    if path.is_symlink():  # what it leads to would be overwritten with it
        raise DataError(f"{path} is a link, and no weights: delete it")
    try:
        with safe_open(path, framework="numpy") as file:
            said: dict[str, Any] = file.metadata() or {}
        return About.model_validate_json(said.get(HEADER, ""))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it") from error
    except ValidationError as error:
        raise DataError(
            f"{path} does not say whose weights it holds ({one_line(error)}): delete it"
        ) from None


def _overwrite(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for start in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - start)))
        file.flush()
        os.fsync(file.fileno())
