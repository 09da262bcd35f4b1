"""What a coordinator showed a site of a run's log, kept so that it cannot say otherwise later.

Each signed checkpoint must hold the site's own release, and extend the one that was shown before.
They lie in ``checkpoints/RUN`` of the site's state folder, beside the coordinator's key: in a
deployment one of the invitation's, in a simulation the one that the run began with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path

from fl_client.history import DEPARTURES, History
from fl_client.site import Site
from protocol.errors import BadLog, UnknownKey, WrongRun
from protocol.files import atomic_write, sha256_hex
from protocol.keys import key_id
from protocol.log import Checkpoint, open_checkpoint
from protocol.merkle import leaf_hash, verify_consistency, verify_inclusion
from protocol.records import CheckpointMessage

KEY = "coordinator.pub.pem"
REFUSED = "refused"
"""Folder of the signed checkpoints that were refused because the log had been rewritten."""
MOST_REFUSED = 100
"""Most of them that are kept: a few prove it, and more would fill the disk."""
_ENDING = ".dsse.json"
_KEPT = re.compile(r"[0-9]{8,18}" + re.escape(_ENDING))
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def keep_checkpoint(site: Site, shown: CheckpointMessage, coordinators: Collection[str]) -> int:
    """Check what a coordinator shows a site and keep it; see `Checkpoints.accept`."""
    history = History(site.state)

    def has_left(sha256: str) -> bool:
        return any(e.decision in DEPARTURES for e in history.read(shown.run, sha256))

    return Checkpoints(site.state, shown.run).accept(shown, site.name, has_left, coordinators)


class Checkpoints:
    """The checkpoints of one run that a site keeps.

    Parameters
    ----------
    state : Path
        The site's state folder.
    run : str
        Name of the run; one that is no plain file name is kept under its digest.
    """

    def __init__(self, state: Path, run: str) -> None:
        name = run if _PLAIN_NAME.fullmatch(run) else sha256_hex(run.encode())
        self.run, self.folder = run, state / "checkpoints" / name

    def coordinator(self) -> str | None:
        """Return the id of the key that signed the log which is kept; None where none is.

        Raises
        ------
        BadLog
            If the key cannot be read.
        """
        return key_id(self._pinned()) if (self.folder / KEY).exists() else None

    def newest(self) -> Checkpoint | None:
        """Return the checkpoint that was kept last.

        Raises
        ------
        VerificationError
            If what lies there was changed.
        """
        names = [path.name for path in self.folder.glob(f"*{_ENDING}")]
        sizes = [int(name.removesuffix(_ENDING)) for name in names if _KEPT.fullmatch(name)]
        if not sizes:
            return None
        return open_checkpoint(self._path(max(sizes)).read_bytes(), self._pinned())

    def accept(
        self,
        shown: CheckpointMessage,
        site: str,
        has_left: Callable[[str], bool],
        coordinators: Collection[str] = (),
    ) -> int:
        """Check what the coordinator shows, and keep it.

        Parameters
        ----------
        shown : CheckpointMessage
            Checkpoint, the entry of this site's release, and the proofs.
        site : str
            The site's name.
        has_left : callable
            Tells whether a file of this SHA-256 left the site for this run.
        coordinators : collection of str
            Ids of the keys that may sign; empty where the run's first one counts.

        Returns
        -------
        int
            Size of the log that is kept; another one than the checkpoint's where the proof does
            not begin there, and is needed from there.

        Raises
        ------
        VerificationError
            If it is not the coordinator's, holds no release of this site, or is not the log of
            before with entries added; what the coordinator signed is then kept as evidence.
        """
        self._require_key(shown.coordinator, coordinators)
        checkpoint = open_checkpoint(shown.checkpoint, shown.coordinator)
        if (shown.run, checkpoint.origin) != (self.run, self.run):
            raise WrongRun(f"the checkpoint is of run {checkpoint.origin!r}, not {self.run!r}")
        kept = self.newest()
        try:
            self._require_one_log(checkpoint)
            _require_own_release(shown, checkpoint, site, has_left)
            if kept is not None:
                _require_no_shorter(checkpoint, kept)
                if shown.earlier != kept.size or checkpoint.size == kept.size:
                    return kept.size
                _require_extended(checkpoint, kept, shown.consistency)
        except BadLog:
            if kept is not None:
                self._keep_refused(checkpoint, shown.checkpoint)
            raise
        atomic_write(self.folder / KEY, shown.coordinator)
        atomic_write(self._path(checkpoint.size), shown.checkpoint)
        return checkpoint.size

    def _require_key(self, pem: str, coordinators: Collection[str]) -> None:
        signing = key_id(pem)
        if coordinators and signing not in coordinators:
            raise UnknownKey(
                f"the log is signed with key {signing[:12]}, which is none of the coordinators' "
                "that the site knows: ask the coordinator for a new invitation.json"
            )
        if (self.folder / KEY).exists() and signing != (before := key_id(self._pinned())):
            raise UnknownKey(
                f"the log of run {self.run} is signed with key {signing[:12]}, and was with "
                f"{before[:12]} before: it is not the same coordinator's"
            )

    def _require_one_log(self, checkpoint: Checkpoint) -> None:
        """Raise if another log of this very size was signed before: no proof can mend that."""
        path = self._path(checkpoint.size)
        if not path.is_file():
            return
        kept = open_checkpoint(path.read_bytes(), self._pinned())
        if kept.root != checkpoint.root:
            raise BadLog(
                f"the coordinator signed two logs of run {self.run} with {kept.size} entries: it "
                "rewrote it, and the site keeps both signatures"
            )

    def _keep_refused(self, checkpoint: Checkpoint, signed: bytes) -> None:
        """Keep what the coordinator signed and should not have, for `fedprint verify`."""
        folder = self.folder / REFUSED
        path = folder / f"{checkpoint.size:08}-{checkpoint.root[:16]}{_ENDING}"
        if not path.exists() and len(list(folder.glob("*"))) < MOST_REFUSED:
            atomic_write(path, signed)

    def _pinned(self) -> str:
        try:
            return (self.folder / KEY).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadLog(
                f"the coordinator's key that the site keeps with the log of run {self.run} cannot "
                f"be read: restore {KEY} from a backup"
            ) from error

    def _path(self, size: int) -> Path:
        return self.folder / f"{size:08}{_ENDING}"


def _require_own_release(
    shown: CheckpointMessage, checkpoint: Checkpoint, site: str, has_left: Callable[[str], bool]
) -> None:
    """Raise unless the log holds, at this place, the release that this site made."""
    try:
        entry = json.loads(shown.entry)
        said = (entry["kind"], entry["site"], str(entry["payload"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ("", "", "")
    if said[:2] != ("release", site) or not has_left(said[2]):
        raise BadLog(f"the log's entry {shown.index} is not the release that {site} made")
    root = bytes.fromhex(checkpoint.root)
    leaf = leaf_hash(shown.entry)
    if not verify_inclusion(leaf, shown.index, checkpoint.size, shown.inclusion, root):
        raise BadLog(f"the release of {site} is not in the log that the coordinator signed")


def _require_no_shorter(checkpoint: Checkpoint, kept: Checkpoint) -> None:
    if checkpoint.size < kept.size:
        raise BadLog(
            f"the log of run {kept.origin} has {checkpoint.size} entries, and had {kept.size} "
            "before: the coordinator took entries away"
        )


def _require_extended(checkpoint: Checkpoint, kept: Checkpoint, proof: list[bytes]) -> None:
    roots = (bytes.fromhex(kept.root), bytes.fromhex(checkpoint.root))
    if not verify_consistency(kept.size, checkpoint.size, proof, *roots):
        raise BadLog(
            f"the log of run {kept.origin} does not begin with the {kept.size} entries that were "
            "there before: the coordinator rewrote it"
        )
