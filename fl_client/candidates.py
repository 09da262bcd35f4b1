"""Candidate architectures: their weights, how they see an image, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from fl_client.backbone import create_model, weights_digest
from fl_client.backbone_shape import own_preprocess, set_size
from fl_client.weights import WEIGHTS_FOLDER, weights_source
from protocol.errors import ConfigError, WeightsError, one_line
from protocol.spec import Preprocess, Spec, Weights, Window


@dataclass(frozen=True)
class Candidate:
    """An architecture with its pretrained weights, ready to be tried.

    Attributes
    ----------
    recipe : Spec
        Backbone, weights and preprocessing; it has no bin edges, because nothing is counted.
    parameters : int
        Of the backbone, without classifier.
    gmacs : float
        Billions of multiply-accumulates for one image: what using it costs.
    """

    recipe: Spec
    parameters: int
    gmacs: float

    @property
    def name(self) -> str:
        """Name of the timm model."""
        return self.recipe.backbone


def prepare(
    names: Sequence[str],
    sources: Mapping[str, str],
    size: int = 0,
    window: Window | None = None,
) -> list[Candidate]:
    """Make sure of all candidates before any effort goes into one.

    Parameters
    ----------
    names : sequence of str
        Names of timm models.
    sources : mapping
        Where weights come from that are neither in the folder ``$FEDPRINT_WEIGHTS`` (as
        ``NAME.safetensors``) nor to be taken from timm.
    size : int
        Crop in pixels for all of them; 0 gives each what it was pretrained with.
    window : (float, float), optional
        Intensities in scanner units that become black and white.

    Raises
    ------
    ConfigError
        If timm has no such model, or it takes no such images.
    WeightsError
        If weights are missing; never falls back to random ones.
    """
    return [_prepare(name, weights_source(name, sources), size, window) for name in names]


def _prepare(name: str, source: str, size: int, window: Window | None) -> Candidate:
    try:
        model = create_model(name, source)
    except WeightsError as error:
        hub = "timm has no weights in its cache, nor from its hub: try again with internet"
        raise WeightsError(
            f"candidate {name}: {hub if source == 'timm' else error}; or put {name}.safetensors "
            f"into a folder and name that in {WEIGHTS_FOLDER}, or leave the candidate out"
        ) from error
    digest = weights_digest(model)
    seen = _preprocess(name, model, size, window)
    set_size(model, name, seen.crop)
    width, gmacs = _measure(model, seen.crop, name)
    weights = Weights(source=source, sha256=digest)
    recipe = Spec(
        name="candidate", backbone=name, weights=weights, preprocess=seen, features=width, bins=2
    )
    return Candidate(recipe, sum(parameter.numel() for parameter in model.parameters()), gmacs)


def load_candidate(candidate: Candidate, device: torch.device) -> torch.nn.Module:
    """Load a candidate's network: images float ``[k, 3, crop, crop]`` to features ``[k, m]``.

    Raises
    ------
    WeightsError
        If the weights are missing, or others than when the candidate was prepared.
    """
    model = create_model(candidate.name, candidate.recipe.weights.source)
    if weights_digest(model) != candidate.recipe.weights.sha256:
        raise WeightsError(f"the weights of {candidate.name} have changed meanwhile: run again")
    set_size(model, candidate.name, candidate.recipe.preprocess.crop)
    ready: torch.nn.Module = model.to(device=device, memory_format=torch.channels_last)
    return ready


def _preprocess(name: str, model: Any, crop: int, window: Window | None) -> Preprocess:
    """Return how a candidate sees images: as in its pretraining, but for the crop."""
    try:
        return own_preprocess(model, crop=crop, window=window)
    except ValidationError as error:
        raise ConfigError(f"candidate {name} cannot be used: {one_line(error)}") from error


def _measure(model: torch.nn.Module, crop: int, name: str) -> tuple[int, float]:
    """Return how many features an image has, and billions of multiply-accumulates for it.

    timm's ``num_features`` is another number where layers follow the pooling, as in MobileNetV3.
    """
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            width = model(torch.zeros(1, 3, crop, crop)).shape[1]
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ConfigError(
            f"candidate {name} takes no images of {crop} pixels ({reason}): give another --size"
        ) from error
    return width, counter.get_total_flops() / 2e9
