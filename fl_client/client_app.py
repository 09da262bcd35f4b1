"""The site's ClientApp: roll call, fingerprint, and its part in co-training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_client.checkpoints import keep_checkpoint
from fl_client.node import current_site, site_coordinators
from fl_client.plugin import add_fingerprinting, answering, answering_round, site_gate
from protocol.errors import MalformedMessage
from protocol.orders import Order, order_from_config
from protocol.records import from_checkpoint, to_kept
from protocol.sharing import Arrays

app = add_fingerprinting(ClientApp(), keep_features=True)

_learners: dict[tuple[str, ...], Any] = {}


def _learner(context: Context, order: Order) -> Any:
    """Return this site's learner; its data and features are loaded once a process."""
    gate = site_gate(context, keep_features=True)
    # the order came from outside: the gate stands before weights and images alike
    gate.admit(order.spec, order.run, order.arm)
    site, device = gate.site, gate.device
    key = (str(site.folder), order.spec.digest, order.recipe, str(device), str(order.seed))
    if key not in _learners:
        from fl_client.learner import Learner

        _learners[key] = Learner(site, order.spec, order.recipe, device, order.seed)
    return _learners[key]


def _order(message: Message) -> Order:
    config = message.content.config_records.get("config")
    if config is None:
        raise MalformedMessage("the message holds no record 'config'")
    return order_from_config(config)


def _arrays(message: Message) -> Arrays:
    record = message.content.array_records.get("arrays")
    if record is None:
        raise MalformedMessage("the message holds no record 'arrays'")
    return {name: array.numpy() for name, array in record.items()}


@app.query("checkpoint")
@answering
def checkpoint(message: Message, context: Context) -> RecordDict:
    """Check and keep what the coordinator shows of the run's log."""
    shown = from_checkpoint(message.content)
    return to_kept(keep_checkpoint(current_site(context), shown, site_coordinators(context)))


@app.query("body")
@answering
def body(message: Message, context: Context) -> RecordDict:
    """Send the pretrained backbone's parameters, from which a group's fine-tuning starts."""
    arrays = _learner(context, _order(message)).body()
    return RecordDict({"arrays": array_record(arrays)})


@app.train("alone")
@answering
def train_alone(message: Message, context: Context) -> RecordDict:
    """Train with the whole budget and nobody else; only the scores leave."""
    order = _order(message)
    learner = _learner(context, order)
    scores = learner.train_alone(order)
    return RecordDict({"metrics": MetricRecord({**scores, "num-examples": learner.examples})})


@app.train("join")
@answering
def join(message: Message, context: Context) -> RecordDict:
    """Train with the whole budget from a finished group's model; only scores and choice leave."""
    order = _order(message)
    learner = _learner(context, order)
    return _judged(learner, order, learner.train_join(order, _arrays(message)))


@app.train()
@answering_round
def train(message: Message, context: Context) -> RecordDict:
    """Train one round of the group's federation."""
    order = _order(message)
    learner = _learner(context, order)
    arrays = learner.train_round(order, _arrays(message))
    metrics = MetricRecord({"num-examples": learner.examples})
    return RecordDict({"arrays": array_record(arrays), "metrics": metrics})


@app.evaluate()
@answering
def evaluate(message: Message, context: Context) -> RecordDict:
    """Score the group's final model here; where asked, decide which model the site keeps."""
    order = _order(message)
    learner = _learner(context, order)
    return _judged(learner, order, learner.finish(order, _arrays(message)))


def _judged(learner: Any, order: Order, scores: Mapping[str, float]) -> RecordDict:
    """Return what a model scored and, where asked, whether the site keeps it."""
    metrics: dict[str, int | float | list[int] | list[float]] = dict(scores)
    if order.guard_against:
        metrics["keeps-group"] = int(learner.decide(order, order.guard_against))
    return RecordDict({"metrics": MetricRecord({**metrics, "num-examples": learner.examples})})


def array_record(arrays: Arrays) -> ArrayRecord:
    """Wrap arrays by name for the wire."""
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})
