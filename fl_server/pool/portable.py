"""The portable file of a pool: one signed line, and then one record a line.

The first line is an envelope over the SHA-256 of all bytes after it. These are canonical JSON, in
order of kind and id, so that equal pools give equal lines. Nothing of them is parsed before the
signature and the digest are found right.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from typing import IO, Annotated, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from protocol.envelope import is_canonical, open_envelope, parse_statement, sign
from protocol.errors import (
    DigestMismatch,
    MalformedEnvelope,
    MalformedPayload,
    TooLarge,
    UnknownKey,
    one_line,
)
from protocol.keys import Signer, SSlibKey, public_key
from protocol.names import Sha256Hex
from protocol.statement import STATEMENT_TYPE, Digest, Subject, Subjects, utc_now

POOL_TYPE: Literal["urn:fedprint:pool:v1"] = "urn:fedprint:pool:v1"
HEAD_LIMIT = 64 * 1024
"""Most bytes of the signed first line."""
LINE_LIMIT = 128 * 1024 * 1024
"""Most bytes of a record."""
LIMIT = 64 * 1024**3
"""Most bytes of a file."""
_BLOCK = 1024 * 1024


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SpecLine(_Model):
    """A spec."""

    kind: Literal["spec"] = "spec"
    digest: Sha256Hex
    content: str


class ReleaseLine(_Model):
    """A task: envelope and payload of its release, the latter compressed, both in Base64."""

    kind: Literal["release"] = "release"
    spec: Sha256Hex
    envelope: str
    payload: str


class ExperimentLine(_Model):
    """An experiment: its envelope in Base64."""

    kind: Literal["experiment"] = "experiment"
    envelope: str


class WithdrawalLine(_Model):
    """That a task was withdrawn."""

    kind: Literal["withdrawal"] = "withdrawal"
    task: Sha256Hex


Line: TypeAlias = SpecLine | ReleaseLine | ExperimentLine | WithdrawalLine
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


class Contents(BaseModel):
    """Predicate: how many lines of each kind, and when they were exported."""

    model_config = ConfigDict(frozen=True)

    records: dict[Literal["spec", "release", "experiment", "withdrawal"], int]
    issued: AwareDatetime


class PoolStatement(BaseModel):
    """In-toto statement over all bytes of the file after its first line."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)

    statement_type: Literal["https://in-toto.io/Statement/v1"] = Field(
        STATEMENT_TYPE, alias="_type"
    )
    subject: Subjects
    predicate_type: Literal["urn:fedprint:pool:v1"] = Field(POOL_TYPE, alias="predicateType")
    predicate: Contents


def head(digest: str, records: dict[str, int], signer: Signer) -> bytes:
    """Return the signed first line, with its line break."""
    contents = Contents.model_validate({"records": records, "issued": utc_now()})
    subject = Subject(name="pool.jsonl", digest=Digest(sha256=digest))
    return sign(PoolStatement(subject=[subject], predicate=contents), signer) + b"\n"


def verify(file: IO[bytes], trusted: list[str], limit: int = LIMIT) -> tuple[PoolStatement, str]:
    """Verify a file as a whole, and leave it at its first record.

    Parameters
    ----------
    file : binary file
        Opened at its beginning; it must be one that can be read twice.
    trusted : list of str
        Public keys (PEM) of those whose files are taken.
    limit : int
        Most bytes.

    Returns
    -------
    statement : PoolStatement
        What was signed.
    key_id : str
        Whose key.

    Raises
    ------
    VerificationError
        When it is too large, not signed by one of them, or not what was signed.
    """
    keys = {key.keyid: key for key in map(public_key, trusted)}

    def find(key: str) -> SSlibKey:
        if key not in keys:
            raise UnknownKey(f"the file is signed with {key[:12]!r}, which you do not trust")
        return keys[key]

    first = file.readline(HEAD_LIMIT + 1)
    envelope = first.removesuffix(b"\n")
    content, key_id = open_envelope(envelope, find, limit=HEAD_LIMIT)
    if not is_canonical(envelope):
        raise MalformedEnvelope("the first line is not in canonical form: it was changed")
    statement = parse_statement(content, PoolStatement)
    start, size, hashed = file.tell(), len(first), hashlib.sha256()
    while block := file.read(_BLOCK):
        size += len(block)
        if size > limit:
            raise TooLarge(f"the file has more than the limit of {limit} bytes")
        hashed.update(block)
    if hashed.hexdigest() != statement.subject[0].digest.sha256:
        raise DigestMismatch("the file is not the one that was signed: get an unharmed copy")
    file.seek(start)
    return statement, key_id


def lines(file: IO[bytes], statement: PoolStatement) -> Iterator[Line]:
    """Yield the records of a verified file, and check at the end that it was still the same.

    Raises
    ------
    VerificationError
        When a line is no record, or the file changed while it was read.
    """
    hashed = hashlib.sha256()
    while line := file.readline(LINE_LIMIT + 1):
        if len(line) > LINE_LIMIT:
            raise TooLarge(f"a record has more than the limit of {LINE_LIMIT} bytes")
        hashed.update(line)
        try:
            yield _LINE.validate_json(line)
        except ValidationError as error:
            raise MalformedPayload(f"a line is no record: {one_line(error)}") from None
    if hashed.hexdigest() != statement.subject[0].digest.sha256:
        raise DigestMismatch("the file changed while it was read: try again")


def encode(data: bytes) -> str:
    """Return bytes as Base64."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """Undo `encode`.

    Raises
    ------
    MalformedPayload
        When it is no Base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedPayload("a record holds something else than Base64") from None
