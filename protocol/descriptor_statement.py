"""The signed statement about a descriptor, and its verification.

A descriptor goes with one fingerprint, whose digest it names: the fingerprint's own session binding
says that it was released for this run, so a descriptor needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from protocol import noised_moments
from protocol.descriptor_files import Sizes, from_bytes, most_bytes
from protocol.descriptors import Descriptor, Kind
from protocol.envelope import KeyFinder, open_envelope, parse_statement
from protocol.errors import (
    BadPrivacy,
    DigestMismatch,
    Expired,
    MalformedStatement,
    NotYetValid,
    SpecMismatch,
    TooLarge,
    WrongSite,
)
from protocol.files import sha256_hex
from protocol.names import Sha256Hex, SiteName
from protocol.privacy import check_mode, check_noise
from protocol.spec import Spec
from protocol.statement import STATEMENT_TYPE, Digest, Privacy, Subject, Subjects
from protocol.verify import CLOCK_SKEW, VerifiedRelease

DESCRIPTOR_TYPE: Literal["urn:fedprint:descriptor:v1"] = "urn:fedprint:descriptor:v1"
ENVELOPE_LIMIT = 65_536
"""Most bytes of the envelope; it has some 2,000."""


class DescriptorRelease(BaseModel):
    """Predicate of a descriptor's statement: what left the site, and under which terms.

    Parameters
    ----------
    site : str
        Who releases.
    spec_digest, spec_name : str
        The spec whose counted features it is about.
    kind : str
        One of `protocol.descriptors.KINDS`.
    images : int
        How many images it is of.
    fingerprint : str
        SHA-256 of the released fingerprint's safetensors file that it goes with.
    contribution_cap : int
        At most so many images of one patient were taken; 0 means no cap.
    privacy : Privacy
        Noise and budget.
    policy_digest : str
        SHA-256 of the release policy that allowed it.
    issued, expires : datetime
        Validity, RFC 3339 in UTC.
    """

    model_config = ConfigDict(frozen=True)

    site: SiteName
    spec_digest: Sha256Hex
    spec_name: Annotated[str, Field(max_length=200)]
    kind: Kind
    images: Annotated[int, Field(ge=1, le=2**53)]
    fingerprint: Sha256Hex
    contribution_cap: Annotated[int, Field(ge=0, le=2**53)] = 0
    privacy: Privacy = Privacy()
    policy_digest: Sha256Hex
    issued: AwareDatetime
    expires: AwareDatetime


class DescriptorStatement(BaseModel):
    """Statement over the exact bytes of a descriptor's safetensors file."""

    # unknown fields are ignored, as in-toto's specification asks of its consumers
    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)

    statement_type: Literal["https://in-toto.io/Statement/v1"] = Field(
        STATEMENT_TYPE, alias="_type"
    )
    subject: Subjects
    predicate_type: Literal["urn:fedprint:descriptor:v1"] = Field(
        DESCRIPTOR_TYPE, alias="predicateType"
    )
    predicate: DescriptorRelease


@dataclass(frozen=True, eq=False)
class VerifiedDescriptor:
    """A descriptor that passed every check, what was signed of it, and with which key."""

    descriptor: Descriptor
    release: DescriptorRelease
    key_id: str


def descriptor_statement(payload: bytes, release: DescriptorRelease) -> DescriptorStatement:
    """Return the statement of a descriptor over its safetensors bytes."""
    name = f"{release.site}.{release.kind}.safetensors"
    subject = Subject(name=name, digest=Digest(sha256=sha256_hex(payload)))
    return DescriptorStatement(subject=[subject], predicate=release)


def largest(kind: Kind, spec: Spec, release: VerifiedRelease) -> int:
    """Return the most bytes that a site's descriptor can have, by what it released before."""
    plain = most_bytes(kind, sizes_of(spec, release, held(release)))
    return max(plain, noised_moments.most_bytes(spec.width)) if kind == "moments" else plain


def sizes_of(spec: Spec, release: VerifiedRelease, images: int) -> Sizes:
    """Return what the shapes of a site's descriptors follow from."""
    return Sizes(spec.width, len(release.card.classes), images)


