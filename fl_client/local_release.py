"""Releases that a person at the site makes without a federation, plain or private."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fl_client.descriptor_gate import may_leave, sign_descriptor
from fl_client.descriptor_making import describe_plain, describe_private
from fl_client.gate import Gate
from fl_client.policy import Policy
from fl_client.privacy_words import share_spent, too_loud
from fl_client.recorder import Recorder
from fl_client.release import describe, make_release
from fl_client.site import Site
from fl_client.turns import turn
from protocol.descriptor_records import Sent
from protocol.descriptors import Kind
from protocol.files import sha256_hex
from protocol.keys import Signer
from protocol.privacy import AskedTerms
from protocol.spec import Spec
from protocol.statement import Release


class Released(NamedTuple):
    """A release: its two files' bytes, what it says, one line and more facts about it.

    `warning` is what speaks against it.
    """

    payload: bytes
    envelope: bytes
    terms: Release
    line: str
    facts: dict[str, Any]
    warning: str = ""


def release_plain(
    site: Site, spec: Spec, policy: Policy, signer: Signer, device: str, options: Mapping[str, Any]
) -> Released:
    """Count a site's images and sign the counts as they are.

    Parameters
    ----------
    site, spec, policy, signer
        Whose images, by what, under which policy and with whose signature.
    device : str
        Where to compute; empty takes the first that is there.
    options : mapping
        More arguments of `fl_client.extract.extract`.

    Raises
    ------
    PolicyError, DataError
        If the policy refuses, or an image cannot be read.
    """
    from fl_client.extract import extract

    found = extract(site.images, spec, device=device, **options)
    assert found.counts is not None
    payload, envelope = make_release(site, found.counts, spec, signer, policy)
    terms = describe(site, spec, policy)
    regions = "" if spec.regions is None else f"{terms.images} regions of "
    rate = found.views / max(found.seconds, 1e-9)
    facts = {"views": found.views, "seconds": found.seconds, "images_per_second": rate}
    line = (
        f"{site.name}: {regions}{len(site.images)} images, spec {spec.name}, "
        f"{found.seconds:.1f} s ({rate:.0f} images/s), signed"
    )
    return Released(payload, envelope, terms, line, facts)


def release_private(
    site: Site, spec: Spec, policy: Policy, signer: Signer, device: str, options: Mapping[str, Any]
) -> Released:
    """Release a site's counts with noise, through its gate: paid for in the ledger, drawn once.

    Parameters and errors are those of `release_plain`, and the gate's refusals.
    """
    gate = Gate(site, policy, lambda: signer, device=device or None, options=options)
    asked = _asked(policy)
    started = time.monotonic()
    kept = gate.release(spec, asked)
    seconds, privacy = time.monotonic() - started, kept.terms.privacy
    of = "" if kept.terms.images == len(site.images) else f" of {len(site.images)}"
    what = f"{kept.terms.images}{of} images"
    if spec.regions is not None:
        what = f"{kept.terms.images} regions of {len(site.images)} images"
    line = (
        f"{site.name}: {what} counted, spec {spec.name}, private: epsilon "
        f"{privacy.epsilon:.3g} at delta {privacy.delta:g}, noise of {privacy.sigma:.3g} counts, "
        f"{share_spent(privacy):.0f} % of the budget is spent, {seconds:.1f} s, signed"
    )
    warning = too_loud(kept.terms, spec.bins).strip()
    facts = {"seconds": seconds, "privacy": privacy.model_dump(mode="json")}
    return Released(kept.payload, kept.envelope, kept.terms, line, facts, warning)


def check_descriptors(
    site: Site, spec: Spec, policy: Policy, kinds: Sequence[Kind], *, private: bool
) -> None:
    """Refuse, before any work, what `release_descriptors` would refuse to let go.

    Raises
    ------
    PolicyError
        See `fl_client.descriptor_gate.may_leave`.
    """
    asked = _asked(policy) if private else AskedTerms()
    for kind in kinds:
        may_leave(policy, kind, spec, site, asked, simulated=False)


def release_descriptors(
    site: Site,
    spec: Spec,
    policy: Policy,
    signer: Signer,
    device: str,
    kinds: Sequence[Kind],
    fingerprint: bytes,
    *,
    private: bool = False,
) -> dict[Kind, Sent]:
    """Compute and sign descriptors that go with a fingerprint, the bytes of its file.

    Raises
    ------
    PolicyError, DataError
        If the policy refuses, or an image cannot be read.
    """
    check_descriptors(site, spec, policy, kinds, private=private)
    goes_with, made = sha256_hex(fingerprint), dict[Kind, Sent]()
    for kind in kinds:
        if private:
            with turn(site.state):
                each = describe_private(site, spec, policy, _asked(policy), device or None)
        else:
            each = describe_plain(site, spec, kind, device or None)
        envelope = sign_descriptor(site, kind, each, goes_with, spec, policy, signer)
        Recorder(site, policy, keeps=private).descriptor(spec, "", kind, each)
        made[kind] = Sent(each.payload, envelope)
    return made


def _asked(policy: Policy) -> AskedTerms:
    return AskedTerms(mode="private", epsilon=policy.epsilon, delta=policy.delta)
