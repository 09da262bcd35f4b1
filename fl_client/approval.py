"""A person's part at the gate: to look at what would leave, to approve exactly that, or to deny."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from fl_client.gate import Gate
from fl_client.history import History, make_entry
from fl_client.policy import gate as check
from fl_client.policy import load_policy
from fl_client.release import describe, sign_release
from fl_client.releases import Releases
from fl_client.requests import Preview, Request, Requests
from fl_client.site import read_site
from fl_client.site_keys import open_signer
from fl_client.site_settings import SiteSettings, load_site_settings
from fl_client.turns import turn
from protocol.errors import ConfigError, DataError
from protocol.files import sha256_hex
from protocol.keys import key_id
from protocol.names import printable
from protocol.spec import Spec, load_spec
from protocol.statement import Release, utc_now

_SHORTEST_DIGEST = 8


@dataclass(frozen=True)
class Desk:
    """What lies before the person: a deployed site and its gate."""

    settings: SiteSettings
    gate: Gate

    @property
    def requests(self) -> Requests:
        """The requests that wait."""
        return Requests(self.gate.site.state)

    @property
    def history(self) -> History:
        """The site's record."""
        return History(self.gate.site.state)

    @property
    def key_id(self) -> str:
        """Id of the key that signs; a key in hardware is not asked for it."""
        pem = self.settings.public_pem
        return key_id(pem) if pem else self.gate.find_signer().public_key.keyid

    def find(self, spec: str | None) -> Request:
        """Return the request that is meant: the only one that waits, or one by its spec.

        Parameters
        ----------
        spec : str or None
            Name, beginning of the digest, or JSON file of a spec. One that nobody asked for yet
            is looked up among the shipped ones.

        Raises
        ------
        ConfigError
            If none or several are meant.
        """
        if spec is None:
            found = [request for request in self.requests.all() if request.denied is None]
        else:
            found = [request for request in self.requests.all() if _means(request.spec, spec)]
        if len(found) > 1:
            which = ", ".join(f"{r.spec.name} ({r.spec.digest[:12]})" for r in found)
            raise ConfigError(
                f"several requests are there: {printable(which)}: name the digest with --spec"
            )
        if found:
            return found[0]
        if spec is None:
            self._say_if_denied()
            raise ConfigError(
                f"no request waits at site {self.gate.site.name}: name a spec with --spec to look "
                "at its fingerprint before anybody asks"
            )
        now = utc_now()
        return Request(spec=load_spec(spec), first_asked=now, last_asked=now)

    def _say_if_denied(self) -> None:
        """Name the request that was denied last: who wants it after all has to name it."""
        denied = [request for request in self.requests.all() if request.denied is not None]
        if denied:
            last = max(denied, key=lambda request: request.denied or request.first_asked)
            name, folder = printable(last.spec.name), shlex.quote(str(self.settings.folder))
            raise ConfigError(
                f"the request for {name} was denied; to let it go after all: "
                f"fedprint site approve {folder} --spec {shlex.quote(name)}"
            )

    def terms(self, spec: Spec) -> Release:
        """Return what a release made now would say."""
        return describe(self.gate.site, spec, self.gate.policy)

    def preview(self, spec: Spec) -> bytes:
        """Compute a fingerprint, keep it for approval, and return its safetensors file.

        Raises
        ------
        PolicyError
            If the policy forbids it whoever approves.
        """
        check(self.gate.policy, spec, self.gate.site, approved=True)
        payload, data = self.gate.fingerprint(spec)
        terms, recipient = self.terms(spec), self.gate.bound_to(spec)
        shown = Preview(sha256=sha256_hex(payload), data=data, terms=terms, recipient=recipient)
        self.requests.keep_preview(spec, payload, shown)
        return payload

    def previewed(self, spec: Spec) -> bytes:
        """Return the bytes that the last preview showed; without one, make it now.

        Raises
        ------
        PolicyError, DataError
            If the policy forbids it, or the data are no longer those of the preview.
        """
        check(self.gate.policy, spec, self.gate.site, approved=True)
        kept = self._shown(spec)
        return self.preview(spec) if kept is None else kept[0]

    def _shown(self, spec: Spec) -> tuple[bytes, str] | None:
        terms, recipient = self.terms(spec), self.gate.bound_to(spec)
        return self.requests.previewed(self.gate.site, spec, terms, recipient)

    def approve(self, request: Request, payload: bytes) -> None:
        """Sign the release of the bytes that were shown, and keep it: who asks next is sent it.

        Raises
        ------
        PolicyError, DataError
            If the policy forbids it, or these are no longer the bytes and data of the preview.
        """
        with turn(self.gate.site.state):
            self._approve(request, payload)

    def _approve(self, request: Request, payload: bytes) -> None:
        site, policy, spec = self.gate.site, self.gate.policy, request.spec
        kept = self._shown(spec)
        if kept is None or kept[0] != payload:
            raise DataError("another preview was made meanwhile: look at it before you approve")
        release = sign_release(site, payload, spec, self.gate.find_signer(), policy, approved=True)
        entry = make_entry(site, spec, policy, "approved", run=request.run, payload=payload)
        self.history.add(entry)
        recipient = self.gate.bound_to(spec)
        Releases(site.state).keep(site, spec, payload, release, kept[1], recipient)
        self.requests.drop(spec)

    def deny(self, request: Request) -> None:
        """Turn a request down; what was let go before is not sent again either."""
        site, spec = self.gate.site, request.spec
        self.requests.deny(spec)
        Releases(site.state).drop(spec)
        self.history.add(make_entry(site, spec, self.gate.policy, "denied", run=request.run))


def open_desk(folder: Path, device: str = "") -> Desk:
    """Return the desk of the site in a folder made by ``fedprint site init``.

    Raises
    ------
    ConfigError, DataError
        If its settings, policy or data cannot be used.
    """
    settings = load_site_settings(folder)
    site = read_site(settings.folder, state=settings.state)
    return Desk(
        settings,
        Gate(
            site=site,
            policy=load_policy(settings.policy),
            find_signer=lambda: open_signer(settings.signing_key, settings.public_pem),
            find_recipient=lambda: settings.recipient,
            device=device or settings.device or None,
            keeps_features=True,
        ),
    )


def _means(spec: Spec, wanted: str) -> bool:
    by_digest = len(wanted) >= _SHORTEST_DIGEST and spec.digest.startswith(wanted)
    return spec.name == wanted or by_digest
