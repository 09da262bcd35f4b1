"""The run's transparency log while it grows: an entry is on the disk before what follows from it.

The entries of a run that goes on lie in ``log/entries.jsonl`` already; the signed checkpoint beside
them is written when the run has ended. A run that is resumed, a join and a later report go on with
the same entries, so that what sites were shown before is always a prefix.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from protocol.envelope import sign
from protocol.errors import BadLog
from protocol.files import append, atomic_write, canonical_json, sha256_hex
from protocol.keys import Signer
from protocol.log import CHECKPOINT_TYPE, ENTRIES, Log
from protocol.privacy import AskedTerms
from protocol.runfiles import LeftOut
from protocol.spec import Spec
from protocol.trust import TrustStore

PLACES = ("release", "left out")
"""Entries of which a site's last one says whether it takes part."""


class RunLog:
    """A log that only grows.

    Parameters
    ----------
    lines : iterable of bytes
        The entries so far.
    path : Path or None
        Where entries are appended at once; None keeps them in memory until `close`.
    """

    def __init__(self, lines: Iterable[bytes] = (), path: Path | None = None) -> None:
        self._lines: list[bytes] = []
        self.entries: list[dict[str, Any]] = []
        self._said: set[bytes] = set()
        self._last: dict[tuple[str, str], int] = {}  # kind, site: index of the last such entry
        self._path: Path | None = None
        self._unwritten: list[bytes] = []  # what a full disk refused goes first the next time
        self._together = False
        for line in lines:
            self._keep(line)
        self._path = path

    @classmethod
    def open(cls, run: Path) -> RunLog:
        """Go on with the log of a run folder.

        A line that a crash cut off was never shown to anybody, and is dropped.

        Raises
        ------
        BadLog
            If what lies there is no log.
        """
        path = run / "log" / ENTRIES
        whole = path.read_bytes().rpartition(b"\n") if path.is_file() else (b"", b"", b"")
        if whole[2]:
            atomic_write(path, whole[0] + whole[1])
        try:
            return cls(whole[0].split(b"\n") if whole[0] else [], path)
        except ValueError:
            raise BadLog(f"{path} is damaged: delete its folder or choose another out") from None

    def __len__(self) -> int:
        return len(self._lines)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait for the disk once for all entries of the block, at its end."""
        if self._together:
            yield
            return
        self._together = True
        try:
            yield
        finally:
            self._together = False
            self.flush()

    def flush(self) -> None:
        """Wait for the disk, within a block of `together` too, before what follows from entries.

        Raises
        ------
        OSError
            When they cannot be written; they stay owed, so that the file never has a gap.
        """
        if self._unwritten and self._path is not None:
            append(self._path, b"".join(self._unwritten))
        self._unwritten = []

    def add(self, kind: str, *, at: datetime | None = None, **values: Any) -> None:
        """Append an entry; with a path, wait until it lies on the disk."""
        one = Log("")
        one.append(kind, at=at, **values)
        self._keep(one.lines[0])

    def add_once(self, kind: str, *, at: datetime | None = None, **values: Any) -> None:
        """Append an entry unless one says the same, whenever that was."""
        if _said({**values, "kind": kind}) not in self._said:
            self.add(kind, at=at, **values)

    def asked(self, spec: Spec, terms: AskedTerms, settings: Mapping[str, Any]) -> None:
        """Enter what the sites are asked for, and every setting that will decide on it.

        It is the first entry: whatever sites are shown of the log binds the coordinator to it.
        """
        asked, held = terms.model_dump(mode="json"), dict(settings)
        self.add_once("spec", spec=spec.digest, name=spec.name, terms=asked, settings=held)

    def requested(self, site: str, nonce: str) -> None:
        """Enter that a site was asked; of the nonce only the digest, until it is used."""
        self.add("request", site=site, nonce=sha256_hex(nonce.encode()))

    def trusted(self, store: TrustStore, at: datetime | None = None) -> None:
        """Enter the keys of the trust store, and which of them were replaced or revoked."""
        with self.together():
            for entry in sorted(store.entries, key=lambda entry: entry.site):
                self.add_once("enrolment", at=at, site=entry.site, key=entry.key_id)
                if entry.status != "active":
                    key, status = entry.key_id, entry.status
                    self.add_once("key", at=at, site=entry.site, key=key, status=status)

    def released(self, site: str, said: Mapping[str, str], at: datetime | None = None) -> None:
        """Enter a verified release, unless the last word on the site says the same."""
        if self._is_last_word("release", site, said):
            return
        if ("awaiting-approval", site) in self._last:
            self.add_once("approval", at=at, site=site, release=said["release"])
        self.add("release", at=at, site=site, **said)

    def left_out(self, gone: LeftOut, at: datetime | None = None) -> None:
        """Enter who takes no part and why, unless the last word on it says the same."""
        if not self._is_last_word("left out", gone.site, {"reason": gone.reason}):
            self.add("left out", at=at, site=gone.site, reason=gone.reason)

    def release_of(self, site: str) -> int:
        """Return the index of a site's release.

        Raises
        ------
        BadLog
            If there is none.
        """
        if ("release", site) not in self._last:
            raise BadLog(f"the log has no release of {site}")
        return self._last["release", site]

    def last(self, kind: str) -> int:
        """Return the index of the last entry of a kind, -1 when there is none."""
        found = [index for index, entry in enumerate(self.entries) if entry["kind"] == kind]
        return found[-1] if found else -1

    def seen_by(self, site: str) -> int:
        """Return the size of the last checkpoint that a site is known to keep, else 0."""
        kept = self._last.get(("checkpoint", site))
        return 0 if kept is None else int(self.entries[kept]["size"])

    def as_log(self, run: str) -> Log:
        """Return the log of today, which does not grow with this one."""
        log = Log(run)
        log.lines = list(self._lines)
        return log

    def checkpoint(self, run: str, signer: Signer) -> bytes:
        """Return the present size and tree head, signed."""
        return sign(self.as_log(run).checkpoint(), signer, CHECKPOINT_TYPE)

    def close(self, run: str, folder: Path, signer: Signer) -> None:
        """Append the closing entry over a folder's files; write entries and checkpoint there."""
        log = self.as_log(run)
        log.close(folder)
        self._path = None  # from here on the file is replaced as a whole, never grown
        self._keep(log.lines[-1])
        log.write(folder, signer)

    def _is_last_word(self, kind: str, site: str, said: Mapping[str, str]) -> bool:
        last = max(self._last.get((place, site), -1) for place in PLACES)
        return last >= 0 and _said(self.entries[last]) == _said(
            {**said, "site": site, "kind": kind}
        )

    def _keep(self, line: bytes) -> None:
        entry = json.loads(line)
        if "site" in entry:
            self._last[str(entry.get("kind")), str(entry["site"])] = len(self._lines)
        self._lines.append(line)
        self.entries.append(entry)
        self._said.add(_said(entry))
        self._unwritten.append(line + b"\n")
        if not self._together:
            self.flush()


def participants(entries: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return by site the release on which a log's last word is that it takes part."""
    found = {e["site"]: e for e in entries if e["kind"] in PLACES}
    return {site: entry for site, entry in sorted(found.items()) if entry["kind"] == "release"}


def _said(entry: Mapping[str, Any]) -> bytes:
    """Return a digest of what an entry says, whenever it was written."""
    said = {name: value for name, value in entry.items() if name != "time"}
    return sha256(canonical_json(said)).digest()
