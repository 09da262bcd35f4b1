"""Which Flower node is which site's, as Flower said when the node's key was registered.

``nodes.json`` has the present node of each site, ``retired.json`` those of former keys, until
Flower has unregistered them. ``nodes/SITE.pub`` is the present node's key in the form that Flower
reads; there may be one without a node, where a person registered it and nobody noted the id.
"""

from __future__ import annotations

import shlex
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from fl_server.connection import NAME, Connection, Unreachable
from protocol.enrolment import Enrolment
from protocol.errors import ConfigError, one_line
from protocol.files import atomic_json, atomic_write
from protocol.keys import openssh_public

NODES, RETIRED = "nodes.json", "retired.json"
IN_USE = "[code: 23]"
Kind = TypeVar("Kind")
GONE = ("unregistered", "deleted")


class Retired(BaseModel):
    """A node whose key was replaced or revoked: whose it was, and until when it may connect."""

    site: str
    node: str
    until: AwareDatetime


class FlowerNodes:
    """Registers and unregisters nodes, and keeps the books.

    Parameters
    ----------
    folder : Path
        The coordinator's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._connection = Connection(folder / "flwr")
        self.present = _read(folder / NODES, TypeAdapter(dict[str, str]), {})
        self.retired = _read(folder / RETIRED, TypeAdapter(list[Retired]), [])

    def register(self, enrolment: Enrolment) -> str:
        """Register a site's node with Flower; one that is registered already is fine.

        Returns
        -------
        str
            Its id; empty where Flower knows the key, but nobody noted the id.

        Raises
        ------
        Unreachable
            If Flower does not answer, or refuses.
        """
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "node.pub"
            file.write_text(_line(enrolment))
            try:
                return self._connection.register(file, enrolment.site)
            except Unreachable as error:
                if IN_USE not in str(error):
                    raise
        known = self.present.get(enrolment.site) if self._is_noted(enrolment) else None
        return known or self._only_unclaimed()

    def note(self, enrolment: Enrolment, node: str, until: datetime) -> bool:
        """Note a site's node key and node; one with another key may stay until then.

        Parameters
        ----------
        enrolment : Enrolment
            Of the site.
        node : str
            Its node's id, or empty where it is not known.
        until : datetime
            When the node before is to be unregistered.

        Returns
        -------
        bool
            Whether Flower may know the node before, but nobody noted its id.
        """
        site, unnoted = enrolment.site, False
        if not self._is_noted(enrolment):
            unnoted = self._lacks(site)
            if before := self.present.pop(site, ""):
                self.retired.append(Retired(site=site, node=before, until=until))
        if node:
            self.present[site] = node
        atomic_write(self._key_file(site), _line(enrolment))
        self._write()
        return unnoted

    def retire(self, site: str, now: datetime) -> bool:
        """Note that none of a site's nodes may connect any more.

        Returns
        -------
        bool
            Whether Flower may know one whose id nobody noted.
        """
        unnoted = self._lacks(site)
        if not unnoted:
            self._key_file(site).unlink(missing_ok=True)
        nodes = [self.present.pop(site, ""), *self.former(site)]
        self.retired = [r for r in self.retired if r.site != site]
        self.retired += [Retired(site=site, node=node, until=now) for node in nodes if node]
        self._write()
        return unnoted

    def former(self, site: str) -> list[str]:
        """Return the nodes of a site's former keys, oldest first, that Flower may still know."""
        return [retired.node for retired in self.retired if retired.site == site]

    def sweep(self, now: datetime) -> list[str]:
        """Unregister the retired nodes whose time has come; return their ids.

        Raises
        ------
        FedprintError
            If Flower does not answer; what is left is tried again next time.
        """
        due = [retired.node for retired in self.retired if retired.until <= now]
        if not due:
            return []
        registered = {n.node_id for n in self._connection.nodes() if n.status not in GONE}
        for node in due:
            if node in registered:
                self._connection.unregister(node)
            self.retired = [retired for retired in self.retired if retired.node != node]
            self._write()
        return due

    def register_command(self, enrolment: Enrolment) -> str:
        """Return the command that registers a site's node by hand."""
        words = ["supernode", "register", str(self._key_file(enrolment.site)), NAME]
        return self._command(*words, "--name", enrolment.site)

    def unregister_commands(self, site: str) -> list[str]:
        """Return the commands that unregister a site's retired nodes by hand."""
        words = [("supernode", "unregister", node, NAME) for node in self.former(site)]
        return [self._command(*command) for command in words]

    def find_commands(self) -> list[str]:
        """Return the commands that unregister by hand a node whose id nobody noted."""
        unregister = self._command("supernode", "unregister", "ID", NAME)
        return [self._command("supernode", "ls", NAME), unregister]

    def _lacks(self, site: str) -> bool:
        """Say whether a site has a node key whose node is not noted."""
        return self._key_file(site).exists() and site not in self.present

    def _key_file(self, site: str) -> Path:
        return self.folder / "nodes" / f"{site}.pub"

    def _is_noted(self, enrolment: Enrolment) -> bool:
        """Say whether the site's noted node has this key."""
        path = self._key_file(enrolment.site)
        return path.exists() and path.read_text() == _line(enrolment)

    def _command(self, *words: str) -> str:
        home = shlex.quote(str(self.folder / "flwr"))
        return f"FLWR_HOME={home} {shlex.join(['flwr', *words])}"

    def _only_unclaimed(self) -> str:
        """Return the one registered node that is nobody's: it has the key that is in use."""
        claimed = {*self.present.values(), *(retired.node for retired in self.retired)}
        nodes = [n.node_id for n in self._connection.nodes() if n.status not in GONE]
        unclaimed = [node for node in nodes if node not in claimed]
        return unclaimed[0] if len(unclaimed) == 1 else ""

    def _write(self) -> None:
        atomic_json(self.folder / NODES, self.present)
        kept = [retired.model_dump(mode="json") for retired in self.retired]
        atomic_json(self.folder / RETIRED, kept)


def _line(enrolment: Enrolment) -> str:
    return openssh_public(enrolment.node_key_pem) + "\n"


def _read(path: Path, kind: TypeAdapter[Kind], missing: Kind) -> Kind:
    try:
        return kind.validate_json(path.read_bytes())
    except FileNotFoundError:
        return missing
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not in order: {one_line(error)}: restore it, or delete it, and see to the "
            "nodes that it named with `flwr supernode ls`"
        ) from None
