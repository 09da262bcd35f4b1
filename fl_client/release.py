"""The release: a fingerprint that passed the site's gate, signed with the site's key."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_client.contribution import cap_of, counted_number, counted_patients
from fl_client.policy import Policy, gate
from fl_client.site import Site
from protocol.envelope import sign
from protocol.fingerprint import counts_to_bytes
from protocol.keys import Signer
from protocol.spec import Spec
from protocol.statement import (
    BINDING_VALIDITY,
    RELEASE_VALIDITY,
    Binding,
    Privacy,
    Release,
    binding_statement,
    release_statement,
    utc_now,
)


def describe(site: Site, spec: Spec, policy: Policy, privacy: Privacy | None = None) -> Release:
    """Return what a release of a site, made now, says of itself; plain without `privacy`."""
    now, privacy = utc_now(), privacy or Privacy()
    cap = cap_of(site, policy.contribution_cap) if privacy.mode == "private" else 0
    return Release(
        site=site.name,
        spec_digest=spec.digest,
        spec_name=spec.name,
        images=counted_number(site, cap, spec),
        patients=counted_patients(site, spec) if site.has_subjects else None,
        contribution_cap=cap,
        held=len(site.images) if cap or spec.regions is not None else None,
        privacy=privacy,
        policy_digest=policy.digest,
        task_card=site.card,
        issued=now,
        expires=now + RELEASE_VALIDITY,
    )


def same_terms(one: Release, other: Release) -> bool:
    """Tell whether two releases say the same, whenever they were issued.

    The state of the site's ledger is of that moment too: what another release spent meanwhile
    changes nothing in this one.
    """
    now = {"spent_rho": other.privacy.spent_rho, "ledger": other.privacy.ledger}
    changes = {
        "issued": other.issued,
        "expires": other.expires,
        "privacy": one.privacy.model_copy(update=now),
    }
    return one.model_copy(update=changes) == other


def make_release(
    site: Site,
    counts: NDArray[np.integer[Any]],
    spec: Spec,
    signer: Signer,
    policy: Policy,
) -> tuple[bytes, bytes]:
    """Let a plain fingerprint go, if the site's policy allows it.

    Parameters
    ----------
    site : Site
        Whose fingerprint it is.
    counts : ndarray of int, shape [m, b]
        The fingerprint.
    spec : Spec
        What it was made by.
    signer : Signer
        The site's.
    policy : Policy
        The site's release policy; its digest is stated.

    Returns
    -------
    payload : bytes
        The safetensors file.
    envelope : bytes
        DSSE envelope of the release statement over exactly these bytes.

    Raises
    ------
    PolicyError
        If the policy refuses.
    """
    payload = counts_to_bytes(counts)
    return payload, sign_release(site, payload, spec, signer, policy)


def sign_release(
    site: Site,
    payload: bytes,
    spec: Spec,
    signer: Signer,
    policy: Policy,
    *,
    privacy: Privacy | None = None,
    approved: bool = False,
) -> bytes:
    """Sign the release of exactly these bytes.

    Parameters
    ----------
    site, payload, spec, signer, policy
        See `make_release`.
    privacy : Privacy or None
        What noise the bytes hold; none by default, which only a policy of plain releases allows.
    approved : bool
        Whether a person at the site approved exactly these bytes.

    Raises
    ------
    PolicyError
        If the policy refuses.
    """
    private = privacy is not None and privacy.mode == "private"
    gate(policy, spec, site, private=private, approved=approved)
    return sign(release_statement(payload, describe(site, spec, policy, privacy)), signer)


def make_binding(site: str, release: bytes, run: str, nonce: str, signer: Signer) -> bytes:
    """Bind a release to one run and one request of the coordinator.

    Parameters
    ----------
    site : str
        Name of the site.
    release : bytes
        The release envelope, its exact bytes.
    run, nonce : str
        As the coordinator's request names them.
    signer : Signer
        The site's.

    Returns
    -------
    bytes
        DSSE envelope of the binding statement.
    """
    now = utc_now()
    binding = Binding(site=site, run=run, nonce=nonce, issued=now, expires=now + BINDING_VALIDITY)
    return sign(binding_statement(release, binding), signer)
