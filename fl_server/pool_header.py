"""The header of a fingerprint store: replacing this one file switches to other files at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocol.errors import ConfigError, one_line

FORMAT = 2
"""1 kept float32 shares. A store of an older format is made anew, see `pool_writing.renew`."""

HEADER, SPEC = "store.json", "spec.json"


class Header(BaseModel):
    """What ``store.json`` says; replacing it switches to another generation of files.

    `counts` is the type of the counts: a store starts with single bytes, and is written anew when
    a count does not fit.
    """

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    layout: Literal["rows", "weighted"]
    counts: Literal["u1", "u2", "u4"] = "u1"
    generation: int = Field(default=0, ge=0)

    @property
    def matrix(self) -> str:
        """Name of the matrix's file."""
        return f"matrix-{self.generation}.bin"

    @property
    def entries(self) -> str:
        """Name of the entries' file."""
        return f"entries-{self.generation}.bin"


def read_header(folder: Path, *, older: bool = False) -> Header:
    """Return the header of the store in a folder.

    Parameters
    ----------
    folder : Path
        Of the store.
    older : bool
        Whether a header of an older format is welcome.

    Raises
    ------
    ConfigError
        When there is no store, it is damaged, or of another format.
    """
    path = folder / HEADER
    try:
        header = Header.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"no fingerprint store in {folder}: make one first") from None
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not a store's header ({one_line(error)}): delete the folder, the store is "
            "made again from the pool's database"
        ) from None
    if header.format > FORMAT:
        raise ConfigError(
            f"the fingerprint store {folder} has format {header.format}, this fedprint reads "
            f"{FORMAT}: update fedprint"
        )
    if header.format < FORMAT and not older:
        raise ConfigError(
            f"the fingerprint store {folder} has format {header.format}, of an older fedprint: "
            "delete the folder, it is made again from the pool's database"
        )
    return header
