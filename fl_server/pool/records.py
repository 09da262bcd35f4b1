"""What enters a pool, verified from its bytes whichever way it came; nothing is believed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from protocol.envelope import is_canonical, open_envelope, own_key, parse_statement
from protocol.errors import ConfigError, MalformedEnvelope, SpecMismatch
from protocol.experiment import Experiment, parse_experiment
from protocol.files import sha256_hex
from protocol.fingerprint import LIMIT
from protocol.keys import SSlibKey, key_pem
from protocol.spec import Spec, parse_spec
from protocol.statement import ReleaseStatement, utc_now
from protocol.trust import TrustStore
from protocol.verify import VerifiedRelease, verify_release

ENVELOPE_LIMIT = 2 * 1024 * 1024
"""Most bytes of the envelope of a release, whose card may have many classes."""
EXPERIMENT_LIMIT = 256 * 1024
"""Most bytes of the envelope of an experiment, which may hold a policy."""
SPEC_LIMIT = 64 * 1024 * 1024
"""Most bytes of a spec, which may hold a projection."""


@dataclass(frozen=True)
class TaskRecord:
    """A task: a release that was verified, with the bytes that show it.

    Attributes
    ----------
    release : VerifiedRelease
        What was signed.
    payload, envelope : bytes
        The safetensors bytes, and the signature over them.
    spec : Spec
        What the fingerprint was made under.
    vouched_by : str
        Id of the key whose owner says that the site's key is right; empty where nobody does.
    """

    release: VerifiedRelease
    payload: bytes
    envelope: bytes
    spec: Spec
    vouched_by: str = ""

    @property
    def id(self) -> str:
        """SHA-256 of the payload: the task's id."""
        return sha256_hex(self.payload)


@dataclass(frozen=True)
class ExperimentRecord:
    """An experiment whose signature was verified, with the envelope that shows it."""

    experiment: Experiment
    envelope: bytes
    key_id: str
    vouched_by: str = ""


def open_release(
    payload: bytes, envelope: bytes, spec: Spec, *, vouched_by: str = "", limit: int = LIMIT
) -> TaskRecord:
    """Verify a release as whole and valid now, by the key that it brings along.

    Raises
    ------
    VerificationError
        As in `protocol.verify.verify_release`.
    """
    key = _canonical_key(envelope, ENVELOPE_LIMIT, "release")
    content, _ = open_envelope(envelope, lambda _: key, limit=ENVELOPE_LIMIT)
    site = parse_statement(content, ReleaseStatement).predicate.site
    now = utc_now()
    release = verify_release(
        site=site,
        payload=payload,
        release=envelope,
        binding=None,
        store=TrustStore.empty().enrol(
            site, key_pem(key), not_before=now, not_after=now + timedelta(days=1)
        ),
        spec=spec,
        now=now,
        limit=limit,
    )
    return TaskRecord(release, payload, envelope, spec, vouched_by)


def open_experiment(envelope: bytes, *, vouched_by: str = "") -> ExperimentRecord:
    """Verify the signature of an experiment, by the key that it brings along.

    Raises
    ------
    VerificationError
        When it is not whole, or no experiment.
    """
    key = _canonical_key(envelope, EXPERIMENT_LIMIT, "experiment")
    content, key_id = open_envelope(envelope, lambda _: key, limit=EXPERIMENT_LIMIT)
    return ExperimentRecord(parse_experiment(content), envelope, key_id, vouched_by)


def open_spec(content: str | bytes, digest: str) -> Spec:
    """Parse a spec that must have this digest.

    Raises
    ------
    SpecMismatch
        When it is another one, or none.
    """
    try:
        spec = parse_spec(content).require_ready()
    except ConfigError as error:
        raise SpecMismatch(str(error)) from None
    if spec.digest != digest:
        raise SpecMismatch(f"the spec called {digest[:12]} has the digest {spec.digest[:12]}")
    return spec


def _canonical_key(envelope: bytes, limit: int, what: str) -> SSlibKey:
    """Return the key that an envelope brings along; one in two forms could be added twice."""
    if not is_canonical(envelope, limit):
        raise MalformedEnvelope(f"the envelope of the {what} is not in canonical form")
    return own_key(envelope, limit)
