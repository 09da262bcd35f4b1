"""Fingerprints of the knowledge pool as one memory-mapped file of records, beside the database.

A store is derived: the database holds the releases, the store only what makes nearest-fingerprint
queries fast, and `fl_server.pool_writing.synchronise` makes it anew from them at any time. Its
folder:

==============  ===================================================================
store.json      format, layout, type of counts, generation: which matrix is the current one
spec.json       what the fingerprints were made by
matrix-N.bin    n records, see `strategies.augmented`
entries-N.bin   which task each record is, and who withdrew; publishes records
writer.lock     held by the one process that writes
==============  ===================================================================

Records are written and flushed before the entry that publishes them, so a crash leaves a tail that
nobody reads. Readers take no lock: they see the records of when they last looked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_server.pool_entries import Entries, checksum
from fl_server.pool_header import SPEC, Header, read_header
from fl_server.pool_matrix import BLOCK_BYTES, MappedMatrix
from protocol.errors import ConfigError, FedprintError, SpecMismatch
from protocol.spec import Spec, parse_spec
from strategies.augmented import Layout, Records, layout_for


class FingerprintStore:
    """The fingerprints of one spec in one layout.

    Parameters
    ----------
    folder : Path
        Of an existing store; `fl_server.pool_writing.create` makes one.
    mapped : int or None
        Bytes of the matrix that may stay mapped between queries, see `MappedMatrix`.

    Raises
    ------
    ConfigError
        When there is no store, or one of another format.

    Attributes
    ----------
    spec : Spec
        What made the fingerprints.
    layout : Layout
        Of the records.
    record : numpy.dtype
        Of a record; it changes when counts no longer fit.
    entries : Entries
        Tasks by position, as of the last `refresh`.
    """

    def __init__(self, folder: Path, mapped: int | None = None) -> None:
        self.folder, self._mapped = folder, mapped
        self.header: Header = read_header(folder)
        self.spec = parse_spec((folder / SPEC).read_bytes(), str(folder / SPEC))
        self.layout = Layout(self.header.layout, self.spec.width, self.spec.bins)
        self.entries = Entries()
        self._matrix: MappedMatrix | None = None
        self._log = -1
        self._open()

    def require(self, spec: Spec, measure: str) -> None:
        """Check that the store serves a spec and a measure.

        Raises
        ------
        SpecMismatch, ConfigError
            When it does not.
        """
        if spec.digest != self.spec.digest:
            raise SpecMismatch(
                f"the fingerprint store {self.folder} is of spec {self.spec.name} "
                f"({self.spec.digest[:12]}), not of {spec.name} ({spec.digest[:12]}): take the "
                "store of that spec"
            )
        if layout_for(measure, spec) != self.layout:
            raise ConfigError(
                f"the fingerprint store {self.folder} cannot serve {measure}: its records are "
                f"{self.layout.kind}; make another store for this measure"
            )

    def close(self) -> None:
        """Give the files back."""
        if self._matrix is not None:
            self._matrix.close()
        if self._log >= 0:
            os.close(self._log)
        self._matrix, self._log = None, -1

    def __enter__(self) -> FingerprintStore:
        """Return the store; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    def __len__(self) -> int:
        """Return how many tasks are there."""
        return len(self.entries.position)

    @property
    def size(self) -> int:
        """Number of positions, withdrawn ones included."""
        return len(self.entries.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of all records."""
        return self.size * self.record.itemsize

    def refresh(self) -> bool:
        """Look at what other processes wrote; return whether there was anything."""
        if read_header(self.folder) == self.header:
            return self.entries.follow(self._log)
        self._open()
        return True

    def _open(self) -> None:
        """Open the current generation's files: they stay readable when a compaction drops them."""
        self.close()
        while True:
            self.header = read_header(self.folder)
            try:
                path, self.record = self.folder / self.header.matrix, self._record()
                self._matrix = MappedMatrix(path, self.record, self._mapped)
                self._log = os.open(self.folder / self.header.entries, os.O_RDONLY)
            except FileNotFoundError:
                self.close()
                if read_header(self.folder) == self.header:
                    raise
                continue  # compacted between the two looks
            break
        self.entries = Entries()
        self.entries.follow(self._log)

    def _record(self) -> np.dtype[Any]:
        return self.layout.record(self.header.counts)

    @property
    def matrix(self) -> MappedMatrix:
        """The records.

        Raises
        ------
        FedprintError
            When the store is closed, or shorter than its entries say.
        """
        if self._matrix is None:
            raise FedprintError(f"the fingerprint store {self.folder} is closed: open it again")
        if not self._matrix.holds(self.size):
            raise self._damaged("its end")
        return self._matrix

    def blocks(self, first: int = 0, limit: int = BLOCK_BYTES) -> Iterator[tuple[int, Records]]:
        """Go through the records ``[k]`` by block, see `MappedMatrix.blocks`."""
        return self.matrix.blocks(self.size, first, limit)

    def take(self, positions: NDArray[np.intp]) -> Records:
        """Return a copy of the records at some positions, ``[k]``.

        Raises
        ------
        FedprintError
            When one is not what was written.
        """
        matrix = self.matrix
        found = []
        for position in positions.tolist():
            data = matrix.one(position)
            if checksum(data) != self.entries.checksums[position]:
                raise self._damaged(f"task {self.entries.ids[position][:12]}")
            found.append(data)
        return np.frombuffer(b"".join(found), self.record)

    def _damaged(self, where: str) -> FedprintError:
        return FedprintError(
            f"the fingerprint store {self.folder} is damaged at {where}: delete the folder, it is "
            "made again from the pool's database"
        )
