"""What a coordinator's folder can tell at a glance: sites, keys, connections, runs.

It only reads, and believes nothing to be there: an unreachable SuperLink, a run that was killed
and a certificate that ran out are findings, not errors.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.x509 import load_pem_x509_certificate
from pydantic import AwareDatetime, BaseModel

from fl_server.connection import Connection, Node
from fl_server.coordinator import read_store
from fl_server.flower_nodes import FlowerNodes
from fl_server.progress import STATE, read_status
from fl_server.server_file import read_server_file
from protocol.errors import FedprintError
from protocol.trust import TrustEntry

CERTIFICATES = {"server": "tls/server.crt", "authority": "tls/ca.crt"}
ONLINE, FORMER = "online", "online with its former key"
LOCK = f"{STATE}/lock"


class SiteState(BaseModel):
    """A site by its newest key.

    Attributes
    ----------
    site : str
        Its name.
    key_id : str
        Id of the key.
    key : str
        ``active``, ``rotated`` or ``revoked``, or ``expired``.
    key_expires : datetime
        End of the key's validity.
    node : str
        ``online``, ``offline``, ``registered`` (never seen) or ``unregistered``; ``online with its
        former key`` after a rotation that the site has not followed yet; ``unknown`` while the
        SuperLink does not answer.
    since : str
        When it came online or went offline.
    """

    site: str
    key_id: str
    key: Literal["active", "rotated", "revoked", "expired"]
    key_expires: AwareDatetime
    node: str = "unknown"
    since: str = ""


class RunStatus(BaseModel):
    """A run by what it last said of itself.

    Attributes
    ----------
    run : str
        Its folder, as seen from ``DIR/runs``.
    state : str
        ``running``, ``finished``, ``failed``, or ``interrupted``: nobody works on it any more.
    phase, since, deadline
        What it does or did last, since when, and when it stops waiting.
    waiting : dict
        Seconds for which each site has been awaited.
    done : list of str
        Sites that have answered in this phase.
    approval : dict
        Seconds for which a person at a site has been asked to approve, of those awaited.
    message : str
        Why it failed.
    lost : dict
        Sites that do not take part any more: reason, message, phase.
    """

    run: str
    state: Literal["running", "finished", "failed", "interrupted"]
    phase: str
    since: AwareDatetime
    deadline: AwareDatetime | None = None
    waiting: dict[str, float] = {}
    approval: dict[str, float] = {}
    message: str = ""
    done: list[str] = []
    lost: dict[str, dict[str, str]] = {}


class Status(BaseModel):
    """All of it.

    Attributes
    ----------
    superlink : str
        Empty if it answers, else why not.
    certificates : dict
        When each one runs out, by its use; None if it cannot be read.
    """

    coordinator: str
    time: AwareDatetime
    store_version: int
    superlink: str
    certificates: dict[str, AwareDatetime | None]
    sites: list[SiteState]
    runs: list[RunStatus]


def collect(folder: Path) -> Status:
    """Read the state of a coordinator's folder, and ask its SuperLink who is connected.

    Raises
    ------
    FedprintError
        If the folder is no coordinator's, its trust store does not verify, or its list of nodes is
        damaged.
    """
    settings, now = read_server_file(folder), datetime.now(UTC)
    # no private key is needed, so that a monitor can be kept from it
    store = read_store(folder, settings.coordinators(folder), settings.threshold)
    problem, nodes = _nodes(folder)
    return Status(
        coordinator=settings.name,
        time=now,
        store_version=store.version,
        superlink=problem,
        certificates={use: _certificate_end(folder / path) for use, path in CERTIFICATES.items()},
        sites=_sites(store.entries, nodes, now),
        runs=_runs(folder / "runs", now),
    )


def _nodes(folder: Path) -> tuple[str, dict[str, Node] | None]:
    """Return the SuperLink's problem, and the node of each site unless there is one."""
    books = FlowerNodes(folder.resolve())
    try:
        listed = {node.node_id: node for node in Connection(folder.resolve() / "flwr").nodes()}
    except FedprintError as error:
        return str(error), None
    nodes = {site: listed[node] for site, node in books.present.items() if node in listed}
    for site in {retired.site for retired in books.retired}:
        former = [listed[node] for node in books.former(site) if node in listed]
        online = [node for node in former if node.status == ONLINE]
        if online and (site not in nodes or nodes[site].status != ONLINE):
            nodes[site] = replace(online[-1], status=FORMER)
    return "", nodes


def _sites(
    entries: Sequence[TrustEntry], nodes: dict[str, Node] | None, now: datetime
) -> list[SiteState]:
    newest = {entry.site: entry for entry in entries}  # in order of enrolment
    return [_site(entry, nodes, now) for _, entry in sorted(newest.items())]


def _site(entry: TrustEntry, nodes: dict[str, Node] | None, now: datetime) -> SiteState:
    expired = entry.status == "active" and entry.not_after < now
    node = nodes.get(entry.site, Node("", "unregistered", "")) if nodes is not None else None
    return SiteState(
        site=entry.site,
        key_id=entry.key_id,
        key="expired" if expired else entry.status,
        key_expires=entry.not_after,
        node=node.status if node else "unknown",
        since=node.changed if node else "",
    )


def _certificate_end(path: Path) -> datetime | None:
    try:
        return load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):  # a coordinator may leave the authority to somebody else
        return None


def _runs(folder: Path, now: datetime) -> list[RunStatus]:
    found = sorted(path.parent.parent for path in folder.rglob(f"{STATE}/status.json"))
    runs = [run_status(path, path.relative_to(folder), now) for path in found]
    return sorted((run for run in runs if run), key=lambda run: run.since)


def run_status(path: Path, name: Path, now: datetime) -> RunStatus | None:
    """Return what a run folder last said of itself; None where it says nothing, or nonsense."""
    said = read_status(path)
    try:
        if said is None:
            return None
        dead = said["state"] == "running" and not _at_work(path)
        return RunStatus(
            run=str(name),
            state="interrupted" if dead else said["state"],
            phase=said["phase"],
            since=said["since"],
            deadline=said["deadline"],
            waiting={site: _seconds(now, since) for site, since in said["waiting"].items()},
            approval={
                site: _seconds(now, since) for site, since in said.get("approval", {}).items()
            },
            message=said.get("message", ""),
            done=said["done"],
            lost=said["lost"],
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        return None  # not written by us, or by another version


def _at_work(folder: Path) -> bool:
    """Say whether a coordinator holds the run's lock."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _seconds(now: datetime, since: Any) -> float:
    return round(max((now - datetime.fromisoformat(since)).total_seconds(), 0.0), 1)
