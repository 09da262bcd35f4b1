"""What a report says of privacy: what releases spent, their noise, and what is not certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fl_server.report_data import RunData
from protocol.privacy import LOUD, noise_share
from protocol.verify import VerifiedRelease


@dataclass(frozen=True)
class PrivacyRow:
    """One site's private release.

    Attributes
    ----------
    site : str
        Whose.
    epsilon, delta, rho : float
        What it spent, as approximate and as zero-concentrated differential privacy.
    sigma : float
        Standard deviation of the noise, in images a bin.
    share : float
        The same over the images that an evenly filled bin holds.
    images, cap : int
        Images that were counted, and at most how many of them are of one patient.
    unit : {"patient", "image"}
        What is protected: all images of a patient, or a single one where a site has no patient ids.
    used : float or None
        Share of the site's whole budget that is spent; None where the site keeps no ledger.
    """

    site: str
    epsilon: float
    delta: float
    rho: float
    sigma: float
    share: float
    images: int
    cap: int
    unit: Literal["patient", "image"]
    used: float | None


def privacy_rows(data: RunData) -> list[PrivacyRow]:
    """Return one row for each private release of a run, by site."""
    return [
        _row(site, release.verified, data.spec.bins)
        for site, release in sorted(data.releases.items())
        if release.verified is not None and _is_private(release.verified)
    ]


def privacy_headline(data: RunData, rows: list[PrivacyRow]) -> list[str]:
    """Say in a sentence what the releases reveal together, where all of them have noise."""
    if not rows or len(rows) < len(data.releases):
        return []
    most = max(rows, key=lambda row: row.rho)
    single = [row.site for row in rows if row.unit == "image"]
    what = "fingerprint" if data.beside else "release"
    whom = "no single image" if len(single) == len(rows) else "no patient"
    said = (
        f"Every {what} has noise: whatever is done with it, it reveals of {whom} more than "
        f"ε\u00a0=\u00a0{most.epsilon:.3g} at δ\u00a0=\u00a0{most.delta:.0e}."
    )
    if single:
        said += (
            f" Without patient ids each image is its own, and a patient with several of them is "
            f"protected less: {_some(single)}."
        )
    if data.beside:
        said += " What left besides is not in this figure; see below."
    return [said]


def doubts(data: RunData) -> list[str]:
    """Name the sites that noise drowns, whose group is not certain, or whose counts are doubted."""
    why = {site: data.groups.sites[site] for site in data.sites if site in data.groups.sites}
    unsure = [site for site, entry in why.items() if entry.certain is False]
    warned = [site for site, entry in why.items() if entry.warnings]
    loud = [row.site for row in privacy_rows(data) if row.share >= LOUD]
    said = []
    if loud:
        said.append(f"Noise hides most of what so few counted images show: {_some(loud)}.")
    if unsure:
        said.append(f"Too few images or too much noise to be certain of: {_some(unsure)}.")
    if warned:
        said.append(f"Something speaks against the fingerprints of: {_some(warned)}.")
    return said


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if names[most:] else ""
    return ", ".join(names[:most]) + more


def _is_private(verified: VerifiedRelease) -> bool:
    return verified.statement.predicate.privacy.mode == "private"


def _row(site: str, verified: VerifiedRelease, bins: int) -> PrivacyRow:
    stated = verified.statement.predicate
    terms = stated.privacy
    assert terms.epsilon is not None  # verified: a private release states all of these
    assert terms.delta is not None
    assert terms.rho is not None
    assert terms.sigma is not None
    used = None
    if terms.spent_rho is not None and terms.budget_rho:
        used = terms.spent_rho / terms.budget_rho
    return PrivacyRow(
        site=site,
        epsilon=terms.epsilon,
        delta=terms.delta,
        rho=terms.rho,
        sigma=terms.sigma,
        share=noise_share(terms.sigma, stated.images, bins),
        images=stated.images,
        cap=stated.contribution_cap,
        unit="image" if stated.patients is None else "patient",
        used=used,
    )
