"""A coordinator that means harm: what it can cost a site, and what the site refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_asking import Coordinator, ask, config_for
from fixtures_networks import write_weights
from fixtures_sites import write_classes
from flwr.supercore.task_identity import TaskIdentity
from test_plans import AUGMENTED, accepted, plan_of, scores, show

from fl_client import client_app
from fl_client.history import History
from fl_client.plans import Plans
from protocol.experiment import Policy
from protocol.keys import signer
from protocol.plan import Knowledge, Start, sign_plan
from protocol.plan_records import PLAN_LIMIT
from protocol.records import refusal
from protocol.sharing import initial_adapter
from protocol.spec import Spec
from protocol.weights import weights_sha256


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch, weights: Path) -> Iterator[None]:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(weights))
    yield
    client_app._learners.clear()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "north", {"brain": 8, "lung": 8})


def policy(transforms: Any) -> Knowledge:
    compose = {"__class_fullname__": "Compose", "p": 1, "transforms": transforms}
    return Knowledge(augmentation=Policy(pipeline={"transform": compose}))


def tried(folder: Path, spec: Spec, **changes: Any) -> tuple[str, str] | None:
    return refusal(ask(folder, "train.trial", config_for(spec, arm="trial", **changes)))


def test_so_many_trials_and_no_more(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    Coordinator(folder, spec)
    monkeypatch.setattr("fl_client.trial_limit.MOST", 2)
    for rate in (0.1, 0.2, 0.1):  # the third is the first again, and tells nothing new
        assert tried(folder, spec, learning_rate=rate) is None
    assert tried(folder, spec, learning_rate=0.3) == (
        "too-many-trials",
        "site north tried 2 things for run run-1, and tries no more",
    )
    assert tried(folder, spec, learning_rate=0.2) is None
    entries = [e for e in History(folder / ".fedprint").read("run-1") if e.arm == "trial"]
    assert [e.decision for e in entries] == ["training", "training", "refused"]
    assert len({e.sha256 for e in entries}) == 3


def test_nothing_is_tried_for_a_run_that_got_nothing(folder: Path, spec: Spec) -> None:
    Coordinator(folder, spec)
    assert tried(folder, spec, run="run-2") == (
        "nothing-released",
        "site north released nothing for run run-2, and tries nothing for it",
    )


def test_a_run_cannot_fill_the_shelf_of_plans(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = Coordinator(folder, spec)
    monkeypatch.setattr("fl_client.plans.MOST_OF_RUN", 1)
    accepted(coordinator)
    signed = sign_plan(plan_of(coordinator, group="grouped-2"), signer(coordinator.key))
    assert refusal(show(coordinator, signed)) == (
        "too-many-plans",
        "the site accepted 1 plans of this run, and accepts no more",
    )
    accepted(coordinator)  # the one that it accepted
    accepted(Coordinator(folder, spec, run="run-2"))
    huge = sign_plan(plan_of(coordinator), signer(coordinator.key)) + b" " * PLAN_LIMIT
    found = refusal(show(coordinator, huge))
    assert found is not None
    assert found[1].endswith("bytes, the limit is 2097152")
    assert len(list(Plans(folder / ".fedprint").all())) == 2


def test_an_old_plan_is_of_no_use_in_a_new_run(folder: Path, spec: Spec) -> None:
    old = accepted(Coordinator(folder, spec))
    new = Coordinator(folder, spec, run="run-2")
    order = config_for(spec, run="run-2", arm="planned", plan=old, knowledge=AUGMENTED)
    answer = refusal(ask(folder, "train.alone", order))
    assert answer is not None
    assert answer[0] == "plan-not-accepted"
    replayed = sign_plan(plan_of(new, run="run-1"), signer(new.key))
    answer = refusal(show(new, replayed))
    assert answer is not None
    assert answer[0] == "wrong-run"


FLIP = {"__class_fullname__": "HorizontalFlip", "p": 1}
BLUR = {"__class_fullname__": "GaussianBlur", "p": 1}


@pytest.mark.parametrize(
    "transforms",
    [
        [FLIP] * 9,  # more than an image may go through
        [FLIP] * 1400,  # all that 64 KiB hold
        [{**BLUR, "sigma_limit": [0.5, 1e9]}],
        [{**BLUR, "blur_limit": [0, 100_001]}],
        [{"__class_fullname__": "Resize", "height": 100_000, "width": 100_000, "p": 1}],
        [{"__class_fullname__": "PadIfNeeded", "min_height": 99_999, "p": 1}],
        [{"__class_fullname__": "Lambda", "lambda": "__import__('os')", "p": 1}],
        [{"__class_fullname__": "os.system", "p": 1}],
        [{"__class_fullname__": "SomeOf", "n": 10**9, "replace": True, "transforms": [FLIP]}],
        [{**FLIP, "p": "nan"}],
        "no list",
    ],
)
def test_augmentation_bombs(folder: Path, spec: Spec, transforms: Any) -> None:
    coordinator, knowledge = Coordinator(folder, spec), policy(transforms)
    assert tried(folder, spec, knowledge=knowledge) is not None
    signed = sign_plan(plan_of(coordinator, knowledge), signer(coordinator.key))
    assert refusal(show(coordinator, signed)) is not None
    assert list(Plans(folder / ".fedprint").all()) == []
    assert not list((folder / ".fedprint" / "plans").glob("*"))


@pytest.mark.parametrize(
    "pipeline",
    [
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": NaN}',
        '{"a": "\\ud800"}',
    ],
)
def test_json_that_hurts(folder: Path, spec: Spec, pipeline: str) -> None:
    Coordinator(folder, spec)
    config = config_for(spec, arm="trial")
    config["knowledge"] = f'{{"augmentation": {{"kind": "policy", "pipeline": {pipeline}}}}}'
    found = refusal(ask(folder, "train.trial", config))
    assert found is not None
    assert found[0] == "malformed-message"
    assert "\n" not in found[1]


@pytest.mark.parametrize(
    "body",
    [
        {"body.weight": np.zeros((0, 0), np.float32), "body.bias": np.zeros(0, np.float32)},
        {"body.weight": np.zeros((1,) * 32, np.float32), "body.bias": np.zeros(64, np.float32)},
        initial_adapter(512, 0) | {"head.x": np.zeros(1, np.float32)},
        {name: np.full_like(a, np.nan) for name, a in initial_adapter(512, 0).items()},
        {name: a.astype(np.float64) for name, a in initial_adapter(512, 0).items()},
        {name: a.astype(np.int8) for name, a in initial_adapter(512, 0).items()},
    ],
)
def test_absurd_arrays_to_start_from(folder: Path, spec: Spec, body: Any) -> None:
    Coordinator(folder, spec)
    start = Start(sha256=weights_sha256(body), architecture=spec.backbone, sources=["c" * 64])
    config = config_for(spec, arm="trial", knowledge=Knowledge(start=start))
    found = refusal(ask(folder, "train.trial", config, body))
    assert found is not None
    assert found[0] in ("bad-shape", "bad-dtype", "not-finite")


def test_cached_features_do_not_fill_the_disk(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    Coordinator(folder, spec)
    monkeypatch.setattr("fl_client.feature_files.MOST", 3)
    for share in (0.1, 0.2, 0.3, 0.4, 0.5):
        assert tried(folder, spec, knowledge=policy([{**FLIP, "p": share}])) is None
    files = list((folder / ".fedprint" / "features").glob("*.safetensors"))
    assert len(files) == 3
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    stamp = newest.stat().st_mtime_ns
    client_app._learners.clear()
    assert scores(
        ask(
            *(folder, "train.trial"),
            config_for(spec, arm="trial", knowledge=policy([{**FLIP, "p": 0.5}])),
        )
    )
    assert newest.stat().st_mtime_ns > stamp  # of use, so it is the last to go


def test_a_plan_that_lies_there_changed_trains_nothing(folder: Path, spec: Spec) -> None:
    coordinator = Coordinator(folder, spec)
    sha256 = accepted(coordinator)
    (path,) = Plans(folder / ".fedprint").folder.iterdir()
    content = json.loads(path.read_bytes())
    content["signatures"][0]["sig"] = "AAAA"
    path.write_text(json.dumps(content))
    order = config_for(spec, arm="planned", plan=sha256, knowledge=AUGMENTED)
    assert refusal(ask(folder, "train.alone", order)) == (
        "digest-mismatch",
        f"the plan {sha256[:12]} that the site keeps was changed: remove it",
    )
