"""A coordinator as its folder has it: its signer and its trust store, verified.

``trust.dsse.json`` is the current version. ``trust/`` keeps every version, each written once, so
that an older file put in its place shows. With a threshold above one a change waits in
``pending.dsse.json`` until enough coordinators have signed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from fl_server.server_file import read_server_file
from protocol.errors import ConfigError, StaleStore, TooFewSignatures
from protocol.files import atomic_write, create_once
from protocol.keys import Signer, signer_pem
from protocol.trust import TrustStore, open_store, sign_store

CURRENT, HISTORY, PENDING = "trust.dsse.json", "trust", "pending.dsse.json"
_ENDING = ".dsse.json"


@dataclass(frozen=True)
class Coordinator:
    """Who signs for a federation, and whom it trusts.

    Parameters
    ----------
    folder : Path
        Made by ``fedprint server init``.
    name : str
        As sites know it.
    signer : Signer
        Of the coordinator's key.
    store : TrustStore
        The current version, verified.
    coordinators : tuple of str
        Public keys (PEM) of all coordinators, this one first.
    threshold : int
        How many of them sign a trust store.
    """

    folder: Path
    name: str
    signer: Signer
    store: TrustStore
    coordinators: tuple[str, ...]
    threshold: int = 1

    @property
    def public_pem(self) -> str:
        """The coordinator's public key."""
        return signer_pem(self.signer)

    @property
    def signed_store(self) -> bytes:
        """The store's file, as all its coordinators signed it."""
        return _path(self.folder, self.store.version).read_bytes()

    @property
    def pending(self) -> Path:
        """Where a change waits for signatures."""
        return self.folder / PENDING

    def propose(self, store: TrustStore) -> bool:
        """Sign the next version; make it current, or let it wait for other coordinators.

        Returns
        -------
        bool
            Whether it is current now.
        """
        data = sign_store(store, self.signer)
        if self.threshold == 1:
            self.publish(data)
            return True
        atomic_write(self.pending, data)
        return False

    def publish(self, data: bytes) -> Coordinator:
        """Make a signed version the current one.

        Raises
        ------
        VerificationError
            When it is not signed by enough coordinators, or is older than one seen already.
        """
        newest = _newest(self.folder)
        store = open_store(data, self.coordinators, self.threshold, newest)
        with suppress(FileExistsError):
            create_once(_path(self.folder, store.version), data)
        if _path(self.folder, store.version).read_bytes() != data:
            raise StaleStore(f"trust store version {newest} is there already, with other content")
        atomic_write(self.folder / CURRENT, data)
        self.pending.unlink(missing_ok=True)
        return replace(self, store=store)


def open_coordinator(folder: Path | str) -> Coordinator:
    """Open a coordinator's folder.

    The passphrase of an encrypted key, or a module's PIN, comes from the environment variable
    ``FEDPRINT_KEY_PASSPHRASE``.

    Raises
    ------
    ConfigError
        When the folder or its key cannot be used.
    VerificationError
        When the trust store is not signed by enough coordinators, or is older than the newest
        version in ``trust/``.
    """
    opened = _open(Path(folder))
    return replace(opened, store=read_store(opened.folder, opened.coordinators, opened.threshold))


def read_store(folder: Path, coordinators: Sequence[str], threshold: int) -> TrustStore:
    """Return the current trust store of a coordinator's folder, verified.

    Raises
    ------
    ConfigError, VerificationError
        As in `open_coordinator`; the private key is not needed.
    """
    try:
        data = (folder / CURRENT).read_bytes()
    except FileNotFoundError:
        if (folder / PENDING).exists():
            raise TooFewSignatures(
                f"the first trust store of {folder} waits for signatures: have {PENDING} signed "
                "with fedprint server sign"
            ) from None
        raise ConfigError(
            f"{folder} has lost its {CURRENT}: copy the newest version from {HISTORY}/"
        ) from None
    except OSError as error:
        raise _barred(folder / CURRENT, "read", error) from error
    store = open_store(data, coordinators, threshold)
    if store.version < (newest := _newest(folder)):
        raise StaleStore(
            f"{CURRENT} has version {store.version}, but version {newest} was there already: an "
            f"older file came in its place; copy {_path(folder, newest)} over it"
        )
    return store


def start_store(folder: Path) -> None:
    """Sign an empty trust store, the first version of a new folder."""
    _open(folder).propose(TrustStore.empty())


@contextmanager
def changing(folder: Path | str) -> Iterator[Coordinator]:
    """Open a coordinator's folder for a change, alone; its store is the one to build on.

    That is the version that waits for signatures, where one does.

    Raises
    ------
    ConfigError
        When another command is changing the folder, and as in `open_coordinator`.
    """
    import fcntl  # not on Windows, where a simulation still runs

    opened = _open(Path(folder))
    with _lock(opened.folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another command is changing {folder}: wait for its end") from None
        current = None
        if not opened.pending.exists() or (opened.folder / CURRENT).exists():
            current = open_coordinator(folder)
        if opened.pending.exists():
            waiting = open_store(_waiting(opened.pending), opened.public_pem)
            if current is None or waiting.version > current.store.version:
                current = replace(opened, store=waiting)
        assert current is not None
        yield current


def _lock(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except OSError as error:
        raise _barred(path, "written", error) from error


def _waiting(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _barred(path, "read", error) from error


def _barred(path: Path, done: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be {done} ({error.strerror}): run this as the user whose folder it is, or "
        "correct its permissions"
    )


def _open(folder: Path) -> Coordinator:
    settings = read_server_file(folder)
    return Coordinator(
        folder.resolve(),
        settings.name,
        settings.signer(folder),
        TrustStore.empty(),
        tuple(settings.coordinators(folder)),
        settings.threshold,
    )


def _newest(folder: Path) -> int:
    """Return the newest version that was ever current, or -1."""
    names = (path.name.removesuffix(_ENDING) for path in (folder / HISTORY).glob(f"*{_ENDING}"))
    return max((int(name) for name in names if name.isdigit()), default=-1)


def _path(folder: Path, version: int) -> Path:
    return folder / HISTORY / f"{version:04}{_ENDING}"
