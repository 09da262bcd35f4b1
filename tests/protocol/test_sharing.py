"""Head rows: how they start, what they are called, and that scaled updates average rightly."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.sharing import (
    BODY,
    HEAD,
    HIDDEN,
    Arrays,
    GroupPlan,
    initial_adapter,
    initial_row,
    initial_rows,
    row_name,
    scale_rows,
)
from strategies.cotrain import row_factors

CLASSES = ("cyst", "stone", "tumour")
Holdings = list[tuple[int, list[str]]]

holdings = st.lists(
    st.tuples(st.integers(1, 50_000), st.lists(st.sampled_from(CLASSES), min_size=1, unique=True)),
    min_size=1,
    max_size=6,
)


def trained(sites: Holdings, seed: int) -> tuple[Arrays, list[Arrays]]:
    """Return arrays of a group and what training at each site left of them."""
    rng = np.random.default_rng(seed)
    before = initial_rows(CLASSES, 5, seed) | {BODY + "weight": rng.normal(size=3)}
    before = {name: value.astype(np.float32) for name, value in before.items()}
    after = []
    for _, held in sites:
        own = {BODY + "weight", *(row_name(key) for key in held)}
        after.append(
            {
                name: (v + rng.normal(size=v.shape)).astype(np.float32) if name in own else v
                for name, v in before.items()
            }
        )
    return before, after


def plan_of(sites: Holdings) -> GroupPlan:
    """Return a plan that shares every class."""
    names = [f"site-{number}" for number in range(len(sites))]
    holders = {
        key: [name for name, (_, held) in zip(names, sites, strict=True) if key in held]
        for key in CLASSES
    }
    return GroupPlan(
        group="g",
        sites=names,
        shared_classes=list(CLASSES),
        holders=holders,
        trainable=True,
        expectation="",
    )


@settings(max_examples=60)
@given(holdings, st.integers(0, 1000))
def test_flowers_weighted_mean_of_what_is_sent_is_the_mean_of_the_holders(
    sites: Holdings, seed: int
) -> None:
    before, after = trained(sites, seed)
    weights = [n for n, _ in sites]
    examples = {f"site-{number}": n for number, n in enumerate(weights)}
    factors = row_factors(plan_of(sites), examples)
    sent = [scale_rows(before, arrays, factors) for arrays in after]

    records = [
        RecordDict(
            {
                "arrays": ArrayRecord({name: Array(v) for name, v in arrays.items()}),
                "metrics": MetricRecord({"num-examples": n}),
            }
        )
        for arrays, n in zip(sent, weights, strict=True)
    ]
    mean = aggregate_arrayrecords(records, "num-examples")

    # a small site's update is blown up and shrunk again: rounding grows with the factor
    tolerance = 2e-6 * max([1.0, *factors.values()])
    for key in CLASSES:
        name = row_name(key)
        held = [i for i, (_, own) in enumerate(sites) if key in own]
        direct = (
            np.average([after[i][name] for i in held], axis=0, weights=[weights[i] for i in held])
            if held
            else before[name]
        )
        np.testing.assert_allclose(mean[name].numpy(), direct, atol=tolerance, rtol=1e-5)
    body = np.average([a[BODY + "weight"] for a in after], axis=0, weights=weights)
    np.testing.assert_allclose(mean[BODY + "weight"].numpy(), body, atol=1e-5, rtol=1e-5)


def test_a_factor_for_an_array_that_is_not_there_is_ignored() -> None:
    before = {"head.a": np.ones(2, np.float32)}
    sent = scale_rows(before, {"head.a": np.full(2, 3, np.float32)}, {"head.a": 2, "head.b": 9})
    assert list(sent) == ["head.a"]
    assert sent["head.a"].dtype == np.float32
    np.testing.assert_array_equal(sent["head.a"], [5, 5])


def test_scaling_leaves_its_input_as_it_was() -> None:
    before, after = {"head.a": np.zeros(1, np.float32)}, {"head.a": np.ones(1, np.float32)}
    scale_rows(before, after, {"head.a": 4.0})
    assert (before["head.a"], after["head.a"]) == (0, 1)


def test_without_factors_everything_is_sent_as_it_is() -> None:
    before, after = {"head.a": np.zeros(1, np.float32)}, {"head.a": np.ones(1, np.float32)}
    assert scale_rows(before, after, {})["head.a"] is after["head.a"]


@given(st.text(max_size=300))
def test_rows_have_short_ascii_names(key: str) -> None:
    name = row_name(key)
    assert name.isascii()
    assert name.startswith(HEAD)
    assert len(name) == len(HEAD) + 16


def test_a_row_starts_alike_everywhere_and_differs_by_class_and_seed() -> None:
    row = initial_row("cyst", 64, 3)
    assert row.shape == (65,)
    assert row.dtype == np.float32
    assert np.abs(row).max() <= 1 / 8
    np.testing.assert_array_equal(row, initial_row("cyst", 64, 3))
    assert not np.allclose(row, initial_row("stone", 64, 3))
    assert not np.allclose(row, initial_row("cyst", 64, 4))
    rows = initial_rows(CLASSES, 64, 3)
    assert list(rows) == [row_name(key) for key in CLASSES]
    np.testing.assert_array_equal(rows[row_name("cyst")], row)


def test_the_adapter_starts_within_the_bound_of_a_linear_layer() -> None:
    arrays = initial_adapter(100, 0)
    assert arrays[BODY + "weight"].shape == (HIDDEN, 100)
    assert arrays[BODY + "bias"].shape == (HIDDEN,)
    assert all(np.abs(a).max() <= 0.1 and a.dtype == np.float32 for a in arrays.values())
    assert np.abs(arrays[BODY + "weight"]).max() > 0.09
    again = initial_adapter(100, 0)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    assert not np.allclose(arrays[BODY + "bias"], initial_adapter(100, 1)[BODY + "bias"])
