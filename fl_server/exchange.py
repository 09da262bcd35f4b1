"""The fingerprint exchange: who is there, who is enrolled, what each released, what was verified.

It runs inside ``@app.main`` before any strategy starts, on any Flower grid.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from protocol.errors import FedprintError, VerificationError
from protocol.fingerprint import Fingerprint
from protocol.keys import generate_key, key_id
from protocol.records import (
    Hello,
    Reply,
    from_hello,
    from_reply,
    hello_request,
    refusal,
    release_request,
)
from protocol.runfiles import LeftOut
from protocol.spec import Spec
from protocol.statement import new_nonce, utc_now
from protocol.trust import TrustStore
from protocol.verify import VerifiedRelease, verify_release
from strategies.grouping import Group

log = logging.getLogger("fedprint")

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Release:
    """One site's verified release, with the exact bytes that were signed."""

    node_id: int
    verified: VerifiedRelease
    payload: bytes
    envelope: bytes
    binding: bytes


@dataclass
class Exchange:
    """Outcome of a fingerprint exchange.

    Attributes
    ----------
    run : str
        Name that every session binding carries.
    spec : Spec
        What makes the fingerprints comparable.
    store : TrustStore
        The sites' keys, as enrolled for this run.
    key : private key
        Signs the trust store; ephemeral in simulation.
    releases : dict
        Verified releases by site, in the order of the sites' names.
    left_out : list of LeftOut
        Sites (or nodes that gave no name) that do not take part, with the reason code.
    seconds : dict
        Wall time of each phase.
    """

    run: str
    spec: Spec
    store: TrustStore
    key: PrivateKeyTypes
    releases: dict[str, Release] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def nodes(self) -> dict[str, int]:
        """Flower node id of each verified site."""
        return {site: release.node_id for site, release in self.releases.items()}

    @property
    def fingerprints(self) -> list[Fingerprint]:
        """The verified fingerprints, one a site."""
        return [release.verified.fingerprint for release in self.releases.values()]

    def group_nodes(self, groups: Iterable[Group]) -> dict[str, list[int]]:
        """Return the Flower node ids of each group, as `strategies.group_grid.per_group` takes."""
        nodes = self.nodes
        return {group.name: [nodes[site] for site in group.sites] for group in groups}


def exchange_fingerprints(
    grid: Grid, spec: Spec, run: str, *, min_sites: int = 2, timeout: float = 1800.0
) -> Exchange:
    """Ask every connected node for a signed fingerprint and verify what comes back.

    Parameters
    ----------
    grid : Grid
        Flower's grid, as given to ``@app.main``.
    spec : Spec
        What to fingerprint with; must be calibrated.
    run : str
        Unique name of this run; replies bound to another one are refused.
    min_sites : int
        Nodes to wait for before asking.
    timeout : float
        Seconds for each of the three phases (connect, roll call, fingerprints).

    Returns
    -------
    Exchange
        With one release a verified site; sites that failed are in ``left_out``.

    Raises
    ------
    FedprintError
        If fewer than `min_sites` nodes connect in time.
    """
    spec.require_ready()
    started = time.monotonic()
    nodes = await_nodes(grid, min_sites, timeout)
    outcome = Exchange(run, spec, TrustStore.empty(), generate_key())
    hellos = _roll_call(grid, nodes, outcome, timeout)
    outcome.store = outcome.store.enrol_all({h.site: h.public_key for h in hellos.values()})
    outcome.seconds["roll call"] = time.monotonic() - started
    started = time.monotonic()
    _collect(grid, hellos, outcome, timeout)
    outcome.seconds["fingerprints"] = time.monotonic() - started
    return outcome


def await_nodes(grid: Grid, count: int, timeout: float) -> list[int]:
    """Wait until `count` nodes are connected; return all that are, in ascending order."""
    deadline = time.monotonic() + timeout
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= count:
            return nodes
        if time.monotonic() > deadline:
            raise FedprintError(
                f"{len(nodes)} of at least {count} sites connected within {timeout:.0f} s: "
                "start the missing SuperNodes or lower min-sites"
            )
        time.sleep(POLL_SECONDS)


