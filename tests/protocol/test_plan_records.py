"""Recipes and plans as they come off the wire: a site or a coordinator may send anything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol.errors import MalformedMessage, TooLarge, VerificationError
from protocol.plan_records import (
    PLAN_LIMIT,
    Recipes,
    RecipesRequest,
    ShownPlan,
    from_recipes,
    from_recipes_request,
    from_shown_plan,
    recipes_request,
    to_recipes,
    to_shown_plan,
)
from protocol.records import record
from protocol.spec import parse_spec

RECIPE: dict[str, Any] = {
    "name": "candidate",
    "backbone": "net",
    "weights": {"source": "site", "sha256": "c" * 64},
    "preprocess": {"resize": 32, "crop": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
    "features": 6,
    "bins": 2,
}


def test_a_recipe_comes_back_as_it_was_sent() -> None:
    sent = Recipes({"net": parse_spec(RECIPE)}, {"other": "no\x1b[31m weights"})
    found = from_recipes(to_recipes(sent))
    assert found.recipes == sent.recipes
    assert found.missing == {"other": "no?[31m weights"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "\x1b[31m"}, "the recipe of net is none: its name is amiss"),
        ({"backbone": "other"}, "the recipe of net is none: its backbone is amiss"),
        ({"bins": 100}, "the recipe of net is none: its bins is amiss"),
        ({"sampling": {"seed": 1}}, "the recipe of net is none: its sampling is amiss"),
        ({"calibration": {"images": ["x"], "count": 1}}, "the recipe of net is none"),
        ({"weights": {"source": "file:/etc/shadow", "sha256": "c" * 64}}, "its weights is amiss"),
        ({"weights": {"source": "site"}}, "its weights is amiss"),
        ({"features": 1_000_000}, r"has \d+ bytes and 1000000 features"),
        (
            {"preprocess": {**RECIPE["preprocess"], "interpolation": "x" * 5000}},
            r"has \d+ bytes and 6 features",
        ),
        ({"features": 10**9}, "the recipes are malformed"),
        ({"code": "import os"}, "the recipes are malformed"),
        ({"preprocess": {**RECIPE["preprocess"], "crop": 10**6}}, "the recipes are malformed"),
    ],
)
def test_what_is_no_recipe(changes: dict[str, Any], said: str) -> None:
    content = record({"recipes": json.dumps({"net": RECIPE | changes}), "missing": "{}"})
    with pytest.raises(VerificationError, match=said) as caught:
        from_recipes(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["{" * 10**5, "[" * 10**5, '{"net": ' * 5000, "9" * 10**5, "NaN"])
@pytest.mark.parametrize("name", ["recipes", "missing"])
def test_json_that_hurts(name: str, text: str) -> None:
    with pytest.raises(MalformedMessage, match="the recipes are malformed"):
        from_recipes(record({"recipes": "{}", "missing": "{}"} | {name: text}))


def test_more_than_anybody_asked_for() -> None:
    with pytest.raises(TooLarge, match="'missing' has 2000002 characters"):
        from_recipes(record({"recipes": "{}", "missing": json.dumps("x" * 2_000_000)}))
    many = json.dumps({f"net{n}": "no" for n in range(101)})
    with pytest.raises(TooLarge, match="101 recipes, the limit is 100"):
        from_recipes(record({"recipes": "{}", "missing": many}))


@pytest.mark.parametrize(
    ("names", "size"),
    [([], 32), (["net"] * 101, 32), (["net"], -1), (["net"], 10**9), (["../x y"], 32), ([""], 32)],
)
def test_nobody_asks_so(names: list[str], size: int) -> None:
    with pytest.raises(MalformedMessage):
        from_recipes_request(recipes_request(RecipesRequest("run-1", names, size)))


def test_the_window_comes_along() -> None:
    for window in (None, (-160.0, 240.0)):
        asked = RecipesRequest("run-1", ["net"], 32, window)
        assert from_recipes_request(recipes_request(asked)) == asked
    malformed = record({"run": "run-1", "names": '["net"]', "size": 32, "window": "[1]"})
    with pytest.raises(MalformedMessage, match=r"^the request for recipes is malformed: "):
        from_recipes_request(malformed)


@pytest.mark.parametrize("window", ["[NaN, 1]", "[0, NaN]", "[0, Infinity]", "[2, 1]", "[1, 1]"])
def test_a_window_that_shows_nothing(window: str) -> None:
    content = record({"run": "run-1", "names": '["net"]', "size": 32, "window": window})
    with pytest.raises(MalformedMessage, match=r"^nobody asks for recipes with the window "):
        from_recipes_request(content)


def test_a_plan_is_not_large() -> None:
    with pytest.raises(TooLarge, match=rf"the limit is {PLAN_LIMIT}$"):
        from_shown_plan(to_shown_plan(ShownPlan("run-1", "pem", b"x" * (PLAN_LIMIT + 1))))
