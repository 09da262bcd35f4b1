"""How much a run may try at a site: every trial's scores tell a little of its images.

Trials are told apart by their whole orders, so that one which is asked for again, as by a run that
goes on, counts once: it is the same training and tells nothing new.
"""

from __future__ import annotations

from fl_client.history import DEPARTURES, History
from fl_client.site import Site
from protocol.errors import PolicyError
from protocol.files import canonical_json, sha256_hex
from protocol.orders import Order

MOST = 200
"""Most trials of one run: three scenarios of twenty shots, three times over."""


def trial_digest(order: Order) -> str:
    """Return the SHA-256 by which the history knows a trial."""
    return sha256_hex(canonical_json(order.model_dump(mode="json")))


def require_trial_left(site: Site, run: str, sha256: str) -> None:
    """Raise unless a site may try this for a run.

    Raises
    ------
    PolicyError
        With reason ``nothing-released`` for a run that is none of the site's, or
        ``too-many-trials``.
    """
    entries = list(History(site.state).read(run))
    if not any(entry.decision in DEPARTURES for entry in entries):
        raise PolicyError(
            f"site {site.name} released nothing for run {run}, and tries nothing for it",
            "nothing-released",
        )
    tried = {entry.sha256 for entry in entries if entry.decision == "training" and entry.sha256}
    if sha256 not in tried and len(tried) >= MOST:
        raise PolicyError(
            f"site {site.name} tried {MOST} things for run {run}, and tries no more",
            "too-many-trials",
        )