def ask(
    grid: Grid,
    requests: Iterable[tuple[int, RecordDict]],
    message_type: str,
    timeout: float,
    tell: Callable[[int, int], None] | None = None,
) -> dict[int, Message]:
    """Send one message a node; return the replies by the node that was asked.

    A node that died answers with an error whose source is not its own id, so replies are
    matched by the message that they answer. `tell` hears how many of how many have answered.
    """
    messages = [
        Message(content, dst_node_id=node, message_type=message_type) for node, content in requests
    ]
    replies = (
        grid.send_and_receive(messages, timeout=timeout)
        if tell is None
        else _watched(grid, messages, timeout, tell)
    )
    asked = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return {
        asked[reply.metadata.reply_to_message_id]: reply
        for reply in replies
        if reply.metadata.reply_to_message_id in asked
    }


def _watched(
    grid: Grid, messages: Sequence[Message], timeout: float, tell: Callable[[int, int], None]
) -> list[Message]:
    """Send and wait as the grid does, but tell of every answer."""
    waiting = {str(message_id) for message_id in grid.push_messages(messages)}
    replies: list[Message] = []
    deadline = time.monotonic() + timeout
    while waiting and time.monotonic() < deadline:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            replies.append(reply)
            tell(len(replies), len(messages))
        if waiting:
            time.sleep(POLL_SECONDS)
    return replies


def _roll_call(
    grid: Grid, nodes: Sequence[int], outcome: Exchange, timeout: float
) -> dict[int, Hello]:
    """Learn each node's site name and public key; two nodes of one name are both left out."""
    requests = [(node, hello_request(outcome.run)) for node in nodes]
    replies = ask(grid, requests, f"{MessageType.QUERY}.hello", timeout)
    hellos: dict[int, Hello] = {}
    for node in nodes:
        try:
            hellos[node] = from_hello(_content(replies.get(node)))
        except FedprintError as error:
            _leave_out(outcome, f"node {node}", error)
    names = [hello.site for hello in hellos.values()]
    keys = [key_id(hello.public_key) for hello in hellos.values()]
    for node, hello in list(hellos.items()):
        if names.count(hello.site) > 1:
            del hellos[node]
            _leave_out(outcome, hello.site, _Problem("duplicate-site", f"node {node} too uses it"))
        elif keys.count(key_id(hello.public_key)) > 1:
            del hellos[node]
            _leave_out(outcome, hello.site, _Problem("duplicate-key", "another site has this key"))
    return hellos


def _collect(grid: Grid, hellos: dict[int, Hello], outcome: Exchange, timeout: float) -> None:
    """Ask every enrolled site for its release, each with a nonce of its own, and verify it."""
    nonces = {node: new_nonce() for node in hellos}
    requests = [
        (node, release_request(outcome.run, nonce, outcome.spec)) for node, nonce in nonces.items()
    ]
    replies = ask(grid, requests, f"{MessageType.QUERY}.fingerprint", timeout, _tell)
    for node, hello in sorted(hellos.items(), key=lambda item: item[1].site):
        try:
            reply: Reply = from_reply(_content(replies.get(node)))
            verified = verify_release(
                site=hello.site,
                payload=reply.payload,
                release=reply.release,
                binding=reply.binding,
                store=outcome.store,
                spec=outcome.spec,
                run=outcome.run,
                nonce=nonces[node],
                now=utc_now(),
            )
        except FedprintError as error:
            _leave_out(outcome, hello.site, error)
        else:
            outcome.releases[hello.site] = Release(
                node, verified, reply.payload, reply.release, reply.binding
            )


def _tell(answered: int, asked: int) -> None:
    log.info("fingerprints: %d of %d sites answered", answered, asked)


class _Problem(VerificationError):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason  # type: ignore[misc]


def _content(reply: Message | None) -> RecordDict:
    """Return what a site answered, or raise what it says went wrong."""
    if reply is None:
        raise _Problem("no-reply", "did not answer in time")
    if reply.has_error():
        raise _Problem("client-error", reply.error.reason or f"error {reply.error.code}")
    problem = refusal(reply.content)
    if problem is not None:
        raise _Problem(*problem)
    return reply.content


def _leave_out(outcome: Exchange, site: str, error: FedprintError) -> None:
    reason = getattr(error, "reason", "error")
    outcome.left_out.append(LeftOut(site=site, reason=reason, message=str(error)))
