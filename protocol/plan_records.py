"""Conversion to and from Flower's records: what is said of plans, recipes first."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import NamedTuple

from flwr.app import RecordDict
from pydantic import TypeAdapter, ValidationError

from protocol.errors import MalformedMessage, TooLarge, one_line
from protocol.experiment import Name
from protocol.names import printable
from protocol.records import get, record
from protocol.spec import Spec, Weights, Window

MOST_RECIPES = 100
RECIPE_LIMIT = 4096  # bytes of one; they have some 400
RECIPES_LIMIT = RECIPE_LIMIT * MOST_RECIPES
PLAN_LIMIT = 2 * 1024 * 1024  # bytes; a site keeps what it accepts
MOST_FEATURES = 65_536
OWN = "site"
"""Source of the weights in a recipe that travels: each site has its own."""
_NAMES = TypeAdapter(list[Name])
_RECIPES = TypeAdapter(dict[Name, Spec])
_WINDOW = TypeAdapter[Window | None](Window | None)
_MISSING = TypeAdapter(dict[Name, str])
_TEXT_LIMIT = 500


class RecipesRequest(NamedTuple):
    """Which architectures a site is asked for: timm models, crop in pixels, the spec's window."""

    run: str
    names: list[str]
    size: int
    window: Window | None = None


@dataclass(frozen=True)
class Recipes:
    """What a site can train.

    Attributes
    ----------
    recipes : dict
        By name: backbone, digest of the weights that lie at the site, and preprocessing.
    missing : dict
        By name: why the site cannot.
    """

    recipes: dict[str, Spec]
    missing: dict[str, str]


class ShownPlan(NamedTuple):
    """A plan as a coordinator shows it: run, the coordinator's public key (PEM), signed plan."""

    run: str
    coordinator: str
    plan: bytes


def recipes_request(asked: RecipesRequest) -> RecordDict:
    """Return the request for recipes."""
    names, window = json.dumps(asked.names), json.dumps(asked.window)
    return record({"run": asked.run, "names": names, "size": asked.size, "window": window})


def from_recipes_request(content: RecordDict) -> RecipesRequest:
    """Read the request for recipes.

    Raises
    ------
    MalformedMessage
        When it is none.
    """
    try:
        names = _NAMES.validate_json(get(content, "names", str), strict=True)
        window = _WINDOW.validate_json(get(content, "window", str), strict=True)
    except ValidationError as error:
        raise MalformedMessage(f"the request for recipes is malformed: {one_line(error)}") from None
    size = get(content, "size", int)
    if not 0 < len(names) <= MOST_RECIPES or not 0 <= size <= 4096:
        raise MalformedMessage(f"nobody asks for {len(names)} recipes of {size} pixels")
    if window is not None and not -math.inf < window[0] < window[1] < math.inf:
        raise MalformedMessage(f"nobody asks for recipes with the window {window}")
    return RecipesRequest(get(content, "run", str), names, size, window)


def to_recipes(found: Recipes) -> RecordDict:
    """Return a site's answer to the request for recipes."""
    recipes = {name: spec.model_dump(mode="json") for name, spec in found.recipes.items()}
    return record({"recipes": json.dumps(recipes), "missing": json.dumps(found.missing)})


def from_recipes(content: RecordDict) -> Recipes:
    """Read a site's answer to the request for recipes.

    Raises
    ------
    MalformedMessage
        When it is none.
    """
    try:
        recipes = _RECIPES.validate_json(_text(content, "recipes"))
        missing = _MISSING.validate_json(_text(content, "missing"), strict=True)
    except ValidationError as error:
        raise MalformedMessage(f"the recipes are malformed: {one_line(error)}") from None
    if len(recipes) + len(missing) > MOST_RECIPES:
        raise TooLarge(f"{len(recipes) + len(missing)} recipes, the limit is {MOST_RECIPES}")
    for name, recipe in recipes.items():
        _require_bare(name, recipe)
    return Recipes(recipes, {n: printable(why, _TEXT_LIMIT) for n, why in missing.items()})


def to_shown_plan(shown: ShownPlan) -> RecordDict:
    """Return the message that shows a site its group's plan."""
    return record({**shown._asdict()})


def from_shown_plan(content: RecordDict) -> ShownPlan:
    """Read what a coordinator shows as a plan; nothing of it is verified here.

    Raises
    ------
    MalformedMessage, TooLarge
        When it is none.
    """
    shown = ShownPlan(
        *(get(content, "run", str), get(content, "coordinator", str), get(content, "plan", bytes))
    )
    if (size := max(len(shown.plan), len(shown.coordinator))) > PLAN_LIMIT:
        raise TooLarge(f"the plan has {size} bytes, the limit is {PLAN_LIMIT}")
    return shown


def to_accepted(sha256: str) -> RecordDict:
    """Return a site's answer that it will train as the plan of this SHA-256 says."""
    return record({"accepted": sha256})


def from_accepted(content: RecordDict) -> str:
    """Read which plan a site accepted.

    Raises
    ------
    MalformedMessage
        When the answer is none.
    """
    return get(content, "accepted", str)


def _text(content: RecordDict, name: str) -> str:
    text = get(content, name, str)
    if len(text) > RECIPES_LIMIT:
        raise TooLarge(f"{name!r} has {len(text)} characters, the limit is {RECIPES_LIMIT}")
    return text


def _require_bare(name: str, recipe: Spec) -> None:
    """Raise unless a recipe says what one has to, and nothing else: plans and orders repeat it."""
    weights = recipe.weights
    bare = Spec(
        name="candidate",
        backbone=name,
        weights=Weights(source=OWN, sha256=weights.sha256),
        preprocess=recipe.preprocess,
        features=recipe.features,
        bins=2,
    )
    if recipe != bare or weights.sha256 is None:
        odd = [
            part
            for part in type(recipe).model_fields
            if getattr(recipe, part) != getattr(bare, part)
        ]
        raise MalformedMessage(
            f"the recipe of {name} is none: its {(odd or ['weights'])[0]} is amiss"
        )
    size = len(recipe.model_dump_json())
    if size > RECIPE_LIMIT or recipe.features > MOST_FEATURES:
        raise TooLarge(f"the recipe of {name} has {size} bytes and {recipe.features} features")
