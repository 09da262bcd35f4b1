"""The gate for descriptors: which kinds may leave, and what is signed when one does.

Nobody looks at a descriptor before it goes, so where a person approves each fingerprint none goes
at all. Raw features go only where all sites are one machine, whatever a policy says.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl_client.descriptor_making import Described, describe_plain, describe_private
from fl_client.gate import Gate
from fl_client.history import reason_of
from fl_client.offer import is_private
from fl_client.policy import Policy, gate
from fl_client.site import Site
from fl_client.turns import turn
from protocol.descriptor_records import DescriptorsReply, DescriptorsRequest, Sent
from protocol.descriptor_statement import DescriptorRelease, descriptor_statement
from protocol.descriptors import Kind
from protocol.envelope import sign
from protocol.errors import FedprintError, PolicyError
from protocol.files import sha256_hex
from protocol.keys import Signer
from protocol.privacy import AskedTerms
from protocol.spec import Spec
from protocol.statement import RELEASE_VALIDITY, utc_now
from protocol.taskcard import ONE_CLASS

NOT_ALLOWED = "descriptors-not-allowed"
LEAST_PATIENTS = 3
"""Of each class whose moments leave: mean and variance of two values are the two values."""


@dataclass(frozen=True)
class DescriptorGate:
    """What stands between a site's descriptors and whoever asks.

    Parameters
    ----------
    gate : Gate
        The site's gate for fingerprints: policy, key, history.
    simulated : bool
        Whether all sites are one machine.
    """

    gate: Gate
    simulated: bool = False

    def answer(self, asked: DescriptorsRequest) -> DescriptorsReply:
        """Let go what the policy lets go of what is asked; one refusal costs one kind."""
        reply = DescriptorsReply()
        for kind in asked.kinds:
            try:
                reply.sent[kind] = self._release(asked, kind)
            except FedprintError as error:
                reply.refused[kind] = reason_of(error), self._outside(error)
        return reply

    def _release(self, asked: DescriptorsRequest, kind: Kind) -> Sent:
        own, spec = self.gate, asked.spec
        with own.recorder.refusals(spec, asked.run, kind):
            may_leave(own.policy, kind, spec, own.site, asked.terms, simulated=self.simulated)
            self._fingerprint(spec)
            with turn(own.site.state):
                made = self._made(asked, kind)
            # computing takes its time: a person may step in, and images may change
            fingerprint = self._fingerprint(spec)
            envelope = sign_descriptor(
                own.site, kind, made, fingerprint, spec, own.policy, own.find_signer()
            )
            own.recorder.descriptor(spec, asked.run, kind, made)
        return Sent(made.payload, envelope)

    def _made(self, asked: DescriptorsRequest, kind: Kind) -> Described:
        own = self.gate
        if is_private(own.policy, asked.terms):
            return describe_private(
                own.site, asked.spec, own.policy, asked.terms, own.device, asked.run
            )
        return describe_plain(own.site, asked.spec, kind, own.device)

    def _fingerprint(self, spec: Spec) -> str:
        """Return the digest of the fingerprint that a descriptor goes with, if none denied it."""
        self.gate.require_not_denied(spec)
        kept = self.gate.kept(spec)
        if kept is None:
            raise PolicyError(
                f"{self.gate.policy.name}: site {self.gate.site.name} has released no fingerprint "
                f"by spec {spec.name} that descriptors could go with: ask for it first",
                "no-fingerprint",
            )
        return sha256_hex(kept.payload)

    def _outside(self, error: FedprintError) -> str:
        """Say outside only what names nothing of the site's files."""
        if self.simulated or isinstance(error, PolicyError):
            return str(error)
        return "the site could not make it: the site's own log says why"


def may_leave(
    policy: Policy, kind: Kind, spec: Spec, site: Site, asked: AskedTerms, *, simulated: bool
) -> None:
    """Let a kind of descriptor pass, or refuse it; no image is opened.

    Parameters
    ----------
    policy, spec, site
        As in `fl_client.policy.gate`, whose numbers of images and patients hold here too.
    kind : str
        What is asked for.
    asked : AskedTerms
        Under which terms fingerprints are asked for: descriptors protect as much, or stay.
    simulated : bool
        Whether all sites are one machine.

    Raises
    ------
    PolicyError
        With reason ``of-regions``, ``features-stay``, ``descriptors-not-allowed``,
        ``other-objective``, ``no-noise``, ``not-previewed``, ``small-class``, or one of the gate's.
    """
    private = is_private(policy, asked)
    refusals = (
        (
            spec.regions is not None,
            "of-regions",
            f"{kind} are of whole images, and spec {spec.name} counts regions: take another spec",
        ),
        (
            kind == "features" and not simulated,
            "features-stay",
            "raw features never leave a site: compare them in a simulation",
        ),
        (
            kind not in policy.descriptors,
            NOT_ALLOWED,
            f'{kind} of site {site.name} may not leave: descriptors = ["{kind}"] would permit it',
        ),
        (
            kind != "moments" and site.card.objective not in ONE_CLASS,
            "other-objective",
            f"{kind} of site {site.name} would need one class an image: its task is "
            f"{site.card.objective}",
        ),
        (
            private and kind != "moments",
            "no-noise",
            f"{kind} of site {site.name} stay, for they have no noise and its fingerprints have: "
            'a release = "plain" on both sides would permit them',
        ),
        (
            policy.waits(spec),
            "not-previewed",
            f"{kind} of site {site.name} stay, for a person looks at all that leaves and these "
            "have no preview: automatic = true would permit them",
        ),
        (
            kind == "class-moments" and _smallest_class(site) < LEAST_PATIENTS and not simulated,
            "small-class",
            f"class-moments of site {site.name} stay, for mean and variance of one or two patients "
            f"tell each one's features: leave classes of fewer than {LEAST_PATIENTS} out",
        ),
    )
    for refused, reason, message in refusals:
        if refused:
            raise PolicyError(f"{policy.name}: {message}", reason)
    gate(policy, spec, site, private=private, approved=True)


def _smallest_class(site: Site) -> int:
    return min(site.patients_by_class.values(), default=0)


def sign_descriptor(
    site: Site,
    kind: Kind,
    made: Described,
    fingerprint: str,
    spec: Spec,
    policy: Policy,
    signer: Signer,
) -> bytes:
    """Return the signed statement over exactly the bytes of a descriptor.

    `fingerprint` is the SHA-256 of the released fingerprint that it goes with.
    """
    now = utc_now()
    release = DescriptorRelease(
        site=site.name,
        spec_digest=spec.digest,
        spec_name=spec.name,
        kind=kind,
        images=made.images,
        fingerprint=fingerprint,
        contribution_cap=made.cap,
        privacy=made.privacy,
        policy_digest=policy.digest,
        issued=now,
        expires=now + RELEASE_VALIDITY,
    )
    return sign(descriptor_statement(made.payload, release), signer)
