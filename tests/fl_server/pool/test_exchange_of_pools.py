"""Export, import, merge and withdrawal: signed, verified, all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_server.pool import Pool, open_pool
from fl_server.pool import session as pool_session
from fl_server.pool.export import export_pool
from fl_server.pool.importing import import_pool
from fl_server.pool.merge import merge_pool
from fl_server.pool.portable import encode, head
from fl_server.pool.session import PoolBusy
from fl_server.pool.store import Tally, put_all, put_task
from fl_server.pool.views import list_withdrawals, show
from fl_server.pool.withdraw import withdraw
from protocol.errors import (
    BadRowSums,
    BadSignature,
    ConfigError,
    DigestMismatch,
    MalformedEnvelope,
    MalformedPayload,
    SpecMismatch,
    TooLarge,
    UnknownKey,
    VerificationError,
)
from protocol.files import canonical_json
from protocol.fingerprint import counts_to_bytes, pack
from protocol.keys import generate_key, signer, signer_pem
from tests.fl_server.pool.conftest import NewPool
from tests.fl_server.pool.pooling import (
    COORDINATOR,
    a_task,
    body,
    counts_of,
    everything,
    experiment,
    filled,
    measured,
    names,
    released,
    task_id,
)
from tests.fl_server.running import ROOT

TRUSTED = [signer_pem(COORDINATOR)]


def resigned(file: Path, change: Callable[[list[dict[str, str]]], object]) -> Path:
    """Change the records of a file and sign it again, as a trusted but lying exporter would."""
    lines = [json.loads(line) for line in file.read_bytes().splitlines()[1:]]
    change(lines)
    data = b"".join(canonical_json(line) + b"\n" for line in lines)
    file.write_bytes(head(hashlib.sha256(data).hexdigest(), {}, COORDINATOR) + data)
    return file


def exported(pool: Pool, folder: Path) -> Path:
    export_pool(pool, folder / "pool.jsonl", COORDINATOR)
    return folder / "pool.jsonl"


def test_a_pool_travels_whole_between_databases(
    new_file: NewPool, new_postgres: NewPool, tmp_path: Path
) -> None:
    with filled(new_file()) as first, open_pool(new_postgres(), create=True) as second:
        tally = import_pool(second, exported(first, tmp_path), TRUSTED)
        assert tally.counts == {"tasks added": 4, "experiments added": 3}
        assert body(first, tmp_path) == body(second, tmp_path)
        again = import_pool(second, exported(first, tmp_path), TRUSTED)
        assert again.counts == {"tasks known": 4, "experiments known": 3}
        with second.reading() as session:
            signed = show(session, task_id(1))["provenance"]
        assert [each["vouched_by"] for each in signed] == [COORDINATOR.public_key.keyid]


def test_equal_pools_give_equal_files(new_file: NewPool, tmp_path: Path) -> None:
    tasks = [a_task(n) for n in range(4)]
    tried = [measured(experiment(n, n + 1)) for n in range(3)]
    bodies = []
    for step in (1, -1):
        with open_pool(new_file(), create=True) as pool:
            with pool.writing() as session:
                put_all(session, tasks[::step], tried[::step], Tally())
            bodies.append(body(pool, tmp_path))
    assert bodies[0] == bodies[1]


def test_only_the_files_of_those_who_are_trusted_are_taken(
    new_file: NewPool, tmp_path: Path
) -> None:
    with filled(new_file()) as pool:
        file = exported(pool, tmp_path)
    with open_pool(new_file(), create=True) as pool:
        with pytest.raises(UnknownKey, match="which you do not trust"):
            import_pool(pool, file, [signer_pem(signer(generate_key()))])
        with pytest.raises(ConfigError, match="nobody is trusted: give the exporter's public key"):
            import_pool(pool, file, [])
        with pytest.raises(TooLarge, match="more than the limit of 1000 bytes"):
            import_pool(pool, file, TRUSTED, limit=1000)
        with pytest.raises(ConfigError, match="is no file: give one that fedprint pool export"):
            import_pool(pool, tmp_path, TRUSTED)
        assert names(pool) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_byte_gets_in(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "changed"
    if not (folder / "pool.jsonl").exists():
        folder.mkdir()
        with filled(str(folder / "first.db")) as pool:
            exported(pool, folder)
    whole = (folder / "pool.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    # half of the changes to the short signed line
    at = data.draw(st.one_of(st.integers(0, first - 1), st.integers(first, len(whole) - 1)))
    new = data.draw(st.one_of(st.binary(max_size=2), st.just(b"\n")))
    changed = whole[:at] + new + whole[at + 1 :]
    if changed == whole:
        return
    (folder / "bad.jsonl").write_bytes(changed)
    with open_pool(folder / "second.db", create=True) as pool:
        with pytest.raises(VerificationError):
            import_pool(pool, folder / "bad.jsonl", TRUSTED)
        assert names(pool) == []


def _payload_of(other: int) -> str:
    return encode(pack(counts_to_bytes(counts_of(other))))


def _no_sums(line: dict[str, str]) -> None:
    payload, envelope = released(1, images=99)
    line |= {"payload": encode(pack(payload)), "envelope": encode(envelope)}


def _spaced(line: dict[str, str]) -> None:
    line["envelope"] = encode(released(1)[1].replace(b'":', b'": ', 1))


LIES: dict[str, tuple[Callable[[list[dict[str, str]]], object], type[VerificationError]]] = {
    "another payload": (lambda ls: ls[1].update(payload=_payload_of(77)), DigestMismatch),
    "no payload": (lambda ls: ls[1].update(payload=encode(b"no")), MalformedPayload),
    "a bomb": (lambda ls: ls[1].update(payload=encode(pack(bytes(70 << 20)))), TooLarge),
    "rows do not add up": (lambda ls: _no_sums(ls[1]), BadRowSums),
    "another form": (lambda ls: _spaced(ls[1]), MalformedEnvelope),
    "another spec": (lambda ls: ls[0].update(digest="0" * 64), SpecMismatch),
    "no spec": (lambda ls: ls.pop(0), MalformedPayload),
    "no such kind": (lambda ls: ls.append({"kind": "code"}), MalformedPayload),
    "more fields": (lambda ls: ls[1].update(more=""), MalformedPayload),
    "no Base64": (lambda ls: ls[-1].update(envelope="?"), MalformedPayload),
    "no experiment": (lambda ls: ls[-1].update(envelope=ls[1]["envelope"]), VerificationError),
}


@pytest.mark.parametrize("name", LIES)
def test_a_trusted_exporter_is_not_believed_either(
    new_pool: NewPool, tmp_path: Path, name: str
) -> None:
    change, error = LIES[name]
    with filled(new_pool()) as pool:
        file = resigned(exported(pool, tmp_path), change)
    with open_pool(new_pool(), create=True) as pool:
        with pytest.raises(error):
            import_pool(pool, file, TRUSTED)
        assert names(pool) == []


def test_an_experiment_whose_figure_was_changed_is_refused(
    new_file: NewPool, tmp_path: Path
) -> None:
    def change(lines: list[dict[str, str]]) -> None:
        envelope = json.loads(measured(experiment(0, 1)).envelope)
        better = json.loads(measured(experiment(0, 1, performance=0.99)).envelope)
        lines[-1]["envelope"] = encode(canonical_json({**envelope, "payload": better["payload"]}))

    with filled(new_file()) as pool:
        file = resigned(exported(pool, tmp_path), change)
    with open_pool(new_file(), create=True) as pool, pytest.raises(BadSignature):
        import_pool(pool, file, TRUSTED)


def test_merging_is_the_union_whichever_way(new_pool: NewPool, tmp_path: Path) -> None:
    places = [new_pool(), new_pool(), new_pool(), new_pool()]
    tasks = [a_task(n) for n in range(6)]
    tried = [measured(experiment(n, n + 1)) for n in range(5)]
    pools = [open_pool(where, create=True) for where in places]
    for pool, part in zip(pools, (slice(0, 4), slice(2, 6)) * 2, strict=True):
        with pool.writing() as session:
            put_all(session, tasks[part], tried[part], Tally())
    withdraw(pools[1], task_id(3))
    withdraw(pools[3], task_id(3))
    assert merge_pool(pools[0], pools[1]).counts["withdrawn"] == 1
    merge_pool(pools[3], pools[2])
    assert body(pools[0], tmp_path) == body(pools[3], tmp_path)
    assert everything(pools[0]) == everything(pools[3])
    assert names(pools[0]) == ["site-0", "site-1", "site-2", "site-4", "site-5"]
    assert merge_pool(pools[0], pools[3]).counts["tasks added"] == 0
    with pytest.raises(ConfigError, match="cannot be merged with itself: name two pools"):
        merge_pool(pools[0], pools[0])
    for pool in pools:
        pool.close()


def test_a_withdrawn_task_is_gone_and_stays_away(new_pool: NewPool, tmp_path: Path) -> None:
    with filled(new_pool()) as pool:
        file = exported(pool, tmp_path)
        tally = withdraw(pool, task_id(1))
        assert tally.counts == {"withdrawn": 1, "experiments removed": 2}
        assert task_id(1) not in everything(pool)
        assert names(pool) == ["site-0", "site-2", "site-3"]
        again = import_pool(pool, file, TRUSTED)
        assert again.counts["tasks withdrawn before"] == 1
        assert again.counts["experiments without their tasks"] == 2
        assert again.notes == [f"task {task_id(1)[:12]} was withdrawn: left out"]
        assert names(pool) == ["site-0", "site-2", "site-3"]
        assert withdraw(pool, task_id(1)).counts == {"withdrawn before": 1}
        with pool.reading() as session:
            (line,) = list_withdrawals(session)
            assert show(session, task_id(1)[:8]) == {"kind": "withdrawal", **line}


def test_nothing_of_a_withdrawn_task_stays_in_the_file(new_file: NewPool) -> None:
    where = new_file()
    with filled(where) as pool:
        held = a_task(1)
        gone = [held.payload[-30:], b"site-1", held.release.key_id.encode(), b"task 1"]
        told = measured(experiment(1, 2))
        gone += [told.experiment.id.encode(), repr(told.experiment.performance).encode()]

        def on_disk() -> bytes:
            files = Path(where).parent.glob(f"{Path(where).name}*")
            return b"".join(path.read_bytes() for path in files)

        before = on_disk()
        assert all(part in before for part in gone[:2])
        withdraw(pool, task_id(1))
        after = on_disk()
    keys_of_others = held.release.key_id.encode()  # one key signs for all sites of these tests
    assert [part for part in gone if part in after and part != keys_of_others] == []
    assert task_id(1).encode() in after  # that it was withdrawn
    assert task_id(2).encode() in after


def test_a_reader_delays_overwriting_and_is_named(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_session, "BUSY_SECONDS", 1)
    with filled(where) as pool, pool.reading() as session, open_pool(where) as other:
        show(session, task_id(1))
        with pytest.raises(PoolBusy) as caught:
            withdraw(other, task_id(1))
    assert str(caught.value).endswith("is being used by another process: try again when it is done")
    with open_pool(where) as pool:
        assert withdraw(pool, task_id(1)).counts == {"withdrawn before": 1}
        assert "site-1" not in names(pool)


def test_a_writer_waits_for_another_and_says_so(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_session, "BUSY_SECONDS", 1)
    with filled(where) as pool, pool.writing() as session, open_pool(where) as other:
        put_task(session, a_task(8), Tally())
        with pytest.raises(PoolBusy, match="is being used by another process: try again"):
            withdraw(other, task_id(1))
    with open_pool(where) as pool:
        assert len(names(pool)) == 5


def test_an_exporters_withdrawals_are_followed_where_the_task_is_its_own(
    new_file: NewPool, tmp_path: Path
) -> None:
    with filled(new_file()) as theirs, open_pool(new_file(), create=True) as ours:
        import_pool(ours, exported(theirs, tmp_path), TRUSTED)
        with ours.writing() as session:
            put_task(session, a_task(2, vouched_by="d" * 64), Tally())
        withdraw(theirs, task_id(1))
        withdraw(theirs, task_id(2))
        tally = import_pool(ours, exported(theirs, tmp_path), TRUSTED)
        assert tally.counts["withdrawn"] == tally.counts["withdrawals not followed"] == 1
        assert names(ours) == ["site-0", "site-2", "site-3"]


IMPORTER = """
import sys, time
from pathlib import Path
from fl_server.pool import importing, open_pool
taken, take = 0, importing._Taker.take
def slow(self, line):
    global taken
    take(self, line)
    taken += 1
    if taken == 60:
        self._session.flush()
        print("half", flush=True)
        time.sleep(60)
