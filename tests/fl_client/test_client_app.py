"""The site's ClientApp, asked as Flower asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fixtures_sites import write_classes
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_client import client_app
from fl_client.policy import Policy
from protocol.errors import MalformedMessage
from protocol.orders import Order
from protocol.records import refusal
from protocol.sharing import BODY, HIDDEN, Arrays, initial_adapter, initial_rows, row_name
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


def ask(
    folder: Path, kind: str, config: dict[str, object] | None, arrays: Arrays | None = None
) -> RecordDict:
    """Ask the site and return its answer."""
    content = RecordDict()
    if config is not None:
        content["config"] = ConfigRecord(config)  # type: ignore[arg-type]
    if arrays is not None:
        content["arrays"] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    message = Message(content, dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "m1"
    policy = folder.parent / "policy.toml"
    policy.write_text('specs = ["*"]\nmin_images = 2\nautomatic = true\n')
    own = {"site": str(folder), "policy": str(policy), "device": "cpu"}
    context = Context(1, 1, own, RecordDict(), {})
    reply = client_app.app(message, context)
    assert reply.metadata.reply_to_message_id == "m1"
    return reply.content


def config_for(spec: Spec, **changes: object) -> dict[str, object]:
    """Return the config record of an order."""
    values = {
        "run": "run-1",
        "arm": "grouped",
        "spec": spec,
        "recipe": "adapter",
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.1,
        "seed": 0,
    }
    return Order.model_validate({**values, **changes}).to_config()


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


def test_a_round_that_goes_wrong_is_an_error_that_flower_reports(folder: Path, spec: Spec) -> None:
    with pytest.raises(MalformedMessage, match=r"^the message holds no record 'arrays'$"):
        ask(folder, MessageType.TRAIN, config_for(spec))


def test_a_training_order_passes_the_gate_before_anything_is_read(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Policy(specs=["lite0-100"], min_images=1, automatic=True)
    monkeypatch.setattr(client_app, "site_policy", lambda _context: closed)
    secret = spec.weights.model_copy(update={"source": "file:/home/site/secret.pt"})
    stolen = spec.model_copy(update={"name": "lite0-100", "weights": secret})
    answer = refusal(ask(folder, "query.body", config_for(stolen, recipe="fine-tune")))
    assert answer is not None
    assert answer[0] == "spec-not-allowed"
