"""What a release's privacy means, in words for whoever answers for the patients."""

from __future__ import annotations

import math

from fl_client.ledger import epsilon_at
from fl_client.policy import Policy
from protocol.privacy import LOUD, noise_share
from protocol.spec import Spec
from protocol.statement import Privacy, Release

PLAIN = (
    "plain: no noise is added. A plain histogram is not anonymous: no image can be seen in it, but "
    "whoever knows an image well enough to compute its features can test whether that image is "
    "among these, and with 1,000 images or fewer such a test was right nearly every time."
)


def in_words(release: Release, spec: Spec, policy: Policy) -> str:
    """Return what noise does for the patients behind a release, and what is left of the budget."""
    privacy = release.privacy
    if privacy.rho is None or privacy.sigma is None:
        return PLAIN
    right = math.ceil(100 * best_guess(privacy.rho))
    whose = "this patient's images are" if release.patients is not None else "this image is"
    return (
        f"private: noise is added to every count, {privacy.sigma:.3g} images up or down as a rule "
        "(its standard deviation), so that the counts show what most images have in common and "
        "hide what a single one adds. Whoever knows everything about all the others, and tests "
        f"whether {whose} among these, is right at most {right} times in "
        "100 from this one release, where guessing is right 50 times (epsilon "
        f"{privacy.epsilon:.3g} at delta {privacy.delta:.3g}, rho {privacy.rho:.3g}). "
        f"{left_in_words(privacy, policy)}"
        f"{too_loud(release, spec.bins)}"
    )


def too_loud(release: Release, bins: int) -> str:
    """Return a warning where noise leaves little of so few images, else nothing."""
    sigma, images = release.privacy.sigma or 0.0, release.images
    if noise_share(sigma, images, bins) < LOUD:
        return ""
    few = "patients" if release.contribution_cap and release.patients else "images"
    return (
        f" Little is left to see: {images} images are counted, {images / bins:.3g} a bin, and "
        f"noise is {sigma:.3g}. More {few} would help, or a larger epsilon."
    )


def left_in_words(privacy: Privacy, policy: Policy) -> str:
    """Return what the site has spent with a release, and what it may still spend."""
    epsilon = epsilon_at(privacy.spent_rho or 0.0, policy.delta)
    return (
        "All private fingerprints of this site together have spent "
        f"{share_spent(privacy):.0f} % of its privacy "
        f"budget (epsilon {epsilon:.3g} of at most {policy.budget_epsilon:g}), this one included: "
        "its noise is drawn already, and sending the same again spends nothing more."
    )


def share_spent(privacy: Privacy) -> float:
    """Return how much of the site's budget is spent with a release, in percent."""
    return 100 * (privacy.spent_rho or 0.0) / privacy.budget_rho if privacy.budget_rho else 100.0


def best_guess(rho: float) -> float:
    r"""Return how often the best test tells two neighbouring data sets apart, of even odds.

    Gaussian noise that spends rho separates them by :math:`\mu = \sqrt{2 \rho}` standard
    deviations, and the best test is right with probability :math:`\Phi(\mu / 2)` (Dong, Roth and
    Su, arXiv 1905.02383, section 2); discrete noise of one count and more hardly differs.
    """
    return (1 + math.erf(math.sqrt(rho) / 2)) / 2
