"""The site's gate: every request passes it, and every decision is recorded at the site.

The order is fixed: the policy, a person's denial, the ledger, what was let go before, a person's
approval, and only then images, backbone, noise and signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fl_client.data_digest import known_digest
from fl_client.history import NOT_RECORDED, must_be_written
from fl_client.ledger import Ledger
from fl_client.making import Made, Maker
from fl_client.offer import is_private
from fl_client.policy import Policy, gate
from fl_client.recorder import Recorder
from fl_client.release import describe, make_binding, sign_release
from fl_client.releases import RENEWAL, Kept, Releases
from fl_client.requests import Requests
from fl_client.site import Site
from fl_client.trial_limit import require_trial_left
from fl_client.turns import turn
from protocol.errors import PolicyError
from protocol.keys import Signer
from protocol.privacy import AskedTerms
from protocol.records import ReleaseRequest
from protocol.spec import Spec
from protocol.statement import utc_now


@dataclass(frozen=True)
class Gate:
    """What stands between a site and whoever asks.

    Parameters
    ----------
    site : Site
        The site; releases, requests, ledger and history lie in its state folder.
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
        sent again, nothing but the policy can approve, and nothing private is released.
    options : mapping
        More arguments of `fl_client.extract.extract`.
    """

    site: Site
    policy: Policy
    find_signer: Callable[[], Signer]
    find_recipient: Callable[[], str] = str
    device: str | None = None
    keeps_features: bool = False
    keeps: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

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
        with self._passing(spec, run, request.terms) as kept:
            name, nonce = self.site.name, request.nonce
            binding = make_binding(name, kept.envelope, run, nonce, self._signer)
        return kept.payload, kept.envelope, binding

    def release(self, spec: Spec, asked: AskedTerms, run: str = "") -> Kept:
        """Let the site's fingerprint go bound to no run, or refuse it, as in `answer`."""
        with self._passing(spec, run, asked) as kept:
            return kept

    def admit(self, spec: Spec, run: str, arm: str, *, planned: bool = False) -> None:
        """Let a training order pass, or refuse it; see `admitting`."""
        with self.admitting(spec, run, arm, planned=planned):
            pass

    @contextmanager
    def admitting(
        self, spec: Spec, run: str, arm: str, *, planned: bool = False, trial: str = ""
    ) -> Iterator[None]:
        """Let a training order pass, or refuse it; asked at every order, recorded once an arm.

        What is refused within is recorded, too.

        Parameters
        ----------
        spec, run, arm
            Of the order.
        planned : bool
            Whether it is a trial, or trains as a plan says.
        trial : str
            Digest of a trial's order; empty for what is none.

        Raises
        ------
        PolicyError
            As in `answer`, with reason ``training-not-allowed`` or ``plans-not-allowed``, or as
            in `fl_client.trial_limit.require_trial_left`.
        """
        with self.recorder.refusals(spec, run, arm):
            self._require_allowed(spec)
            if planned:
                self.require_plans()
            if trial:
                require_trial_left(self.site, run, trial)
            self._require_approved(spec, run)
            yield
        self.recorder.training(spec, run, arm, trial)

    @contextmanager
    def judging(self, spec: Spec, run: str, what: str) -> Iterator[None]:
        """Let a question for the site's model, or for scores of others' models, pass, or refuse it.

        What is refused within is recorded, too; what leaves, the caller has to record.

        Parameters
        ----------
        spec, run
            Of the order.
        what : str
            In place of an arm's name in the history.

        Raises
        ------
        PolicyError
            As in `admitting`.
        """
        with self.recorder.refusals(spec, run, what):
            self._require_allowed(spec)
            self._require_approved(spec, run)
            yield

    def require_scores(self) -> None:
        """Raise unless the site scores the models of others on its own data.

        Raises
        ------
        PolicyError
            With reason ``scores-not-allowed``.
        """
        if not self.policy.scores:
            raise PolicyError(
                f"{self.policy.name}: site {self.site.name} scores no models of others: scores = "
                "true would permit it",
                "scores-not-allowed",
            )

    def require_plans(self) -> None:
        """Raise unless the site takes part in trials and plans.

        Raises
        ------
        PolicyError
            With reason ``training-not-allowed`` or ``plans-not-allowed``.
        """
        self._require_training()
        if not self.policy.plans:
            raise PolicyError(
                f"{self.policy.name}: site {self.site.name} trains as the run itself has it, and "
                "takes no part in trials and plans",
                "plans-not-allowed",
            )

    def _require_allowed(self, spec: Spec) -> None:
        """Raise unless the policy, but for a person's approval, lets the site train with a spec."""
        private = self.policy.release == "private"
        gate(self.policy, spec, self.site, private=private, approved=True)
        self._require_training()

    def _require_approved(self, spec: Spec, run: str) -> None:
        """Raise where a person denied the spec, or has yet to approve it."""
        self.require_not_denied(spec)
        if self.policy.waits(spec):
            kept = self.kept(spec)
            if kept is None or not kept.holds(utc_now()):
                self._wait(spec, run)

    def _require_training(self) -> None:
        if not self.policy.training:
            raise PolicyError(
                f"{self.policy.name}: site {self.site.name} gives fingerprints only",
                "training-not-allowed",
            )

    def check(self, spec: Spec, asked: AskedTerms) -> None:
        """Ask the policy about a request, but for a person's approval.

        Raises
        ------
        PolicyError
            If it does not permit it, or a private release could not be written down.
        """
        private = is_private(self.policy, asked)
        gate(self.policy, spec, self.site, private=private, approved=True)
        if private and not self.keeps:
            raise PolicyError(
                f"{self.policy.name}: a private release is written into a ledger first, and site "
                f"{self.site.name} keeps nothing: name a state folder",
                NOT_RECORDED,
            )

    @property
    def maker(self) -> Maker:
        """What makes the fingerprints that this gate lets go."""
        how = (self.device, self.keeps, self.keeps_features, self.options)
        return Maker(self.site, self.policy, *how)

    def sign(self, spec: Spec, made: Made, *, approved: bool = False) -> Kept:
        """Return the signed release of what was made, with the state of the ledger of now.

        Raises
        ------
        PolicyError
            If the policy refuses, whatever was asked before.
        """
        site, policy, payload = self.site, self.policy, made.payload
        privacy = made.offer.stated(Ledger(site.state))
        terms = describe(site, spec, policy, privacy)
        envelope = sign_release(
            site, payload, spec, self._signer, policy, privacy=privacy, approved=approved
        )
        return Kept(payload, envelope, terms)

    def keep(self, spec: Spec, kept: Kept, made: Made) -> None:
        """Keep a signed release: who asks for the same again is sent it."""
        draw = made.offer.draw
        line, recipient = draw.line.digest if draw else "", self.bound_to(spec)
        with must_be_written():
            Releases(self.site.state).keep(
                self.site, spec, kept.payload, kept.envelope, made.data, recipient, line
            )

    def bound_to(self, spec: Spec) -> str:
        """Return the recipient that a kept release is bound to, where a person approves it."""
        return self.find_recipient() if self.policy.waits(spec) else ""

    @contextmanager
    def _passing(self, spec: Spec, run: str, asked: AskedTerms) -> Iterator[Kept]:
        """Yield what may leave, and write down that it does."""
        with self.recorder.refusals(spec, run):
            self.check(spec, asked)
            with turn(self.site.state) if self.keeps else nullcontext():
                kept = self._let_go(spec, run, asked)
                yield kept
                self.recorder.departure(spec, run, kept)

    def _let_go(self, spec: Spec, run: str, asked: AskedTerms) -> Kept:
        """Return the release of what the policy does not forbid: a kept one, or a new one."""
        self.require_not_denied(spec)
        offer, waits = self.maker.offer(spec, asked), self.policy.waits(spec)
        kept = self.kept(spec)
        if kept is not None and not offer.is_of(kept.payload, kept.terms.privacy):
            kept = None
        if kept and kept.holds(utc_now(), *(() if waits else (RENEWAL,))):
            return kept
        if waits:
            self._wait(spec, run, asked)
        if kept:  # the same bytes, signed anew
            made = Made(kept.payload, known_digest(self.site), offer)
        else:
            made = self.maker.make(spec, asked, run)
            self.require_not_denied(spec)  # computing takes its time, and a person may step in
        signed = self.sign(spec, made)
        if self.keeps:
            self.keep(spec, signed, made)
        return signed

    @property
    def recorder(self) -> Recorder:
        """What writes this gate's decisions down."""
        return Recorder(self.site, self.policy, self.keeps)

    @cached_property
    def _signer(self) -> Signer:
        return self.find_signer()

    def kept(self, spec: Spec) -> Kept | None:
        """Return the kept release of a spec, see `fl_client.releases.Releases.find`."""
        if not self.keeps:
            return None
        recipient = self.bound_to(spec)
        return Releases(self.site.state).find(self.site, spec, self.policy, self._signer, recipient)

    def require_not_denied(self, spec: Spec) -> None:
        """Raise unless no person at the site turned this spec down."""
        if self.keeps:
            Requests(self.site.state).require_not_denied(spec)

    def _wait(self, spec: Spec, run: str, asked: AskedTerms | None = None) -> None:
        """Write the request down for a person at the site, and refuse it for now."""
        if self.keeps:
            with must_be_written():
                Requests(self.site.state).note(spec, run, asked)
        private = is_private(self.policy, asked or AskedTerms())
        gate(self.policy, spec, self.site, private=private)
