"""Scores as a statement: how well other sites' models fit a target's data, as its site found.

in-toto Statement v1 with the predicate *scores* over the release that the target made for the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from protocol.envelope import KeyFinder, open_envelope, parse_statement, sign
from protocol.errors import (
    DigestMismatch,
    Expired,
    NotYetValid,
    SpecMismatch,
    StaleNonce,
    WrongRun,
    WrongSite,
)
from protocol.keys import Signer
from protocol.names import Sha256Hex, SiteName
from protocol.statement import STATEMENT_TYPE, Digest, Subject, Subjects
from protocol.verify import CLOCK_SKEW

SCORES_TYPE: Literal["urn:fedprint:scores:v1"] = "urn:fedprint:scores:v1"
SCORES_VALIDITY = timedelta(hours=24)  # the nonce is single-use, as in a session binding
MOST_MODELS = 1000
"""Most models that one target scores in a run: every score tells a little of its images."""
LIMIT = 4 * 1024 * 1024
"""Most bytes of the envelope; of 1000 models it has less than half a MiB."""

MeasureName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
ReasonCode = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,40}$")]
MOST_SCORE = 1e9
"""Largest absolute value of a score; those of real models are below a hundred."""
Score = Annotated[float, Field(ge=-MOST_SCORE, le=MOST_SCORE, allow_inf_nan=False)]


class _Model(BaseModel):
    # unknown fields are ignored, as in-toto's specification asks of its consumers
    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)


class ModelScores(_Model):
    """What became of one model at the target.

    Parameters
    ----------
    model : str
        SHA-256 of the model, see `protocol.weights.weights_sha256`.
    values : dict
        By measure; one that is not defined on the target's data is not there.
    unscored : str
        Reason code where the model could not be scored at all.
    """

    model: Sha256Hex
    values: Annotated[dict[MeasureName, Score], Field(max_length=64)] = {}
    unscored: ReasonCode = ""


class Scores(_Model):
    """Predicate: how well models fit the target's training images.

    Parameters
    ----------
    site : str
        The target, who signs.
    run, nonce : str
        As the coordinator's request names them.
    spec_digest : str
        By whose backbone the models see images.
    images : int
        How many training images the scores are of.
    models : dict
        By the site whose model it is.
    policy_digest : str
        SHA-256 of the policy that allowed it.
    issued, expires : datetime
        Validity, RFC 3339 in UTC.
    """

    site: SiteName
    run: Annotated[str, Field(max_length=200)]
    nonce: Annotated[str, Field(max_length=200)]
    spec_digest: Sha256Hex
    images: Annotated[int, Field(ge=1, le=2**53)]
    models: Annotated[dict[SiteName, ModelScores], Field(max_length=MOST_MODELS)]
    policy_digest: Sha256Hex
    issued: AwareDatetime
    expires: AwareDatetime

    def by_measure(self) -> dict[str, dict[str, float]]:
        """Return the scores by measure and then by source, as `strategies.measures.Task` has."""
        found: dict[str, dict[str, float]] = {}
        for source, scored in self.models.items():
            for measure, value in scored.values.items():
                found.setdefault(measure, {})[source] = value
        return found


class ScoreStatement(_Model):
    """Statement over the release (its safetensors file) that goes with the scores."""

    statement_type: Literal["https://in-toto.io/Statement/v1"] = Field(
        STATEMENT_TYPE, alias="_type"
    )
    subject: Subjects
    predicate_type: Literal["urn:fedprint:scores:v1"] = Field(SCORES_TYPE, alias="predicateType")
    predicate: Scores


def sign_scores(scores: Scores, release: str, signer: Signer) -> bytes:
    """Return the signed statement of scores.

    Parameters
    ----------
    scores : Scores
        What the site found.
    release : str
        SHA-256 of the safetensors file that it released for the run.
    signer : Signer
        The site's.
    """
    subject = Subject(name=f"{scores.site}.safetensors", digest=Digest(sha256=release))
    return sign(ScoreStatement(subject=[subject], predicate=scores), signer)


def open_scores(envelope: bytes, find_key: KeyFinder) -> tuple[ScoreStatement, str]:
    """Return what was signed, and the id of the key that signed it.

    Raises
    ------
    TooLarge, MalformedEnvelope, BadSignature, MalformedStatement
        And whatever `find_key` raises.
    """
    content, key = open_envelope(envelope, find_key, limit=LIMIT)
    return parse_statement(content, ScoreStatement), key


def check_scores(
    statement: ScoreStatement,
    *,
    site: str,
    run: str,
    release: str,
    spec: str,
    models: Mapping[str, str],
) -> Scores:
    """Return the scores of a statement, if they are of what they must be of.

    Parameters
    ----------
    statement : ScoreStatement
        As `open_scores` returned it.
    site, run : str
        Who must have signed, for which run.
    release : str
        SHA-256 of the safetensors file that the site released for the run.
    spec : str
        Digest of the run's spec.
    models : mapping of str to str
        By source the SHA-256 of the model that the target was sent.

    Raises
    ------
    WrongSite, WrongRun, DigestMismatch, SpecMismatch
        Saying what does not fit.
    """
    scores = statement.predicate
    if scores.site != site:
        raise WrongSite(f"the scores are signed by {scores.site!r}, expected {site!r}")
    if scores.run != run:
        raise WrongRun(f"{site} scored models for run {scores.run!r}, this is run {run!r}")
    if statement.subject[0].digest.sha256 != release:
        raise DigestMismatch(f"the scores of {site} go with another release than the run has")
    if scores.spec_digest != spec:
        raise SpecMismatch(f"the scores of {site} are by another spec ({scores.spec_digest[:12]})")
    for source, scored in scores.models.items():
        if models.get(source) != scored.model:
            raise DigestMismatch(f"{site} scored another model of {source} than it was sent")
    return scores


def check_fresh(scores: Scores, nonce: str, now: datetime) -> None:
    """Raise unless scores answer the request with this nonce, now.

    Raises
    ------
    StaleNonce, NotYetValid, Expired
        When they do not.
    """
    if scores.nonce != nonce:
        raise StaleNonce(f"{scores.site} signed another nonce than it was sent: an old answer")
    if scores.issued > now + CLOCK_SKEW:
        raise NotYetValid(
            f"the scores of {scores.site} were issued in the future: set the site's clock"
        )
    if scores.expires < now:
        raise Expired(f"the scores of {scores.site} expired: ask the site again")
