"""The fingerprint store: exact answers from disk, crashes, concurrent writers, withdrawals."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fl_server import pool_matrix, pool_search, pool_writing
from fl_server.pool_entries import SIZE
from fl_server.pool_matrix import MappedMatrix
from fl_server.pool_search import BlockIndex, make_index, search, top_k
from fl_server.pool_store import FingerprintStore
from fl_server.pool_writing import append, compact, create, synchronise, withdraw
from fl_server.retrieval_torch import TorchIndex
from protocol.errors import ConfigError, FedprintError, SpecMismatch
from protocol.files import sha256_hex
from protocol.fingerprint import Fingerprint
from strategies.augmented import MEASURES
from strategies.measures import get, released
from strategies.retrieval import Index, Question
from tests.strategies.synthetic import make_sites, make_spec

SPEC = make_spec(features=45, bins=100)  # more products than are summed in one chunk
SITES, _ = make_sites([[60, 90, 40, 33]] * 6, SPEC, shift=0.3)
TASKS = {sha256_hex(site.site.encode()): site for site in SITES}
TASKS |= {sha256_hex(f"copy of {i}".encode()): TASKS[i] for i in list(TASKS)[:5]}  # exact ties
MEASURE = "bkld-small-target"


@pytest.fixture
def store(tmp_path: Path) -> FingerprintStore:
    store = create(tmp_path / "store", SPEC, MEASURE)
    append(store, TASKS.items())
    return store


def expected(target: Fingerprint, measure: str, ids: list[str]) -> list[str]:
    column = (
        get(measure)
        .matrix(released([TASKS[i] for i in ids], SPEC), released([target], SPEC))[:, 0]
        .round(14)
    )
    return [ids[i] for i in sorted(range(len(ids)), key=lambda i: (column[i], ids[i]))]


@pytest.mark.parametrize("device", ["cpu", "onednn", "torch", "torch kept", "faiss"])
@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_every_index_gives_the_order_of_the_matrix(
    tmp_path: Path, measure: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_search, "_MANY", 4)  # so that the closer look is taken
    if device == "faiss":
        pytest.importorskip("faiss")
    store = create(tmp_path, SPEC, measure)
    append(store, TASKS.items())
    if device.startswith("torch"):
        index: Index = TorchIndex(store, "cpu")
        monkeypatch.setattr(index, "_keep", device == "torch kept")  # as on a GPU with room
    elif device == "onednn":
        monkeypatch.setattr(pool_search, "_WIDE", 1)
        monkeypatch.setattr(pool_search, "_LONG", 1)
        index = make_index(store, "cpu")
    else:
        index = make_index(store, device)
    ids = list(TASKS)
    for round_ in range(2):  # the second one after a withdrawal, and after a newcomer
        for target in SITES[:4]:
            answer = top_k(store, target, 7, measure, index=index)
            order = expected(target, measure, ids)
            assert answer.ids == order[:7]
            column = (
                get(measure)
                .matrix(released([TASKS[i] for i in ids], SPEC), released([target], SPEC))[:, 0]
                .round(13)
            )
            shares = [1 - (column < d).mean() for d in answer.distances.round(13)]
            np.testing.assert_allclose(answer.percentiles, shares, rtol=0, atol=1e-12)
        if round_ == 0:
            withdraw(store, ids[3:9])
            append(store, [(ids[4], TASKS[ids[4]])])
            ids = [*ids[:3], ids[4], *ids[9:]]


@pytest.mark.parametrize("mapped", [None, 0])
def test_many_targets_in_small_blocks(
    store: FingerprintStore, mapped: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FingerprintStore(store.folder, mapped)
    monkeypatch.setattr(pool_search, "BLOCK_BYTES", limit := 3 * store.record.itemsize + 1)
    assert [len(block) for _, block in store.blocks(limit=limit)] == [3] * 9 + [2]
    ids = list(TASKS)
    answers = search(store, SITES[:3], 4, MEASURE, exclude=[ids[:1], ids[1:4], ()])
    for target, answer, gone in zip(SITES, answers, [ids[:1], ids[1:4], []], strict=False):
        left = [i for i in ids if i not in gone]
        assert answer.ids == expected(target, MEASURE, left)[:4]
        assert answer.percentiles[-1] >= 1 - 3 / len(left)


def test_few_or_no_candidates(store: FingerprintStore, tmp_path: Path) -> None:
    answer = top_k(store, SITES[0], 99, MEASURE)
    assert answer.ids == expected(SITES[0], MEASURE, list(TASKS))
    assert top_k(store, SITES[0], 2, MEASURE, exclude=TASKS).ids == []
    assert search(store, [], 2, MEASURE) == []
    empty = create(tmp_path / "empty", SPEC, MEASURE)
    answer = top_k(empty, SITES[0], 2, MEASURE)
    assert (answer.ids, len(answer.distances), len(answer.percentiles)) == ([], 0, 0)


def test_appending_is_idempotent_and_survives_reopening(store: FingerprintStore) -> None:
    assert append(store, TASKS.items()) == 0
    assert len(FingerprintStore(store.folder)) == len(TASKS) == store.size


def test_readers_see_what_others_wrote(store: FingerprintStore) -> None:
    ids = list(TASKS)
    with FingerprintStore(store.folder) as reader:
        assert withdraw(store, ids[:2]) == 2
        assert top_k(reader, SITES[0], 99, MEASURE).ids == expected(SITES[0], MEASURE, ids[2:])
        assert compact(store) == 2 * store.record.itemsize
        assert top_k(reader, SITES[0], 99, MEASURE).ids == expected(SITES[0], MEASURE, ids[2:])
    assert compact(store) == 0


def test_faiss_looks_beyond_withdrawn_tasks(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    store = create(tmp_path, SPEC, MEASURE)
    ids = [f"{1000 - i:064x}" for i in range(300)]
    append(store, ((i, SITES[0]) for i in ids))  # all equal: the last one comes first
    index = make_index(store, "faiss")
    assert top_k(store, SITES[1], 1, MEASURE, index=index).ids == ids[-1:]
    for position in range(60, 70):  # about where faiss is asked to stop
        withdraw(store, [ids[position]])
        assert top_k(store, SITES[1], 1, MEASURE, index=index).ids == ids[-1:]


def test_a_task_is_withdrawn_during_a_query(store: FingerprintStore) -> None:
    order = expected(SITES[0], MEASURE, list(TASKS))

    class Slow(BlockIndex):
        def contenders(
            self, asked: Sequence[Question], k: int, allowed: NDArray[np.bool_]
        ) -> list[NDArray[np.intp]]:
            found = super().contenders(asked, k, allowed)
            withdraw(FingerprintStore(store.folder), order[:1])  # blanks what was just found
            return found

    assert top_k(store, SITES[0], 3, MEASURE, index=Slow(store)).ids == order[1:4]


def test_counts_take_no_more_bytes_than_they_need(store: FingerprintStore) -> None:
    ids, sizes = list(TASKS), [store.record.itemsize]
    withdraw(store, ids[:1])
    with FingerprintStore(store.folder) as reader:
        for number, (factor, kind) in enumerate([(7, "u1"), (3000, "u2"), (2 * 10**5, "u4")]):
            big = Fingerprint("big", SITES[0].counts.astype(np.int64) * factor, SPEC.digest, 60)
            assert append(store, [(f"{number:064x}", big)]) == 1
            assert store.header.counts == kind
            sizes.append(store.record.itemsize)
            answer = top_k(reader, SITES[1], 99, MEASURE, exclude=[f"{i:064x}" for i in range(3)])
            assert answer.ids == expected(SITES[1], MEASURE, ids[1:])
            np.testing.assert_array_equal(
                reader.take(np.array([reader.size - 1]))["counts"][0], big.counts
            )
    cells = SPEC.width * SPEC.bins
    assert np.abs(np.diff(sizes) - [0, cells, 2 * cells]).max() < 64  # whole cache lines
    assert sizes[0] < 1.2 * cells + 64
    assert len(list(store.folder.glob("matrix-*"))) == 1


def test_a_store_of_an_older_format_is_made_again(store: FingerprintStore) -> None:
    path = store.folder / "store.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    old = (store.folder / "matrix-0.bin").rename(store.folder / "matrix-0.f32")
    text = re.escape(
        f"the fingerprint store {store.folder} has format 1, of an older fedprint: delete the "
        "folder, it is made again from the pool's database"
    )
    with pytest.raises(ConfigError, match=f"^{text}$"):
        FingerprintStore(store.folder)
    with create(store.folder, SPEC, MEASURE) as again:
        assert len(again) == 0
        assert not old.exists()
        append(again, TASKS.items())
        assert top_k(again, SITES[0], 99, MEASURE).ids == expected(SITES[0], MEASURE, list(TASKS))


def test_withdrawn_records_leave_the_disk(store: FingerprintStore) -> None:
    task = next(iter(TASKS))
    row = store.take(np.array([0]))[0].tobytes()
    matrix = store.folder / store.header.matrix
    assert matrix.read_bytes().count(row) == 2  # and its copy
    assert withdraw(store, [task, "0" * 64]) == 1
    assert matrix.read_bytes().count(row) == 1
    compact(store)
    assert sorted(p.name for p in store.folder.iterdir()) == [
        "entries-1.bin", "matrix-1.bin", "spec.json", "store.json", "writer.lock",
    ]  # fmt: skip
    files = b"".join(p.read_bytes() for p in store.folder.iterdir())
    assert bytes.fromhex(task) not in files
    assert len(store) == store.size == len(TASKS) - 1


def test_a_torn_tail_is_ignored_and_written_over(store: FingerprintStore) -> None:
    ids = list(TASKS)
    entries, matrix = (store.folder / n for n in (store.header.entries, store.header.matrix))
    torn = entries.read_bytes()
    for cut in (1, SIZE - 1, SIZE):  # inside the last entry, or the vector without its entry
        entries.write_bytes(torn[:-cut])
        with FingerprintStore(store.folder) as reader:
            assert len(reader) == len(ids) - 1
    entries.write_bytes(torn[:-SIZE] + bytes(SIZE))  # the file grew, its content never came
    matrix.write_bytes(matrix.read_bytes()[:-7])
    with FingerprintStore(store.folder) as again:
        assert len(again) == len(ids) - 1
        assert append(again, TASKS.items()) == 1
        assert top_k(again, SITES[0], 99, MEASURE).ids == expected(SITES[0], MEASURE, ids)
    assert entries.read_bytes() == torn


WRITER = """
import sys
from pathlib import Path
from fl_server.pool_writing import append, create
from tests.fl_server.test_pool_store import MEASURE, SITES, SPEC
from protocol.files import sha256_hex
store = create(Path(sys.argv[1]), SPEC, MEASURE)
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[3]), int(sys.argv[4])):
    append(store, [(sha256_hex(str(i).encode()), SITES[i % len(SITES)])])
