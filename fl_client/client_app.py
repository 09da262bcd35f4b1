"""The site's ClientApp: roll call, fingerprint, trials, plans, and its part in co-training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_client.checkpoints import keep_checkpoint
from fl_client.learners import Learners
from fl_client.node import current_site, node_tracking, simulated, site_coordinators
from fl_client.plan_acceptance import accept_plan
from fl_client.plans import require_planned
from fl_client.plugin import add_fingerprinting, answering, answering_round, outside, site_gate
from fl_client.score_requests import own_model, signed_scores
from fl_client.trial_limit import trial_digest
from protocol.descriptor_records import from_descriptors_request, to_descriptors
from protocol.errors import MalformedMessage
from protocol.orders import Order, order_from_config
from protocol.plan_records import from_recipes_request, from_shown_plan, to_accepted, to_recipes
from protocol.records import from_checkpoint, to_kept
from protocol.score_records import from_score_request, to_scores
from protocol.sharing import Arrays

app = add_fingerprinting(ClientApp(), keep_features=True)

_learners = Learners()


def _learner(context: Context, order: Order, *, trial: bool = False) -> Any:
    """Return this site's learner, kept from an earlier message where nothing has changed."""
    gate = site_gate(context, keep_features=True)
    site, device = gate.site, gate.device
    # the order came from outside: the gate stands before weights and images alike
    planned = trial or bool(order.plan) or not order.knowledge.is_default
    tried = trial_digest(order) if trial else ""
    with gate.admitting(order.spec, order.run, order.arm, planned=planned, trial=tried):
        if not trial:
            require_planned(site, order)

    def make() -> Any:
        from fl_client.learner import Learner

        return Learner(
            *(site, order.spec, order.recipe, device, order.seed, order.knowledge),
            tracking=node_tracking(context, site),
        )

    return _learners.of(site, order, device, make)


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


@app.query("descriptors")
@answering
def descriptors(message: Message, context: Context) -> RecordDict:
    """Release what measures need beside the fingerprint, as far as the site's policy permits."""
    asked = from_descriptors_request(message.content)
    from fl_client.descriptor_gate import DescriptorGate

    gate = site_gate(context, keep_features=True)
    return to_descriptors(DescriptorGate(gate, simulated=simulated()).answer(asked))


@app.query("recipes")
@answering
def recipes(message: Message, context: Context) -> RecordDict:
    """Say which architectures the site has weights for, and how it would use them."""
    asked = from_recipes_request(message.content)
    site_gate(context, keep_features=True).require_plans()
    from fl_client.recipes import site_recipes

    return to_recipes(site_recipes(asked, outside))


@app.query("plan")
@answering
def plan(message: Message, context: Context) -> RecordDict:
    """Check and keep the signed plan that the site is to train by, or refuse it."""
    shown = from_shown_plan(message.content)
    gate = site_gate(context, keep_features=True)
    return to_accepted(accept_plan(gate, shown, site_coordinators(context)))


@app.query("body")
@answering
def body(message: Message, context: Context) -> RecordDict:
    """Send the pretrained backbone's parameters, from which a group's fine-tuning starts."""
    arrays = _learner(context, _order(message)).body()
    return RecordDict({"arrays": array_record(arrays)})


@app.query("model")
@answering
def model(message: Message, context: Context) -> RecordDict:
    """Send the model that the site trained alone, if its task card lets weights travel."""
    order, gate = _order(message), site_gate(context, keep_features=True)
    return RecordDict({"arrays": array_record(own_model(gate, order))})


@app.query("score")
@answering
def score(message: Message, context: Context) -> RecordDict:
    """Say, signed, how well models of other sites fit the site's training images."""
    order, request = _order(message), from_score_request(message.content)
    gate = site_gate(context, keep_features=True)
    envelope = signed_scores(gate, order, request, lambda: _learner(context, order))
    return to_scores(envelope)


@app.train("alone")
@answering
def train_alone(message: Message, context: Context) -> RecordDict:
    """Train with the whole budget and nobody else; only the scores, and the choice, leave."""
    order = _order(message)
    learner = _learner(context, order)
    return _judged(learner, order, learner.train_alone(order, _start(message, learner, order)))


@app.train("trial")
@answering
def train_trial(message: Message, context: Context) -> RecordDict:
    """Train alone with what is tried; only the scores leave, and no model is kept."""
    order = _order(message)
    if order.plan or order.guard_against:
        raise MalformedMessage("a trial follows no plan, and no model is chosen after it")
    learner = _learner(context, order, trial=True)
    return _judged(learner, order, learner.try_out(order, _start(message, learner, order)))


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


def _start(message: Message, learner: Any, order: Order) -> Arrays | None:
    """Return the body that came along to start from, checked; None where training starts anew."""
    if order.knowledge.start is None:
        return None
    started: Arrays = learner.require_start(_arrays(message))
    return started


def _judged(learner: Any, order: Order, scores: Mapping[str, float]) -> RecordDict:
    """Return what a model scored and, where asked, whether the site keeps it."""
    metrics: dict[str, int | float | list[int] | list[float]] = dict(scores)
    if order.guard_against:
        metrics["keeps-group"] = int(learner.decide(order, order.guard_against))
    return RecordDict({"metrics": MetricRecord({**metrics, "num-examples": learner.examples})})


def array_record(arrays: Arrays) -> ArrayRecord:
    """Wrap arrays by name for the wire."""
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})
