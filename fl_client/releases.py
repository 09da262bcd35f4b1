"""The releases that a site let go: kept, and sent again as they are.

A release is signed once, for a year. Whoever asks for the same thing again gets the same bytes,
bound to the new run: nothing more leaves the site, and neither the backbone nor an image is opened.
Each spec has one folder of the form that ``fedprint fingerprint`` writes, so that a site can
look at what left, and beside it what stays at the site: the digest of the data, and for whom a
person approved it.
"""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from fl_client.data_digest import known_digest
from fl_client.policy import Policy
from fl_client.release import describe, same_terms
from fl_client.site import Site
from protocol.envelope import open_envelope, parse_statement
from protocol.errors import FedprintError, UnknownKey
from protocol.files import atomic_write, sha256_hex
from protocol.keys import Signer, SSlibKey
from protocol.spec import Spec
from protocol.statement import Release, ReleaseStatement

RENEWAL = timedelta(days=30)
"""A release with less time left than this is signed anew, unless a person has to approve it."""

_BOUND_TO = "kept.json"


class Kept(NamedTuple):
    """A release as it was let go: the safetensors bytes, the envelope, and what it says."""

    payload: bytes
    envelope: bytes
    terms: Release

    def holds(self, now: datetime, left: timedelta = timedelta(0)) -> bool:
        """Tell whether it is valid now and for so long."""
        return self.terms.issued <= now and now + left < self.terms.expires


class Releases:
    """The kept releases of a site, one a spec, below its state folder."""

    def __init__(self, state: Path) -> None:
        self.root = state / "releases"

    def folder(self, spec: Spec) -> Path:
        """Return where the release of a spec is kept."""
        return self.root / spec.digest[:32]

    def find(
        self, site: Site, spec: Spec, policy: Policy, signer: Signer, recipient: str = ""
    ) -> Kept | None:
        """Return the kept release that fits, expired or not, with whatever noise it has.

        Parameters
        ----------
        site : Site
            Whose release; its images must be those of the release.
        spec : Spec
            What it must have been made by.
        policy : Policy
            Under which it must have been released, with the site's name, card and numbers of now.
        signer : Signer
            Whose signature it must bear.
        recipient : str
            For whom it must have been approved; empty where no person approves.

        Returns
        -------
        Kept or None
            A damaged or unfitting one counts as absent.
        """
        folder = self.folder(spec)
        try:
            payload = (folder / f"{site.name}.safetensors").read_bytes()
            envelope = (folder / f"{site.name}.dsse.json").read_bytes()
            bound = json.loads((folder / _BOUND_TO).read_bytes())
            content, _ = open_envelope(envelope, lambda key_id: _own(key_id, signer))
            statement = parse_statement(content, ReleaseStatement)
        except (OSError, ValueError, RecursionError, FedprintError):
            return None
        said = statement.predicate
        fits = (
            statement.subject[0].digest.sha256 == sha256_hex(payload)
            and same_terms(said, describe(site, spec, policy, said.privacy))
            and isinstance(bound, dict)
            and {**bound, "line": ""} == _bound(envelope, known_digest(site), recipient)
        )
        return Kept(payload, envelope, said) if fits else None

    def keep(
        self,
        site: Site,
        spec: Spec,
        payload: bytes,
        envelope: bytes,
        data: str,
        recipient: str = "",
        line: str = "",
    ) -> None:
        """Keep a release, the digest of its data and its recipient, instead of an earlier one.

        `line` is the digest of the ledger's line that paid for the noise in it, if there is any.
        What ties the parts together is written last: half of a release counts as none.
        """
        folder, bound = self.folder(spec), _bound(envelope, data, recipient, line)
        self.drop(spec)
        atomic_write(folder / "spec.json", spec.model_dump_json() + "\n")
        atomic_write(folder / f"{site.name}.safetensors", payload, mode=0o600)
        atomic_write(folder / f"{site.name}.dsse.json", envelope, mode=0o600)
        atomic_write(folder / _BOUND_TO, json.dumps(bound), mode=0o600)

    def drop(self, spec: Spec) -> None:
        """Forget the release of a spec, if there is one."""
        if self.folder(spec).exists():
            shutil.rmtree(self.folder(spec))


def _bound(envelope: bytes, data: str, recipient: str, line: str = "") -> dict[str, str]:
    return {"release": sha256_hex(envelope), "data": data, "recipient": recipient, "line": line}


def _own(key_id: str, signer: Signer) -> SSlibKey:
    key = signer.public_key
    if key.keyid != key_id or not isinstance(key, SSlibKey):
        raise UnknownKey(f"signed with key {key_id[:12]}, not with the site's own")
    return key
