"""Sites in memory that try and plan, and an adviser that offers them always the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from fl_server.offers import Offer
from protocol.experiment import Architecture, Policy, Scenario, Weights
from protocol.files import sha256_hex
from protocol.orders import Order, order_from_config
from protocol.plan import Knowledge, Plan
from protocol.plan_records import (
    Recipes,
    from_recipes_request,
    from_shown_plan,
    to_accepted,
    to_recipes,
)
from protocol.records import to_refusal
from protocol.sharing import BODY, HIDDEN
from protocol.spec import Spec, parse_spec
from protocol.weights import weights_sha256
from tests.fl_server.deployed import WholeSite
from tests.fl_server.joining import EXAMPLES
from tests.strategies.fake_grid import Dead, values

FEATURES = 6
FLIP = Policy(pipeline={"transform": "flip"})
TURN = Policy(pipeline={"transform": "turn"})
BODIES = {
    BODY + "weight": np.full((HIDDEN, FEATURES), 0.5, np.float32),
    BODY + "bias": np.zeros(HIDDEN, np.float32),
}
SOURCES = ("a" * 64, "b" * 64)
ALONE = 0.5


def recipe(name: str, weights: str = "c") -> Spec:
    """Return a network's recipe, as a site answers it."""
    return parse_spec(
        {
            "name": "candidate",
            "backbone": name,
            "weights": {"source": "site", "sha256": weights * 64},
            "preprocess": {"resize": 32, "crop": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
            "features": FEATURES,
            "bins": 2,
        }
    )


def gain_of(site: str, knowledge: Knowledge) -> float:
    """Return what training with some knowledge gives a site: the first group likes net-b."""
    network = knowledge.architecture.backbone if knowledge.architecture else ""
    gain = {"net-b": 0.1, "net-c": 0.05}.get(network, 0.0) * (1 if "site-0" in site else -1)
    gain += 0.05 if knowledge.augmentation == FLIP and "site-1" in site else 0.0
    gain += 0.02 if knowledge.start else 0.0
    return gain * (1.1 if site.endswith("1") else 1.0)


@dataclass
class PlanningSite(WholeSite):
    """A site that scores by `gain_of`; the tests override one thing."""

    lacks: tuple[str, ...] = ()
    weights: str = "c"
    refuses: str = ""
    apart: bool = False
    dies_in: str = ""
    says: dict[str, float] = field(default_factory=dict)
    orders: list[tuple[str, Order]] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)
    accepted: dict[str, Plan] = field(default_factory=dict)

    def __call__(self, message: Message) -> RecordDict:
        kind = message.metadata.message_type
        if self.apart and kind in ("query.recipes", "query.plan", "train.trial"):
            self.asked.append(kind)
            return to_refusal("plans-not-allowed", f"site {self.name} takes part in no plans")
        if kind == "query.recipes":
            self.asked.append(kind)
            return self.recipes(message.content)
        if kind == "query.plan":
            self.asked.append(kind)
            return self.plan(message.content)
        if kind.startswith(("train", "evaluate")):
            order = order_from_config(message.content.config_records["config"])
            self.orders.append((kind, order))
            if kind == self.dies_in or order.arm == self.dies_in:
                raise Dead
            if kind in ("train.trial", "train.alone", "evaluate"):
                self.asked.append(kind)
                return self.scores(kind, order, message.content)
        return super().__call__(message)

    def recipes(self, content: RecordDict) -> RecordDict:
        asked = from_recipes_request(content)
        held = [name for name in asked.names if name not in self.lacks]
        missing = dict.fromkeys(set(asked.names) - set(held), "has no weights of it")
        return to_recipes(Recipes({name: recipe(name, self.weights) for name in held}, missing))

    def plan(self, content: RecordDict) -> RecordDict:
        from fl_client.plans import opened

        if self.refuses:
            return to_refusal("plans-not-allowed", self.refuses)
        shown = from_shown_plan(content)
        sha256 = sha256_hex(shown.plan)
        self.accepted[sha256] = opened(shown.plan).plan
        return to_accepted(sha256)

    def scores(self, kind: str, order: Order, content: RecordDict) -> RecordDict:
        start = order.knowledge.start
        if start is not None and kind != "evaluate":
            arrays = content.array_records["arrays"]
            body = values(arrays)
            assert weights_sha256(body) == start.sha256
            self.starts.append(order.arm)
        if order.plan:
            assert self.accepted[order.plan].knowledge == order.knowledge
        value = ALONE + gain_of(self.name, order.knowledge) + (0.1 if kind == "evaluate" else 0)
        scores = {f"{part}_balanced_accuracy": value + at for part, at in PARTS}
        scores |= {f"{part}_auroc": value + at for part, at in PARTS}
        scores |= {f"{part}_loss": 1 - value for part, _ in PARTS}
        metrics: dict[str, Any] = {**scores, **self.says, "num-examples": EXAMPLES}
        if order.guard_against:
            metrics["keeps-group"] = int(self.trains.keeps)
        return RecordDict({"metrics": MetricRecord(metrics)})


PARTS = (("val", 0.0), ("test", 0.01))


@dataclass
class Always:
    """Offers two networks, two policies, and weights of net-b."""

    asked: list[tuple[str, tuple[str, ...], Knowledge, int]] = field(default_factory=list)

    def shots(
        self, scenario: Scenario, group: Sequence[str], knowledge: Knowledge, k: int
    ) -> list[Offer]:
        self.asked.append((scenario, tuple(group), knowledge, k))
        if scenario == "architecture":
            return [Offer(n, Architecture(name=n)) for n in ("net-c", "net-b")][:k]
        if scenario == "augmentation":
            return [Offer("turn", TURN), Offer("flip", FLIP, source=SOURCES[0])][:k]
        if knowledge.architecture is None or knowledge.architecture.backbone != "net-b":
            return []
        detail = Weights(sha256=weights_sha256(BODIES), architecture="net-b")
        return [Offer("weights", detail, SOURCES[0], SOURCES, BODIES)]
