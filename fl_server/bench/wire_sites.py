"""Sites in memory for the benchmark of the wire: they sign and send as real ones do."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from base64 import b64decode
from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from fl_server.bench.made_up import peaks
from protocol.envelope import sign
from protocol.fingerprint import counts_to_bytes
from protocol.keys import Signer, public_pem, signer
from protocol.privacy import DELTA, EPSILON, terms
from protocol.records import from_checkpoint, get, to_hello, to_kept, to_reply
from protocol.spec import Spec
from protocol.statement import (
    Binding,
    Privacy,
    Release,
    binding_statement,
    release_statement,
    utc_now,
)
from protocol.taskcard import ClassCard, TaskCard

IMAGES = 500
CARD = TaskCard(
    name="tissue",
    modality="histology",
    anatomy="colon",
    keywords=["tissue", "stained"],
    classes=[ClassCard(name=name) for name in ("adipose", "debris", "mucus", "tumour")],
)


class MadeSite:
    """One site with a key of its own and made-up counts.

    Parameters
    ----------
    number : int
        Its name and its key are made of it.
    spec : Spec
        What it fingerprints with.
    counts : ndarray of int, shape [m, b]
        Its fingerprint.
    private : bool
        Whether the counts are noised, under the terms that are asked for by default.
    """

    def __init__(self, number: int, spec: Spec, counts: NDArray[np.int64], private: bool) -> None:
        self.name = f"site-{number:06}"
        self.spec, self.counts, self.private = spec, counts, private
        seed = hashlib.sha256(f"bench {number}".encode()).digest()
        self.key = Ed25519PrivateKey.from_private_bytes(seed)

    @cached_property
    def signer(self) -> Signer:
        """Signs for the site."""
        return signer(self.key)

    @cached_property
    def payload(self) -> bytes:
        """The fingerprint's file."""
        return counts_to_bytes(self.counts)

    def release(self) -> bytes:
        """Return the signed release."""
        now = utc_now()
        stated = Release(
            site=self.name,
            spec_digest=self.spec.digest,
            spec_name=self.spec.name,
            images=IMAGES,
            contribution_cap=1 if self.private else 0,
            privacy=default_terms(self.spec) if self.private else Privacy(),
            policy_digest="b" * 64,
            task_card=CARD,
            issued=now,
            expires=now + timedelta(days=365),
        )
        return sign(release_statement(self.payload, stated), self.signer)

    def binding(self, release: bytes, run: str, nonce: str) -> bytes:
        """Return the signed session binding of a release."""
        now = utc_now()
        bound = Binding(
            site=self.name, run=run, nonce=nonce, issued=now, expires=now + timedelta(hours=24)
        )
        return sign(binding_statement(release, bound), self.signer)

    def answer(self, run: str, nonce: str) -> RecordDict:
        """Return the answer to a request."""
        release = self.release()
        return to_reply(self.name, self.payload, release, self.binding(release, run, nonce))


def default_terms(spec: Spec) -> Privacy:
    """Return what a private release states by default."""
    return terms(spec.width, epsilon=EPSILON, delta=DELTA)


def made_counts(spec: Spec, private: bool, seed: int = 0) -> NDArray[np.int64]:
    """Return counts int64 [m, b] of `IMAGES` images, each feature with a peak of its own."""
    rng = np.random.default_rng(seed)
    m, b = spec.width, spec.bins
    counts = peaks(rng, m, b, IMAGES, b / 50)
    if private:
        counts = counts + np.rint(rng.normal(0, default_terms(spec).sigma or 0, (m, b)))
    return counts.astype(np.int64)


class MadeGrid(Grid):
    """Nodes that answer when they are looked for, so that no answer waits in memory.

    Parameters
    ----------
    count : int
        Number of sites.
    spec, private
        As of `MadeSite`; all sites have the same counts.
    """

    def __init__(self, count: int, spec: Spec, private: bool) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self._count, self._spec, self._private = count, spec, private
        self._counts = made_counts(spec, private)
        self._asked: dict[str, Message] = {}
        self._ids = itertools.count(1)
        self._run = Run.create_empty(1)
        self.seconds = 0.0
        """Time in which the sites signed."""

    def set_run(self, run: Run) -> None:
        """Set Flower's run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return range(1, self._count + 1)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all nodes."""
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; they are answered in `pull_messages`."""
        ids = []
        for message in messages:
            number = f"m{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = number
            self._asked[number] = message
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer messages."""
        started = time.perf_counter()
        asked = [self._asked.pop(number) for number in message_ids]
        replies = [Message(self._answer(message), reply_to=message) for message in asked]
        self.seconds += time.perf_counter() - started
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive at once."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> RecordDict:
        site = MadeSite(message.metadata.dst_node_id, self._spec, self._counts, self._private)
        if message.metadata.message_type == "query.hello":
            return to_hello(site.name, public_pem(site.key))
        if message.metadata.message_type == "query.checkpoint":
            checkpoint = json.loads(from_checkpoint(message.content).checkpoint)
            return to_kept(json.loads(b64decode(checkpoint["payload"]))["size"])
        run, nonce = (get(message.content, name, str) for name in ("run", "nonce"))
        return site.answer(run, nonce)
