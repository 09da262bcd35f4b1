"""What a run folder has for the pool: only what is verified, and the figures of metrics.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fl_server.pool import open_pool
from fl_server.pool.add import add, of_experiments, of_release, of_run
from fl_server.pool.runs import EXPERIMENTS, NotVerified, read_run, written_experiments
from fl_server.pool.views import experiments, fingerprints, list_tasks, show
from fl_server.runfolder import CHECKPOINT
from fl_server.runlog import RunLog
from fl_server.runstate import RUN
from fl_server.settings import RunSettings
from fl_server.verify_evidence import Broken, Evidence
from protocol.errors import BadSignature, ConfigError, Expired, SpecMismatch
from protocol.files import atomic_json, canonical_json, file_digest
from protocol.keys import Signer, generate_key, signer, signer_pem
from tests.fl_server import joining
from tests.fl_server.audited import audited_run, closed_again
from tests.fl_server.joining import FINGERPRINTS, MEMBERS, federation, write_run
from tests.fl_server.pool.pooling import COORDINATOR, SPEC, experiment, filled, names, released


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signer]:
    """Write a run with the arms alone and grouped, whose settings ask for plain releases."""
    run = federation()
    asked = RunSettings.model_validate(joining.SETTINGS.model_dump() | {"release": "plain"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "SETTINGS", asked)
        folder = write_run(tmp_path_factory.mktemp("trained"), run)
    return folder, run.exchange.signer


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a private exchange, without training."""
    return audited_run(tmp_path_factory.mktemp("audited"))


def digest_of(run: Path, site: str) -> str:
    return file_digest(run / "fingerprints" / f"{site}.safetensors")


def test_a_run_gives_tasks_and_outcomes(where: str, trained: tuple[Path, Signer]) -> None:
    run, key = trained
    with open_pool(where, create=True) as pool:
        tally = add(pool, of_run(run, COORDINATOR, signer_pem(key)))
        assert tally.counts == {"tasks added": 5, "experiments added": 4}
        assert names(pool) == list(MEMBERS)
        with pool.reading() as session:
            found = experiments(session)
            signed = show(session, found[0].id)["provenance"]
        assert add(pool, of_run(run, COORDINATOR)).counts == {
            "tasks known": 5,
            "experiments known": 4,
        }
    # by hand: of the groups 0-0 0-1, 1-0 1-1 and 2-0 the first two share a class and are trained
    metrics = json.loads((run / "metrics.json").read_text())
    plans = [plan for plan in metrics["plans"]["grouped"] if plan["trainable"]]
    wanted = {
        (digest_of(run, target), digest_of(run, source))
        for plan in plans
        for target in plan["sites"]
        for source in plan["sites"]
        if source != target and not {source, target} & set(plan["apart"])
    }
    assert len(found) == len(wanted) == 4
    assert {(each.target, each.source) for each in found} == wanted
    each = found[0]
    assert (each.scenario, each.metric, each.seed) == ("co-training", "balanced_accuracy", 4)
    assert (each.performance, each.baseline) == (0.75, 0.5)
    assert each.detail.model_dump() == {"kind": "partner", "arm": "grouped", "tasks": 2}
    assert each.hyperparameters["rounds"] == 2
    assert signed == [{"key": COORDINATOR.public_key.keyid, "vouched_by": key.public_key.keyid}]


def test_a_run_without_training_gives_its_tasks(where: str, exchanged: Path) -> None:
    with open_pool(where, create=True) as pool:
        assert add(pool, of_run(exchanged, COORDINATOR)).counts == {"tasks added": 5}
        with pool.reading() as session:
            tasks = list_tasks(session)
            (spec_name,) = {task["spec"] for task in tasks}
            held = dict(fingerprints(session, joining.SPEC))
    assert spec_name == joining.SPEC.name
    assert all(task["private"] and task["vouched"] for task in tasks)
    sigmas = {fingerprint.sigma for fingerprint in held.values()}
    assert len(held) == 5
    assert min(sigmas) > 0
    assert {f.n_images for f in held.values()} == {FINGERPRINTS[s].n_images for s in MEMBERS}


