"""What would leave a site on a request: its terms, and the noised bytes where they are drawn.

Of what the coordinator asks and what the site's policy wants the stricter wins, in mode, epsilon
and delta: a release may protect more than was asked, never less.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl_client.contribution import cap_of, counted_digest
from fl_client.draws import Draw, Draws
from fl_client.ledger import Budget, Ledger, spent_by
from fl_client.policy import Policy
from fl_client.site import Site
from protocol.privacy import AskedTerms, rho_of, terms
from protocol.spec import Spec
from protocol.statement import Privacy

PLAIN = Privacy()


@dataclass(frozen=True)
class Offer:
    """What a release would state of its noise, and the draw that it would consist of.

    Attributes
    ----------
    privacy : Privacy
        Its terms; without the state of the ledger, see `stated`.
    draw : Draw or None
        What was drawn under these terms or stricter ones; None in a plain offer, or before.
    budget : Budget or None
        The most that the site spends; None in a plain offer.
    """

    privacy: Privacy
    draw: Draw | None = None
    budget: Budget | None = None

    @property
    def private(self) -> bool:
        """Whether noise is added."""
        return self.privacy.mode == "private"

    def is_of(self, payload: bytes, stated: Privacy) -> bool:
        """Tell whether a release of these bytes, which states this, is what is offered."""
        if self.draw is not None and self.draw.payload != payload:
            return False
        now = {"spent_rho": None, "budget_rho": None, "ledger": None}
        drawn = not self.private or self.draw is not None
        return drawn and stated.model_copy(update=now) == self.privacy

    def stated(self, ledger: Ledger) -> Privacy:
        """Return what a statement signed now says: the terms, and the state of the ledger."""
        if self.budget is None:
            return self.privacy
        lines = ledger.read()
        spent = spent_by(lines)
        return self.privacy.model_copy(
            update={
                "spent_rho": spent,
                # a budget that was lowered since bounds what is drawn, not what was
                "budget_rho": max(self.budget.rho, spent),
                "ledger": lines[-1].digest if lines else None,
            }
        )


def is_private(policy: Policy, asked: AskedTerms) -> bool:
    """Tell whether a release that is asked for like this has noise in it."""
    return "private" in (policy.release, asked.mode)


def budget_of(policy: Policy) -> Budget:
    """Return the budget that a policy sets."""
    rho = rho_of(policy.budget_epsilon, policy.delta)
    return Budget(rho, policy.budget_epsilon, policy.delta)


def strictest(policy: Policy, asked: AskedTerms) -> tuple[float, float]:
    """Return epsilon and delta of a private release: of policy and request the smaller ones."""
    if asked.mode == "plain":
        return policy.epsilon, policy.delta
    return min(policy.epsilon, asked.epsilon), min(policy.delta, asked.delta)


def settle(policy: Policy, asked: AskedTerms, spec: Spec, site: Site) -> Privacy:
    """Return the terms of a release: those asked for or those of the policy, the stricter ones."""
    if not is_private(policy, asked):
        return PLAIN
    epsilon, delta = strictest(policy, asked)
    cap = cap_of(site, policy.contribution_cap)
    return terms(spec.width, epsilon=epsilon, delta=delta, cap=cap)


def make_offer(site: Site, spec: Spec, policy: Policy, asked: AskedTerms) -> Offer:
    """Return what would leave; nothing is drawn and no image decoded.

    Raises
    ------
    PolicyError
        With reason ``ledger-damaged``, or ``budget-exhausted`` when it would have to be drawn.
    """
    wanted = settle(policy, asked, spec, site)
    if wanted.rho is None:
        return Offer(wanted)
    draws, budget = Draws(site.state), budget_of(policy)
    cap = cap_of(site, policy.contribution_cap)
    draw = draws.find(wanted, spec=spec, data=counted_digest(site, cap, spec), cap=cap)
    if draw is not None:
        return Offer(draw.terms(wanted), draw, budget)
    draws.ledger.require(wanted.rho, budget)
    return Offer(wanted, None, budget)
