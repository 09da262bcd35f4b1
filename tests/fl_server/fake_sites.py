"""Sites in memory that answer the exchange correctly; tests override one thing."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from flwr.app import Message, RecordDict

from protocol.envelope import sign
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, public_pem, signer
from protocol.records import (
    from_checkpoint,
    from_release_request,
    to_hello,
    to_kept,
    to_reply,
)
from protocol.statement import (
    Binding,
    Release,
    binding_statement,
    release_statement,
    utc_now,
)
from protocol.taskcard import TaskCard
from tests.protocol.conftest import IMAGES, make_counts, make_spec

SPEC = make_spec()


def keep_any(content: RecordDict) -> RecordDict:
    """Answer as a site that keeps whatever checkpoint it is shown; it need not look to say so."""
    shown = from_checkpoint(content)
    statement = json.loads(base64.b64decode(json.loads(shown.checkpoint)["payload"]))
    return to_kept(statement["size"])


@dataclass
class FakeSite:
    """A site that answers correctly; the tests' sites override one thing."""

    name: str
    key: PrivateKeyTypes = field(default_factory=generate_key)

    def __call__(self, message: Message) -> RecordDict:
        if message.metadata.message_type == "query.hello":
            return self.hello()
        if message.metadata.message_type == "query.checkpoint":
            return self.checkpoint(message.content)
        return self.release(message.content)

    def hello(self) -> RecordDict:
        return to_hello(self.name, public_pem(self.key))

    def release(self, content: RecordDict) -> RecordDict:
        request = from_release_request(content)
        return self.signed(request.run, request.nonce)

    def checkpoint(self, content: RecordDict) -> RecordDict:
        return keep_any(content)

    def signed(self, run: str, nonce: str, payload: bytes = b"") -> RecordDict:
        """Return a correct answer to a request of this run and nonce."""
        payload = payload or counts_to_bytes(make_counts())
        now = utc_now()
        release = Release(
            site=self.name,
            spec_digest=SPEC.digest,
            spec_name=SPEC.name,
            images=IMAGES,
            policy_digest="b" * 64,
            task_card=TaskCard(name="tissue"),
            issued=now,
            expires=now + timedelta(days=30),
        )
        envelope = sign(release_statement(payload, release), signer(self.key))
        binding = Binding(
            site=self.name, run=run, nonce=nonce, issued=now, expires=now + timedelta(minutes=10)
        )
        session = sign(binding_statement(envelope, binding), signer(self.key))
        return to_reply(self.name, payload, envelope, session)
