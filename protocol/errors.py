"""The errors of fedprint: one line each, saying what is wrong and what to do.

Everything fedprint refuses on purpose is a `FedprintError`; the command line prints it as one
line. What can be wrong with a message that a site sent has one `VerificationError` subclass a way,
each with a stable reason code for logs, run files and other programs.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import ValidationError


class FedprintError(Exception):
    """Base of all errors that fedprint raises on purpose."""


class ConfigError(FedprintError):
    """An option, a name or a configuration file is wrong."""


class DataError(FedprintError):
    """A site's folder, image or table cannot be used."""


class WeightsError(FedprintError):
    """The weights of a backbone are missing or are not the ones that the spec names."""


class PolicyError(FedprintError):
    """The site's release policy does not allow what was asked.

    Parameters
    ----------
    message : str
        What was refused and what would be allowed.
    reason : str
        Stable reason code, for example ``"too-few-images"``.
    """

    def __init__(self, message: str, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


class SiteError(FedprintError):
    """The site cannot take part as things are: its coordinator or its own machine is in the way.

    Parameters
    ----------
    message : str
        What is wrong and how to mend it.
    reason : str
        Stable reason code, for example ``"wrong-ca"``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class AuditFailed(FedprintError):
    """An attack on a site's release won more often than the declared privacy permits."""


class VerificationError(FedprintError):
    """Something that arrived is not what it must be; `reason` is its stable code."""

    reason: ClassVar[str] = "verification-failed"


class TooLarge(VerificationError):
    """More bytes than the limit, before or after decompression."""

    reason = "too-large"


class MalformedMessage(VerificationError):
    """A Flower message that lacks a part or holds one of the wrong type."""

    reason = "malformed-message"


class MalformedEnvelope(VerificationError):
    """Bytes that are not a DSSE envelope with the signatures that it must have."""

    reason = "malformed-envelope"


class UnknownKey(VerificationError):
    """Signed with a key that the trust store does not hold."""

    reason = "unknown-key"


class WrongSite(VerificationError):
    """Signed with the key of another site, or naming another site."""

    reason = "wrong-site"


class KeyNotValid(VerificationError):
    """Signed with a key that was revoked or is outside its validity."""

    reason = "key-not-valid"


class KeyRevoked(KeyNotValid):
    """Signed with a key that was revoked."""

    reason = "key-revoked"


class KeyRotated(KeyNotValid):
    """Signed with a key that a newer one has replaced, after its time of grace."""

    reason = "key-rotated"


class UnknownNode(VerificationError):
    """A Flower node whose key the trust store does not hold."""

    reason = "unknown-node"


class WrongNode(VerificationError):
    """A site that answers through the Flower node of another one."""

    reason = "wrong-node"


class DuplicateSite(VerificationError):
    """A second node, or a second enrolment, under the name of a site that is there already."""

    reason = "duplicate-site"


class TooFewSignatures(VerificationError):
    """Signed by fewer coordinators than must agree."""

    reason = "too-few-signatures"


class BadSignature(VerificationError):
    """The signature does not belong to these bytes and this key."""

    reason = "bad-signature"


class MalformedStatement(VerificationError):
    """Correctly signed bytes that are not the statement they must be."""

    reason = "malformed-statement"


class WrongRun(VerificationError):
    """A binding made for another run."""

    reason = "wrong-run"


class StaleNonce(VerificationError):
    """A binding over another nonce: a replay."""

    reason = "stale-nonce"


class StaleStore(VerificationError):
    """A trust store older than one that was seen already: a rollback."""

    reason = "stale-store"


class BadLog(VerificationError):
    """A transparency log whose entries, checkpoint or proofs do not fit together."""

    reason = "bad-log"


class BadLedger(VerificationError):
    """A site's privacy ledger whose lines do not follow from one another, or do not add up."""

    reason = "ledger-damaged"


class NotYetValid(VerificationError):
    """Issued in the future, beyond what clocks may differ."""

    reason = "not-yet-valid"


class Expired(VerificationError):
    """Past its expiry."""

    reason = "expired"


class DigestMismatch(VerificationError):
    """A signed digest is not the digest of what came with it."""

    reason = "digest-mismatch"


class SpecMismatch(VerificationError):
    """Made under another spec, so not comparable."""

    reason = "spec-mismatch"


class MalformedPayload(VerificationError):
    """Not a safetensors file with the one tensor ``counts``."""

    reason = "malformed-payload"


class BadShape(VerificationError):
    """The counts do not have the spec's shape."""

    reason = "bad-shape"


class BadDtype(VerificationError):
    """The counts are not integers."""

    reason = "bad-dtype"


class NotFinite(VerificationError):
    """The counts hold NaN or infinity."""

    reason = "not-finite"


class BadRowSums(VerificationError):
    """A row does not add up to the number of images or draws, beyond what stated noise explains."""

    reason = "bad-row-sums"


class BadDescriptor(VerificationError):
    """A descriptor with values that no images can have given."""

    reason = "bad-descriptor"


class BadPrivacy(VerificationError):
    """Stated privacy parameters that contradict each other or the spec."""

    reason = "bad-privacy"


def one_line(error: ValidationError) -> str:
    """Say in one line what a pydantic model found wrong.

    Parameters
    ----------
    error : pydantic.ValidationError
        The error of a model's validation.

    Returns
    -------
    str
        Field and fault of the first finding, and how many more there are.
    """
    findings = error.errors(include_url=False, include_context=False, include_input=False)
    first, more = findings[0], len(findings) - 1
    where = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    return (f"{where}: {text}" if where else text) + (f" (and {more} more)" if more else "")
