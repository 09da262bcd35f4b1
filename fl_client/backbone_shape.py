"""What a backbone takes and gives: the size of its images, and how it makes features of tokens."""

from __future__ import annotations

from typing import Any, get_args

import torch

from protocol.errors import ConfigError
from protocol.spec import Pooling, Preprocess, Spec, Window

EITHER: tuple[Pooling, ...] = ("token", "avg")
"""What a transformer's features may be taken of, whichever of the two it was pretrained with."""

INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")


def own_preprocess(
    model: Any, *, resize: int = 0, crop: int = 0, window: Window | None = None
) -> Preprocess:
    """Return how a timm model saw images when it was pretrained, at that size or another.

    Parameters
    ----------
    model : torch.nn.Module
        A timm model.
    resize, crop : int
        Shorter side and crop in pixels; 0 takes what it was pretrained with.
    window : (float, float), optional
        Intensities in scanner units that become black and white.

    Raises
    ------
    ValidationError
        If a size cannot be used.
    """
    own = model.pretrained_cfg
    crop = crop or int(own["input_size"][-1])
    way = own["interpolation"]
    return Preprocess(
        window=window,
        resize=resize or max(crop, round(crop / float(own["crop_pct"]))),
        crop=crop,
        interpolation=way if way in INTERPOLATIONS else "bicubic",
        mean=[float(value) for value in own["mean"]],
        std=[float(value) for value in own["std"]],
    )


def shape(model: Any, spec: Spec) -> None:
    """Make a model take images, and give features, as a spec says; see `set_size`, `set_pooling`.

    The digest of its weights is taken before: interpolated ones differ in their last bits.
    """
    set_size(model, spec.backbone, spec.preprocess.crop)
    set_pooling(model, spec.backbone, spec.pooling)


def set_size(model: Any, backbone: str, size: int) -> None:
    """Make a model take images of another size than it was pretrained with.

    Most convolutional networks take any. Of a transformer the position embeddings are interpolated
    to the new grid of patches, by timm; the digest of its weights is that of before.

    Parameters
    ----------
    model : torch.nn.Module
        A timm model; changed in place.
    backbone : str
        Its name, for the message.
    size : int
        Height and width in pixels.

    Raises
    ------
    ConfigError
        If it takes images of one size only, or the patches do not fill the image.
    """
    own = int(model.pretrained_cfg["input_size"][-1])
    patch = patch_size(model)
    if size % patch:
        near = max(patch, round(size / patch) * patch)
        raise ConfigError(
            f"{backbone} cuts images into patches of {patch} pixels, which do not fill {size}: "
            f"take {near}"
        )
    if size == own or not model.pretrained_cfg.get("fixed_input_size", False):
        return
    try:
        if not hasattr(model, "set_input_size"):
            raise RuntimeError("timm has no other size for it")
        model.set_input_size((size, size))
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{backbone} takes images of {own} pixels, not {size} ({_first_line(error)}): "
            f"take {own}"
        ) from error


def set_pooling(model: Any, backbone: str, pooling: Pooling | None) -> None:
    """Take a transformer's features of other tokens than it was pretrained with.

    Parameters
    ----------
    model : torch.nn.Module
        A timm model; changed in place. No weight changes.
    backbone : str
        Its name, for the message.
    pooling : str or None
        See `protocol.spec.Spec`; None, and what it does anyway, change nothing.

    Raises
    ------
    ConfigError
        If the model cannot.
    """
    own = pooling_of(model)
    if pooling in (None, own):
        return
    norm = getattr(model, "fc_norm", None)  # of a mean it was trained with, unlike the token's
    if own not in EITHER or pooling not in EITHER or not isinstance(norm, torch.nn.Identity):
        raise ConfigError(
            f"{backbone} pools its features by {own or 'a rule of its own'}, not {pooling}: leave "
            "--pooling out"
        )
    if pooling == "token" and not getattr(model, "num_prefix_tokens", 0):
        raise ConfigError(f"{backbone} has no class token: leave --pooling out")
    model.global_pool = pooling


def pooling_of(model: Any) -> Pooling | None:
    """Return how a transformer makes one vector of its tokens; None of any other network."""
    own = getattr(model, "global_pool", None)
    tokens = hasattr(model, "patch_embed") and hasattr(model, "pool")
    return own if tokens and own in get_args(Pooling) else None


def patch_size(model: Any) -> int:
    """Return the side in pixels of the patches that a model cuts images into; 1 if into none."""
    patches = getattr(model, "patch_embed", None)
    size = getattr(patches, "patch_size", None) if hasattr(patches, "proj") else None
    return int(size[0]) if isinstance(size, tuple) else 1


def require_fit(model: torch.nn.Module, backbone: str, size: int) -> int:
    """Give a model one image, and return how many features come out.

    Raises
    ------
    ConfigError
        If it takes no images of that size.
    """
    try:
        with torch.inference_mode():
            return int(model(torch.zeros(1, 3, size, size)).shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"{backbone} takes no images of {size} pixels ({_first_line(error)}): take another size"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip(" .")[:120]
