"""The backbone that a group's fine-tuning starts from: no single site may choose it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable

from flwr.app import ArrayRecord, RecordDict

from fl_server.asking import Problem
from fl_server.scores import Answer
from protocol.errors import FedprintError
from protocol.names import printable
from protocol.sharing import BODY
from strategies.replies import flaw, mislabelled

log = logging.getLogger("fedprint")

BYTES_LIMIT = 2_000_000_000  # protobuf's own is 2 GiB
NAME_LIMIT = 500  # characters
RANK_LIMIT = 32  # dimensions
FLOAT32 = ("float32",)


def only_body(content: RecordDict) -> RecordDict:
    """Return the backbone that an answer holds, see `only_arrays`."""
    return only_arrays(content, "backbone", BODY)


def only_arrays(content: RecordDict, what: str, *prefixes: str) -> RecordDict:
    """Return an answer's one record of arrays, if its labels and sizes let it be kept.

    Parameters
    ----------
    content : RecordDict
        The answer.
    what : str
        What it is to hold, for people.
    prefixes : str
        What the names of its arrays may begin with.

    Raises
    ------
    Problem
        If there is none, or it cannot be that.
    """
    found = content.array_records.get("arrays")
    if not found:
        raise Problem("malformed-message", f"sent no {what}")
    for name, array in found.items():
        why = mislabelled(array, array.shape, FLOAT32)
        if not name.startswith(prefixes) or len(name) > NAME_LIMIT or len(array.shape) > RANK_LIMIT:
            why = f"which is no part of a {what}"
        if why:
            raise Problem("malformed-message", f"sent {printable(name, 100)} {why}")
    if found.count_bytes() > BYTES_LIMIT:
        raise Problem("too-large", f"sent a {what} of more than {BYTES_LIMIT} bytes")
    return RecordDict({"arrays": found})


def agreed_body(group: str, answers: Iterable[tuple[str, Answer]]) -> ArrayRecord:
    """Return the first backbone that two sites send alike, to the last bit.

    All sites of a spec hold the same pretrained weights (the spec has their digest), of which the
    coordinator needs no copy. One site's word would let it choose what all others start from.

    Parameters
    ----------
    group : str
        Name of the group.
    answers : iterable of (str, RecordDict or Problem)
        Site and answer, as `only_body` let them pass; not read further than needed.

    Raises
    ------
    FedprintError
        If no two sites agree; it names all and says what each sent.
    """
    seen: dict[str, str] = {}  # by digest: site
    told: dict[str, str] = {}
    for site, answer in answers:
        try:
            body = _body(answer)
            digest = _digest(body)
        except Problem as problem:
            told[site] = str(problem)
            continue
        if digest in seen:
            for other in told.keys() - {seen[digest]}:
                log.warning("%s: %s %s, unlike the others", group, other, told[other])
            return body
        seen[digest], told[site] = site, "sent one of its own"
    each = ", ".join(f"{site} ({what})" for site, what in told.items())
    raise FedprintError(f"no two sites of {group} sent the same backbone to start from: {each}")


def _body(answer: Answer) -> ArrayRecord:
    if isinstance(answer, Problem):
        raise answer
    return answer.array_records["arrays"]


def _digest(body: ArrayRecord) -> str:
    """Return a digest of names, shapes and values, whichever numpy wrote their files.

    Raises
    ------
    Problem
        If an array is none, or not finite.
    """
    digest = hashlib.sha256()
    for name, array in sorted(body.items()):
        if why := flaw(array, array.shape, FLOAT32):
            raise Problem("malformed-message", f"sent {printable(name, 100)} {why}")
        digest.update(f"{name!r} {tuple(array.shape)} ".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()
