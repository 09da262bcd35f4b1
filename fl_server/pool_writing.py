"""Writing to a fingerprint store: one process at a time, and nothing half-there after a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_server.pool_entries import ADDED, WITHDRAWN, check_id, checksum, pack
from fl_server.pool_header import HEADER, SPEC, Header
from fl_server.pool_matrix import BLOCK_BYTES
from fl_server.pool_store import FingerprintStore
from protocol.files import atomic_json, atomic_write, canonical_json
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.augmented import encode, layout_for


def create(folder: Path, spec: Spec, measure: str) -> FingerprintStore:
    """Make an empty store that serves a measure, or open the one that is there.

    Raises
    ------
    ConfigError
        When the measure cannot be retrieved, or the folder serves others.
    SpecMismatch
        When the store there is of another spec.
    """
    layout = layout_for(measure, spec.require_ready())
    folder.mkdir(parents=True, exist_ok=True)
    with _writing(folder):
        if not (folder / HEADER).exists():
            header = Header(layout=layout.kind)
            atomic_write(folder / SPEC, canonical_json(spec.model_dump(mode="json")))
            atomic_write(folder / header.matrix, b"")
            atomic_write(folder / header.entries, b"")
            atomic_json(folder / HEADER, header)
    store = FingerprintStore(folder)
    store.require(spec, measure)
    return store


def append(store: FingerprintStore, tasks: Iterable[tuple[str, Fingerprint]]) -> int:
    """Add fingerprints by task id; return how many were new.

    A task that is there already is left as it is. Blocks are published one after another: a
    crash keeps those that were.

    Raises
    ------
    ConfigError, SpecMismatch, FedprintError
        When an id is none, or a fingerprint does not belong here.
    OSError
        When the disk is full; what was published before stays.
    """
    step = max(1, BLOCK_BYTES // (16 * store.layout.width))  # shares are float64, and copied once
    stream, added = iter(tasks), 0
    with _writing(store.folder):
        store.refresh()
        while part := dict(islice(stream, step)):
            new = {check_id(i): f for i, f in part.items() if i not in store.entries.position}
            if new:
                _publish(store, list(new), encode(list(new.values()), store.spec, store.layout))
                added += len(new)
    return added


def withdraw(store: FingerprintStore, tasks: Collection[str]) -> int:
    """Take tasks out and blank their vectors; return how many were there.

    Their positions stay taken until `compact`.
    """
    row = 4 * store.layout.width
    with _writing(store.folder):
        store.refresh()
        gone = {t: p for t in tasks if (p := store.entries.position.get(t)) is not None}
        if gone:
            _append(store, pack(WITHDRAWN, [(task, 0) for task in gone]))
            blank = {position * row: bytes(row) for position in gone.values()}
            _write_at(store.folder / store.header.matrix, blank)
    return len(gone)


def synchronise(
    store: FingerprintStore,
    tasks: Collection[str],
    load: Callable[[str], Fingerprint | None],
    progress: Callable[[list[str]], Iterable[str]] = iter,
) -> tuple[int, int]:
    """Make the store hold exactly these tasks; return how many were added and withdrawn.

    Parameters
    ----------
    store : FingerprintStore
        To be changed.
    tasks : collection of str
        Ids of all tasks of the database that have a fingerprint of this spec.
    load : callable
        Reads the fingerprint of a task; called for those that are missing. None leaves it out.
    progress : callable
        Goes through the missing tasks, and may tell how far that is.
    """
    store.refresh()
    wanted, known = set(tasks), set(store.entries.position)
    withdrawn = withdraw(store, known - wanted)
    missing = ((task, load(task)) for task in progress(sorted(wanted - known)))
    return append(store, ((t, f) for t, f in missing if f is not None)), withdrawn


def compact(store: FingerprintStore) -> int:
    """Write the matrix anew without withdrawn tasks; return how many bytes that freed."""
    with _writing(store.folder):
        store.refresh()
        alive = np.asarray(store.entries.alive, dtype=bool)
        if alive.all():
            return 0
        new = store.header.model_copy(update={"generation": store.header.generation + 1})
        with (store.folder / new.matrix).open("wb") as file:
            for start, block in store.blocks():
                file.write(block[alive[start : start + len(block)]].tobytes())
            file.flush()
            os.fsync(file.fileno())
        every = zip(store.entries.ids, store.entries.checksums, alive, strict=True)
        kept = [(task, check) for task, check, here in every if here]
        atomic_write(store.folder / new.entries, pack(ADDED, kept))
        atomic_json(store.folder / HEADER, new)  # from here on the new files are the store
        store.refresh()
        for pattern in ("matrix-*.f32", "entries-*.bin"):
            for file_path in store.folder.glob(pattern):
                if file_path.name not in (new.matrix, new.entries):
                    file_path.unlink()
    return int((~alive).sum()) * 4 * store.layout.width


def _publish(store: FingerprintStore, tasks: list[str], vectors: NDArray[np.float32]) -> None:
    """Write vectors behind the last ones, see them on the disk, and only then say so."""
    path = store.folder / store.header.matrix
    _write_at(path, {store.size * 4 * store.layout.width: vectors.tobytes()})
    checks = [checksum(vector.tobytes()) for vector in vectors]
    _append(store, pack(ADDED, zip(tasks, checks, strict=True)))


def _append(store: FingerprintStore, entries: bytes) -> None:
    """Write entries behind the last sound one, over what a crash may have left there."""
    _write_at(store.folder / store.header.entries, {store.entries.read: entries}, cut=True)
    store.refresh()


def _write_at(path: Path, parts: dict[int, bytes], *, cut: bool = False) -> None:
    """Write parts at their offsets and flush them; `cut` drops what lay behind the first."""
    with path.open("r+b") as file:
        for offset, data in parts.items():
            file.seek(offset)
            if cut:
                file.truncate()
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Hold the store's lock, waiting for it; it ends with the process."""
    descriptor = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
