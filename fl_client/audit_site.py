"""The audit of one site's folder: features once, then games against the site's own release."""

from __future__ import annotations

from typing import Any

from fl_client.audit import audit, counted_images, counted_regions
from fl_client.audit_mechanism import SiteMechanism
from fl_client.audit_result import AuditResult
from fl_client.contribution import cap_of
from fl_client.extract import region_features
from fl_client.features import cached_features
from fl_client.site import Site
from protocol.privacy import terms
from protocol.spec import Spec
from protocol.statement import Privacy


def audit_site(
    site: Site,
    spec: Spec,
    declared: tuple[float, float] | None,
    cap: int,
    *,
    games: int,
    seed: int,
    **extraction: Any,
) -> AuditResult:
    """Audit what a site would release.

    Parameters
    ----------
    site, spec
        Whose release of what.
    declared : (float, float) or None
        Epsilon and delta of a private release; None for a plain one, which counts all images.
    cap : int
        Most images of one patient in a private release; without subject ids it is 1.
    games, seed
        See `fl_client.audit.audit`.
    extraction
        Arguments of `fl_client.features.cached_features`.
    """
    cap = cap_of(site, cap) if declared else 0
    privacy = Privacy()
    if declared:
        privacy = terms(spec.width, epsilon=declared[0], delta=declared[1], cap=cap)
    if spec.regions is None:
        features, _ = cached_features(site, spec, progress=True, **extraction)
        counted = counted_images(site, features, cap)
    else:
        features = region_features(site, spec, extraction.get("device"))
        counted = counted_regions(site, spec, features, cap)
    mechanism = SiteMechanism(site, spec, privacy, cap, extraction.get("device"))
    return audit(
        site, spec, mechanism, counted, privacy, cap=cap, games=games, seed=seed, progress=True
    )
