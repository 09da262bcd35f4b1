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
_ENDING = ".dsse.json"
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

    def newest(self) -> Checkpoint | None:
        """Return the checkpoint that was kept last.

        Raises
        ------
        VerificationError
            If what lies there was changed.
        """
        sizes = [int(path.name.removesuffix(_ENDING)) for path in self.folder.glob(f"*{_ENDING}")]
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
            before with entries added.
        """
        self._require_key(shown.coordinator, coordinators)
        checkpoint = open_checkpoint(shown.checkpoint, shown.coordinator)
        if (shown.run, checkpoint.origin) != (self.run, self.run):
            raise WrongRun(f"the checkpoint is of run {checkpoint.origin!r}, not {self.run!r}")
        _require_own_release(shown, checkpoint, site, has_left)
        kept = self.newest()
        if kept is not None:
            _require_no_shorter(checkpoint, kept)
            if shown.earlier != kept.size:
                return kept.size
            _require_extended(checkpoint, kept, shown.consistency)
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

    def _pinned(self) -> str:
        return (self.folder / KEY).read_text(encoding="utf-8")

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
