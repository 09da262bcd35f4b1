"""What a site can train: its own recipes of the architectures that others name.

A recipe that travels names weights by the digest of their values; where they lie is each site's
own affair. So an architecture that somebody orders is prepared anew, by its name and from the
site's own sources, and must then be the very one that was ordered.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import timm

from fl_client.candidates import Candidate, prepare
from fl_client.weights import WEIGHTS_FOLDER, weights_source
from protocol.errors import ConfigError, DigestMismatch, FedprintError, WeightsError
from protocol.plan_records import OWN, Recipes, RecipesRequest
from protocol.presets import PRESETS
from protocol.spec import Spec, Window

MOST_PIXELS = 512
"""Largest crop: images are kept in memory, and ten thousand of this size are 8 GB."""

log = logging.getLogger("fedprint")

_SOURCES = {name: where for preset in PRESETS.values() for name, where in preset.sources.items()}
_OF_PRESETS = {name for preset in PRESETS.values() for name in preset.candidates}
"""What a site downloads if others want it; of any other network it has the weights or has not."""


def site_recipes(asked: RecipesRequest, say: Callable[[Exception], str] = str) -> Recipes:
    """Return the recipes of the architectures that a coordinator asks for.

    Parameters
    ----------
    asked : RecipesRequest
        Names of timm models, the crop in pixels (0 takes what each was pretrained with), window.
    say : callable
        What the coordinator may read of an error.
    """
    recipes, missing = {}, {}
    for name in asked.names:
        try:
            recipes[name] = travelling(own_candidate(name, asked.size, asked.window).recipe)
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
    seen = ordered.preprocess
    own = own_candidate(ordered.backbone, seen.crop, seen.window)
    recipe = travelling(own.recipe)
    if recipe.digest != ordered.digest:
        raise DigestMismatch(
            f"the ordered recipe of {ordered.backbone} has digest {ordered.digest[:12]}, the "
            f"site's own {recipe.digest[:12]}: order what the site answered to query.recipes"
        )
    return own


def own_candidate(name: str, size: int, window: Window | None = None) -> Candidate:
    """Return an architecture with the weights that the site itself has for it.

    Raises
    ------
    ConfigError, WeightsError
        As in `fl_client.candidates.prepare`, or if it would have to download what no preset names.
    """
    if "/" in name:  # it is looked up as a file in the site's folder of weights
        raise ConfigError(f"unknown backbone {name!r}: take a timm model")
    if size > MOST_PIXELS:
        raise ConfigError(f"a crop of {size} pixels is too large: at most {MOST_PIXELS}")
    source = weights_source(name, _SOURCES)
    if source == "timm" and name not in _OF_PRESETS and timm.is_model(name.split(".", 1)[0]):
        raise WeightsError(
            f"nothing is downloaded for {name}, which is in no preset: put {name}.safetensors into "
            f"a folder and name that in {WEIGHTS_FOLDER}"
        )
    return _prepared(name, source, size, window)


@functools.lru_cache(maxsize=64)
def _prepared(name: str, source: str, size: int, window: Window | None) -> Candidate:
    """Prepare a candidate once a process; `load_candidate` sees whether its weights changed."""
    return prepare([name], {name: source}, size, window)[0]
