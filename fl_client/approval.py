"""A person's part at the gate: to look at what would leave, to approve exactly that, or to deny."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from fl_client.gate import Gate
from fl_client.history import History, make_entry
from fl_client.ledger import Ledger
from fl_client.making import Made
from fl_client.policy import load_policy
from fl_client.release import describe
from fl_client.releases import Releases
from fl_client.requests import Preview, Request, Requests, changed_since_preview
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

    def terms(self, request: Request) -> Release:
        """Return what a release made now would say."""
        offer = self.gate.maker.offer(request.spec, request.terms)
        privacy = offer.stated(Ledger(self.gate.site.state))
        return describe(self.gate.site, request.spec, self.gate.policy, privacy)

    def preview(self, request: Request) -> bytes:
        """Compute a fingerprint, keep it for approval, and return its safetensors file.

        Noise is drawn here, and paid for: what is approved are exactly the bytes that were looked
        at. Looking again, approving and being asked again show the same and cost nothing more.

        Raises
        ------
        PolicyError
            If the policy forbids it whoever approves, or the privacy budget is used up.
        """
        spec = request.spec
        self.gate.check(spec, request.terms)
        with turn(self.gate.site.state):
            made = self.gate.maker.make(spec, request.terms, request.run)
            shown = Preview(
                sha256=sha256_hex(made.payload),
                data=made.data,
                terms=self.terms(request),
                recipient=self.gate.bound_to(spec),
            )
            self.requests.keep_preview(spec, made.payload, shown)
        return made.payload

    def previewed(self, request: Request) -> bytes:
        """Return the bytes that the last preview showed; without one, make it now.

        Raises
        ------
        PolicyError, DataError
            If the policy forbids it, or the data are no longer those of the preview.
        """
        self.gate.check(request.spec, request.terms)
        shown = self._shown(request)
        return self.preview(request) if shown is None else shown.payload

    def _shown(self, request: Request) -> Made | None:
        """Return what the last preview showed, if it is still what would leave."""
        spec, site = request.spec, self.gate.site
        recipient, terms = self.gate.bound_to(spec), self.terms(request)
        found = self.requests.previewed(site, spec, terms, recipient)
        if found is None:
            return None
        offer = self.gate.maker.offer(spec, request.terms)
        if offer.private and (offer.draw is None or offer.draw.payload != found[0]):
            raise changed_since_preview(site)
        return Made(*found, offer)

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
        made = self._shown(request)
        if made is None or made.payload != payload:
            raise DataError("another preview was made meanwhile: look at it before you approve")
        kept = self.gate.sign(spec, made, approved=True)
        entry = make_entry(
            site, spec, policy, "approved", run=request.run, payload=payload, terms=kept.terms
        )
        self.history.add(entry)
        self.gate.keep(spec, kept, made)
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
