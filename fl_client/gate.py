"""The site's gate: every request passes it, and every decision is recorded at the site.

The order is fixed: the policy, a person's denial, what was let go before, a person's approval, and
only then images, backbone and signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fl_client.data_digest import known_digest
from fl_client.history import History, make_entry, must_be_written, reason_of
from fl_client.policy import AWAITING, Policy, gate
from fl_client.release import describe, make_binding, sign_release
from fl_client.releases import RENEWAL, Kept, Releases
from fl_client.requests import Requests
from fl_client.site import Site
from fl_client.turns import turn
from protocol.errors import DataError, FedprintError, PolicyError
from protocol.files import sha256_hex
from protocol.fingerprint import counts_to_bytes
from protocol.keys import Signer
from protocol.records import ReleaseRequest
from protocol.spec import Spec
from protocol.statement import utc_now


@dataclass(frozen=True)
class Gate:
    """What stands between a site and whoever asks.

    Parameters
    ----------
    site : Site
        The site; releases, requests and history lie in its state folder.
    policy : Policy
        What it lets go.
    find_signer : callable
        Returns the site's signer; asked only when something is signed or a signature looked at.
    find_recipient : callable
        Returns whom releases go to; asked only where a person approves, who saw it.
    device : str or None
        Where to compute.
    keeps_features : bool
        Whether the features are kept too, for training.
    keeps : bool
        Whether anything may be written at the site; without it there is no history, nothing is
        sent again, and nothing but the policy can approve.
    """

    site: Site
    policy: Policy
    find_signer: Callable[[], Signer]
    find_recipient: Callable[[], str] = str
    device: str | None = None
    keeps_features: bool = False
    keeps: bool = True

    def answer(self, request: ReleaseRequest) -> tuple[bytes, bytes, bytes]:
        """Let the site's fingerprint go, or refuse it.

        Returns
        -------
        payload, release, binding : bytes
            The safetensors file and the two envelopes.

        Raises
        ------
        PolicyError
            If the site's policy or a person does not permit it; no image is opened then.
        """
        spec, run = request.spec, request.run
        with self._refusals_recorded(spec, run):
            gate(self.policy, spec, self.site, approved=True)
            with turn(self.site.state) if self.keeps else nullcontext():
                payload, release = self._let_go(spec, run)
                binding = make_binding(self.site.name, release, run, request.nonce, self._signer)
                self._record(spec, self._departure(payload), run, payload=payload)
        return payload, release, binding

    def admit(self, spec: Spec, run: str, arm: str) -> None:
        """Let a training order pass, or refuse it; asked at every order, recorded once an arm.

        Raises
        ------
        PolicyError
            As in `answer`, or with reason ``training-not-allowed``.
        """
        with self._refusals_recorded(spec, run, arm):
            gate(self.policy, spec, self.site, approved=True)
            if not self.policy.training:
                raise PolicyError(
                    f"{self.policy.name}: site {self.site.name} gives fingerprints only",
                    "training-not-allowed",
                )
            self._require_not_denied(spec)
            if self.policy.waits(spec) and not self._approved(spec):
                self._wait(spec, run)
        self._record(spec, "training", run, arm)

    def _departure(self, payload: bytes) -> str:
        """Tell whether bytes leave for the first time, as far as the history says."""
        before = self.keeps and History(self.site.state).has_left(sha256_hex(payload))
        return "released-again" if before else "released"

    def _let_go(self, spec: Spec, run: str) -> tuple[bytes, bytes]:
        """Return the payload and the release of what the policy does not forbid."""
        self._require_not_denied(spec)
        kept = self._kept(spec)
        waits = self.policy.waits(spec)
        if kept and kept.holds(utc_now(), *(() if waits else (RENEWAL,))):
            return kept.payload, kept.envelope
        if waits:
            self._wait(spec, run)
        if kept:  # the same bytes, signed anew
            payload, data = kept.payload, known_digest(self.site)
        else:
            payload, data = self.fingerprint(spec)
            self._require_not_denied(spec)  # computing takes its time, and a person may step in
        release = sign_release(self.site, payload, spec, self._signer, self.policy)
        if self.keeps:
            with must_be_written():
                Releases(self.site.state).keep(self.site, spec, payload, release, data)
        return payload, release

    def fingerprint(self, spec: Spec) -> tuple[bytes, str]:
        """Compute the fingerprint; return its safetensors file and the digest of the data.

        Raises
        ------
        DataError
            If an image cannot be read, or changes meanwhile.
        """
        if not self.keeps:
            return counts_to_bytes(_counts(self.site, spec, self.device)), ""
        from fl_client.features import cached_features

        before = known_digest(self.site)
        if self.keeps_features:
            _, counts = cached_features(self.site, spec, self.device)
        else:
            counts = _counts(self.site, spec, self.device)
        if known_digest(self.site) != before:
            raise DataError(f"images of site {self.site.name} changed while they were read: retry")
        return counts_to_bytes(counts), before

    def bound_to(self, spec: Spec) -> str:
        """Return the recipient that a kept release is bound to, where a person approves it."""
        return self.find_recipient() if self.policy.waits(spec) else ""

    @cached_property
    def _signer(self) -> Signer:
        return self.find_signer()

    def _kept(self, spec: Spec) -> Kept | None:
        if not self.keeps:
            return None
        terms, recipient = describe(self.site, spec, self.policy), self.bound_to(spec)
        return Releases(self.site.state).find(self.site, spec, terms, self._signer, recipient)

    def _approved(self, spec: Spec) -> bool:
        kept = self._kept(spec)
        return kept is not None and kept.holds(utc_now())

    def _require_not_denied(self, spec: Spec) -> None:
        if self.keeps:
            Requests(self.site.state).require_not_denied(spec)

    def _wait(self, spec: Spec, run: str) -> None:
        """Write the request down for a person at the site, and refuse it for now."""
        if self.keeps:
            with must_be_written():
                Requests(self.site.state).note(spec, run)
        gate(self.policy, spec, self.site)

    @contextmanager
    def _refusals_recorded(self, spec: Spec, run: str, arm: str = "") -> Iterator[None]:
        try:
            yield
        except FedprintError as error:
            awaiting = reason_of(error) == AWAITING
            self._record(spec, AWAITING if awaiting else "refused", run, arm, error=error)
            raise

    def _record(
        self,
        spec: Spec,
        decision: str,
        run: str,
        arm: str = "",
        *,
        error: Exception | None = None,
        payload: bytes = b"",
    ) -> None:
        if not self.keeps:
            return
        history = History(self.site.state)
        entry = make_entry(
            self.site, spec, self.policy, decision, run=run, arm=arm, error=error, payload=payload
        )
        if arm or decision == AWAITING:  # asked again round by round, or until somebody approves
            history.add_once(entry)
        else:
            history.add(entry)


def _counts(site: Site, spec: Spec, device: str | None) -> NDArray[np.int64]:
    from fl_client.extract import extract

    counts = extract(site.images, spec.require_ready(), device=device).counts
    assert counts is not None
    return counts