def test_a_run_that_verify_finds_fault_with_is_refused(
    where: str, exchanged: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(exchanged, run)
    payload = run / "fingerprints" / f"{MEMBERS[0]}.safetensors"
    whole = payload.read_bytes()
    payload.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with open_pool(where, create=True) as pool:
        with pytest.raises(NotVerified) as caught:
            add(pool, of_run(run, COORDINATOR))
        assert names(pool) == []
        with pytest.raises(NotVerified, match=r"is key .*, not the coordinator's"):
            add(pool, of_run(exchanged, COORDINATOR, signer_pem(COORDINATOR)))
    text = str(caught.value)
    assert text.startswith(f"{run} is not in order: ")
    assert text.endswith(f"nothing was added; see fedprint verify {run}")


def test_an_unfinished_run_is_to_be_resumed(exchanged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exchanged, run)
    atomic_json(run / RUN, {"run": "run-1"})  # what a run is resumed with
    assert len(read_run(run).tasks) == 5  # closed, and killed before it tidied up
    (run / CHECKPOINT).unlink()
    with pytest.raises(NotVerified) as caught:
        read_run(run)
    assert str(caught.value) == (
        f"{run} is not finished: nothing was added; resume it (start the same run again), and "
        "add it then"
    )
    (run / RUN).unlink()
    with pytest.raises(
        NotVerified, match=r"is not in order: log/checkpoint\.dsse\.json: is missing"
    ):
        read_run(run)


def test_experiments_that_a_run_holds_as_such_are_read(exchanged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exchanged, run)
    tried = experiment(0, None).model_copy(update={"target": digest_of(run, MEMBERS[0])})
    line = tried.model_dump_json()
    assert list(written_experiments(Evidence(run))) == []
    (run / EXPERIMENTS).write_text(line + "\n")
    assert list(written_experiments(Evidence(run))) == [tried]
    (run / EXPERIMENTS).write_text(line + "\n{}\n")
    with pytest.raises(Broken, match=r"line 2: scenario: Field required"):
        list(written_experiments(Evidence(run)))


def test_experiments_that_no_trial_measured_are_refused(exchanged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exchanged, run)
    line = experiment(0, None).model_dump_json()
    closed_again(run, lambda run: (run / EXPERIMENTS).write_text(line + "\n"))
    with pytest.raises(NotVerified, match=r"experiments\.jsonl: was added: the run made no plans"):
        read_run(run)


def test_a_single_release_is_nobodys_word(where: str, tmp_path: Path) -> None:
    payload, envelope = released(3)
    atomic_json(tmp_path / "spec.json", SPEC)
    (tmp_path / "site-3.safetensors").write_bytes(payload)
    (tmp_path / "site-3.dsse.json").write_bytes(envelope)
    with open_pool(where, create=True) as pool:
        assert add(pool, of_release(tmp_path / "site-3.dsse.json")).counts == {"tasks added": 1}
        assert add(pool, of_release(tmp_path / "site-3.dsse.json")).counts == {"tasks known": 1}
        with pool.reading() as session:
            assert [task["vouched"] for task in list_tasks(session)] == [False]


def test_a_release_that_is_not_in_order_is_refused(tmp_path: Path) -> None:
    atomic_json(tmp_path / "spec.json", SPEC)
    file = tmp_path / "a.dsse.json"
    payload, envelope = released(3)
    parts = json.loads(envelope)
    parts["signatures"][0]["sig"] = json.loads(released(4)[1])["signatures"][0]["sig"]
    forged = canonical_json(parts)
    with open_pool(tmp_path / "pool.db", create=True) as pool:
        with pytest.raises(ConfigError, match=r"a\.safetensors is missing: a release is NAME\.dss"):
            add(pool, of_release(file))
        (tmp_path / "a.safetensors").write_bytes(payload)
        for error, bad in (
            (Expired, released(3, expires="2026-01-01T00:00:00Z", issued="2025-01-01T00:00:00Z")),
            (SpecMismatch, released(3, spec_digest="0" * 64)),
            (BadSignature, (payload, forged)),
        ):
            file.write_bytes(bad[1])
            with pytest.raises(error):
                add(pool, of_release(file))
        assert names(pool) == []


def test_experiments_of_ones_own_are_signed_and_added(where: str) -> None:
    with filled(where) as pool:
        tried = [experiment(0, None), experiment(9, None)]
        key = signer(generate_key())
        assert add(pool, of_experiments(tried, key)).counts == {
            "experiments added": 1,
            "experiments without their tasks": 1,
        }
        with pool.reading() as session:
            shown = show(session, tried[0].id)
    assert shown["provenance"] == [{"key": key.public_key.keyid, "vouched_by": ""}]


def test_the_log_of_a_run_is_not_touched(trained: tuple[Path, Signer], tmp_path: Path) -> None:
    run, _ = trained
    before = {path: file_digest(path) for path in sorted(run.rglob("*")) if path.is_file()}
    with open_pool(tmp_path / "pool.db", create=True) as pool:
        add(pool, of_run(run, COORDINATOR))
    after = {path: file_digest(path) for path in sorted(run.rglob("*")) if path.is_file()}
    assert before == after
    assert len(RunLog.open(run)) > 0
