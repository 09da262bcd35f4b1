"""Writing to a fingerprint store: one process at a time, and nothing half-there after a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fl_server.pool_entries import ADDED, WITHDRAWN, check_id, checksum, pack
from fl_server.pool_header import FORMAT, HEADER, SPEC, Header, read_header
from fl_server.pool_matrix import BLOCK_BYTES
from fl_server.pool_store import FingerprintStore
from protocol.files import atomic_json, atomic_write, canonical_json
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.augmented import COUNTS, Records, encode, layout_for


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
            atomic_write(folder / SPEC, canonical_json(spec.model_dump(mode="json")))
            _begin(folder, Header(layout=layout.kind))
    store = renew(folder)
    store.require(spec, measure)
    return store


def renew(folder: Path) -> FingerprintStore:
    """Open a store; one of an older format is emptied first, for its records mean something else.

    Raises
    ------
    ConfigError
        When there is no store, or one of a newer format.
    """
    with _writing(folder):
        header = read_header(folder, older=True)
        if header.format < FORMAT:
            _begin(folder, Header(layout=header.layout, generation=header.generation + 1))
    return FingerprintStore(folder)


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
    # counts and shares are of 64 bits, and both are copied once
    step = max(1, BLOCK_BYTES // (32 * store.layout.features * store.layout.bins))
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
    """Take tasks out and blank their records; return how many were there.

    Their positions stay taken until `compact`.
    """
    with _writing(store.folder):
        store.refresh()
        size = store.record.itemsize
        gone = {t: p for t in tasks if (p := store.entries.position.get(t)) is not None}
        if gone:
            _append(store, pack(WITHDRAWN, [(task, 0) for task in gone]))
            blank = {position * size: bytes(size) for position in gone.values()}
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
    """Write the matrix anew without withdrawn tasks; return how many bytes that freed.

    Raises
    ------
    FedprintError
        When the store is damaged.
    """
    with _writing(store.folder):
        store.refresh()
        gone = store.size - len(store)
        if gone:
            _rewrite(store, store.header.counts)
    return gone * store.record.itemsize


def _rewrite(store: FingerprintStore, counts: str) -> None:
    """Write the tasks that are there into new files, with counts of a type."""
    new = store.header.model_copy(
        update={"generation": store.header.generation + 1, "counts": counts}
    )
    record, checks = store.layout.record(counts), []
    alive = np.flatnonzero(store.entries.alive)
    step = max(1, BLOCK_BYTES // record.itemsize)
    with (store.folder / new.matrix).open("wb") as file:
        for i in range(0, len(alive), step):
            records = _converted(store.take(alive[i : i + step]), record)
            checks += [checksum(one.tobytes()) for one in records]
            file.write(records.tobytes())
        file.flush()
        os.fsync(file.fileno())
    tasks = [store.entries.ids[p] for p in alive.tolist()]
    atomic_write(store.folder / new.entries, pack(ADDED, zip(tasks, checks, strict=True)))
    _switch(store.folder, new)
    store.refresh()


def _begin(folder: Path, header: Header) -> None:
    """Start with empty files."""
    atomic_write(folder / header.matrix, b"")
    atomic_write(folder / header.entries, b"")
    _switch(folder, header)


def _switch(folder: Path, header: Header) -> None:
    """Make files the store, and drop those of before."""
    atomic_json(folder / HEADER, header)
    for pattern in ("matrix-*", "entries-*"):
        for path in folder.glob(pattern):
            if path.name not in (header.matrix, header.entries):
                path.unlink()


def _publish(store: FingerprintStore, tasks: list[str], records: Records) -> None:
    """Write records behind the last ones, see them on the disk, and only then say so."""
    needed = next(c for c in COUNTS if store.layout.record(c) == records.dtype)
    if COUNTS.index(needed) > COUNTS.index(store.header.counts):
        _rewrite(store, needed)
    records = _converted(records, store.record)
    path = store.folder / store.header.matrix
    _write_at(path, {store.nbytes: records.tobytes()})
    checks = [checksum(one.tobytes()) for one in records]
    _append(store, pack(ADDED, zip(tasks, checks, strict=True)))


def _converted(records: Records, record: np.dtype[Any]) -> Records:
    """Return records with counts of another type, which holds them."""
    out = np.zeros(len(records), record)
    for name in record.names or ():
        if name != "spare":
            out[name] = records[name]
    return out


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
