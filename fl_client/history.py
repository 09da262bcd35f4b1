"""The site's own record of who asked for what and what was answered: one JSON line each.

Lines are only ever appended, and each is on the disk before the answer leaves: what cannot be
recorded is not released.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fl_client.policy import Policy
from fl_client.site import Site
from protocol.errors import FedprintError, PolicyError
from protocol.files import canonical_json, sha256_hex
from protocol.spec import Spec
from protocol.statement import Privacy, Release, utc_now

NAME = "history.jsonl"
NOT_RECORDED = "not-recorded"
"""Reason code of what is refused because the site cannot write it down."""

UNNAMED = "site-error"
"""Reason code of what has none of its own."""

DEPARTURES = ("released", "released-again")
"""The decisions upon which a fingerprint left: given bytes for the first time, or once more."""

DESCRIBED = "descriptor"
"""The decision upon which a descriptor left."""

_TEXT_LIMIT = 500  # of what came from outside


class SpecName(BaseModel):
    """A spec by name and digest."""

    name: str
    digest: str


class Entry(BaseModel):
    """One line of the history.

    Parameters
    ----------
    time : datetime
        When it was decided.
    run, arm : str
        For which run; the arm of a training order or the kind of a descriptor, else empty.
    spec : SpecName
        What was asked for.
    decision : str
        ``released``, ``released-again``, ``refused``, ``awaiting-approval``, ``approved``,
        ``denied``, ``descriptor`` (one left), ``training``, ``plan``, which was accepted, ``model``
        or ``scores``, which left.
    reason, message : str
        Why something was refused.
    bytes : int
        Size of the file that left; 0 when none did.
    sha256 : str
        Digest of the file that left or was approved, of the plan, or of a trial's order.
    images : int
        Number of images behind it: counted, where noise was added.
    patients : int or None
        Number of subjects, where the site knows them.
    policy : str
        Digest of the release policy.
    privacy : Privacy or None
        What the release that left or was approved states of noise and budget.
    """

    model_config = ConfigDict(frozen=True)

    time: datetime = Field(default_factory=utc_now)
    run: str = ""
    arm: str = ""
    spec: SpecName
    decision: str
    reason: str = ""
    message: str = ""
    bytes: int = 0
    sha256: str = ""
    images: int
    patients: int | None
    policy: str
    privacy: Privacy | None = None


def make_entry(
    site: Site,
    spec: Spec,
    policy: Policy,
    decision: str,
    *,
    run: str = "",
    arm: str = "",
    error: Exception | None = None,
    payload: bytes = b"",
    terms: Release | None = None,
) -> Entry:
    """Return the entry about one request of a site.

    `error` says why it was refused; `payload` and `terms` are of the release that left.
    """
    return Entry(
        run=run[:_TEXT_LIMIT],
        arm=arm[:_TEXT_LIMIT],
        spec=SpecName(name=spec.name[:_TEXT_LIMIT], digest=spec.digest),
        decision=decision,
        reason=reason_of(error) if error else "",
        message=str(error)[: 2 * _TEXT_LIMIT] if error else "",
        bytes=len(payload) if decision in (*DEPARTURES, DESCRIBED) else 0,
        sha256=sha256_hex(payload) if payload else "",
        images=terms.images if terms else len(site.images),
        patients=site.patients,
        policy=policy.digest,
        privacy=terms.privacy if terms else None,
    )


def reason_of(error: Exception) -> str:
    """Return the stable reason code of an error, as a coordinator reads it."""
    # errors of other people's libraries have a `reason` too, and it is no code
    return str(getattr(error, "reason", UNNAMED)) if isinstance(error, FedprintError) else UNNAMED


@contextmanager
def must_be_written() -> Iterator[None]:
    """Refuse when what is done here cannot be written into the site's state folder.

    Raises
    ------
    PolicyError
        With reason ``not-recorded``.
    """
    try:
        yield
    except OSError as error:
        raise PolicyError(
            f"the site's state folder cannot be written ({error.strerror}): what is not recorded "
            "is not released",
            NOT_RECORDED,
        ) from error


class History:
    """The file ``history.jsonl`` of a site's state folder."""

    def __init__(self, state: Path) -> None:
        self.path = state / NAME

    def add(self, entry: Entry) -> None:
        """Append an entry and wait until it lies on the disk.

        Raises
        ------
        PolicyError
            With reason ``not-recorded`` when it cannot be written.
        """
        with must_be_written():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, canonical_json(entry.model_dump(mode="json")) + b"\n")

    def add_once(self, entry: Entry) -> None:
        """Append an entry unless the last one of the same run, arm and spec says the same."""
        with must_be_written():
            before = [e for e in self.read(entry.run) if _subject(e) == _subject(entry)]
        if not before or _verdict(before[-1]) != _verdict(entry):
            self.add(entry)

    def has_left(self, sha256: str) -> bool:
        """Tell whether the bytes of this digest left the site before."""
        with must_be_written():
            return any(e.decision in DEPARTURES for e in self.read(sha256=sha256))

    def ledger_heads(self) -> set[str]:
        """Return the last lines that the site's ledger had when fingerprints left."""
        departed = (*DEPARTURES, DESCRIBED)
        left = (entry.privacy for entry in self.read() if entry.decision in departed)
        return {privacy.ledger for privacy in left if privacy and privacy.ledger}

    def read(self, run: str | None = None, sha256: str | None = None) -> Iterator[Entry]:
        """Yield the entries, all or those of one run or about one file, oldest first.

        Lines that were cut off by a crash are left out.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        asked = {"run": run, "sha256": sha256}
        wanted = [canonical_json({k: v})[1:-1] for k, v in asked.items() if v is not None]
        for line in lines:
            if line and all(
                words in line for words in wanted
            ):  # parsing years of other runs would take a second
                try:
                    yield Entry.model_validate_json(line)
                except ValidationError:
                    continue


def _subject(entry: Entry) -> tuple[str, ...]:
    return entry.run, entry.arm, entry.spec.digest


def _verdict(entry: Entry) -> tuple[str, ...]:
    return entry.decision, entry.reason, entry.policy


def append_line(path: Path, line: bytes) -> None:
    """Append in one write, so that the lines of two processes do not mix, and wait for the disk.

    Raises
    ------
    OSError
        If it cannot be written whole; nothing of it is left then.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(handle).st_size
        cut_off = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        data = b"\n" + line if cut_off else line
        written = os.write(handle, data)
        if written != len(data):
            if os.fstat(handle).st_size == size + written:  # else somebody else wrote meanwhile
                os.ftruncate(handle, size)
            raise OSError(28, "No space left on device", str(path))
        os.fsync(handle)
    finally:
        os.close(handle)
    if size == 0:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Wait until a new file's name is on the disk too."""
    if os.name == "posix":  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
