"""Privacy as the coordinator sees it: what was asked for, what the verified statements declare."""

from __future__ import annotations

from collections.abc import Mapping

from fl_server.received import Release
from protocol.errors import BadPrivacy
from protocol.privacy import AskedTerms, epsilon_of
from protocol.runfiles import LedgerFile, LedgerTotal, SitePrivacy
from protocol.statement import Privacy
from protocol.verify import VerifiedRelease

_SAME = 1e-5  # relative: what a sigma rounded to six digits may differ by


def require_terms(verified: VerifiedRelease, terms: AskedTerms) -> None:
    """Refuse a release that reveals more than was asked for; one that reveals less is welcome.

    Raises
    ------
    BadPrivacy
        If it is plain although noise was asked for, or spends more than was asked.
    """
    release = verified.statement.predicate
    require_privacy(f"the release of {release.site}", release.privacy, terms)


def require_privacy(what: str, privacy: Privacy, terms: AskedTerms) -> None:
    """Refuse what reveals more than was asked for, as `require_terms` does.

    Raises
    ------
    BadPrivacy
    """
    if terms.mode == "plain":
        return
    if privacy.mode == "plain" or privacy.rho is None:
        raise BadPrivacy(f"{what} has no noise, and private was asked for")
    if (spent := epsilon_of(privacy.rho, terms.delta)) > terms.epsilon * (1 + _SAME):
        raise BadPrivacy(
            f"{what} spends epsilon {spent:.4g} at delta {terms.delta:g}, "
            f"and at most {terms.epsilon:g} was asked for"
        )


def site_privacy(release: Release) -> SitePrivacy:
    """Return what a verified release states of its privacy."""
    stated = release.statement.predicate
    return SitePrivacy(
        **stated.privacy.model_dump(),
        contribution_cap=stated.contribution_cap,
        images=stated.images,
    )


def ledger_file(releases: Mapping[str, Release]) -> LedgerFile:
    """Return ``ledger.json`` of a run's verified releases."""
    sites = {site: site_privacy(release) for site, release in sorted(releases.items())}
    return LedgerFile(sites=sites, total=_total(list(sites.values())))


def _total(sites: list[SitePrivacy]) -> LedgerTotal:
    plain = sum(site.mode == "plain" for site in sites)
    total = LedgerTotal(private=len(sites) - plain, plain=plain)
    if plain or not sites:
        return total
    most = max(sites, key=lambda site: site.rho or 0.0)
    return total.model_copy(update={n: getattr(most, n) for n in ("rho", "epsilon", "delta")})
