"""Some dozen releases as they arrive at a coordinator, and what can be done with them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_server.bench.wire_sites import MadeSite, made_counts
from fl_server.received import Received, Release
from protocol.keys import public_pem
from protocol.spec import load_spec
from protocol.statement import new_nonce, utc_now
from protocol.trust import TrustStore
from protocol.verify import verify_release

PLAIN, PRIVATE = "lite0-100", "lite0-private"
RUN = "bench"


@dataclass(frozen=True)
class Sent:
    """One site's release as it arrives."""

    site: str
    payload: bytes
    release: bytes
    binding: bytes
    nonce: str

    @property
    def parts(self) -> tuple[bytes, bytes, bytes]:
        """All bytes that are verified and stored."""
        return self.payload, self.release, self.binding


class Case:
    """Some dozen releases of one spec, as they arrive together.

    Parameters
    ----------
    name : str
        The spec.
    count : int
        How many.
    """

    def __init__(self, name: str, count: int) -> None:
        self.spec, self.private = load_spec(name), name == PRIVATE
        self.counts = made_counts(self.spec, self.private)
        self.sites = [MadeSite(n, self.spec, self.counts, self.private) for n in range(count)]
        self.trusted = TrustStore.empty().enrol_all({s.name: public_pem(s.key) for s in self.sites})
        self.sent = [_sent(site) for site in self.sites]
        self._key = Ed25519PrivateKey.generate()
        self._public = self._key.public_key()
        first = self.sent[0]
        self._long = self._key.sign(b"".join(first.parts))
        self._short = self._key.sign(first.release)

    def verify(self) -> dict[str, Release]:
        """Verify all, as the coordinator does."""
        return {
            sent.site: Release(
                0,
                verify_release(
                    site=sent.site,
                    payload=sent.payload,
                    release=sent.release,
                    binding=sent.binding,
                    store=self.trusted,
                    spec=self.spec,
                    run=RUN,
                    nonce=sent.nonce,
                    now=utc_now(),
                ),
                *sent.parts,
            )
            for sent in self.sent
        }

    def verify_and_store(self, folder: Path) -> None:
        """Verify all and store them, as the coordinator does."""
        self.store(folder, self.verify())

    def store(self, folder: Path, verified: dict[str, Release]) -> None:
        """Store verified releases."""
        Received(folder).keep(verified, {s.site: s.nonce for s in self.sent}, self.spec)

    def write(self, folder: Path, durable: bool) -> None:
        """Write the same files as plainly as can be."""
        folder.mkdir(parents=True)
        for sent in self.sent:
            for number, part in enumerate(sent.parts):
                with (folder / f"{sent.site}.{number}").open("wb") as file:
                    file.write(part)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())

    def hash_and_verify(self) -> None:
        """Hash the bytes of all, and verify a signature over the same bytes."""
        message = b"".join(self.sent[0].parts)
        for sent in self.sent:
            _hash(sent)
            self._public.verify(self._long, message)

    def hash_and_verify_statement(self) -> None:
        """Hash the bytes of all, and verify a signature over the release envelope alone."""
        for sent in self.sent:
            _hash(sent)
            self._public.verify(self._short, self.sent[0].release)


def _sent(site: MadeSite) -> Sent:
    nonce, release = new_nonce(), site.release()
    return Sent(site.name, site.payload, release, site.binding(release, RUN, nonce), nonce)


def _hash(sent: Sent) -> None:
    for part in sent.parts:
        hashlib.sha256(part).digest()
