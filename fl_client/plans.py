"""The plans that a site accepted, kept so that it trains as they say and in no other way.

A plan lies as ``plans/SHA256.dsse.json`` in the site's state folder, under the digest of its
signed envelope, which the orders that follow it name. `fl_client.plan_acceptance` says which are
accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from fl_client.history import must_be_written
from fl_client.site import Site
from protocol.envelope import open_envelope, own_key
from protocol.errors import DigestMismatch, PolicyError
from protocol.files import atomic_write, sha256_hex
from protocol.orders import Order
from protocol.plan import Plan, parse_plan

NOT_ACCEPTED = "plan-not-accepted"
"""Reason code of an order whose knowledge no accepted plan says."""

MOST = 1000
"""Most plans that are kept: a site has few a run, and more would fill the disk."""

MOST_OF_RUN = 20
"""Most plans of one run: its group has one, and another where groups were made anew."""

_ENDING = ".dsse.json"
_KEPT = re.compile(r"[0-9a-f]{64}" + re.escape(_ENDING))


class KeptPlan(NamedTuple):
    """A plan that the site accepted.

    Attributes
    ----------
    sha256 : str
        Digest of its envelope.
    key : str
        Id of the key that signed it.
    plan : Plan
        What it says.
    accepted : datetime or None
        When its file was written (UTC); None before it is kept.
    """

    sha256: str
    key: str
    plan: Plan
    accepted: datetime | None = None


class Plans:
    """The plans that a site keeps.

    Parameters
    ----------
    state : Path
        The site's state folder.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / "plans"

    def all(self) -> Iterator[KeptPlan]:
        """Yield the plans, the oldest first.

        Raises
        ------
        VerificationError
            If one was changed.
        """
        paths = [path for path in self.folder.glob(f"*{_ENDING}") if _KEPT.fullmatch(path.name)]
        for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            yield self._read(path)

    def find(self, sha256: str) -> KeptPlan | None:
        """Return the plan whose envelope has this digest, None where none was accepted.

        Raises
        ------
        VerificationError
            If it was changed.
        """
        path = self.folder / f"{sha256}{_ENDING}"
        return self._read(path) if _KEPT.fullmatch(path.name) and path.is_file() else None

    def require_room(self, of_run: int = 0) -> None:
        """Raise if no more plans can be kept, or the run has had `of_run` accepted, too many.

        Raises
        ------
        PolicyError
            With reason ``too-many-plans``.
        """
        if of_run >= MOST_OF_RUN:
            raise PolicyError(
                f"the site accepted {of_run} plans of this run, and accepts no more",
                "too-many-plans",
            )
        if len(list(self.folder.glob("*"))) >= MOST:
            raise PolicyError(
                f"the site keeps {MOST} plans already: move old ones out of {self.folder.name} in "
                "its state folder",
                "too-many-plans",
            )

    def keep(self, envelope: bytes) -> None:
        """Keep an envelope whose plan was checked.

        Raises
        ------
        PolicyError
            With reason ``not-recorded`` if it cannot be written.
        """
        with must_be_written():
            atomic_write(self.folder / f"{sha256_hex(envelope)}{_ENDING}", envelope, mode=0o600)

    def _read(self, path: Path) -> KeptPlan:
        data, name = path.read_bytes(), path.name.removesuffix(_ENDING)
        if sha256_hex(data) != name:
            raise DigestMismatch(f"the plan {name[:12]} that the site keeps was changed: remove it")
        accepted = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(microsecond=0)
        return opened(data)._replace(accepted=accepted)


def opened(envelope: bytes) -> KeptPlan:
    """Return the plan of an envelope by the key that lies beside it, whoever's that is.

    Raises
    ------
    VerificationError
        If it was not signed with that key, or holds no plan.
    """
    payload, key = open_envelope(envelope, lambda _id: own_key(envelope))
    return KeptPlan(sha256_hex(envelope), key, parse_plan(payload))


def require_planned(site: Site, order: Order) -> None:
    """Raise unless an order's knowledge is the run's own, or that of an accepted plan of its run.

    Raises
    ------
    PolicyError
        With reason ``plan-not-accepted``.
    """
    if not order.plan:
        if not order.knowledge.is_default:
            raise PolicyError(
                "the order trains otherwise than the run and names no plan: show the site the "
                "plan first",
                NOT_ACCEPTED,
            )
        return
    kept = Plans(site.state).find(order.plan)
    if kept is None or kept.plan.run != order.run or site.name not in kept.plan.sites:
        raise PolicyError(
            f"site {site.name} accepted no plan {order.plan[:12]} of run {order.run}: show it the "
            "plan first",
            NOT_ACCEPTED,
        )
    if kept.plan.knowledge != order.knowledge:
        raise PolicyError(
            f"the order trains otherwise than plan {order.plan[:12]}: order what the plan says",
            NOT_ACCEPTED,
        )
