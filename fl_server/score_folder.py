"""The scores of a folder: one signed statement a target, ``scores/<target>.dsse.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from protocol.envelope import own_key
from protocol.errors import ConfigError, TooLarge, UnknownKey
from protocol.files import atomic_write
from protocol.keys import SSlibKey
from protocol.scores import LIMIT, Scores, check_scores, open_scores
from protocol.verify import VerifiedRelease

FOLDER = "scores"
ENDING = ".dsse.json"

ByTarget = dict[str, dict[str, dict[str, float]]]
"""By target, measure and source: how well the source's model fits the target."""


def write_scores(run: Path, site: str, envelope: bytes) -> None:
    """Write what a target signed into a run folder."""
    atomic_write(run / FOLDER / f"{site}{ENDING}", envelope)


def keep_only(run: Path, sites: Iterable[str]) -> None:
    """Remove from a run folder the scores of sites that are none of these."""
    kept = {f"{site}{ENDING}" for site in sites}
    for path in (run / FOLDER).glob("*"):
        if path.name not in kept:
            path.unlink()


def scored_sites(folder: Path) -> list[str]:
    """Return the targets whose scores a folder holds, sorted.

    Raises
    ------
    ConfigError
        When another file lies there.
    """
    found = []
    for path in (folder / FOLDER).glob("*"):
        if not path.name.endswith(ENDING):
            raise ConfigError(f"{path} holds no scores: take it out of {path.parent}")
        found.append(path.name.removesuffix(ENDING))
    return sorted(found)


def read_scores(folder: Path, releases: Mapping[str, VerifiedRelease]) -> ByTarget:
    """Read and verify the scores of a folder.

    The key must be that of the target's fingerprint, which the scores must go with; and all targets
    must have scored the same models. Whether these are those of the sites is for `fedprint verify`
    to say, which has the run's log.

    Parameters
    ----------
    folder : Path
        A run folder, or a folder of fingerprints.
    releases : mapping
        The verified fingerprints of the folder, by site.

    Raises
    ------
    ConfigError
        When a file goes with no fingerprint, or two are about different models of one site.
    VerificationError
        When one is not in order.
    """
    found: ByTarget = {}
    first: dict[str, tuple[str, str]] = {}  # by source: its model, and who scored it first
    for site in scored_sites(folder):
        if site not in releases:
            raise ConfigError(
                f"{folder} holds scores of {site}, and no fingerprint that they go with: bring it, "
                f"or delete {FOLDER}/{site}{ENDING}"
            )
        scores = _read(folder, site, releases[site])
        for source, scored in scores.models.items():
            model, other = first.setdefault(source, (scored.model, site))
            if model != scored.model:
                raise ConfigError(
                    f"{folder} holds scores of {other} and {site} that are of different models of "
                    f"{source}: keep those of one run in {FOLDER}"
                )
        found[site] = scores.by_measure()
    return found


def read_envelope(folder: Path, site: str) -> bytes:
    """Return the signed scores of a target.

    Raises
    ------
    OSError, TooLarge
        When there are none, or they are too much.
    """
    path = folder / FOLDER / f"{site}{ENDING}"
    if path.stat().st_size > LIMIT:
        raise TooLarge(f"{path} has more than the limit of {LIMIT} bytes")
    return path.read_bytes()


def _read(folder: Path, site: str, release: VerifiedRelease) -> Scores:
    envelope = read_envelope(folder, site)
    key = own_key(envelope, LIMIT)

    def find(_key_id: str) -> SSlibKey:
        if key.keyid != release.key_id:
            raise UnknownKey(f"the scores of {site} are signed with another key than its release")
        return key

    statement, _ = open_scores(envelope, find)
    signed = statement.predicate
    return check_scores(
        statement,
        site=site,
        run=signed.run,
        release=release.statement.subject[0].digest.sha256,
        spec=release.statement.predicate.spec_digest,
        models={source: scored.model for source, scored in signed.models.items()},
    )
