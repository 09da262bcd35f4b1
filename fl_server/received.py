"""Verified releases on the coordinator's disk, so that a run begun again need not ask for them.

They lie where the run folder has them anyway; ``state/received.json`` adds what only a verification
needs: the nonce, when the answer came, and from which node.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ValidationError

from protocol.errors import FedprintError
from protocol.files import atomic_json, atomic_write, sha256_hex
from protocol.runfiles import LeftOut
from protocol.spec import Spec
from protocol.statement import utc_now
from protocol.trust import TrustStore
from protocol.verify import VerifiedRelease, verify_release

log = logging.getLogger("fedprint")

RECEIVED = "state/received.json"


@dataclass(frozen=True)
class Release:
    """One site's verified release, with the exact bytes that were signed."""

    node_id: int
    verified: VerifiedRelease
    payload: bytes
    envelope: bytes
    binding: bytes

    @property
    def digests(self) -> dict[str, str]:
        """What the log says of it: the key that signed, and the SHA-256 of its three files."""
        return {
            "key": self.verified.key_id,
            "payload": sha256_hex(self.payload),
            "release": sha256_hex(self.envelope),
            "binding": sha256_hex(self.binding),
        }


class _Answer(BaseModel):
    node: int
    nonce: str
    time: AwareDatetime


class _Answers(BaseModel):
    answers: dict[str, _Answer] = {}
    left_out: list[LeftOut] = []
    complete: bool = False


class Received:
    """What a run has received so far.

    Parameters
    ----------
    folder : Path
        The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = _read(folder / RECEIVED)

    @property
    def sites(self) -> set[str]:
        """Sites whose releases were verified."""
        return set(self._known.answers)

    @property
    def complete(self) -> bool:
        """Whether the exchange had ended when the run was interrupted."""
        return self._known.complete

    @property
    def left_out(self) -> list[LeftOut]:
        """Who was left out when the exchange ended."""
        return list(self._known.left_out)

    def recall(self, store: TrustStore, spec: Spec, run: str) -> dict[str, Release]:
        """Verify again what lies there; a site revoked meanwhile is asked again, and refused.

        The binding must have been fresh when it came, the key must be good now.
        """
        releases = {}
        for site, answer in sorted(self._known.answers.items()):
            try:
                payload, envelope, binding = (path.read_bytes() for path in self._paths(site))
                verified = verify_release(
                    site=site,
                    payload=payload,
                    release=envelope,
                    binding=binding,
                    store=store,
                    spec=spec,
                    run=run,
                    nonce=answer.nonce,
                    now=answer.time,
                )
                store.key_for(verified.key_id, site, utc_now())
            except (OSError, FedprintError) as error:
                log.warning("release of %s is not used again: %s", site, error)
                continue
            releases[site] = Release(answer.node, verified, payload, envelope, binding)
        return releases

    def keep(self, site: str, release: Release, nonce: str) -> None:
        """Write a verified release; what names it is written last."""
        contents = (release.payload, release.envelope, release.binding)
        for path, content in zip(self._paths(site), contents, strict=True):
            atomic_write(path, content)
        self._known.answers[site] = _Answer(node=release.node_id, nonce=nonce, time=utc_now())
        self._write()

    def close(self, left_out: list[LeftOut]) -> None:
        """Say that the exchange has ended."""
        self._known.left_out, self._known.complete = list(left_out), True
        self._write()

    def _paths(self, site: str) -> list[Path]:
        folder = self._folder / "fingerprints"
        return [folder / f"{site}.{end}" for end in RELEASE_FILES]

    def _write(self) -> None:
        atomic_json(self._folder / RECEIVED, self._known)


def _read(path: Path) -> _Answers:
    """Read what was received; a damaged file counts as absent, and the sites are asked again."""
    try:
        return _Answers.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return _Answers()


RELEASE_FILES = ("safetensors", "dsse.json", "binding.dsse.json")
"""Endings of the three files of a site's release, in the order payload, release, binding."""
