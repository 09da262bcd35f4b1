"""The release: a fingerprint that passed the site's gate, signed with the site's key."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    Release,
    binding_statement,
    release_statement,
    utc_now,
)


def describe(site: Site, spec: Spec, policy: Policy) -> Release:
    """Return what a plain release of a site, made now, says of itself."""
    now = utc_now()
    return Release(
        site=site.name,
        spec_digest=spec.digest,
        spec_name=spec.name,
        images=len(site.images),
        patients=site.patients,
        policy_digest=policy.digest,
        task_card=site.card,
        issued=now,
        expires=now + RELEASE_VALIDITY,
    )


def same_terms(one: Release, other: Release) -> bool:
    """Tell whether two releases say the same, whenever they were issued."""
    return one.model_copy(update={"issued": other.issued, "expires": other.expires}) == other


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
    approved: bool = False,
) -> bytes:
    """Sign the release of exactly these bytes; `approved` says that a person at the site did.

    Raises
    ------
    PolicyError
        If the policy refuses.
    """
    gate(policy, spec, site, approved=approved)
    return sign(release_statement(payload, describe(site, spec, policy)), signer)


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
