"""Taking sites in, rotating their keys and revoking them: trust store and Flower together.

The order is such that nothing is trusted too long: a node is registered with Flower before the
trust store names its keys, and revoked in the trust store before Flower forgets it. Either alone
keeps a site out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from fl_server.connection import Unreachable
from fl_server.coordinator import Coordinator, changing
from fl_server.flower_nodes import FlowerNodes
from protocol.enrolment import Enrolment
from protocol.errors import FedprintError
from protocol.statement import utc_now
from protocol.trust import TrustStore


@dataclass(frozen=True)
class Change:
    """What a command did.

    Parameters
    ----------
    version : int
        Of the trust store, current or waiting.
    current : bool
        False while the version waits for other coordinators' signatures.
    node : str
        Flower's id of the site's node; empty if not known.
    unregistered : list of str
        Ids of the nodes that may no longer connect.
    by_hand : list of str
        Commands that a person must still run.
    unnoted : bool
        Whether Flower may know a node that is to be unregistered, but nobody noted its id.
    known : bool
        Whether the trust store had the site's keys already.
    """

    version: int
    current: bool
    node: str = ""
    unregistered: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)
    unnoted: bool = False
    known: bool = False


def is_enrolled(store: TrustStore, enrolment: Enrolment) -> bool:
    """Say whether these very keys are the site's present ones."""
    return any(
        (entry.key_id, entry.node_key_id) == (enrolment.key_id, enrolment.node_key_id)
        and entry.status == "active"
        for entry in store.entries_of(enrolment.site)
    )


def check(folder: Path, enrolment: Enrolment) -> bool:
    """Say whether these keys are enrolled already; nothing is changed.

    Raises
    ------
    FedprintError
        If the folder is no coordinator's, or the site cannot be enrolled in it.
    """
    with changing(folder) as coordinator:
        known = is_enrolled(coordinator.store, enrolment)
        if not known:
            coordinator.store.admit(enrolment)
    return known


def keys_to_revoke(folder: Path, site: str) -> list[str]:
    """Return the ids of the keys of a site that are not revoked yet; nothing is changed.

    Raises
    ------
    FedprintError
        If the folder is no coordinator's, or there is no such site.
    """
    with changing(folder) as coordinator:
        coordinator.store.revoke_site(site)
        entries = coordinator.store.entries_of(site)
    return [entry.key_id for entry in entries if entry.status != "revoked"]


def enrol(
    folder: Path,
    enrolment: Enrolment,
    *,
    grace: timedelta = timedelta(0),
    offline: bool = False,
) -> Change:
    """Register a site's node with Flower and write its keys into the trust store.

    Done twice, the second time only makes up for what the first left out.

    Parameters
    ----------
    folder : Path
        The coordinator's.
    enrolment : Enrolment
        Verified, and compared with what the site's people said.
    grace : timedelta
        In a rotation, how long the old keys stay valid.
    offline : bool
        Do not talk to the SuperLink.

    Raises
    ------
    FedprintError
        If the site cannot be enrolled or the SuperLink does not answer; nothing is changed then.
    """
    now = utc_now()
    with changing(folder) as coordinator:
        store = coordinator.store
        known = is_enrolled(store, enrolment)
        store = store if known else store.admit(enrolment, now, grace)
        nodes = FlowerNodes(coordinator.folder)
        node = "" if offline else _register(nodes, enrolment, known)
        unnoted = nodes.note(enrolment, node, now + grace)
        current = not coordinator.pending.exists() if known else coordinator.propose(store)
        swept = nodes.sweep(now) if current and not offline else []
    by_hand = [nodes.register_command(enrolment)] if offline else []
    by_hand += nodes.find_commands() if unnoted else []
    return Change(store.version, current, node, swept, by_hand, unnoted, known)


def _register(nodes: FlowerNodes, enrolment: Enrolment, known: bool) -> str:
    """Register a site's node; what that leaves undone depends on the trust store."""
    undone = "is not enrolled, and nothing was changed, because"
    state = "is enrolled already with this key, but" if known else undone
    try:
        return nodes.register(enrolment)
    except Unreachable as error:
        raise FedprintError(
            f"{enrolment.site} {state} Flower did not register its node: {error}; "
            f"start {nodes.folder / 'superlink.sh'}, or enrol with --offline"
        ) from error


def revoke(folder: Path, site: str, *, offline: bool = False) -> Change:
    """Revoke every key of a site, and have Flower forget its nodes.

    Parameters
    ----------
    folder : Path
        The coordinator's.
    site : str
        Whom to revoke.
    offline : bool
        Do not talk to the SuperLink.

    Raises
    ------
    FedprintError
        If there is no such site; or if Flower does not answer, in which case the trust store has
        revoked the site nevertheless.
    """
    now = utc_now()
    with changing(folder) as coordinator:
        store, current = coordinator.store, not coordinator.pending.exists()
        revoked = store.revoke_site(site)
        if any(entry.status != "revoked" for entry in store.entries_of(site)):
            store, current = revoked, coordinator.propose(revoked)
        nodes = FlowerNodes(coordinator.folder)
        unnoted = nodes.retire(site, now)
        by_hand = nodes.unregister_commands(site) if offline else []
        by_hand += nodes.find_commands() if unnoted else []
        try:
            swept = [] if offline else nodes.sweep(now)
        except FedprintError as error:
            raise FedprintError(
                f"{site} is revoked in the trust store, version {store.version}, but Flower did "
                f"not unregister its node: {error}; run the command again when the SuperLink runs"
            ) from error
    return Change(store.version, current, "", swept, by_hand, unnoted)


def sweep(coordinator: Coordinator) -> list[str]:
    """Unregister the nodes whose time of grace is over; return their ids."""
    return FlowerNodes(coordinator.folder).sweep(utc_now())
