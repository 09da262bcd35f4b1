"""Orders: what is read is what was written, and nothing malformed gets through."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.errors import ConfigError, FedprintError, MalformedMessage
from protocol.orders import Order, order_from_config
from protocol.spec import parse_spec

SPEC = parse_spec(
    {
        "name": "tiny",
        "backbone": "resnet10t",
        "weights": {"source": "file:w.pth"},
        "preprocess": {"resize": 32, "crop": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
        "features": 6,
        "bins": 5,
    }
)
VALUES: dict[str, Any] = {
    "run": "run-1",
    "arm": "grouped",
    "spec": SPEC,
    "recipe": "adapter",
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 0.1,
    "seed": 0,
}


def order(**changes: Any) -> Order:
    """Return a good order with some changes."""
    return Order.model_validate({**VALUES, **changes})


def test_an_order_survives_the_wire() -> None:
    sent = order(factors={"head.a": 1.5}, guard_against="alone", proximal_mu=0.01)
    assert order_from_config(ConfigRecord(sent.to_config())) == sent


@given(
    st.floats(-1, 99, allow_nan=False),
    st.integers(0, 2**31 - 1),
    st.dictionaries(st.text(max_size=8), st.floats(1, 1e6)),
)
def test_any_order_survives_the_wire(rate: float, seed: int, factors: dict[str, float]) -> None:
    sent = order(learning_rate=rate, seed=seed, factors=factors)
    assert order_from_config(ConfigRecord(sent.to_config())) == sent


def test_the_names_are_those_of_flower() -> None:
    config = order().to_config()
    assert {"batch-size", "learning-rate", "proximal-mu"} <= config.keys()
    assert "server-round" not in config  # the strategy sets it, round by round
    read = order_from_config({**config, "server-round": 3, "something-else": "x"})
    assert read.server_round == 3


def test_flowers_proximal_mu_is_understood() -> None:
    assert order_from_config({**order().to_config(), "proximal-mu": 0.5}).proximal_mu == 0.5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"recipe": "magic"}, "the order is malformed: recipe: Input should be 'adapter' or"),
        ({"epochs": 0}, "the order is malformed: epochs: Input should be greater than or equal"),
        ({"batch-size": 10**9}, "the order is malformed: batch_size: Input should be less than"),
        ({"learning-rate": math.nan}, "the order is malformed: learning_rate: Input should be"),
        ({"learning-rate": -2.0}, "the order is malformed: learning_rate: Input should be"),
        ({"proximal-mu": math.inf}, "the order is malformed: proximal_mu: Input should be a fin"),
        ({"seed": -1}, "the order is malformed: seed: Input should be greater than or equal to 0"),
        ({"seed": 2**31}, "the order is malformed: seed: Input should be less than"),
        ({"server-round": -1}, "the order is malformed: server_round: Input should be greater"),
        ({"run": "r" * 201}, "the order is malformed: run: String should have at most 200"),
        ({"factors": "{"}, "the order's factors are not JSON: "),
        ({"factors": "[1]"}, "the order is malformed: factors: Input should be a valid dict"),
        ({"factors": '{"a": NaN}'}, "the order is malformed: factors.a: Input should be a finite"),
        ({"factors": '{"a": 1e999}'}, "the order is malformed: factors.a: Input should be a fin"),
        ({"factors": '{"a": -1}'}, "the order is malformed: factors.a: Input should be greater"),
        ({"factors": '{"a": "x"}'}, "the order is malformed: factors.a: Input should be a valid"),
        ({"factors": "[" * 100_000}, "the order's factors are not JSON: "),
    ],
)
def test_malformed_values_are_refused_in_one_line(change: dict[str, Any], text: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        order_from_config({**order().to_config(), **change})
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["run", "arm", "recipe", "epochs", "batch-size", "seed"])
def test_a_missing_value_is_named(missing: str) -> None:
    config = order().to_config()
    del config[missing]
    name = missing.replace("-", "_")
    with pytest.raises(MalformedMessage, match=rf"^the order is malformed: {name}: Field required"):
        order_from_config(config)


@pytest.mark.parametrize("spec", ["", "{", "[]", '{"name": "x"}'])
def test_a_bad_spec_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"^the ordered spec is not a valid spec: "):
        order_from_config({**order().to_config(), "spec": spec})


@given(
    st.dictionaries(
        st.sampled_from(["run", "arm", "epochs", "factors", "seed", "server-round", "recipe"]),
        st.one_of(
            st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.binary()
        ),
    )
)
def test_whatever_arrives_is_an_order_or_an_expected_error(change: dict[str, Any]) -> None:
    with suppress(FedprintError):
        assert order_from_config({**order().to_config(), **change}).epochs >= 1


def test_an_order_does_not_change() -> None:
    with pytest.raises(ValidationError):
        order().epochs = 9  # type: ignore[misc]
