"""Verification of what a site sent: nothing is believed, and nothing is parsed before its turn.

The order is fixed: size, envelope, key, signature, statement, site, run, nonce, validity in time,
digests, spec, privacy terms, and only then the tensor's shape, type, finiteness and row sums. Each
fault has its own error class with a reason code, see `protocol.errors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.envelope import open_envelope, own_key, parse_statement
from protocol.errors import (
    BadPrivacy,
    BadRowSums,
    ConfigError,
    DigestMismatch,
    Expired,
    NotYetValid,
    SpecMismatch,
    StaleNonce,
    TooLarge,
    WrongRun,
    WrongSite,
)
from protocol.files import sha256_hex
from protocol.fingerprint import LIMIT, Fingerprint, counts_from_bytes
from protocol.keys import SSlibKey
from protocol.privacy import check_terms
from protocol.spec import Spec, load_spec
from protocol.statement import Binding, BindingStatement, Release, ReleaseStatement
from protocol.taskcard import TaskCard
from protocol.trust import TrustStore

CLOCK_SKEW = timedelta(minutes=5)
"""How far a site's clock may be ahead of the coordinator's."""
TAIL = 8.0
"""Standard deviations that the noise of an honest site will not exceed."""
_EXACT = 2**24  # up to here float32 holds every integer


@dataclass(frozen=True)
class VerifiedRelease:
    """A release that passed every check.

    Parameters
    ----------
    fingerprint : Fingerprint
        Site, counts, spec digest and number of images.
    card : TaskCard
        The public description of the task.
    statement : ReleaseStatement
        All that was signed.
    key_id : str
        The key that signed it.
    enrolled : bool
        False when only the release's integrity was checked, with the key it brought along.
    """

    fingerprint: Fingerprint
    card: TaskCard
    statement: ReleaseStatement
    key_id: str
    enrolled: bool = True


def verify_release(
    *,
    site: str,
    payload: bytes,
    release: bytes,
    binding: bytes | None,
    store: TrustStore,
    spec: Spec,
    run: str = "",
    nonce: str = "",
    now: datetime,
    limit: int = LIMIT,
) -> VerifiedRelease:
    """Verify one site's release and its session binding.

    Parameters
    ----------
    site : str
        Who is expected to have signed.
    payload : bytes
        The safetensors bytes.
    release, binding : bytes
        The two envelopes; `binding` is None for files without a run.
    store : TrustStore
        Whose keys are known.
    spec : Spec
        What the fingerprint must have been made under.
    run, nonce : str
        What the coordinator asked with; not looked at without a binding.
    now : datetime
        Time of the check, with time zone.
    limit : int
        Most bytes of the payload.

    Returns
    -------
    VerifiedRelease

    Raises
    ------
    VerificationError
        The subclass, and its `reason`, say which check failed.
    """
    _check_size(payload, limit)

    def find(key: str) -> SSlibKey:
        return store.key_for(key, site, now)

    content, key_id = open_envelope(release, find)
    bound = open_envelope(binding, find)[0] if binding is not None else None
    statement = parse_statement(content, ReleaseStatement)
    _check_site(statement.predicate, site)
    if bound is not None:
        _check_binding(parse_statement(bound, BindingStatement), release, site, run, nonce, now)
    _check_time(statement.predicate, now, "release")
    return check_content(statement, payload, spec, key_id, enrolled=True)


def verify_local(
    folder: Path | str, site: str, spec: Spec | None = None, *, limit: int = LIMIT
) -> VerifiedRelease:
    """Check the integrity of a fingerprint that lies in a folder, without a trust store.

    The envelope is checked with the key it brings along: the result says *not enrolled*, because
    nobody vouches for that key. Validity in time is not looked at: the files are an archive.

    Parameters
    ----------
    folder : Path or str
        Holds ``<site>.safetensors`` and ``<site>.dsse.json``; ``spec.json`` lies there or above.
    site : str
        Whose fingerprint.
    spec : Spec or None
        The spec, when it was read already.
    limit : int
        Most bytes of the payload.

    Raises
    ------
    ConfigError
        When a file is missing.
    VerificationError
        As in `verify_release`.
    """
    folder = Path(folder)
    spec = spec or local_spec(folder)
    payload = read_release_file(folder / f"{site}.safetensors", limit)
    release = read_release_file(folder / f"{site}.dsse.json", limit)
    return verify_own(payload, release, spec, site=site, limit=limit)


def verify_own(
    payload: bytes, release: bytes, spec: Spec, *, site: str | None = None, limit: int = LIMIT
) -> VerifiedRelease:
    """Check the integrity of a fingerprint with the key that its envelope brings along.

    Parameters
    ----------
    payload : bytes
        The safetensors bytes.
    release : bytes
        The release envelope.
    spec : Spec
        What it must have been made under.
    site : str or None
        Who must have signed; None takes whoever did.
    limit : int
        Most bytes of the payload.

    Returns
    -------
    VerifiedRelease
        Not enrolled: nobody vouches for the key. Validity in time is not looked at.

    Raises
    ------
    VerificationError
        As in `verify_release`.
    """
    _check_size(payload, limit)
    key = own_key(release)
    content, key_id = open_envelope(release, lambda _: key)
    statement = parse_statement(content, ReleaseStatement)
    if site is not None:
        _check_site(statement.predicate, site)
    return check_content(statement, payload, spec, key_id, enrolled=False)


def local_spec(folder: Path | str) -> Spec:
    """Return the spec of a folder of fingerprints, which lies in it or in the folder above.

    Raises
    ------
    ConfigError
        When there is none.
    """
    for path in (Path(folder) / "spec.json", Path(folder).parent / "spec.json"):
        if path.is_file():
            return load_spec(path)
    raise ConfigError(f"{folder} has no spec.json: give a run folder or a folder of fingerprints")


def read_fingerprints(folder: Path | str) -> tuple[Spec, list[VerifiedRelease]]:
    """Check and return every fingerprint of a run folder or of a folder of fingerprints.

    Returns
    -------
    spec : Spec
        What they were made under.
    releases : list of VerifiedRelease
        By name of site.

    Raises
    ------
    ConfigError
        When there is none.
    VerificationError
        When one of them is not in order.
    """
    root = Path(folder)
    inner = root / "fingerprints" if (root / "fingerprints").is_dir() else root
    sites = sorted(path.stem for path in inner.glob("*.safetensors"))
    if not sites:
        raise ConfigError(f"{folder} holds no fingerprints: make some with fedprint fingerprint")
    spec = local_spec(inner)
    return spec, [verify_local(inner, site, spec) for site in sites]


def _check_size(payload: bytes, limit: int) -> None:
    if len(payload) > limit:
        raise TooLarge(f"the fingerprint has {len(payload)} bytes, the limit is {limit}")


def _check_site(predicate: Release | Binding, site: str) -> None:
    if predicate.site != site:
        raise WrongSite(f"the signed site is {predicate.site!r}, expected {site!r}")


def _check_time(predicate: Release | Binding, now: datetime, what: str) -> None:
    if predicate.issued > now + CLOCK_SKEW:
        raise NotYetValid(
            f"the {what} of {predicate.site} was issued in the future "
            f"({predicate.issued:%Y-%m-%d %H:%M:%S} UTC): set the site's clock"
        )
    if predicate.expires < now:
        raise Expired(
            f"the {what} of {predicate.site} expired {predicate.expires:%Y-%m-%d %H:%M:%S} UTC: "
            f"ask the site for a new {what}"
        )


def _check_binding(
    statement: BindingStatement, release: bytes, site: str, run: str, nonce: str, now: datetime
) -> None:
    binding = statement.predicate
    _check_site(binding, site)
    if binding.run != run:
        raise WrongRun(f"{site} signed for run {binding.run!r}, this is run {run!r}")
    if binding.nonce != nonce:
        raise StaleNonce(f"{site} signed another nonce than it was sent: an old answer, replayed")
    _check_time(binding, now, "session binding")
    if statement.subject[0].digest.sha256 != sha256_hex(release):
        raise DigestMismatch(f"the session binding of {site} is for another release")


def check_content(
    statement: ReleaseStatement, payload: bytes, spec: Spec, key_id: str, *, enrolled: bool
) -> VerifiedRelease:
    """Check what a statement, whose signature was verified, says of a payload.

    Parameters
    ----------
    statement : ReleaseStatement
        What was signed.
    payload : bytes
        The safetensors bytes.
    spec : Spec
        What the fingerprint must have been made under.
    key_id : str
        The key that signed the statement.
    enrolled : bool
        Whether a trust store vouches for that key.

    Raises
    ------
    VerificationError
        When digest, spec, privacy terms or tensor, looked at in this order, are not as they must.
    """
    release = statement.predicate
    if statement.subject[0].digest.sha256 != sha256_hex(payload):
        raise DigestMismatch(f"the fingerprint of {release.site} is not the one that was signed")
    if release.spec_digest != spec.digest:
        raise SpecMismatch(
            f"{release.site} used spec {release.spec_name} ({release.spec_digest[:12]}), expected "
            f"{spec.name} ({spec.digest[:12]}): fingerprint again with --spec {spec.name}"
        )
    check_terms(release.privacy, spec.width, release.contribution_cap)
    counts = counts_from_bytes(payload, (spec.width, spec.bins))
    sigma = release.privacy.sigma or 0.0
    if release.privacy.mode == "plain":
        total = release.images if spec.sampling.draws is None else spec.sampling.draws
        _check_row_sums(counts, total, release.site)
    elif spec.sampling.draws is not None:
        raise BadPrivacy(f"{release.site} drew images again and again, which no stated rho covers")
    else:
        _check_noised_sums(counts, release.images, sigma, release.site)
    fingerprint = Fingerprint(release.site, counts, release.spec_digest, release.images, sigma)
    return VerifiedRelease(fingerprint, release.task_card, statement, key_id, enrolled)


def _check_row_sums(counts: NDArray[np.integer[Any]], total: int, site: str) -> None:
    """Check that every row of the counts [m, b] adds up to `total`."""
    # bounded first: a sum of b such values cannot wrap around in int64
    if counts.min() < 0 or counts.max() > total:
        raise BadRowSums(f"a count of {site} lies outside 0 to {total}, the number of its views")
    sums = _row_sums(counts, int(counts.max()))  # [m]
    wrong = np.flatnonzero(sums != total)
    if wrong.size:
        raise BadRowSums(
            f"{wrong.size} of {sums.size} rows of {site} do not add up to its {total} views "
            f"(feature {wrong[0]}: {sums[wrong[0]]})"
        )


def _row_sums(counts: NDArray[np.integer[Any]], most: int) -> NDArray[np.int64]:
    """Return the exact sums [m] of rows of counts [m, b] from 0 to `most`."""
    bins = counts.shape[1]
    if most * bins >= _EXACT:
        return counts.sum(axis=1, dtype=np.int64)  # type: ignore[no-any-return]
    # every partial sum is an integer that float32 holds, and its product is several times faster
    return (counts.astype(np.float32) @ np.ones(bins, dtype=np.float32)).astype(np.int64)


def _check_noised_sums(
    counts: NDArray[np.integer[Any]], total: int, sigma: float, site: str
) -> None:
    """Check that noise of `sigma` explains counts [m, b] of `total` images.

    Discrete Gaussian noise has no heavier tails than the continuous one (Canonne, Kamath and
    Steinke, arXiv 2004.00010): beyond `TAIL` standard deviations with probability 2 exp(-32).
    """
    values = counts.astype(np.float64)  # [m, b]
    if values.min() < -TAIL * sigma - 1 or values.max() > total + TAIL * sigma + 1:
        raise BadRowSums(
            f"a count of {site} is further outside 0 to {total} than noise of {sigma:.4g} explains"
        )
    off = np.abs(values.sum(axis=1) - total)  # [m]
    if off.max() > TAIL * sigma * np.sqrt(counts.shape[1]) + 1:
        raise BadRowSums(
            f"row {off.argmax()} of {site} is {off.max():.0f} away from its {total} images, more "
            f"than noise of {sigma:.4g} explains"
        )


def read_release_file(path: Path, limit: int = LIMIT) -> bytes:
    """Return one of the files of a release.

    Raises
    ------
    ConfigError, TooLarge
        If it is missing, or has more than `limit` bytes.
    """
    try:
        if path.stat().st_size > limit:
            raise TooLarge(f"{path} has more than the limit of {limit} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: make the fingerprint again") from None
