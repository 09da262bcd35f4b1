"""Weights beside a pool: only what all sites agreed to hand on, and gone with any of its tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from sqlalchemy import select

from fl_server.pool import Pool, open_pool
from fl_server.pool.add import add, of_run
from fl_server.pool.export import export_pool
from fl_server.pool.importing import import_pool
from fl_server.pool.merge import merge_pool
from fl_server.pool.models import PayloadRow
from fl_server.pool.run_weights import Trained, put_weights, trained_weights
from fl_server.pool.runs import NotVerified
from fl_server.pool.withdraw import withdraw
from fl_server.shelf import About, folder_of, put, shelved
from fl_server.verify_evidence import Broken, Evidence
from protocol.errors import DataError
from protocol.files import atomic_json, sha256_hex
from protocol.keys import key_pem
from protocol.plan import Knowledge, Plan, Start
from protocol.sharing import Arrays
from protocol.trials import PlansFile
from protocol.weights import weights_sha256
from tests.fl_server.advised import sharing_run, written
from tests.fl_server.joining import MEMBERS, SPEC, Federation
from tests.fl_server.pool.pooling import COORDINATOR, filled, task_id


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what lies beside PostgreSQL pools out of the user's folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def sharing() -> Federation:
    """Three of five sites share: both of the first group, one of the second."""
    return sharing_run(MEMBERS[:3])


@pytest.fixture(scope="module")
def run(sharing: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sharing"), sharing)


def task_of(run: Federation, site: str) -> str:
    return sha256_hex(run.exchange.releases[site].payload)


def body(number: int) -> Arrays:
    return {"body.weight": np.full((2, 3), number, np.float32)}


def about(*numbers: int) -> About:
    return About(
        architecture="net", recipe="adapter", sources=[task_id(n) for n in numbers], run="run-1"
    )


def shelf(pool: Pool) -> list[str]:
    return [each.sha256 for each in shelved(pool)]


def test_a_run_brings_the_weights_of_groups_that_share_them(
    where: str, run: Path, sharing: Federation
) -> None:
    with open_pool(where, create=True) as pool:
        assert add(pool, of_run(run, COORDINATOR)).counts["weights added"] == 1
        assert add(pool, of_run(run, COORDINATOR)).counts["weights known"] == 1
        (found,) = shelved(pool)
        assert found.path.stat().st_mode & 0o777 == 0o600
    model = sharing.outcomes["grouped"].models["grouped-1"]
    loaded = found.load()
    assert sorted(loaded) == ["body.bias", "body.weight"]
    assert np.array_equal(loaded["body.weight"], model["body.weight"].numpy())
    assert found.sha256 == weights_sha256(loaded)
    assert found.about == About(
        architecture=SPEC.backbone,
        recipe="adapter",
        sources=sorted(task_of(sharing, site) for site in MEMBERS[:2]),
        run="run-1",
    )


def test_withdrawing_a_task_deletes_what_was_trained_on_it(
    where: str, run: Path, sharing: Federation
) -> None:
    with open_pool(where, create=True) as pool:
        add(pool, of_run(run, COORDINATOR))
        withdraw(pool, task_of(sharing, MEMBERS[2]))
        assert len(shelf(pool)) == 1
        (found,) = shelved(pool)
        withdraw(pool, task_of(sharing, MEMBERS[0]))
        assert shelf(pool) == []
        assert not found.path.exists()
        again = add(pool, of_run(run, COORDINATOR)).counts
        assert (again["weights without their tasks"], again["weights added"]) == (1, 0)
        assert shelf(pool) == []


def test_the_bytes_of_withdrawn_weights_are_overwritten(tmp_path: Path) -> None:
    with filled(str(tmp_path / "pool.db")) as pool:
        put(pool, body(1), about(0, 1))
        (found,) = shelved(pool)
        kept = tmp_path / "kept"
        kept.hardlink_to(found.path)
        withdraw(pool, task_id(1))
    assert not any(kept.read_bytes())


def test_an_import_that_withdraws_deletes_them_too(tmp_path: Path) -> None:
    with (
        filled(str(tmp_path / "theirs.db")) as theirs,
        open_pool(tmp_path / "ours.db", create=True) as ours,
    ):
        file, trusted = tmp_path / "out.jsonl", [key_pem(COORDINATOR.public_key)]
        export_pool(theirs, file, COORDINATOR)
        import_pool(ours, file, trusted)
        put(ours, body(1), about(0, 1))
        put(ours, body(2), about(2))
        withdraw(theirs, task_id(1))
        export_pool(theirs, file, COORDINATOR)
        import_pool(ours, file, trusted)
        assert shelf(ours) == [weights_sha256(body(2))]


def test_a_merge_takes_the_weights_of_tasks_that_came_along(tmp_path: Path) -> None:
    with (
        filled(str(tmp_path / "theirs.db")) as theirs,
        open_pool(tmp_path / "ours.db", create=True) as ours,
    ):
        put(theirs, body(1), about(0, 1))
        put(theirs, body(2), about(8))  # a task that theirs does not hold
        assert merge_pool(ours, theirs).counts["weights added"] == 1
        (found,) = shelved(ours)
        assert np.array_equal(found.load()["body.weight"], body(1)["body.weight"])
        assert found.about == about(0, 1)
        withdraw(theirs, task_id(0))
        merge_pool(ours, theirs)
        assert shelf(ours) == []


def planned(run: Path, start: Start | None, group: str = "planned-1") -> None:
    """Give a run folder the arm planned: its first group, by a plan with another network."""
    first = MEMBERS[:2]
    metrics = json.loads((run / "metrics.json").read_text())
    plan = dict(metrics["plans"]["grouped"][0], group=group)
    metrics["plans"]["planned"] = [plan]
    atomic_json(run / "metrics.json", metrics)
    knowledge = Knowledge(architecture=SPEC.model_copy(update={"backbone": "wide"}), start=start)
    entry = Plan(
        run="run-1", group="group-1", sites=dict.fromkeys(first, "0" * 64), knowledge=knowledge
    )
    atomic_json(run / "plans.json", PlansFile(plans=[entry]))
    (run / "models" / "planned-1.safetensors").write_bytes(
        safetensors.numpy.save({"body.weight": np.ones((2, 2), np.float32)})
    )


def of_plans(
    run: Path, folder: Path, sharing: Federation, start: Start | None, group: str = "planned-1"
) -> list[Trained]:
    """Return the weights of a copy of a run that has plans."""
    shutil.copytree(run, folder)
    planned(folder, start, group)
    ids = {site: task_of(sharing, site) for site in MEMBERS}
    return list(trained_weights(Evidence(folder), ids))


def test_planned_models_are_of_the_plans_network_and_of_its_starts_tasks(
    run: Path, sharing: Federation, tmp_path: Path
) -> None:
    start = Start(sha256="1" * 64, architecture="wide", sources=["9" * 64])
    found = of_plans(run, tmp_path / "run", sharing, start)
    assert [each.about.architecture for each in found] == [SPEC.backbone, "wide"]
    mine = sorted(task_of(sharing, site) for site in MEMBERS[:2])
    assert found[1].about.sources == sorted([*mine, "9" * 64])
    assert found[1].body["body.weight"].shape == (2, 2)


def test_a_group_without_a_plan_or_with_a_strange_name_is_refused(
    run: Path, sharing: Federation, tmp_path: Path
) -> None:
    with pytest.raises(Broken, match=r"names a group \.\./\.\./x"):
        of_plans(run, tmp_path / "run", sharing, None, "../../x")
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(run, tmp_path / "run")
    planned(tmp_path / "run", None)
    atomic_json(tmp_path / "run" / "plans.json", PlansFile(plans=[]))
    ids = {site: task_of(sharing, site) for site in MEMBERS}
    with pytest.raises(Broken, match=r"has no plan of planned-1"):
        list(trained_weights(Evidence(tmp_path / "run"), ids))


def test_a_task_that_did_not_come_along_keeps_its_weights_out(
    run: Path, sharing: Federation
) -> None:
    ids = {site: task_of(sharing, site) for site in MEMBERS[1:]}
    assert list(trained_weights(Evidence(run), ids)) == []


def test_weights_are_checked_when_they_are_read(tmp_path: Path) -> None:
    with filled(str(tmp_path / "pool.db")) as pool:
        put(pool, body(1), about(0))
        (found,) = shelved(pool)
        whole = found.path.read_bytes()
        found.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match=r"holds other weights than its name says: delete it$"):
            found.load()
        found.path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"cannot be read \(.*\): delete it$"):
            found.load()
        with pytest.raises(DataError, match=r"cannot be read \(.*\): delete it$"):
            shelved(pool)
        found.path.write_bytes(safetensors.numpy.save(body(1)))
        with pytest.raises(
            DataError, match=r"does not say whose weights it holds \(.*\): delete it"
        ):
            shelved(pool)


def test_the_shelf_lies_beside_the_file_or_in_the_data_folder(where: str, tmp_path: Path) -> None:
    with open_pool(where, create=True) as pool:
        folder = folder_of(pool)
    if "://" in where:
        assert folder.parent == tmp_path / "data" / "fedprint" / "pools"
        assert folder.suffix == ".weights"
    else:
        assert str(folder) == f"{where}.weights"


def test_weights_that_came_of_more_tasks_go_with_any_of_them(tmp_path: Path) -> None:
    with filled(str(tmp_path / "pool.db")) as pool:
        assert put(pool, body(1), about(0))
        assert not put(pool, body(1), about(1))
        (found,) = shelved(pool)
        assert found.about.sources == sorted([task_id(0), task_id(1)])
        withdraw(pool, task_id(1))
        assert shelf(pool) == []


@pytest.mark.parametrize("content", [b"", b"garbage", safetensors.numpy.save(body(3))])
def test_a_file_that_says_not_whose_it_is_keeps_no_withdrawn_task(
    tmp_path: Path, content: bytes
) -> None:
    """Who can write there could else keep what others withdraw: every name comes before it."""
    where = tmp_path / "pool.db"
    with filled(str(where)) as pool:
        with pool.reading() as session:
            secret = session.scalars(
                select(PayloadRow.content).where(PayloadRow.task_id == task_id(1))
            ).one()[-64:]
        assert secret in where.read_bytes() + Path(f"{where}-wal").read_bytes()
        put(pool, body(1), about(1))
        put(pool, body(2), about(2))
        planted = folder_of(pool) / f"{'0' * 64}.safetensors"
        planted.write_bytes(content)
        with pytest.raises(DataError, match=r"0{64}\.safetensors .*: delete it$"):
            withdraw(pool, task_id(1))
        planted.unlink()
        assert shelf(pool) == [weights_sha256(body(2))]
    assert secret not in where.read_bytes()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"body.weight": np.full((2, 3), np.nan, np.float32)}, "is no network's body"),
        ({"body.weight": np.ones((2, 3), np.float64)}, "is no network's body"),
        ({"head.weight": np.ones((2, 3), np.float32)}, "is no network's body"),
        ({}, "is no network's body"),
    ],
)
def test_what_lies_there_is_a_body(tmp_path: Path, arrays: Arrays, said: str) -> None:
    with filled(str(tmp_path / "pool.db")) as pool:
        put(pool, arrays, about(0))
        (found,) = shelved(pool)
        with pytest.raises(DataError, match=said):
            found.load()


def test_a_file_by_another_name_is_none(tmp_path: Path) -> None:
    with filled(str(tmp_path / "pool.db")) as pool:
        put(pool, body(1), about(0))
        (found,) = shelved(pool)
        found.path.rename(found.path.with_name("best.safetensors"))
        with pytest.raises(DataError, match=r"is not called by the digest of weights: delete it$"):
            shelved(pool)


def test_a_run_that_cannot_be_added_whole_leaves_no_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with open_pool(tmp_path / "pool.db", create=True) as pool:
        monkeypatch.setattr("fl_server.pool.add.put_weights", _then(put_weights, full))
        with pytest.raises(OSError, match="No space left"):
            add(pool, of_run(run, COORDINATOR))
        assert shelf(pool) == []
        monkeypatch.undo()
        assert not list(folder_of(pool).glob("*"))


def _then(first: Any, second: Any) -> Any:
    def both(*given: Any) -> None:
        first(*given)
        second(*given)

    return both


@pytest.mark.parametrize("name", ["models/grouped-1.safetensors", "metrics.json", "groups.json"])
def test_a_run_that_was_changed_brings_nothing(run: Path, tmp_path: Path, name: str) -> None:
    changed = shutil.copytree(run, tmp_path / "run")
    content = (changed / name).read_bytes()
    (changed / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with open_pool(tmp_path / "pool.db", create=True) as pool:
        with pytest.raises(NotVerified, match="nothing was added"):
            add(pool, of_run(changed, COORDINATOR))
        assert shelf(pool) == []


def test_nothing_is_overwritten_through_a_link(tmp_path: Path) -> None:
    with filled(str(tmp_path / "pool.db")) as pool:
        put(pool, body(1), about(1))
        (found,) = shelved(pool)
        precious = found.path.rename(tmp_path / "precious")
        before = precious.read_bytes()
        found.path.symlink_to(precious)
        with pytest.raises(DataError, match=r"is a link, and no weights: delete it$"):
            withdraw(pool, task_id(1))
        assert precious.read_bytes() == before