importing._Taker.take = slow
with open_pool(sys.argv[1]) as pool:
    importing.import_pool(pool, Path(sys.argv[2]), [sys.argv[3]])
"""


def test_a_killed_import_leaves_the_pool_as_before(new_pool: NewPool, tmp_path: Path) -> None:
    where = new_pool()
    with filled(new_pool(), range(100)) as pool:
        file = exported(pool, tmp_path)
    with filled(where) as pool:
        before = everything(pool), body(pool, tmp_path)
    command = [sys.executable, "-c", IMPORTER, where, str(file), TRUSTED[0]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        os.kill(process.pid, signal.SIGKILL)
    with open_pool(where) as pool:
        assert (everything(pool), body(pool, tmp_path)) == before
        started = time.monotonic()
        assert import_pool(pool, file, TRUSTED).counts["tasks added"] == 96
        assert time.monotonic() - started < 30  # no lock was left behind


def test_a_random_moment_of_death_is_before_or_after(new_file: NewPool, tmp_path: Path) -> None:
    with filled(new_file(), range(60)) as pool:
        file = exported(pool, tmp_path)
    code = IMPORTER.replace("taken == 60", "False").replace("importing._Taker.take = slow", "")
    for delay in (0.0, 0.05, 0.1, 0.2):
        where = new_file()
        with filled(where) as pool:
            before = names(pool)
        marked = code.replace("with open_pool", 'print("go", flush=True)\nwith open_pool')
        command = [sys.executable, "-c", marked, where, str(file), TRUSTED[0]]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
        with open_pool(where) as pool:
            assert names(pool) == before or len(names(pool)) == 60


def test_messages_are_one_line(new_file: NewPool, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\nworld\n")
    with open_pool(new_file(), create=True) as pool, pytest.raises(MalformedEnvelope) as caught:
        import_pool(pool, tmp_path / "text", TRUSTED)
    assert re.fullmatch("these bytes are not a DSSE envelope", str(caught.value))
