"""Making the bytes of a descriptor: as computed, or with noise that was paid for."""

from __future__ import annotations

from typing import NamedTuple

from fl_client.contribution import cap_of, counted, counted_digest, counted_number
from fl_client.describe import FISHER_IMAGES, counted_features, describe
from fl_client.draws import Draws
from fl_client.offer import Offer, budget_of, strictest
from fl_client.policy import Policy
from fl_client.site import Site
from protocol.descriptor_files import to_bytes
from protocol.descriptors import Kind
from protocol.errors import DataError
from protocol.noised_moments import products, sensitivity
from protocol.privacy import AskedTerms, terms_for
from protocol.spec import Spec
from protocol.statement import Privacy


class Described(NamedTuple):
    """A descriptor as it would leave: its file, how many images it is of, cap and noise."""

    payload: bytes
    images: int
    cap: int = 0
    privacy: Privacy = Privacy()


def describe_plain(site: Site, spec: Spec, kind: Kind, device: str | None = None) -> Described:
    """Compute a descriptor without noise, see `fl_client.describe.describe`."""
    images = len(site.images)
    of = min(images, FISHER_IMAGES) if kind == "fisher" else images
    return Described(to_bytes(describe(site, spec, kind, device)), of)


def describe_private(
    site: Site,
    spec: Spec,
    policy: Policy,
    asked: AskedTerms,
    device: str | None = None,
    run: str = "",
) -> Described:
    """Return a site's moments with noise: drawn before, or paid for and drawn now.

    They have a line of their own in the site's ledger, under the one budget of all that it releases
    with noise. Who calls this holds the site's turn.

    Parameters
    ----------
    site, spec, device
        As in `fl_client.describe.describe`.
    policy, asked
        Whose terms hold: of both the stricter.
    run : str
        For whom; empty where a person at the site asked.

    Raises
    ------
    DataError
        If an image cannot be read, or changes meanwhile.
    PolicyError
        If the budget is used up or the ledger is damaged.
    """
    cap = cap_of(site, policy.contribution_cap)
    epsilon, delta = strictest(policy, asked)
    wanted = terms_for(sensitivity(spec.width, cap), epsilon=epsilon, delta=delta)
    draws, budget, data = Draws(site.state), budget_of(policy), counted_digest(site, cap)
    draw = draws.find(wanted, spec=spec, data=data, cap=cap, kind="moments")
    if draw is None:
        assert wanted.rho is not None
        draws.ledger.require(wanted.rho, budget)  # before the work
        from fl_client.features import cached_features

        features = counted_features(cached_features(site, spec, device)[0], spec)
        exact = products(features[counted(site, cap)], spec)
        if counted_digest(site, cap) != data:
            raise DataError(f"images of site {site.name} changed while they were read: retry")
        draw = draws.draw(
            exact, wanted, budget, spec=spec, data=data, cap=cap, run=run, kind="moments"
        )
    privacy = Offer(draw.terms(wanted), draw, budget).stated(draws.ledger)
    return Described(draw.payload, counted_number(site, cap), cap, privacy)
