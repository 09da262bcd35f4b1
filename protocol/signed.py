"""A signed fingerprint as Python programs hold it: what a site made, or what a folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.descriptors import KINDS, Kind
from protocol.errors import ConfigError
from protocol.files import sha256_hex
from protocol.notebook import Shown, Table
from protocol.spec import Spec
from protocol.statement import Release
from protocol.taskcard import TaskCard
from protocol.verify import VerifiedRelease, local_spec, read_release_file, verify_own

ENDINGS = ("safetensors", "dsse.json")
"""Of the two files of a release or a descriptor."""


@dataclass(frozen=True, eq=False, repr=False)
class SignedFingerprint(Shown):
    """A site's fingerprint with its signature; the bytes are those of its two files.

    What it says of itself is read from what was signed, and verified first: a changed byte is an
    error when it is asked anything.

    Parameters
    ----------
    payload : bytes
        The safetensors file.
    envelope : bytes
        The signed statement over it.
    spec : Spec
        What it was made under.
    descriptors : mapping
        What was released besides, by kind: the two files' bytes of each.
    """

    payload: bytes
    envelope: bytes
    spec: Spec
    descriptors: Mapping[Kind, tuple[bytes, bytes]] = field(default_factory=dict)

    @cached_property
    def verified(self) -> VerifiedRelease:
        """What was signed, verified with the key that the signature brings along.

        Raises
        ------
        VerificationError
            If the bytes are not those that were signed, or not of this spec.
        """
        return verify_own(self.payload, self.envelope, self.spec)

    @property
    def terms(self) -> Release:
        """All that the release says of itself: images, patients, privacy, policy, validity."""
        return self.verified.statement.predicate

    @property
    def name(self) -> str:
        """The site."""
        return self.terms.site

    @property
    def card(self) -> TaskCard:
        """The public description of the task."""
        return self.terms.task_card

    @property
    def counts(self) -> NDArray[np.integer[Any]]:
        """The histograms, integers ``[m, b]``; with noise where the release is private."""
        return self.verified.fingerprint.counts

    @property
    def private(self) -> bool:
        """Whether the counts are noised."""
        return self.terms.privacy.mode == "private"

    @property
    def id(self) -> str:
        """SHA-256 of the payload, by which a knowledge pool knows it."""
        return sha256_hex(self.payload)

    def table(self) -> Table:
        """Return what it says of itself, one fact a row."""
        terms, privacy = self.terms, self.terms.privacy
        (width, bins), held = self.counts.shape, terms.held or terms.images
        rows = [
            ("task", terms.task_card.name),
            ("classes", ", ".join(each.name for each in terms.task_card.classes)),
            ("images", f"{terms.images} of {held}" if held != terms.images else f"{held}"),
            ("patients", "not known" if terms.patients is None else f"{terms.patients}"),
            ("spec", f"{self.spec.name}, {width} features x {bins} bins"),
            (
                "privacy",
                f"epsilon {privacy.epsilon:.3g} at delta {privacy.delta:g}, noise of "
                f"{privacy.sigma:.3g} counts"
                if self.private
                else "none: counts as they are",
            ),
            ("signed", f"key {self.verified.key_id[:12]}, until {terms.expires:%Y-%m-%d}"),
            *((kind, f"{len(payload)} bytes") for kind, (payload, _) in self.descriptors.items()),
        ]
        return Table(f"fingerprint of {self.name}", ("", ""), [list(row) for row in rows])


def open_fingerprint(path: Path | str) -> SignedFingerprint:
    """Read and verify a fingerprint that lies in a folder, with its descriptors.

    Parameters
    ----------
    path : Path or str
        The signed statement, ``NAME.dsse.json``. NAME.safetensors lies beside it, spec.json there
        or above.

    Raises
    ------
    ConfigError
        If it is none, or a file is missing.
    VerificationError
        If it is not what was signed. Descriptors are verified by what compares them.
    """
    path = Path(path)
    name = path.name.removesuffix(f".{ENDINGS[1]}")
    if name == path.name:
        raise ConfigError(f"{path} is no signed fingerprint: give NAME.{ENDINGS[1]}")
    payload, envelope = _both(path.with_name(name))
    spec = local_spec(path.parent).require_ready()
    verify_own(payload, envelope, spec, site=name)
    places = {kind: path.parent / "descriptors" / f"{name}.{kind}" for kind in KINDS}
    descriptors = {
        kind: _both(place)
        for kind, place in places.items()
        if place.with_name(f"{place.name}.{ENDINGS[1]}").exists()
    }
    return SignedFingerprint(payload, envelope, spec, descriptors)


def _both(place: Path) -> tuple[bytes, bytes]:
    """Return the two files that lie in a place, named without their endings."""
    payload, envelope = (
        read_release_file(place.with_name(f"{place.name}.{ending}")) for ending in ENDINGS
    )
    return payload, envelope
