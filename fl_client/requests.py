"""What was asked of the site and waits for a person, with the preview that the person looked at."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fl_client.data_digest import known_digest
from fl_client.release import same_terms
from fl_client.site import Site
from protocol.errors import DataError, PolicyError
from protocol.files import atomic_json, atomic_write, sha256_hex
from protocol.privacy import AskedTerms
from protocol.spec import Spec
from protocol.statement import Release, utc_now

DENIED = "denied"
"""Reason code of a request that a person at the site turned down."""

MOST = 100
"""Requests that wait at most: under a policy that allows every spec anybody could ask for more."""

_ASKED, _PREVIEW, _PAYLOAD = "request.json", "preview.json", "preview.safetensors"


class Request(BaseModel):
    """A request that waits, or that was denied.

    Parameters
    ----------
    spec : Spec
        In full, as it came.
    run : str
        The run that asked last.
    first_asked, last_asked : datetime
        When it was asked for.
    times : int
        How often; 0 when a person looks at it before anybody has asked.
    denied : datetime or None
        When a person at the site turned it down.
    terms : AskedTerms
        What was asked of it last.
    """

    model_config = ConfigDict(frozen=True)

    spec: Spec
    run: str = ""
    first_asked: datetime
    last_asked: datetime
    times: int = 0
    denied: datetime | None = None
    terms: AskedTerms = AskedTerms()


class Preview(BaseModel):
    """What a preview showed: these bytes, of these data, under these terms, for this recipient."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    data: str
    terms: Release
    recipient: str


class Requests:
    """The requests of a site, one folder a spec, below its state folder."""

    def __init__(self, state: Path) -> None:
        self.root = state / "requests"

    def folder(self, spec: Spec) -> Path:
        """Return where the request for a spec is kept."""
        return self.root / spec.digest[:32]

    def note(self, spec: Spec, run: str, terms: AskedTerms | None = None) -> Request:
        """Write down that a run asks for a spec, and under which terms where it says so.

        Raises
        ------
        PolicyError
            When too many other requests wait.
        """
        now, before = utc_now(), self.find(spec)
        if before is None:
            if len(self.all()) >= MOST:
                raise PolicyError(
                    f"{MOST} requests wait for approval already: approve or deny some first",
                    "too-many-requests",
                )
            before = Request(spec=spec, first_asked=now, last_asked=now)
        changes = {
            "run": run[:200],
            "last_asked": now,
            "times": before.times + 1,
            "terms": terms or before.terms,
        }
        return self._write(before.model_copy(update=changes))

    def find(self, spec: Spec) -> Request | None:
        """Return the request for a spec; a damaged one counts as absent."""
        return _read(self.folder(spec) / _ASKED)

    def all(self) -> list[Request]:
        """Return all requests, the oldest first."""
        found = [_read(path) for path in self.root.glob(f"*/{_ASKED}")]
        return sorted((r for r in found if r is not None), key=lambda r: r.first_asked)

    def deny(self, spec: Spec) -> Request:
        """Turn a request down, until it is approved."""
        now = utc_now()
        request = self.find(spec) or Request(spec=spec, first_asked=now, last_asked=now)
        return self._write(request.model_copy(update={"denied": now}))

    def drop(self, spec: Spec) -> None:
        """Forget a request and its preview."""
        if self.folder(spec).exists():
            shutil.rmtree(self.folder(spec))

    def require_not_denied(self, spec: Spec) -> None:
        """Raise when a person turned this spec down.

        Raises
        ------
        PolicyError
            With reason ``denied``; also when a request is there that cannot be read.
        """
        path = self.folder(spec) / _ASKED
        request = self.find(spec)
        if request is not None and request.denied is not None:
            raise PolicyError(f"a person at the site denied spec {spec.name}", DENIED)
        if request is None and path.exists():
            raise PolicyError(f"the request for spec {spec.name} at the site is damaged", DENIED)

    def keep_preview(self, spec: Spec, payload: bytes, preview: Preview) -> None:
        """Keep what a person is shown, so that exactly this can be approved."""
        folder = self.folder(spec)
        atomic_write(folder / _PAYLOAD, payload, mode=0o600)
        atomic_json(folder / _PREVIEW, preview)

    def previewed(
        self, site: Site, spec: Spec, terms: Release, recipient: str
    ) -> tuple[bytes, str] | None:
        """Return what the last preview showed, or None when nobody has looked yet.

        Returns
        -------
        payload : bytes
            The safetensors file.
        data : str
            Digest of the images that it is of.

        Raises
        ------
        DataError
            When images, card, policy, recipient or the bytes are others than those looked at.
        """
        folder = self.folder(spec)
        try:
            preview = Preview.model_validate_json((folder / _PREVIEW).read_bytes())
            payload = (folder / _PAYLOAD).read_bytes()
        except (FileNotFoundError, ValidationError):
            return None
        same = preview.sha256 == sha256_hex(payload) and same_terms(preview.terms, terms)
        if not same or (preview.data, preview.recipient) != (known_digest(site), recipient):
            raise changed_since_preview(site)
        return payload, preview.data

    def _write(self, request: Request) -> Request:
        atomic_json(self.folder(request.spec) / _ASKED, request)
        return request


def changed_since_preview(site: Site) -> DataError:
    """Return the error about an approval of what is no longer what would leave."""
    return DataError(
        f"the images, card, policy or coordinator of site {site.name} changed since the "
        "preview: look at it again with fedprint site preview"
    )


def _read(path: Path) -> Request | None:
    try:
        return Request.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
