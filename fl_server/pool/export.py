"""Writing a pool to one signed file that another pool can import."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fl_server.pool.models import (
    ExperimentRow,
    PayloadRow,
    ProvenanceRow,
    SpecRow,
    TaskRow,
    WithdrawalRow,
)
from fl_server.pool.portable import (
    ExperimentLine,
    Line,
    ReleaseLine,
    SpecLine,
    WithdrawalLine,
    encode,
    head,
)
from fl_server.pool.session import Pool
from fl_server.pool.telling import told
from protocol.files import canonical_json
from protocol.fingerprint import pack
from protocol.keys import Signer


def export_pool(pool: Pool, file: Path, signer: Signer) -> dict[str, int]:
    """Write everything in the pool to one file, signed.

    Parameters
    ----------
    pool : Pool
        What to export; others may write meanwhile, the file holds one state.
    file : Path
        Replaced when all is written.
    signer : Signer
        Who answers for it; whoever imports the file must trust this key.

    Returns
    -------
    dict of str to int
        How many records of each kind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name[:64]}.") as folder:
        body, whole = Path(folder, "body"), Path(folder, "whole")
        with pool.reading() as session, body.open("wb") as written:
            digest, counts = _write(written, told(_lines(session), "export", _total(session)))
        with whole.open("wb") as target, body.open("rb") as source:
            target.write(head(digest, counts, signer))
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        os.replace(whole, file)
    return counts


def _write(file: IO[bytes], found: Iterable[Line]) -> tuple[str, dict[str, int]]:
    hashed, counts = hashlib.sha256(), Counter[str]()
    for line in found:
        data = canonical_json(line.model_dump(mode="json")) + b"\n"
        hashed.update(data)
        file.write(data)
        counts[line.kind] += 1
    return hashed.hexdigest(), dict(sorted(counts.items()))


def _total(session: Session) -> int:
    tables = (SpecRow, TaskRow, ExperimentRow, WithdrawalRow)
    return sum(session.scalar(select(func.count()).select_from(table)) or 0 for table in tables)


def _lines(session: Session) -> Iterator[Line]:
    """Yield all records in order of kind and id."""
    for row in session.scalars(select(SpecRow).order_by(SpecRow.digest)):
        yield SpecLine(digest=row.digest, content=row.content)
    for task in session.scalars(select(TaskRow.id).order_by(TaskRow.id)).all():
        yield from _releases(session, task)
    for experiment in session.scalars(select(ExperimentRow.id).order_by(ExperimentRow.id)).all():
        signed = select(ProvenanceRow.envelope).where(ProvenanceRow.experiment_id == experiment)
        for envelope in sorted(set(session.scalars(signed))):
            yield ExperimentLine(envelope=encode(envelope))
    for row_id in session.scalars(select(WithdrawalRow.task_id).order_by(WithdrawalRow.task_id)):
        yield WithdrawalLine(task=row_id)


def _releases(session: Session, task: str) -> Iterator[ReleaseLine]:
    spec = session.scalars(select(TaskRow.spec_digest).where(TaskRow.id == task)).one()
    payload = session.scalars(select(PayloadRow.content).where(PayloadRow.task_id == task)).one()
    signed = select(ProvenanceRow.envelope).where(ProvenanceRow.task_id == task)
    for envelope in sorted(set(session.scalars(signed))):
        yield ReleaseLine(spec=spec, envelope=encode(envelope), payload=encode(pack(payload)))
