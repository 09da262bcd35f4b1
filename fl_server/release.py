"""A site's verified release, in memory or on the disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from protocol.errors import DigestMismatch
from protocol.files import sha256_hex
from protocol.spec import Spec
from protocol.statement import ReleaseStatement
from protocol.verify import VerifiedRelease, check_content

ENDINGS = {"payload": ".safetensors", "release": ".dsse.json", "binding": ".binding.dsse.json"}
"""Of a release's files in `fingerprints`, by the name under which the log has their digests."""


@dataclass(frozen=True)
class Release:
    """One site's verified release, with the exact bytes that were signed."""

    node_id: int
    verified: VerifiedRelease
    payload: bytes
    envelope: bytes
    binding: bytes

    @property
    def statement(self) -> ReleaseStatement:
        """All that was signed."""
        return self.verified.statement

    @property
    def digests(self) -> dict[str, str]:
        """What the log says of it: the key that signed, and the SHA-256 of its three files."""
        return {
            "key": self.verified.key_id,
            "payload": self.statement.subject[0].digest.sha256,  # verified to be the payload's
            "release": sha256_hex(self.envelope),
            "binding": sha256_hex(self.binding),
        }

    def at(self, node: int) -> Release:
        """Return the same release of a site that answers from another node now."""
        return replace(self, node_id=node)


class StoredRelease(Release):
    """A verified release that lies on the disk.

    What was signed is held, as text; the rest is read when asked for, and must still be what was
    verified.

    Parameters
    ----------
    release : Release
        What was verified.
    place : str
        Path of its files, without their endings.
    spec : Spec
        What it was verified against.
    """

    _statement: bytes
    _digests: dict[str, str]
    _place: str
    _spec: Spec

    def __init__(self, release: Release, place: str, spec: Spec) -> None:
        held = {
            "node_id": release.node_id,
            "_statement": release.statement.model_dump_json().encode(),
            "_digests": release.digests,
            "_place": place,
            "_spec": spec,
        }
        self.__dict__.update(held)  # the class it comes from is frozen

    @property
    def statement(self) -> ReleaseStatement:
        """All that was signed."""
        return ReleaseStatement.model_validate_json(self._statement)

    @property
    def digests(self) -> dict[str, str]:
        """As of any release."""
        return dict(self._digests)

    @property
    def payload(self) -> bytes:
        """The safetensors bytes."""
        return self._read("payload")

    @property
    def envelope(self) -> bytes:
        """The release envelope."""
        return self._read("release")

    @property
    def binding(self) -> bytes:
        """The session binding."""
        return self._read("binding")

    @property
    def verified(self) -> VerifiedRelease:
        """The verified release with its fingerprint."""
        payload = _file(self._place, "payload").read_bytes()
        key = self._digests["key"]
        return check_content(self.statement, payload, self._spec, key, enrolled=True)

    def at(self, node: int) -> StoredRelease:
        """As of any release."""
        moved = object.__new__(StoredRelease)
        moved.__dict__.update(self.__dict__ | {"node_id": node})
        return moved

    def _read(self, part: str) -> bytes:
        path = _file(self._place, part)
        content = path.read_bytes()
        if sha256_hex(content) != self._digests[part]:
            raise DigestMismatch(f"{path} is not what was verified: begin the run again")
        return content


def _file(place: str, part: str) -> Path:
    return Path(place + ENDINGS[part])
