"""The site's ClientApp, asked as Flower asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fixtures_asking import AUTOMATIC, Failed, ask, config_for
from fixtures_sites import write_classes
from flwr.app import MessageType
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from fl_client import client_app
from fl_client.policy import Policy
from protocol.errors import ConfigError, FedprintError, WeightsError
from protocol.keys import generate_key, save_private_key
from protocol.records import from_reply, refusal, release_request
from protocol.sharing import BODY, HIDDEN, initial_adapter, initial_rows, row_name
from protocol.spec import Spec


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    """Give this process the identity that Flower gives to a task."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    yield
    client_app._learners.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small site."""
    return write_classes(tmp_path_factory.mktemp("sites") / "north", {"brain": 12, "lung": 12})


def test_alone_then_a_round_then_the_choice(folder: Path, spec: Spec) -> None:
    alone = ask(folder, f"{MessageType.TRAIN}.alone", config_for(spec, arm="alone"))
    assert not alone.array_records  # only scores leave
    metrics = alone.metric_records["metrics"]
    examples = metrics["num-examples"]
    assert isinstance(examples, int)
    assert 12 <= examples <= 18
    assert {"val_balanced_accuracy", "test_auroc", "val_loss"} <= metrics.keys()

    start = initial_adapter(512, 0) | initial_rows(["brain"], HIDDEN, 0)
    config = config_for(spec) | {"server-round": 1}
    trained = ask(folder, MessageType.TRAIN, config, start)
    assert list(trained.array_records["arrays"]) == list(start)
    assert row_name("lung") not in trained.array_records["arrays"]
    assert dict(trained.metric_records["metrics"]) == {"num-examples": examples}

    arrays = {name: a.numpy() for name, a in trained.array_records["arrays"].items()}
    judged = ask(folder, MessageType.EVALUATE, config_for(spec, guard_against="alone"), arrays)
    assert judged.metric_records["metrics"]["keeps-group"] in (0, 1)
    plain = ask(folder, MessageType.EVALUATE, config_for(spec), arrays)
    assert "keeps-group" not in plain.metric_records["metrics"]
    assert not plain.array_records


def test_who_joins_answers_with_scores_and_its_choice_only(folder: Path, spec: Spec) -> None:
    ask(folder, f"{MessageType.TRAIN}.alone", config_for(spec, run="join", arm="alone"))
    start = initial_adapter(512, 0) | initial_rows(["brain"], HIDDEN, 0)
    config = config_for(spec, run="join", epochs=2, guard_against="alone")
    answer = ask(folder, f"{MessageType.TRAIN}.join", config, start)
    assert not answer.array_records
    metrics = answer.metric_records["metrics"]
    assert metrics["keeps-group"] in (0, 1)
    assert {"val_loss", "test_balanced_accuracy", "num-examples"} <= metrics.keys()
    assert refusal(ask(folder, f"{MessageType.TRAIN}.join", config)) == (
        "malformed-message",
        "the message holds no record 'arrays'",
    )


def test_the_backbone_is_sent_where_a_group_fine_tunes(folder: Path, spec: Spec) -> None:
    answer = ask(folder, f"{MessageType.QUERY}.body", config_for(spec, recipe="fine-tune"))
    arrays = answer.array_records["arrays"]
    assert all(name.startswith(BODY) for name in arrays)
    assert np.isfinite(next(iter(arrays.values())).numpy()).all()


def test_what_goes_wrong_is_answered_with_its_reason(
    folder: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = f"{MessageType.TRAIN}.alone"
    assert refusal(ask(folder, alone, None)) == (
        "malformed-message",
        "the message holds no record 'config'",
    )
    answer = refusal(ask(folder, alone, {**config_for(spec), "epochs": 0}))
    assert answer is not None
    assert answer[0] == "malformed-message"
    assert answer[1].startswith("the order is malformed: epochs: ")
    assert refusal(ask(folder, MessageType.EVALUATE, config_for(spec))) == (
        "malformed-message",
        "the message holds no record 'arrays'",
    )
    single = write_classes(tmp_path / "east", {"brain": 3})
    assert refusal(ask(single, alone, config_for(spec))) == (
        "site-error",
        "the site's data cannot be used as they are: the site's own log says why",
    )
    monkeypatch.setattr("fl_client.plugin.simulated", lambda: True)
    assert refusal(ask(single, alone, config_for(spec))) == (
        "site-error",
        "site east holds one class only: training needs at least two",
    )


@pytest.mark.parametrize(("error", "what"), [(ConfigError, "settings"), (WeightsError, "weights")])
def test_no_path_of_a_site_leaves_with_what_is_wrong_there(
    folder: Path,
    spec: Spec,
    error: type[FedprintError],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("/srv/clinic/patients/file cannot be read")

    monkeypatch.setattr("fl_client.learner.Learner.__init__", fail)
    monkeypatch.setattr("fl_client.plugin.site_policy", fail)
    for kind, config, content in (
        ("query.fingerprint", None, release_request("r", "n" * 64, spec)),
        ("train.alone", config_for(spec), None),
    ):
        assert refusal(ask(folder, kind, config, content=content)) == (
            "site-error",
            f"the site's {what} cannot be used as they are: the site's own log says why",
        )
    assert "/srv/clinic" in caplog.text


def test_a_round_that_goes_wrong_is_an_error_with_its_reason(folder: Path, spec: Spec) -> None:
    with pytest.raises(Failed) as failed:
        ask(folder, MessageType.TRAIN, config_for(spec))
    text = "malformed-message: the message holds no record 'arrays'"
    assert failed.value.args == (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, text)
    with pytest.raises(Failed, match="training-not-allowed: site policy: site north gives finger"):
        ask(
            folder,
            MessageType.TRAIN,
            config_for(spec),
            initial_adapter(512, 0),
            policy_text=f"{AUTOMATIC}training = false\n",
        )


PATIENT = "patient_0042"


def unreadable(folder: Path) -> None:
    (folder / "brain" / f"{PATIENT}.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")


def forbidden(folder: Path) -> None:
    (folder / "brain" / f"{PATIENT}.png").symlink_to(folder / "brain" / f"{PATIENT}.png")


@pytest.mark.parametrize("harm", [unreadable, forbidden])
@pytest.mark.parametrize("kind", ["query.fingerprint", "train.alone", "train", "evaluate"])
def test_no_file_name_leaves_a_site_whose_images_cannot_be_read(
    tmp_path: Path,
    spec: Spec,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    harm: Callable[[Path], None],
) -> None:
    folder = write_classes(tmp_path / "north", {"brain": 6, "lung": 6})
    harm(folder)
    arrays = None if kind == "query.fingerprint" else initial_adapter(512, 0)
    config = None if kind == "query.fingerprint" else config_for(spec)
    content = release_request("r", "n" * 64, spec) if config is None else None
    try:
        said = str(refusal(ask(folder, kind, config, arrays, content=content)))
    except Failed as failed:
        said = str(failed)
    assert "site-error" in said
    assert "the site's own log says why" in said
    assert PATIENT not in said
    assert PATIENT in caplog.text


@pytest.mark.parametrize("kind", ["train.alone", "train", "evaluate"])
def test_no_text_of_an_unexpected_error_leaves_the_site(
    folder: Path,
    spec: Spec,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        # an OSError names its file, a UnicodeDecodeError has a `reason` of its own
        raise UnicodeDecodeError("utf-8", PATIENT.encode(), 0, 1, PATIENT)

    for name in ("train_alone", "train_round", "finish"):
        monkeypatch.setattr(f"fl_client.learner.Learner.{name}", fail)
    text = "the site failed unexpectedly: the site's own log says why"
    arrays = initial_adapter(512, 0)
    if kind == "train":
        with pytest.raises(Failed, match=rf"\(2, \"site-error: {text}\"\)"):
            ask(folder, kind, config_for(spec), arrays)
    else:
        assert refusal(ask(folder, kind, config_for(spec), arrays)) == ("site-error", text)
    assert "Traceback" in caplog.text
    assert PATIENT in caplog.text
    monkeypatch.setattr("fl_client.plugin.simulated", lambda: True)
    with pytest.raises(UnicodeDecodeError):  # Flower tells the coordinator, who is the same person
        ask(folder, kind, config_for(spec), arrays)


def test_a_training_order_passes_the_gate_before_anything_is_read(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Policy(specs=["lite0-100"], min_images=1, automatic=True)
    monkeypatch.setattr("fl_client.plugin.site_policy", lambda _context: closed)
    secret = spec.weights.model_copy(update={"source": "file:/home/site/secret.pt"})
    stolen = spec.model_copy(update={"name": "lite0-100", "weights": secret})
    answer = refusal(ask(folder, "query.body", config_for(stolen, recipe="fine-tune")))
    assert answer is not None
    assert answer[0] == "spec-not-allowed"


def test_a_fingerprint_goes_once_and_is_sent_again(
    tmp_path: Path, spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_classes(tmp_path / "north", {"brain": 3, "lung": 2})
    key, state = tmp_path / "key.pem", tmp_path / "state"
    save_private_key(key, generate_key())
    own = {"key": str(key), "state": str(state)}
    kind, requests = "query.fingerprint", [release_request(r, "n" * 64, spec) for r in "12"]
    replies = [from_reply(ask(folder, kind, None, content=r, **own)) for r in requests]
    assert replies[0].site == "north"
    assert replies[0][1:3] == replies[1][1:3]
    assert replies[0].binding != replies[1].binding
    assert not (folder / ".fedprint").exists()
    (state / "history.jsonl").unlink()
    (state / "history.jsonl").mkdir()
    unrecorded = ask(
        folder, "query.fingerprint", None, content=release_request("run-3", "n", spec), **own
    )
    assert refusal(unrecorded) == (
        "not-recorded",
        "the site's state folder cannot be written (Is a directory): what is not recorded is not "
        "released",
    )
    assert "fedprint | refused | site=north run=1 reason=not-recorded | the site's" in caplog.text


def test_approve_first_holds_for_fingerprints_and_training(tmp_path: Path, spec: Spec) -> None:
    folder = write_classes(tmp_path / "north", {"brain": 3, "lung": 2})
    waiting = 'specs = ["*"]\nmin_images = 2\n'
    asked = (
        ("query.fingerprint", None, release_request("run-1", "n" * 64, spec)),
        (f"{MessageType.TRAIN}.alone", config_for(spec), None),
    )
    for kind, config, content in asked:
        answer = refusal(ask(folder, kind, config, content=content, policy_text=waiting))
        assert answer == (
            "awaiting-approval",
            "site policy: a person at site north must approve spec tiny first (fedprint site "
            "preview, then fedprint site approve)",
        )
    assert len(list((folder / ".fedprint" / "requests").iterdir())) == 1
    by_digest = f'{waiting}approved = ["{spec.digest}"]\n'
    content = release_request("run-1", "n" * 64, spec)
    assert from_reply(
        ask(folder, "query.fingerprint", None, content=content, policy_text=by_digest)
    ).payload
    only = refusal(
        ask(
            folder,
            f"{MessageType.TRAIN}.alone",
            config_for(spec),
            policy_text=f"{AUTOMATIC}training = false\n",
        )
    )
    assert only == ("training-not-allowed", "site policy: site north gives fingerprints only")


def test_a_policy_that_changes_in_a_run_holds_at_once(folder: Path, spec: Spec) -> None:
    alone = f"{MessageType.TRAIN}.alone"
    assert refusal(ask(folder, alone, config_for(spec, arm="alone"))) is None
    closed = ask(folder, alone, config_for(spec, arm="alone"), policy_text="specs = []\n")
    assert refusal(closed) == (
        "spec-not-allowed",
        "site policy: spec tiny is not allowed: add it to specs to allow it",
    )
