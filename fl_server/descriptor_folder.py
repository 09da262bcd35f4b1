"""The descriptors of a folder: two files each, beside the fingerprints that they go with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from protocol.descriptor_statement import (
    ENVELOPE_LIMIT,
    VerifiedDescriptor,
    largest,
    verify_descriptor,
)
from protocol.descriptors import KINDS, Kind
from protocol.envelope import own_key
from protocol.errors import ConfigError, TooLarge, UnknownKey
from protocol.keys import SSlibKey
from protocol.signed import ENDINGS as ENDINGS
from protocol.spec import Spec
from protocol.verify import VerifiedRelease

FOLDER = "descriptors"


def file_name(site: str, kind: Kind, ending: str) -> str:
    """Return the name of one of a descriptor's files."""
    return f"{site}.{kind}.{ending}"


def named(folder: Path) -> list[tuple[str, Kind]]:
    """Return site and kind of every descriptor that a folder names, sorted.

    Raises
    ------
    ConfigError
        When a file there is none of a descriptor.
    """
    found = set()
    for path in (folder / FOLDER).glob("*"):
        ending = next((e for e in ENDINGS if path.name.endswith(f".{e}")), "")
        site, _, said = path.name.removesuffix(f".{ending}").rpartition(".")
        kind = next((k for k in KINDS if k == said), None)
        if not ending or not site or kind is None:
            raise ConfigError(f"{path} is no file of a descriptor: take it out of {path.parent}")
        found.add((site, kind))
    return sorted(found)


def read_descriptors(
    folder: Path, releases: Mapping[str, VerifiedRelease], spec: Spec
) -> dict[str, dict[Kind, VerifiedDescriptor]]:
    """Read and verify every descriptor of a folder, by site and kind.

    Parameters
    ----------
    folder : Path
        A run folder, or a folder of fingerprints.
    releases : mapping
        The verified fingerprints of the folder, by site.
    spec : Spec
        Theirs.

    Raises
    ------
    ConfigError
        When a file is missing, or goes with no fingerprint.
    VerificationError
        When a descriptor is not in order, or signed with another key than its fingerprint.
    """
    found: dict[str, dict[Kind, VerifiedDescriptor]] = {}
    for site, kind in named(folder):
        if site not in releases:
            raise ConfigError(
                f"{folder} holds {kind} of {site}, and no fingerprint that they go with: bring it, "
                f"or delete {file_name(site, kind, '*')} from {FOLDER}"
            )
        found.setdefault(site, {})[kind] = _read(folder, site, kind, releases[site], spec)
    return found


def open_descriptor(
    site: str, kind: Kind, payload: bytes, envelope: bytes, release: VerifiedRelease, spec: Spec
) -> VerifiedDescriptor:
    """Verify a descriptor that is signed with the key of its site's fingerprint.

    Raises
    ------
    VerificationError
        When it is not in order, or signed with another key.
    """
    key = own_key(envelope)

    def find(_key_id: str) -> SSlibKey:
        if key.keyid != release.key_id:
            raise UnknownKey(f"the {kind} of {site} are signed with another key than its release")
        return key

    return verify_descriptor(payload, envelope, kind, release, spec, find)


def _read(
    folder: Path, site: str, kind: Kind, release: VerifiedRelease, spec: Spec
) -> VerifiedDescriptor:
    limits = (largest(kind, spec, release), ENVELOPE_LIMIT)
    payload, envelope = (
        read_limited(folder / FOLDER / file_name(site, kind, ending), limit)
        for ending, limit in zip(ENDINGS, limits, strict=True)
    )
    return open_descriptor(site, kind, payload, envelope, release, spec)


def read_limited(path: Path, limit: int) -> bytes:
    """Return a file of at most so many bytes.

    Raises
    ------
    ConfigError, TooLarge
    """
    try:
        if path.stat().st_size > limit:
            raise TooLarge(f"{path} has more than the limit of {limit} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: make the descriptor again") from None
