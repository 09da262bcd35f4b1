"""The roll call and the refusal: the two small messages around the exchange."""

from __future__ import annotations

from typing import Annotated

from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocol.errors import FedprintError, MalformedMessage, one_line
from protocol.names import SiteName

HELLO = "fedprint.hello"
REFUSAL = "fedprint.refusal"


class Hello(BaseModel):
    """What a site says of itself before anything is released.

    Attributes
    ----------
    site : str
        The site's name.
    public_key : str
        PEM of the key that will sign its release.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: SiteName
    public_key: Annotated[str, Field(max_length=4096)]


def to_hello(hello: Hello) -> RecordDict:
    """Wrap a hello for the wire."""
    return RecordDict({HELLO: ConfigRecord(hello.model_dump())})


def from_hello(content: RecordDict) -> Hello:
    """Read a hello.

    Raises
    ------
    MalformedMessage
        If the record is missing or holds anything else.
    """
    record = content.config_records.get(HELLO)
    if record is None:
        raise MalformedMessage(f"the reply holds no record {HELLO}")
    try:
        return Hello.model_validate(dict(record))
    except ValidationError as error:
        raise MalformedMessage(f"the hello is malformed: {one_line(error)}") from error


def to_refusal(error: FedprintError) -> RecordDict:
    """Tell the coordinator why a site does not answer as asked; the text is one line."""
    reason = str(getattr(error, "reason", "site-error"))
    message = " ".join(str(error).split())[:500]
    return RecordDict({REFUSAL: ConfigRecord({"reason": reason, "message": message})})


def refusal(content: RecordDict) -> tuple[str, str] | None:
    """Return the reason code and message of a refusal, None where the site did answer."""
    record = content.config_records.get(REFUSAL)
    if record is None:
        return None
    return str(record.get("reason", "unknown"))[:64], str(record.get("message", ""))[:500]
