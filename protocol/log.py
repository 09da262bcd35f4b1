"""The transparency log of a run: an append-only list under signed checkpoints.

``log/entries.jsonl`` has one entry a line, in canonical JSON and nothing else, so that equal logs
are equal files. ``log/checkpoint.dsse.json`` is the coordinator's signature over the size and the
Merkle tree head. The closing entry holds the SHA-256 of every other file of the run folder.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from protocol import merkle
from protocol.envelope import open_envelope, parse_statement, sign
from protocol.errors import BadLog, UnknownKey
from protocol.files import atomic_write, canonical_json, file_digest
from protocol.keys import Signer, SSlibKey, public_key
from protocol.names import Sha256Hex
from protocol.statement import utc_now

CHECKPOINT_TYPE = "application/vnd.fedprint.checkpoint+json"
ENTRIES, CHECKPOINT = "entries.jsonl", "checkpoint.dsse.json"


OUTSIDE = ("log", "sites", "deployment", "state")
"""What a closing entry leaves out: the log itself, what a demo sets up, how far the run is."""


class Checkpoint(BaseModel):
    """A signed state of the log.

    Parameters
    ----------
    origin : str
        The run whose log it is.
    size : int
        Number of entries.
    root : str
        Merkle tree head, hexadecimal.
    issued : datetime
        When it was signed.
    """

    model_config = ConfigDict(frozen=True)

    origin: str
    size: int = Field(ge=0)
    root: Sha256Hex
    issued: AwareDatetime


class Log:
    """An append-only log, in memory until `write`.

    Parameters
    ----------
    origin : str
        The run whose log it is.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lines: list[bytes] = []

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def leaves(self) -> list[bytes]:
        """Leaf hashes of the entries, in order."""
        return [merkle.leaf_hash(line) for line in self.lines]

    def append(self, kind: str, *, at: datetime | None = None, **values: Any) -> int:
        """Append an entry and return its index.

        Parameters
        ----------
        kind : str
            What happened, for example ``"release"``.
        at : datetime or None
            When; now by default.
        **values
            Anything else that JSON can hold.
        """
        entry = {**values, "kind": kind, "time": (at or utc_now()).isoformat()}
        self.lines.append(canonical_json(entry))
        return len(self.lines) - 1

    def close(self, run: Path) -> int:
        """Append the closing entry: the digest of every file of the run but the log's own."""
        return self.append("close", files=folder_digests(run))

    def checkpoint(self) -> Checkpoint:
        """Return the present size and tree head."""
        root = merkle.root_hash(self.leaves).hex()
        return Checkpoint(origin=self.origin, size=len(self), root=root, issued=utc_now())

    def write(self, run: Path, signer: Signer) -> bytes:
        """Write entries and a signed checkpoint below ``run/log``; return the checkpoint."""
        signed = sign(self.checkpoint(), signer, CHECKPOINT_TYPE)
        atomic_write(run / "log" / ENTRIES, b"".join(line + b"\n" for line in self.lines))
        atomic_write(run / "log" / CHECKPOINT, signed)
        return signed

    def tree(self) -> merkle.Tree:
        """Return the tree over the entries of now, for many proofs."""
        return merkle.Tree(self.leaves)

    def inclusion(self, index: int) -> list[bytes]:
        """Return the proof that entry `index` is in the log."""
        return merkle.inclusion_proof(index, self.leaves)

    def consistency(self, old: int) -> list[bytes]:
        """Return the proof that the log of size `old` is a prefix of this one."""
        return merkle.consistency_proof(old, self.leaves)


def open_checkpoint(data: bytes, coordinator_pem: str) -> Checkpoint:
    """Verify a signed checkpoint.

    Raises
    ------
    VerificationError
        When it is not whole or not the coordinator's.
    """
    coordinator = public_key(coordinator_pem)

    def find(key: str) -> SSlibKey:
        if key != coordinator.keyid:
            raise UnknownKey(f"the checkpoint is signed with {key[:12]!r}, not the coordinator's")
        return coordinator

    return parse_statement(open_envelope(data, find, CHECKPOINT_TYPE)[0], Checkpoint)


def read_log(run: Path, coordinator_pem: str) -> Log:
    """Read and check a run's log against its signed checkpoint.

    Raises
    ------
    BadLog
        When entries are not in canonical form, or not those of the checkpoint.
    VerificationError
        When the checkpoint's signature is not in order.
    """
    checkpoint = open_checkpoint((run / "log" / CHECKPOINT).read_bytes(), coordinator_pem)
    log = Log(checkpoint.origin)
    data = (run / "log" / ENTRIES).read_bytes()
    if data and not data.endswith(b"\n"):
        raise BadLog("the log's last line is cut off: take an unharmed copy of the run folder")
    log.lines = data.split(b"\n")[:-1]
    found = log.checkpoint()
    if (found.size, found.root) != (checkpoint.size, checkpoint.root):
        raise BadLog(
            f"the log's {found.size} entries are not the {checkpoint.size} that were signed: "
            "take an unharmed copy of the run folder"
        )
    for number, line in enumerate(log.lines, 1):
        if not _is_canonical(line):
            raise BadLog(f"line {number} of the log is not in canonical form")
    return log


def check_files(run: Path, log: Log) -> list[str]:
    """Return what differs between a run folder and the closing entry of its log.

    Parameters
    ----------
    run : Path
        The run folder.
    log : Log
        Its log, checked by `read_log`.

    Returns
    -------
    list of str
        One line a file that was changed, added or removed; empty when all is as it was closed.

    Raises
    ------
    BadLog
        When the log has no closing entry.
    """
    entries = [json.loads(line) for line in log.lines]
    closing = [e for e in entries if isinstance(e, dict) and e.get("kind") == "close"]
    if not closing:
        raise BadLog("the log has no closing entry: the run did not end")
    then, now = closing[-1].get("files"), folder_digests(run)
    if not isinstance(then, dict):
        raise BadLog("the log's closing entry names no files: take an unharmed copy")
    return [
        f"{name}: {'added' if name not in then else 'missing' if name not in now else 'changed'}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def folder_digests(run: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a run folder but `OUTSIDE`, by relative path."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    names = ((path.relative_to(run), path) for path in files)
    return {
        name.as_posix(): file_digest(path) for name, path in names if name.parts[0] not in OUTSIDE
    }


def _is_canonical(line: bytes) -> bool:
    try:
        return canonical_json(json.loads(line)) == line
    except (ValueError, RecursionError):
        return False
