"""Taking in what another pool exported: all of it verified, in one transaction."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from fl_server.pool.models import ProvenanceRow
from fl_server.pool.portable import (
    LIMIT,
    Line,
    ReleaseLine,
    SpecLine,
    WithdrawalLine,
    decode,
    lines,
    verify,
)
from fl_server.pool.records import SPEC_LIMIT, open_experiment, open_release, open_spec
from fl_server.pool.session import Pool
from fl_server.pool.store import Tally, put_experiment, put_task, take_out
from fl_server.pool.telling import told
from fl_server.pool.withdraw import scrub
from fl_server.pool_vectors import follow
from protocol.errors import ConfigError, Expired, MalformedPayload, TooLarge
from protocol.fingerprint import unpack
from protocol.spec import Spec


def import_pool(pool: Pool, file: Path, trusted: list[str], limit: int = LIMIT) -> Tally:
    """Verify an exported file and add what the pool lacks; all or nothing.

    Parameters
    ----------
    pool : Pool
        Where to.
    file : Path
        Written by `fl_server.pool.export.export_pool`.
    trusted : list of str
        Public keys (PEM) of those whose files are taken.
    limit : int
        Most bytes of the file.

    Raises
    ------
    ConfigError
        When no key is trusted, or there is no file.
    VerificationError
        When anything in it is not in order; the pool stays as it was.
    """
    if not trusted:
        raise ConfigError("nobody is trusted: give the exporter's public key (--trust PEM)")
    if not file.is_file():
        raise ConfigError(f"{file} is no file: give one that fedprint pool export wrote")
    tally = Tally()
    with file.open("rb") as opened:
        statement, key_id = verify(opened, trusted, limit)
        total = sum(statement.predicate.records.values())
        with pool.writing() as session:
            taker = _Taker(session, key_id, tally)
            for line in told(lines(opened, statement), "import", total):
                taker.take(line)
    follow(pool)
    if tally.withdrawn:
        scrub(pool)
    return tally


class _Taker:
    """Takes the records of one file."""

    def __init__(self, session: Session, exporter: str, tally: Tally) -> None:
        self._session, self._exporter, self._tally = session, exporter, tally
        self._specs: dict[str, Spec] = {}

    def take(self, line: Line) -> None:
        if isinstance(line, SpecLine):
            if len(line.content) > SPEC_LIMIT:
                raise TooLarge(f"a spec has more than the limit of {SPEC_LIMIT} bytes")
            self._specs[line.digest] = open_spec(line.content, line.digest)
        elif isinstance(line, ReleaseLine):
            self._release(line)
        elif isinstance(line, WithdrawalLine):
            self._withdrawal(line.task)
        else:
            record = open_experiment(decode(line.envelope), vouched_by=self._exporter)
            put_experiment(self._session, record, self._tally)

    def _release(self, line: ReleaseLine) -> None:
        if line.spec not in self._specs:
            raise MalformedPayload(f"a release is of spec {line.spec[:12]}, which the file lacks")
        payload, envelope = unpack(decode(line.payload)), decode(line.envelope)
        spec = self._specs[line.spec]
        try:
            record = open_release(payload, envelope, spec, vouched_by=self._exporter)
        except Expired as error:
            self._tally.count("tasks expired", str(error))
            return
        put_task(self._session, record, self._tally)

    def _withdrawal(self, task: str) -> None:
        """Follow a withdrawal, unless the task came here from others, too.

        A trusted exporter could otherwise have any task removed, by naming its id.
        """
        vouchers = set(
            self._session.scalars(
                select(ProvenanceRow.vouched_by).where(ProvenanceRow.task_id == task)
            )
        )
        if vouchers <= {self._exporter}:
            take_out(self._session, task, self._tally)
        else:
            self._tally.count(
                "withdrawals not followed",
                f"the exporter withdrew task {task[:12]}, which came here from others, too: to "
                "follow, use fedprint pool withdraw",
            )
