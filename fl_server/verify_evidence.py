"""What `fedprint verify` looks at: a run folder, read piece by piece, none of it believed.

Every piece is read once, when a check first wants it. One that cannot be read or opened raises
`Broken`, which says where: all checks that need it then report the same one finding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from fl_server.runfolder import SUSPICIOUS
from fl_server.runlog import PLACES, participants
from fl_server.settings import RunSettings
from protocol.errors import FedprintError, one_line
from protocol.keys import key_id
from protocol.log import CHECKPOINT, ENTRIES, OUTSIDE, Log, read_log
from protocol.names import check_site_name
from protocol.runfiles import RunFile
from protocol.spec import Spec, parse_spec
from protocol.trust import TrustStore, open_store
from protocol.verify import VerifiedRelease, verify_local

Model = TypeVar("Model", bound=BaseModel)

KEY = "coordinator.pub.pem"
LIMIT = 256 * 1024 * 1024
"""Most bytes of a file that is read as a whole."""
HASHED = 64 * 1024**3
"""Most bytes of any file, such as a model, that is only hashed."""


class Finding(NamedTuple):
    """One thing that is not as it must be: where it lies, and what is wrong."""

    where: str
    what: str


class Broken(FedprintError):
    """A piece that cannot be had, so that nothing which follows from it can be checked."""

    def __init__(self, where: str, what: object) -> None:
        super().__init__(str(what))
        self.finding = Finding(where, str(what))


class Evidence:
    """A run folder under examination.

    Parameters
    ----------
    run : Path
        The run folder.
    coordinator : str or None
        Public key (PEM) of the coordinator, from elsewhere; None takes the one in the folder.
    states : sequence of Path
        State folders of sites, with the checkpoints and the ledger that they keep.
    """

    def __init__(
        self, run: Path, coordinator: str | None = None, states: Sequence[Path] = ()
    ) -> None:
        self.run, self.coordinator, self.states = run, coordinator, list(states)
        self.notes: list[str] = []
        self.unfinished: list[str] = []

    def read(self, name: str, limit: int = LIMIT) -> bytes:
        """Return the bytes of a file of the run folder."""
        return read_plain(self.run / name, name, limit)

    def model(self, name: str, kind: type[Model]) -> Model:
        """Return a JSON file of the run folder as what it must be."""
        try:
            return kind.model_validate_json(self.read(name))
        except ValidationError as error:
            raise Broken(name, f"not as it should be: {one_line(error)}") from None

    @cached_property
    def pem(self) -> str:
        """The coordinator's public key: the pinned one, or else that of the folder."""
        if self.coordinator is not None:
            return self.coordinator
        return self.own_pem

    @cached_property
    def own_pem(self) -> str:
        """The public key that the folder brings along."""
        try:
            pem = self.read(KEY, 65536).decode()
            key_id(pem)
        except (UnicodeDecodeError, FedprintError) as error:
            raise _broken(KEY, error) from None
        return pem

    @cached_property
    def log(self) -> Log:
        """The transparency log, under its signed checkpoint."""
        for name in (CHECKPOINT, ENTRIES):
            self.read(f"log/{name}")
        try:
            return read_log(self.run, self.pem)
        except FedprintError as error:
            raise _broken("log", error) from None

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """The log's entries; each is an object with a kind, those about a site name it."""
        entries = [json.loads(line) for line in self.log.lines]
        for number, entry in enumerate(entries, 1):
            named = isinstance(entry, dict) and isinstance(entry.get("kind"), str)
            if not named or (entry["kind"] in PLACES and not isinstance(entry.get("site"), str)):
                raise Broken("log", f"line {number} is no entry of a log")
        return entries

    @cached_property
    def store(self) -> TrustStore:
        """The trust store, as the coordinator signed it."""
        try:
            return open_store(self.read("trust.dsse.json"), self.pem)
        except FedprintError as error:
            raise _broken("trust.dsse.json", error) from None

    @cached_property
    def run_file(self) -> RunFile:
        """``run.json``."""
        return self.model("run.json", RunFile)

    @cached_property
    def settings(self) -> RunSettings:
        """The settings of the run; before there was a choice all releases were plain."""
        try:
            return RunSettings.model_validate({"release": "plain", **self.run_file.settings})
        except ValidationError as error:
            raise Broken("run.json", f"settings: {one_line(error)}") from None

    @cached_property
    def spec(self) -> Spec:
        """The spec of the run."""
        try:
            return parse_spec(self.read("spec.json"), "the spec").require_ready()
        except FedprintError as error:
            raise _broken("spec.json", error) from None

    @cached_property
    def named(self) -> dict[str, dict[str, Any]]:
        """By site, the last release that the log names and the folder has.

        That of a site which was left out later is there only if it was left out because of it.
        """
        last = {e["site"]: e for e in self.entries if e["kind"] in PLACES}
        named = {e["site"]: e for e in self.entries if e["kind"] == "release"}
        return {
            site: entry
            for site, entry in named.items()
            if last[site] is entry or last[site].get("reason") == SUSPICIOUS
        }

    @cached_property
    def members(self) -> list[str]:
        """The sites that take part, as the log has it."""
        return sorted(participants(self.entries))

    @cached_property
    def opened(self) -> dict[str, VerifiedRelease | Broken]:
        """By site, each release that the log names, opened with the key that it brings along."""
        return {site: self._open(site) for site in sorted(self.named)}

    def release(self, site: str) -> VerifiedRelease:
        """Return a site's opened release."""
        found = self.opened.get(site, Broken("log", f"names no release of {site}"))
        if isinstance(found, Broken):
            raise found
        return found

    def _open(self, site: str) -> VerifiedRelease | Broken:
        where = f"fingerprints/{site}"
        try:
            check_site_name(site)  # it becomes part of a path
            for ending in ("safetensors", "dsse.json"):
                self.read(f"{where}.{ending}")
            return verify_local(self.run / "fingerprints", site, self.spec)
        except Broken as error:
            return error
        except FedprintError as error:
            return _broken(where, error)


def read_plain(path: Path, where: str, limit: int = LIMIT) -> bytes:
    """Return the bytes of a file that must be a plain one of bounded size."""
    try:
        if path.is_symlink() or not path.is_file():
            raise Broken(where, "is missing" if not path.exists() else "is no plain file")
        if path.stat().st_size > limit:
            raise Broken(where, f"has more than the limit of {limit} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise Broken(where, f"cannot be read: {error}") from None


def strange_files(run: Path) -> Iterator[Finding]:
    """Yield what lies in a run folder that is neither a folder nor a plain file of a sane size."""
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        if name.parts[0] in set(OUTSIDE) - {"log"}:
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield Finding(name.as_posix(), "is no plain file")
        elif path.is_file() and path.stat().st_size > HASHED:
            yield Finding(name.as_posix(), f"has more than the limit of {HASHED} bytes")


def _broken(where: str, error: Exception) -> Broken:
    if isinstance(error, Broken):
        return error
    reason = getattr(error, "reason", "")
    return Broken(where, f"{reason}: {error}" if reason else str(error))
