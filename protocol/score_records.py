"""Conversion to and from Flower's records: models that are scored, and the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flwr.app import ArrayRecord, RecordDict
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from protocol.errors import MalformedMessage, TooLarge, one_line
from protocol.names import Sha256Hex, SiteName
from protocol.records import get, record
from protocol.scores import LIMIT, MOST_MODELS
from protocol.sharing import Arrays

_MODEL = "model-"
_LIST_LIMIT = 1024 * MOST_MODELS  # characters; a model has some 200


class Candidate(BaseModel):
    """A model that a target is asked to score.

    Parameters
    ----------
    source : str
        The site that trained it.
    sha256 : str
        Digest of its arrays, see `protocol.weights.weights_sha256`.
    """

    model_config = ConfigDict(frozen=True)

    source: SiteName
    sha256: Sha256Hex


class ScoreRequest(NamedTuple):
    """What a target is asked.

    Attributes
    ----------
    nonce : str
        Single-use; the answer repeats it.
    candidates : list of Candidate
        All that the answer is to be about.
    arrays : dict
        By source, the models among them that come along; the others came before.
    """

    nonce: str
    candidates: list[Candidate]
    arrays: dict[str, Arrays]


_CANDIDATES = TypeAdapter(list[Candidate])


def to_score_request(
    nonce: str, candidates: Sequence[Candidate], models: Mapping[str, ArrayRecord]
) -> RecordDict:
    """Return the request for scores; `models` come along by source."""
    listed = _CANDIDATES.dump_json(list(candidates)).decode()
    content = record({"nonce": nonce, "candidates": listed})
    for number, candidate in enumerate(candidates):
        if candidate.source in models:
            content[f"{_MODEL}{number}"] = models[candidate.source]
    return content


def from_score_request(content: RecordDict) -> ScoreRequest:
    """Read a request for scores; whether its models are what they must be is not looked at.

    Raises
    ------
    MalformedMessage, TooLarge
        When it is none, or about too much.
    """
    nonce, listed = get(content, "nonce", str), get(content, "candidates", str)
    if len(listed) > _LIST_LIMIT:
        raise TooLarge(f"the list of models has {len(listed)} characters, at most {_LIST_LIMIT}")
    try:
        candidates = _CANDIDATES.validate_json(listed)
    except ValidationError as error:
        raise MalformedMessage(f"the list of models is malformed: {one_line(error)}") from None
    if not 0 < len(candidates) <= MOST_MODELS or len(nonce) > 200:
        raise TooLarge(f"{len(candidates)} models in one request, the limit is {MOST_MODELS}")
    if len({candidate.source for candidate in candidates}) < len(candidates):
        raise MalformedMessage("the list of models names a site twice")
    names = {candidate.source: f"{_MODEL}{n}" for n, candidate in enumerate(candidates)}
    records = content.array_records
    sent = {source: _arrays(records[name]) for source, name in names.items() if name in records}
    return ScoreRequest(nonce, candidates, sent)


def to_scores(envelope: bytes) -> RecordDict:
    """Return a target's answer: the signed statement."""
    return record({"scores": envelope})


def from_scores(content: RecordDict) -> bytes:
    """Read a target's answer; nothing of it is verified here.

    Raises
    ------
    MalformedMessage, TooLarge
        When it is none.
    """
    envelope = get(content, "scores", bytes)
    if len(envelope) > LIMIT:
        raise TooLarge(f"the scores have {len(envelope)} bytes, the limit is {LIMIT}")
    return envelope


def _arrays(found: ArrayRecord) -> Arrays:
    try:
        return {name: array.numpy() for name, array in found.items()}
    except Exception:  # numpy's reader raises whatever comes of such bytes
        raise MalformedMessage("a model of the request holds what is no array") from None
