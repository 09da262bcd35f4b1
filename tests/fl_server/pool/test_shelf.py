"""Weights beside a pool: only what all sites agreed to hand on, and gone with any of its tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fl_server.pool import Pool, open_pool
from fl_server.pool.add import add_run
from fl_server.pool.export import export_pool
from fl_server.pool.importing import import_pool
from fl_server.pool.merge import merge_pool
from fl_server.pool.run_weights import Trained, trained_weights
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
        assert add_run(pool, run, COORDINATOR).counts["weights added"] == 1
        assert add_run(pool, run, COORDINATOR).counts["weights known"] == 1
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
        add_run(pool, run, COORDINATOR)
        withdraw(pool, task_of(sharing, MEMBERS[2]))
        assert len(shelf(pool)) == 1
        (found,) = shelved(pool)
        withdraw(pool, task_of(sharing, MEMBERS[0]))
        assert shelf(pool) == []
        assert not found.path.exists()
        again = add_run(pool, run, COORDINATOR).counts
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
