"""Which Flower node is which site.

In a deployment a node is the site that its authenticated public key is enrolled for: nobody is
asked, so a site costs one message less. Simulated nodes have no keys of their own; they are asked
for their names and public keys, which are enrolled for the length of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from flwr.app import MessageType
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fl_server.asking import AT_ONCE, Problem, ask, content_of
from protocol.errors import ConfigError, DuplicateSite, FedprintError
from protocol.keys import key_id
from protocol.records import Hello, from_hello, hello_request
from protocol.statement import utc_now
from protocol.trust import TrustStore

PEM = b"-----BEGIN"
LeaveOut = Callable[[str, FedprintError], None]


class Roster(Protocol):
    """Knows the sites behind the connected nodes, and how many of them to ask at once."""

    store: TrustStore
    at_once: int | None

    def connected(self) -> int:
        """Return how many nodes that may take part are connected now."""

    def arrivals(self, timeout: float) -> dict[int, str]:
        """Return node and site of those that connected since the last call."""


class EnrolledRoster:
    """Sites by the public key with which Flower authenticated their node.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    store : TrustStore
        Which node key is whose.
    leave_out : callable
        Told of nodes that may not take part, once each.
    """

    at_once: int | None = None  # one that is gone must not keep the others waiting

    def __init__(self, grid: Grid, store: TrustStore, leave_out: LeaveOut) -> None:
        self.store = store
        self._grid, self._leave_out = grid, leave_out
        self._nodes: dict[int, str] = {}
        self._refused: set[int] = set()

    @property
    def sites(self) -> set[str]:
        """Names of the sites that have arrived so far."""
        return set(self._nodes.values())

    def connected(self) -> int:
        """Return how many sites that may take part are connected now."""
        return len({site for info in self._online() if (site := self._site(info))})

    def arrivals(self, timeout: float) -> dict[int, str]:
        """Return node and site of those that connected since the last call.

        Of two nodes of one site that arrive together both are refused, because nobody can tell
        which of them is meant; a second one that comes later is refused alone.
        """
        seen = self._nodes.keys() | self._refused
        fresh = {
            info.node_id: site
            for info in self._online()
            if info.node_id not in seen and (site := self._site(info))
        }
        twice = Counter([*fresh.values(), *self._nodes.values()])
        for node, site in list(fresh.items()):
            if twice[site] > 1:
                self._refuse(
                    node, site, DuplicateSite(f"{site} answers from several nodes: {node}")
                )
                del fresh[node]
        self._nodes |= fresh
        return fresh

    def _online(self) -> list[NodeInfo]:
        return [info for info in self._grid.get_nodes() if info.status == "online"]

    def _site(self, info: NodeInfo) -> str:
        """Return the site of a node; nothing, and say so once, if it may not take part."""
        name = f"node {info.name or info.node_id}"
        try:
            entry = self.store.entry_for_node(info.public_key)
            name = entry.site
            self.store.key_for(entry.key_id, entry.site, utc_now())
        except FedprintError as error:
            self._refuse(info.node_id, name, error)
            return ""
        return entry.site

    def _refuse(self, node: int, name: str, error: FedprintError) -> None:
        if node not in self._refused:
            self._refused.add(node)
            self._leave_out(name, error)


class RollCall:
    """Sites by what they answer for themselves: for simulated nodes only.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    run : str
        Name of the run.
    leave_out : callable
        Told of nodes that may not take part.

    Raises
    ------
    ConfigError
        From `arrivals`, if the nodes are SuperNodes: what those say of themselves proves nothing.
    """

    at_once: int | None = AT_ONCE

    def __init__(self, grid: Grid, run: str, leave_out: LeaveOut) -> None:
        self.store = TrustStore.empty()
        self._grid, self._run, self._leave_out = grid, run, leave_out
        self._called = False

    def connected(self) -> int:
        """Return how many nodes are connected now."""
        return len(list(self._grid.get_node_ids()))

    def arrivals(self, timeout: float) -> dict[int, str]:
        """Call the roll, once: simulated nodes are all there from the start."""
        if self._called:
            return {}
        self._called = True
        if any(info.public_key.startswith(PEM) for info in self._grid.get_nodes()):
            raise ConfigError(
                "these nodes have keys of their own, so this is a deployment: give the "
                "coordinator's folder (run-config server-dir), whose trust store knows them"
            )
        hellos = self._distinct(self._hellos(timeout))
        self.store = self.store.enrol_all({h.site: h.public_key for h in hellos.values()})
        return {node: hello.site for node, hello in hellos.items()}

    def _hellos(self, timeout: float) -> dict[int, Hello]:
        nodes = sorted(self._grid.get_node_ids())
        requests = [(node, hello_request(self._run)) for node in nodes]
        hello = f"{MessageType.QUERY}.hello"
        replies = ask(self._grid, requests, hello, timeout)
        hellos = {}
        for node in nodes:
            try:
                hellos[node] = from_hello(content_of(replies.get(node)))
            except FedprintError as error:
                self._leave_out(f"node {node}", error)
        return hellos

    def _distinct(self, hellos: dict[int, Hello]) -> dict[int, Hello]:
        """Leave out all nodes that share a name or a key: nobody can tell who is right."""
        names = Counter(hello.site for hello in hellos.values())
        keys = Counter(key_id(hello.public_key) for hello in hellos.values())
        distinct = {}
        for node, hello in hellos.items():
            if names[hello.site] > 1:
                self._leave_out(hello.site, DuplicateSite(f"node {node} too uses it"))
            elif keys[key_id(hello.public_key)] > 1:
                self._leave_out(hello.site, Problem("duplicate-key", "another site has this key"))
            else:
                distinct[node] = hello
        return distinct
