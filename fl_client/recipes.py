"""What a site can train: its own recipes of the architectures that others name.

A recipe that travels names weights by the digest of their values; where they lie is each site's
own affair. So an architecture that somebody orders is prepared anew, by its name and from the
site's own sources, and must then be the very one that was ordered.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from fl_client.candidates import Candidate, prepare, weights_source
from protocol.errors import ConfigError, DigestMismatch, FedprintError
from protocol.plan_records import Recipes, RecipesRequest
from protocol.presets import PRESETS
from protocol.spec import Spec

OWN = "site"
"""Source of the weights in a recipe that travels: each site has its own."""

MOST_PIXELS = 1024
"""Largest crop: a larger one takes more memory than any of these networks is worth."""

log = logging.getLogger("fedprint")

_SOURCES = {name: where for preset in PRESETS.values() for name, where in preset.sources.items()}


def site_recipes(asked: RecipesRequest, say: Callable[[Exception], str] = str) -> Recipes:
    """Return the recipes of the architectures that a coordinator asks for.

    Parameters
    ----------
    asked : RecipesRequest
        Names of timm models, and the crop in pixels; 0 takes what each was pretrained with.
    say : callable
        What the coordinator may read of an error.
    """
    recipes, missing = {}, {}
    for name in asked.names:
        try:
            recipes[name] = travelling(own_candidate(name, asked.size).recipe)
        except FedprintError as error:
            log.warning("fedprint | no recipe of %s | %s", name, error)
            missing[name] = say(error)
    return Recipes(recipes, missing)


def travelling(recipe: Spec) -> Spec:
    """Return a recipe without what is the site's own: where its weights lie."""
    weights = recipe.weights.model_copy(update={"source": OWN})
    return recipe.model_copy(update={"weights": weights})


def ordered_candidate(ordered: Spec) -> Candidate:
    """Return the site's own candidate of an architecture that was ordered.

    Raises
    ------
    ConfigError
        If timm has no such model, or it takes no such images.
    WeightsError
        If the site has no weights for it.
    DigestMismatch
        If the site's own recipe is another one than was ordered.
    """
    own = own_candidate(ordered.backbone, ordered.preprocess.crop)
    recipe = travelling(own.recipe)
    if recipe.digest != ordered.digest:
        raise DigestMismatch(
            f"the ordered recipe of {ordered.backbone} has digest {ordered.digest[:12]}, the "
            f"site's own {recipe.digest[:12]}: order what the site answered to query.recipes"
        )
    return own


def own_candidate(name: str, size: int) -> Candidate:
    """Return an architecture with the weights that the site itself has for it.

    Raises
    ------
    ConfigError, WeightsError
        As in `fl_client.candidates.prepare`.
    """
    if "/" in name:  # it is looked up as a file in the site's folder of weights
        raise ConfigError(f"unknown backbone {name!r}: take a timm model")
    if size > MOST_PIXELS:
        raise ConfigError(f"a crop of {size} pixels is too large: at most {MOST_PIXELS}")
    return _prepared(name, weights_source(name, _SOURCES), size)


@functools.lru_cache(maxsize=64)
def _prepared(name: str, source: str, size: int) -> Candidate:
    """Prepare a candidate once a process; `load_candidate` sees whether its weights changed."""
    return prepare([name], {name: source}, size)[0]
