"""What the sites answered in training, on the coordinator's disk, so that nobody is asked twice.

A coordinator that was killed starts its strategies anew and hands them the kept replies. They come
to the state they were in without knowing of it: no strategy is ever saved.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from fl_server.scores import ArmOutcome
from protocol.files import atomic_write

T = TypeVar("T")
Parse = Callable[[dict[str, Any], list[RecordDict]], T]

EVALUATE = "evaluate"
_DIGEST, _LENGTH = 32, 4  # bytes


@dataclass(frozen=True)
class KeptRound:
    """One training round of a group, by site name: node ids change when a SuperLink is set up anew.

    Attributes
    ----------
    replies : dict
        In the order in which they were averaged.
    losses : list of (str, str, bool)
        Site, reason, and whether it stays out for good, in the order in which they were lost.
    """

    replies: dict[str, RecordDict]
    losses: list[tuple[str, str, bool]]


class Journal:
    """Replies of the sites, kept until the arm that they belong to is done.

    Parameters
    ----------
    folder : Path
        Where to keep them; made when needed. A file that is damaged counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, step: str, site: str) -> RecordDict | None:
        """Return what a site answered in a step of one message, None if nothing is kept."""
        return self._read(f"{step}/{site}", lambda _header, contents: contents[0])

    def keep(self, step: str, site: str, content: RecordDict) -> None:
        """Keep what a site answered; steps are called ``alone/train``, ``grouped-1/evaluate``."""
        self._write(f"{step}/{site}", {}, [content])

    def recall_round(self, group: str, number: int) -> KeptRound | None:
        """Return a round of a group, None if it is not kept."""
        return self._read(_round(group, number), _kept_round)

    def keep_round(
        self,
        group: str,
        number: int,
        replies: Mapping[str, RecordDict],
        losses: Iterable[tuple[str, str, bool]] = (),
    ) -> None:
        """Keep a round, and drop what followed on an earlier version of it."""
        folder = self.folder / group
        for later in folder.glob("round-*"):
            if later.stem > Path(_round(group, number)).name:
                later.unlink()
        shutil.rmtree(folder / EVALUATE, ignore_errors=True)
        header = {"sites": list(replies), "losses": list(losses)}
        self._write(_round(group, number), header, list(replies.values()))

    def recall_outcome(self, arm: str) -> ArmOutcome | None:
        """Return what an arm ended with, None if it has not ended."""
        return self._read(f"outcome-{arm}", _outcome)

    def keep_outcome(self, arm: str, outcome: ArmOutcome) -> None:
        """Keep what an arm ended with, models included."""
        header = {"outcome": outcome.to_json(), "groups": list(outcome.models)}
        models = [RecordDict({"arrays": arrays}) for arrays in outcome.models.values()]
        self._write(f"outcome-{arm}", header, models)

    def clear(self, prefix: str) -> None:
        """Drop the replies of an arm, whose outcome is kept: models would pile up."""
        for pattern in (prefix, f"{prefix}-*"):
            for folder in self.folder.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _write(self, name: str, header: dict[str, Any], contents: Sequence[RecordDict]) -> None:
        """Write SHA-256, length of the header, header as JSON, contents as Flower's protobuf."""
        blobs = [recorddict_to_proto(content).SerializeToString() for content in contents]
        header = {**header, "name": name, "sizes": [len(blob) for blob in blobs]}
        head = json.dumps(header).encode()
        body = b"".join([len(head).to_bytes(_LENGTH, "big"), head, *blobs])
        atomic_write(self._path(name), hashlib.sha256(body).digest() + body, mode=0o600)

    def _read(self, name: str, parse: Parse[T]) -> T | None:
        """Return what a file says that is there, whole, and bears this very name.

        A file system that ignores case might have given one of another site.
        """
        try:
            data = memoryview(self._path(name).read_bytes())
        except FileNotFoundError:
            return None
        body = data[_DIGEST:]
        if hashlib.sha256(body).digest() != data[:_DIGEST]:
            return None
        start = _LENGTH + int.from_bytes(body[:_LENGTH], "big")
        try:
            header = json.loads(bytes(body[_LENGTH:start]))
            contents = []
            for size in header["sizes"]:
                proto = ProtoRecordDict.FromString(bytes(body[start : start + size]))
                contents.append(recorddict_from_proto(proto))
                start += size
            return parse(header, contents) if header["name"] == name else None
        except Exception:  # whole, so another version wrote it: protobuf has errors of its own
            return None


def _kept_round(header: dict[str, Any], contents: list[RecordDict]) -> KeptRound:
    losses = [(str(site), str(why), bool(for_good)) for site, why, for_good in header["losses"]]
    return KeptRound(dict(zip(header["sites"], contents, strict=True)), losses)


def _outcome(header: dict[str, Any], contents: list[RecordDict]) -> ArmOutcome:
    outcome = ArmOutcome.from_json(header["outcome"])
    groups = zip(header["groups"], contents, strict=True)
    outcome.models = {group: models.array_records["arrays"] for group, models in groups}
    return outcome


def _round(group: str, number: int) -> str:
    return f"{group}/round-{number:05d}"
