"""Making the bytes of a fingerprint: exact counts, or counts with noise that was paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from fl_client.contribution import cap_of, counted_digest
from fl_client.counting import count, count_unchanged
from fl_client.data_digest import known_digest
from fl_client.draws import Draws
from fl_client.offer import Offer, make_offer
from fl_client.policy import Policy
from fl_client.site import Site
from protocol.errors import DataError
from protocol.fingerprint import counts_to_bytes
from protocol.privacy import AskedTerms
from protocol.spec import Spec


class Made(NamedTuple):
    """A fingerprint: its safetensors file, the digest of the images, and under which terms."""

    payload: bytes
    data: str
    offer: Offer


@dataclass(frozen=True)
class Maker:
    """What makes a site's fingerprints.

    Parameters
    ----------
    site, policy, device, keeps, keeps_features
        See `fl_client.gate.Gate`.
    options : mapping
        More arguments of `fl_client.extract.extract`.
    """

    site: Site
    policy: Policy
    device: str | None = None
    keeps: bool = True
    keeps_features: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def offer(self, spec: Spec, asked: AskedTerms) -> Offer:
        """Return what would leave, see `fl_client.offer.make_offer`."""
        return make_offer(self.site, spec, self.policy, asked)

    def make(self, spec: Spec, asked: AskedTerms, run: str = "") -> Made:
        """Compute the fingerprint; where noise is added, pay for it and draw it, but only once.

        Who calls this holds the site's turn.

        Raises
        ------
        DataError
            If an image cannot be read, or changes meanwhile.
        PolicyError
            If the budget is used up or the ledger is damaged.
        """
        offer = self.offer(spec, asked)
        if offer.draw is not None:
            return Made(offer.draw.payload, known_digest(self.site), offer)
        if not self.keeps:
            counts = count(self.site, spec, self.device, options=self.options)
            return Made(counts_to_bytes(counts), "", offer)
        cap = cap_of(self.site, self.policy.contribution_cap) if offer.private else 0
        before = counted_digest(self.site, cap, spec) if cap else ""
        how = {"keeps_features": self.keeps_features, "options": self.options}
        counts, data = count_unchanged(self.site, spec, self.device, cap=cap, **how)
        if offer.budget is None:
            return Made(counts_to_bytes(counts), data, offer)
        if counted_digest(self.site, cap, spec) != before:
            raise DataError(f"images of site {self.site.name} changed before they were read: retry")
        draw = Draws(self.site.state).draw(
            counts, offer.privacy, offer.budget, spec=spec, data=before, cap=cap, run=run
        )
        return Made(draw.payload, data, replace(offer, draw=draw))
