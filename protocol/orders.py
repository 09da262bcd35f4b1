"""What the coordinator asks of a site in training and evaluation, as a Flower config record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from flwr.app import ConfigRecord
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from protocol.errors import MalformedMessage, one_line
from protocol.plan import Knowledge
from protocol.sharing import Recipe
from protocol.spec import Spec, parse_spec

Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Order(BaseModel):
    """What the coordinator asks of one training or evaluation.

    Attributes
    ----------
    run, arm : str
        Under which names the site keeps its private rows and models.
    spec : Spec
        Names the backbone and the preprocessing.
    recipe : str
        ``adapter`` or ``fine-tune``.
    epochs, batch_size, learning_rate, proximal_mu, seed
        Budget and settings; a learning rate of 0 takes the recipe's default, below 0 asks the
        finder.
    server_round : int
        From 1 on; private rows start anew in round 1. 0 outside the rounds.
    factors : dict
        By array name; see `protocol.sharing.scale_rows`.
    guard_against : str
        Arm whose model the site keeps unless this one gained; empty decides nothing.
    knowledge : Knowledge
        What to train with instead of the run's architecture, augmentation and start.
    plan : str
        SHA-256 of the signed plan, shown before, that says so; empty in a trial.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str = Field(max_length=200)
    arm: str = Field(max_length=200)
    spec: Spec
    recipe: Recipe
    epochs: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=1, le=65_536)
    learning_rate: float = Field(ge=-1, lt=100, allow_inf_nan=False)
    proximal_mu: float = Field(0.0, ge=0, allow_inf_nan=False)
    seed: int = Field(ge=0, lt=2**31)
    server_round: int = Field(0, ge=0)
    factors: dict[str, Factor] = {}
    guard_against: str = Field("", max_length=200)
    knowledge: Knowledge = Knowledge()
    plan: str = Field("", pattern=r"^([0-9a-f]{64})?$")

    def to_config(self) -> dict[str, Any]:
        """Return the values of a config record; names in kebab case, as Flower's own."""
        values: dict[str, Any] = {
            name.replace("_", "-"): getattr(self, name)
            for name in type(self).model_fields
            if name not in ("spec", "factors", "server_round", "knowledge")
        }
        return values | {
            "spec": self.spec.model_dump_json(),
            "knowledge": self.knowledge.model_dump_json(),
            "factors": json.dumps(self.factors, sort_keys=True),
        }


def order_from_config(config: ConfigRecord | Mapping[str, Any]) -> Order:
    """Read an order out of a message's config record.

    Raises
    ------
    MalformedMessage, ConfigError
        If a value is missing or cannot be used, or the spec is none.
    """
    values = {name.replace("-", "_"): value for name, value in config.items()}
    try:
        spec = parse_spec(str(values.get("spec", "")), "the ordered spec")
        factors = from_json(str(values.get("factors", "{}")))
        knowledge = Knowledge.model_validate_json(str(values.get("knowledge", "{}")))
        parts = {"spec": spec, "factors": factors, "knowledge": knowledge}
        return Order.model_validate(values | parts)
    except ValidationError as error:
        raise MalformedMessage(f"the order is malformed: {one_line(error)}") from error
    except (ValueError, TypeError) as error:  # TypeError: a lone surrogate, which UTF-8 lacks
        raise MalformedMessage(f"the order's factors are not JSON: {error}") from error
