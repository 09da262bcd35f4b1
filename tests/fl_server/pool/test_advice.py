"""What a pool says is near, and what it advises: on both databases, in step with what changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_server import pool_advice, pool_query
from fl_server.pool import Pool, open_pool
from fl_server.pool.add import add, of_release
from fl_server.pool.export import export_pool
from fl_server.pool.importing import import_pool
from fl_server.pool.merge import merge_pool
from fl_server.pool.records import open_release
from fl_server.pool.store import Tally, put_all
from fl_server.pool.views import list_tasks
from fl_server.pool.withdraw import withdraw
from fl_server.pool_advice import recommend
from fl_server.pool_nearest import MEASURE, described, find_near
from fl_server.pool_store import FingerprintStore
from fl_server.pool_target import Target, read_target
from fl_server.pool_vectors import folder_of, follow, open_store
from protocol.envelope import sign
from protocol.errors import ConfigError
from protocol.experiment import Architecture, Experiment, Policy
from protocol.files import atomic_json, sha256_hex
from protocol.fingerprint import Fingerprint, counts_to_bytes
from protocol.keys import key_pem, signer
from protocol.statement import Release, release_statement, utc_now
from protocol.taskcard import TaskCard
from strategies.augmented import MEASURES
from strategies.measures import get
from strategies.measures import released as tasks_of
from tests.fl_server.pool.conftest import NewPool
from tests.fl_server.pool.pooling import (
    COORDINATOR,
    KEY,
    SPEC,
    a_task,
    counts_of,
    experiment,
    filled,
    measured,
    released,
    task_id,
)
from tests.strategies.synthetic import make_spec

COUNT = 9
UNWEIGHTED = "bkld-large-unweighted"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the stores of PostgreSQL pools out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def trials() -> Iterator[Experiment]:
    """Yield experiments of three scenarios; task 5 is the best partner of all."""
    rng = np.random.default_rng(7)
    for target in range(COUNT):
        for name in ("net-a", "net-b", "net-c"):
            yield experiment(
                target, None, detail=Architecture(name=name), performance=rng.uniform()
            )
        for source in set(range(COUNT)) - {target}:
            good = 0.9 if source == 5 else 0.4 + 0.1 * rng.uniform()
            yield experiment(target, source, performance=good)
        yield experiment(
            target,
            (target + 1) % COUNT,
            scenario="augmentation",
            detail=Policy(pipeline={"number": (target + 1) % 4}),
            performance=rng.uniform(),
        )


def taught(where: str) -> Pool:
    """Return a pool with tasks and trials."""
    pool = filled(where, range(COUNT))
    with pool.writing() as session:
        put_all(session, [], [measured(each) for each in trials()], Tally())
    return pool


def asking(pool: Pool, said: str) -> Target:
    with pool.reading() as session:
        return read_target(session, said)


def prints(numbers: range = range(COUNT)) -> list[Fingerprint]:
    return [
        Fingerprint(f"site-{n}", counts_of(n).astype(np.int64), SPEC.digest, 40 + n)
        for n in numbers
    ]


def advised(pool: Pool, said: str, **how: Any) -> dict[str, Any]:
    return recommend(pool, asking(pool, said), **how).to_json()


def write_release(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    payload, envelope = released(number)
    atomic_json(folder / "spec.json", SPEC)
    (folder / "new.safetensors").write_bytes(payload)
    (folder / "new.dsse.json").write_bytes(envelope)
    return folder / "new.dsse.json"


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_the_nearest_are_those_of_the_exact_distances(where: str, measure: str) -> None:
    exact = get(measure).matrix(*[tasks_of(prints(), SPEC)] * 2)
    with filled(where, range(COUNT)) as pool:
        for number in range(COUNT):
            target = asking(pool, task_id(number)[:10])
            near = find_near(pool, target, 4, measure, exclude=[target.task.id])
            others = [s for s in range(COUNT) if s != number]
            order = sorted(others, key=lambda s: (exact[s, number], task_id(s)))[:4]
            assert near.ids == [task_id(s) for s in order]
            np.testing.assert_allclose(near.distances, exact[order, number], atol=1e-12)
            assert near.candidates == COUNT - 1
            assert [near.places[i] for i in near.ids] == [1, 2, 3, 4]
            rows = described(pool, near)
            assert [row["card"]["name"] for row in rows] == [f"task {s}" for s in order]


def test_a_release_that_lies_in_a_folder_may_ask(where: str, tmp_path: Path) -> None:
    with taught(where) as pool:
        file = write_release(tmp_path / "prints", COUNT + 3)
        target = asking(pool, str(file))
        assert target.task.id == task_id(COUNT + 3)
        near = find_near(pool, target, 50, UNWEIGHTED, exclude=[target.task.id])
        assert (near.candidates, len(near.ids)) == (COUNT, COUNT)
        assert asking(pool, str(file.with_name("new.safetensors"))).task == target.task
        assert len(advised(pool, str(file))["scenarios"]["co-training"]["shots"]) == 3
        known = write_release(tmp_path / "known", 2)
        assert advised(pool, str(known)) == advised(pool, task_id(2))


def test_both_databases_answer_alike(new_file: NewPool, new_postgres: NewPool) -> None:
    with taught(new_file()) as one, taught(new_postgres()) as other:
        for number in range(0, COUNT, 2):
            here, there = asking(one, task_id(number)), asking(other, task_id(number))
            for measure in MEASURES:
                near = [
                    find_near(pool, target, 5, measure, exclude=[target.task.id])
                    for pool, target in ((one, here), (other, there))
                ]
                assert near[0] == near[1]
                assert described(one, near[0]) == described(other, near[1])
            said = [advised(pool, task_id(number), seed=4) for pool in (one, other)]
            assert json.dumps(said[0]) == json.dumps(said[1])


def test_advice_is_learnt_and_never_from_the_target_itself(where: str) -> None:
    with taught(where) as pool:
        before = advised(pool, task_id(0))
        best = before["scenarios"]["co-training"]["shots"][0]
        assert best["source"]["id"] == task_id(5)
        assert (best["why"], best["rank"]) == ("learnt", 1)
        assert best["better"] > 0.8
        assert all(each["target"] != task_id(0) for each in best["measured"])
        first = before["scenarios"]["architecture"]["shots"][0]
        assert first["knowledge"]["name"] in ("net-a", "net-b", "net-c")
        assert "net-" in first["sentence"]
        own = [measured(experiment(0, s, performance=0.99, seed=9)) for s in (1, 2)]
        with pool.writing() as session:
            put_all(session, [], own, Tally())
        assert advised(pool, task_id(0)) == before
        assert advised(pool, task_id(8)) != before


def test_how_many_are_compared_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held = dict(zip(map(task_id, range(COUNT)), prints(), strict=True))
    ids, specs = sorted(held), {SPEC.digest: SPEC}
    at_once = pool_advice._distances(held, ids, specs, MEASURE)
    monkeypatch.setattr(pool_advice, "PART", 4 * 8 * SPEC.width * SPEC.bins)  # 9 tasks in 3 parts
    np.testing.assert_allclose(pool_advice._distances(held, ids, specs, MEASURE), at_once)
    monkeypatch.setattr(pool_advice, "PART", 1)
    np.testing.assert_allclose(pool_advice._distances(held, ids, specs, MEASURE), at_once)
    assert np.isfinite(at_once).all()


def test_without_outcomes_advice_is_the_distances(where: str) -> None:
    pool = open_pool(where, create=True)
    with pool, pool.writing() as session:
        put_all(session, [a_task(n) for n in range(COUNT)], [], Tally())
    with open_pool(where) as pool:
        target = asking(pool, task_id(3))
        near = find_near(pool, target, 3, MEASURE, exclude=[target.task.id])
        found = recommend(pool, target).to_json()
        assert found["candidates"] == COUNT - 1
        for scenario in found["scenarios"].values():
            assert scenario["outcomes"] == 0
            assert [shot["source"]["id"] for shot in scenario["shots"]] == near.ids
            assert [shot["distance"] for shot in scenario["shots"]] == near.distances


def test_tasks_of_another_spec_bring_their_outcomes(where: str) -> None:
    other = make_spec(features=4, bins=5, name="other")
    payload = counts_to_bytes(counts_of(77, other))
    task = open_release(*released(77, spec=other), other)
    assert task.id == sha256_hex(payload)
    told = experiment(1, None, detail=Architecture(name="net-x"), performance=0.9)
    theirs = told.model_copy(update={"target": task.id})
    with filled(where, range(3)) as pool:
        with pool.writing() as session:
            put_all(session, [task], [measured(theirs)], Tally())
        (shot,) = advised(pool, task_id(0))["scenarios"]["architecture"]["shots"]
        assert (shot["source"]["id"], shot["distance"]) == (task.id, None)
        assert shot["knowledge"]["name"] == "net-x"


def test_stores_follow_what_is_added_and_withdrawn(
    where: str, new_pool: NewPool, tmp_path: Path
) -> None:
    with filled(where) as pool:
        assert not folder_of(pool).exists()
        with open_store(pool, SPEC, UNWEIGHTED) as store:
            assert set(store.entries.position) == {task_id(n) for n in range(4)}
        vector = store_row(pool, task_id(2))
        withdraw(pool, task_id(2))
        assert vector not in matrix_bytes(pool)
        assert held(pool) == {task_id(n) for n in (0, 1, 3)}

        add(pool, of_release(write_release(tmp_path / "prints", 6)))
        assert task_id(6) in held(pool)
        with filled(new_pool(), range(8, 10)) as other:
            export_pool(other, tmp_path / "shared.jsonl", COORDINATOR)
            import_pool(pool, tmp_path / "shared.jsonl", [_pem()])
            assert {task_id(8), task_id(9)} <= held(pool)
            withdraw(other, task_id(8))
            merge_pool(pool, other)
            assert held(pool) == {task_id(n) for n in (0, 1, 3, 6, 9)}


def test_asking_while_others_add_and_withdraw(where: str) -> None:
    def ask(number: int) -> bool:
        with open_pool(where) as pool:
            target = asking(pool, task_id(number % 3))
            near = find_near(pool, target, 50, UNWEIGHTED, exclude=[target.task.id])
            return 2 <= len(described(pool, near)) <= len(near.ids) < 20

    def change(number: int) -> bool:
        with open_pool(where) as pool:
            if number % 2:
                with pool.writing() as session:
                    put_all(session, [a_task(number)], [], Tally())
                follow(pool)
            else:
                withdraw(pool, task_id(number // 2 + 6))
        return True

    filled(where, range(3)).close()
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(do, n) for n in range(10, 20) for do in (change, ask)]
        assert all(each.result(120) for each in done)
    with open_pool(where) as pool, open_store(pool, SPEC, UNWEIGHTED) as store:
        with pool.reading() as session:
            here = {task["id"] for task in list_tasks(session)}
        assert here == set(store.entries.position)


def test_a_store_that_was_deleted_is_made_again(where: str) -> None:
    with filled(where) as pool:
        target = asking(pool, task_id(1))
        before = find_near(pool, target, 3, UNWEIGHTED, exclude=[])
        shutil.rmtree(folder_of(pool))
        follow(pool)
        assert not folder_of(pool).exists()
        assert find_near(pool, target, 3, UNWEIGHTED, exclude=[]) == before


def test_absurd_counts_do_not_stop_the_others(where: str) -> None:
    counts = np.full((SPEC.features, SPEC.bins), 2**24, dtype=np.int64)
    payload = counts_to_bytes(counts)
    now = utc_now()
    release = Release(
        site="liar",
        spec_digest=SPEC.digest,
        spec_name=SPEC.name,
        images=int(counts[0].sum()),
        policy_digest="b" * 64,
        task_card=TaskCard(name="x"),
        issued=now,
        expires=now + timedelta(days=1),
    )
    envelope = sign(release_statement(payload, release), signer(KEY))
    with filled(where) as pool:
        with pool.writing() as session:
            put_all(session, [open_release(payload, envelope, SPEC)], [], Tally())
        near = find_near(pool, asking(pool, task_id(0)), 9, UNWEIGHTED, exclude=[task_id(0)])
        assert sorted(near.ids) == sorted(task_id(n) for n in (1, 2, 3))
        assert len(advised(pool, task_id(0))["scenarios"]["co-training"]["shots"]) == 3


def test_the_commands_take_the_same_default() -> None:
    assert pool_query.MEASURE == MEASURE


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("zz", "'zz' is neither the id of a task nor a release: give the first 6 digits of an id"),
        ("abc", "'abc' is no id: give the first 6 or more digits"),
        ("0123456789", "the pool holds nothing with the id 0123456789: see fedprint pool list"),
        ("none.dsse.json", ". has no spec.json"),
    ],
)
def test_who_cannot_ask(new_file: NewPool, said: str, error: str) -> None:
    with filled(new_file()) as pool, pytest.raises(ConfigError) as caught:
        asking(pool, said)
    assert str(caught.value).startswith(error)


def test_an_experiment_cannot_ask(new_file: NewPool) -> None:
    with filled(new_file()) as pool, pytest.raises(ConfigError, match="is no task of the pool"):
        asking(pool, experiment(0, 1).id)


def held(pool: Pool) -> set[str]:
    """Return what the pool's one store holds, without bringing it up to date."""
    (folder,) = (path.parent for path in folder_of(pool).glob("*/store.json"))
    with FingerprintStore(folder) as store:
        return set(store.entries.position)


def matrix_bytes(pool: Pool) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder_of(pool).glob("*/matrix-*")))


def store_row(pool: Pool, task: str) -> bytes:
    with open_store(pool, SPEC, UNWEIGHTED) as store:
        return store.take(np.array([store.entries.position[task]])).tobytes()[:80]


def _pem() -> str:
    return key_pem(COORDINATOR.public_key)