"""


def writer(folder: Path, first: int, last: int) -> subprocess.Popen[str]:
    """Start a process that appends as soon as it is told to."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), "-", str(first), str(last)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def begin(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    create(tmp_path, SPEC, MEASURE)
    processes = [writer(tmp_path, 0, 50), writer(tmp_path, 40, 90)]
    begin(*processes)
    assert [process.wait(60) for process in processes] == [0, 0]
    store = FingerprintStore(tmp_path)
    assert len(store) == store.size == 90
    assert set(store.entries.position) == {sha256_hex(str(i).encode()) for i in range(90)}
    store.take(np.arange(90))  # every checksum fits


def test_a_killed_writer_leaves_whole_fingerprints(tmp_path: Path) -> None:
    process = writer(tmp_path, 0, 10**6)
    begin(process)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    store = FingerprintStore(tmp_path)
    count = len(store)
    assert count > 0
    store.take(np.arange(count))
    task = sha256_hex(str(count).encode())
    assert append(store, [(task, SITES[count % len(SITES)])]) == 1
    assert store.entries.position[task] == count


def test_crash_between_vector_and_entry(
    store: FingerprintStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise OSError("disk full")

    before = (store.folder / store.header.entries).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pool_writing, "_append", crash)
        with pytest.raises(OSError, match=r"^disk full$"):
            append(store, [("f" * 64, SITES[3])])
    assert (store.folder / store.header.entries).read_bytes() == before
    assert append(store, [("e" * 64, SITES[4])]) == 1
    assert top_k(store, SITES[4], 2, MEASURE, exclude=list(TASKS)).ids == ["e" * 64]


