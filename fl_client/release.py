"""The release: a fingerprint that passed the site's gate, signed with the site's key."""

from __future__ import annotations

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from numpy.typing import NDArray

from fl_client.policy import Policy, gate
from fl_client.site import Site
from protocol.envelope import sign
from protocol.fingerprint import counts_to_bytes
from protocol.keys import signer
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


def make_release(
    site: Site,
    counts: NDArray[np.integer[Any]],
    spec: Spec,
    key: PrivateKeyTypes,
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
    key : Ed25519 or EC private key
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
    gate(policy, spec, site)
    payload = counts_to_bytes(counts)
    now = utc_now()
    release = Release(
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
    return payload, sign(release_statement(payload, release), signer(key))


def make_binding(site: str, release: bytes, run: str, nonce: str, key: PrivateKeyTypes) -> bytes:
    """Bind a release to one run and one request of the coordinator.

    Parameters
    ----------
    site : str
        Name of the site.
    release : bytes
        The release envelope, its exact bytes.
    run, nonce : str
        As the coordinator's request names them.
    key : Ed25519 or EC private key
        The site's.

    Returns
    -------
    bytes
        DSSE envelope of the binding statement.
    """
    now = utc_now()
    binding = Binding(site=site, run=run, nonce=nonce, issued=now, expires=now + BINDING_VALIDITY)
    return sign(binding_statement(release, binding), signer(key))
