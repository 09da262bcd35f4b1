"""The signed statements: in-toto Statement v1 with the predicates *release* and *binding*.

See https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from protocol.files import sha256_hex
from protocol.names import Sha256Hex, SiteName
from protocol.taskcard import TaskCard

STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
RELEASE_TYPE: Literal["urn:fedprint:release:v1"] = "urn:fedprint:release:v1"
BINDING_TYPE: Literal["urn:fedprint:binding:v1"] = "urn:fedprint:binding:v1"
RELEASE_VALIDITY = timedelta(days=365)
BINDING_VALIDITY = timedelta(hours=24)  # the nonce is single-use; slow sites need the time


class _Model(BaseModel):
    # unknown fields are ignored, as in-toto's specification asks of its consumers
    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)


class Digest(_Model):
    """Digest set with the one algorithm in use."""

    sha256: Sha256Hex


class Subject(_Model):
    """What a statement is about: a name and the digest of its exact bytes."""

    name: Annotated[str, Field(max_length=200)]
    digest: Digest


Subjects = Annotated[list[Subject], Field(min_length=1, max_length=1)]


class Privacy(_Model):
    """Privacy parameters of a release.

    Parameters
    ----------
    mode : {"plain", "private"}
        Whether noise was added.
    rho, sigma : float or None
        zCDP budget spent, and standard deviation of the noise in counts.
    neighbours : str or None
        Neighbour relation, ``"add-remove"`` or ``"replace-one"``.
    epsilon, delta : float or None
        The same budget as approximate differential privacy.
    spent_rho, budget_rho : float or None
        What the site has spent in all, with this release, and the most that it will ever spend.
    ledger : str or None
        SHA-256 of the last line of the site's ledger.
    """

    mode: Literal["plain", "private"] = "plain"
    rho: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    sigma: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    neighbours: Literal["add-remove", "replace-one"] | None = None
    epsilon: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    delta: float | None = Field(default=None, ge=0, le=1)
    spent_rho: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    budget_rho: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    ledger: Sha256Hex | None = None


class Release(_Model):
    """Predicate of a release: what left the site, and under which terms.

    Parameters
    ----------
    site : str
        Who releases.
    spec_digest, spec_name : str
        The spec of the fingerprint.
    images, patients : int
        How many were counted; patients is None when the site has no subject ids. Where the spec
        counts regions, each region is one of the images.
    contribution_cap : int
        At most so many images, or regions, of one patient were counted; 0 means no cap.
    held : int or None
        Images that the site holds, where another number was counted; training may use them all.
    privacy : Privacy
        Noise and budget.
    policy_digest : str
        SHA-256 of the release policy that allowed it.
    task_card : TaskCard
        Public description of the task.
    issued, expires : datetime
        Validity, RFC 3339 in UTC.
    """

    site: SiteName
    spec_digest: Sha256Hex
    spec_name: Annotated[str, Field(max_length=200)]
    images: Annotated[int, Field(ge=1, le=2**53)]
    patients: Annotated[int, Field(ge=1, le=2**53)] | None = None
    contribution_cap: Annotated[int, Field(ge=0, le=2**53)] = 0
    held: Annotated[int, Field(ge=1, le=2**53)] | None = None
    privacy: Privacy = Privacy()
    policy_digest: Sha256Hex
    task_card: TaskCard
    issued: AwareDatetime
    expires: AwareDatetime


class Binding(_Model):
    """Predicate of a session binding: this release, for this run, at this request."""

    site: SiteName
    run: Annotated[str, Field(max_length=200)]
    nonce: Annotated[str, Field(max_length=200)]
    issued: AwareDatetime
    expires: AwareDatetime


class ReleaseStatement(_Model):
    """Statement over the exact bytes of a fingerprint's safetensors file."""

    statement_type: Literal["https://in-toto.io/Statement/v1"] = Field(
        STATEMENT_TYPE, alias="_type"
    )
    subject: Subjects
    predicate_type: Literal["urn:fedprint:release:v1"] = Field(RELEASE_TYPE, alias="predicateType")
    predicate: Release


class BindingStatement(_Model):
    """Statement over the exact bytes of a release envelope."""

    statement_type: Literal["https://in-toto.io/Statement/v1"] = Field(
        STATEMENT_TYPE, alias="_type"
    )
    subject: Subjects
    predicate_type: Literal["urn:fedprint:binding:v1"] = Field(BINDING_TYPE, alias="predicateType")
    predicate: Binding


def release_statement(payload: bytes, release: Release) -> ReleaseStatement:
    """Return the statement of a release over its safetensors bytes."""
    return ReleaseStatement(
        subject=[_subject(f"{release.site}.safetensors", payload)], predicate=release
    )


def binding_statement(release: bytes, binding: Binding) -> BindingStatement:
    """Return the statement that binds a release envelope (its exact bytes) to a run and nonce."""
    return BindingStatement(
        subject=[_subject(f"{binding.site}.dsse.json", release)], predicate=binding
    )


def utc_now() -> datetime:
    """Return the time now, in UTC and whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def new_nonce() -> str:
    """Return a fresh nonce: 32 random bytes as hexadecimal digits."""
    return secrets.token_hex(32)


def _subject(name: str, data: bytes) -> Subject:
    return Subject(name=name, digest=Digest(sha256=sha256_hex(data)))