def test_crash_while_compacting(store: FingerprintStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError("disk full")

    ids = list(TASKS)
    withdraw(store, ids[:3])
    with monkeypatch.context() as patch:
        patch.setattr(pool_writing, "atomic_json", crash)
        with pytest.raises(OSError, match=r"^disk full$"):
            compact(store)
    assert top_k(store, SITES[0], 99, MEASURE).ids == expected(SITES[0], MEASURE, ids[3:])
    assert compact(store) > 0
    assert top_k(store, SITES[0], 99, MEASURE).ids == expected(SITES[0], MEASURE, ids[3:])


def test_synchronising_with_the_database(store: FingerprintStore) -> None:
    ids = list(TASKS)
    wanted = [*ids[4:], "a" * 64, "b" * 64]
    assert synchronise(store, wanted, lambda _task: SITES[2]) == (2, 4)
    assert set(store.entries.position) == set(wanted)
    assert synchronise(store, wanted, lambda _task: SITES[2]) == (0, 0)


def test_damage_is_found(store: FingerprintStore) -> None:
    matrix = store.folder / store.header.matrix
    data = bytearray(matrix.read_bytes())
    data[100] ^= 1
    matrix.write_bytes(data)
    text = re.escape(
        f"the fingerprint store {store.folder} is damaged at task {store.entries.ids[0][:12]}: "
        "delete the folder, it is made again from the pool's database"
    )
    with pytest.raises(FedprintError, match=f"^{text}$"):
        store.take(np.array([0]))
    with pytest.raises(FedprintError, match=f"^{text}$"):
        top_k(store, SITES[0], 3, MEASURE)


def test_a_shortened_matrix_is_found(store: FingerprintStore) -> None:
    matrix = store.folder / store.header.matrix
    os.truncate(matrix, matrix.stat().st_size - 4)
    text = re.escape(f"the fingerprint store {store.folder} is damaged at its end: delete the fold")
    with pytest.raises(FedprintError, match=f"^{text}"):
        top_k(store, SITES[0], 3, MEASURE)
    store.close()
    text = re.escape(f"the fingerprint store {store.folder} is closed: open it again")
    with pytest.raises(FedprintError, match=f"^{text}$"):
        store.take(np.array([0]))


def test_wrong_uses_are_refused(store: FingerprintStore, tmp_path: Path) -> None:
    folder, other = store.folder, make_spec(features=45, bins=100, name="other")
    text = re.escape(
        f"the fingerprint store {folder} is of spec test ({SPEC.digest[:12]}), not of other "
        f"({other.digest[:12]}): take the store of that spec"
    )
    with pytest.raises(SpecMismatch, match=f"^{text}$"):
        create(folder, other, MEASURE)
    text = re.escape(
        f"the fingerprint store {folder} cannot serve bkld-large-source: its records are rows; "
        "make another store for this measure"
    )
    with pytest.raises(ConfigError, match=f"^{text}$"):
        top_k(store, SITES[0], 1, "bkld-large-source")
    with pytest.raises(ConfigError, match=r"^cannot return 0 nearest tasks: ask for at least 1$"):
        top_k(store, SITES[0], 0)
    text = "'x' is no id of a task: give the SHA-256 of its release, 64 hexadecimal digits"
    with pytest.raises(ConfigError, match=f"^{text}$"):
        append(store, [("x", SITES[0])])
    with pytest.raises(ConfigError, match=r"^no fingerprint store in .+: make one first$"):
        FingerprintStore(tmp_path)
    foreign = Fingerprint("s", SITES[0].counts, "f" * 64, 60)
    with pytest.raises(SpecMismatch):
        append(store, [("c" * 64, foreign)])
    assert len(FingerprintStore(folder)) == len(TASKS)
    with pytest.raises(ConfigError, match=r"^device 'nope' cannot be used \(.+\): take cpu or au"):
        make_index(store, "nope")


def test_a_newer_format_is_refused(store: FingerprintStore) -> None:
    path = store.folder / "store.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    text = re.escape(
        f"the fingerprint store {store.folder} has format 3, this fedprint reads 2: update fedprint"
    )
    with pytest.raises(ConfigError, match=f"^{text}$"):
        FingerprintStore(store.folder)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"^.+store\.json is not a store's header \(.+\): delete"):
        FingerprintStore(store.folder)


def test_auto_without_a_gpu_is_the_cpu(store: FingerprintStore) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert isinstance(make_index(store), BlockIndex)


def test_a_matrix_beyond_half_of_memory_is_not_kept_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows"
    np.arange(12, dtype=np.float32).tofile(path)  # 4 records of 3 values, 48 bytes
    record = np.dtype([("values", "<f4", (3,))])
    for memory, kept in ((48, True), (47, False)):
        monkeypatch.setattr(pool_matrix, "half_of_memory", lambda memory=memory: memory)
        matrix = MappedMatrix(path, record)
        rows = [block["values"] for _, block in matrix.blocks(4, limit=24)]
        np.testing.assert_array_equal(np.concatenate(rows).ravel(), np.arange(12))
        assert (matrix._whole is not None) is kept
        matrix.close()