def held(release: VerifiedRelease) -> int:
    """Return how many images a site holds, whether its fingerprint counts them all or not."""
    stated = release.statement.predicate
    return stated.held or stated.images


def verify_descriptor(
    payload: bytes,
    envelope: bytes,
    kind: Kind,
    release: VerifiedRelease,
    spec: Spec,
    find_key: KeyFinder,
    now: datetime | None = None,
) -> VerifiedDescriptor:
    """Verify one descriptor of a site.

    The order is fixed as in `protocol.verify`: sizes, envelope, key, signature, statement, site,
    kind, spec, fingerprint, validity in time, digest, privacy, and only then the tensors.

    Parameters
    ----------
    payload, envelope : bytes
        The safetensors file and the signed statement.
    kind : str
        What it must be.
    release : VerifiedRelease
        The fingerprint that it must go with.
    spec : Spec
        What both must be made under.
    find_key : callable
        Returns the public key of a key id, or raises; see `protocol.envelope.open_envelope`.
    now : datetime, optional
        Time of the check; without it validity in time is not looked at.

    Raises
    ------
    VerificationError
        The subclass, and its `reason`, say which check failed.
    """
    if len(payload) > (limit := largest(kind, spec, release)):
        raise TooLarge(f"the {kind} have {len(payload)} bytes, the limit is {limit}")
    content, key_id = open_envelope(envelope, find_key, limit=ENVELOPE_LIMIT)
    statement = parse_statement(content, DescriptorStatement)
    said, site = statement.predicate, release.statement.predicate.site
    _check_subject(said, kind, site, spec)
    if said.fingerprint != release.statement.subject[0].digest.sha256:
        raise DigestMismatch(f"the {kind} of {site} go with another fingerprint")
    if now is not None:
        _check_time(said, now)
    if statement.subject[0].digest.sha256 != sha256_hex(payload):
        raise DigestMismatch(f"the {kind} of {site} are not those that were signed")
    _check_privacy(said, release, spec)
    return VerifiedDescriptor(_opened(payload, said, release, spec), said, key_id)


def _opened(
    payload: bytes, said: DescriptorRelease, release: VerifiedRelease, spec: Spec
) -> Descriptor:
    if said.privacy.mode == "plain":
        return from_bytes(payload, said.kind, sizes_of(spec, release, said.images))
    sigma = said.privacy.sigma or 0.0
    noised = noised_moments.from_bytes(payload, spec.width, said.images, sigma)
    return noised_moments.to_moments(noised, spec, said.images, sigma)


def _check_subject(said: DescriptorRelease, kind: Kind, site: str, spec: Spec) -> None:
    if said.site != site:
        raise WrongSite(f"the signed site is {said.site!r}, expected {site!r}")
    if said.kind != kind:
        raise MalformedStatement(f"{site} signed {said.kind}, expected {kind}")
    if said.spec_digest != spec.digest:
        raise SpecMismatch(
            f"{said.kind} of {site} are of spec {said.spec_name} ({said.spec_digest[:12]}), "
            f"expected {spec.name} ({spec.digest[:12]})"
        )


def _check_time(said: DescriptorRelease, now: datetime) -> None:
    if said.issued > now + CLOCK_SKEW:
        raise NotYetValid(
            f"the {said.kind} of {said.site} were issued in the future: set the site's clock"
        )
    if said.expires < now:
        raise Expired(f"the {said.kind} of {said.site} expired {said.expires:%Y-%m-%d}: ask again")


def _check_privacy(said: DescriptorRelease, release: VerifiedRelease, spec: Spec) -> None:
    """Check that a descriptor is of images that there are, and protects as the fingerprint does."""
    if said.images > held(release):
        raise BadPrivacy(
            f"the {said.kind} of {said.site} are of {said.images} images, it has {held(release)}"
        )
    check_mode(said.privacy, said.contribution_cap)
    if said.privacy.mode == "plain":
        if release.statement.predicate.privacy.mode == "private":
            raise BadPrivacy(f"the {said.kind} of {said.site} have no noise, its fingerprint has")
        return
    if said.kind != "moments":
        raise BadPrivacy(f"the {said.kind} of {said.site} state noise, which only moments have")
    check_noise(said.privacy, noised_moments.sensitivity(spec.width, said.contribution_cap))
