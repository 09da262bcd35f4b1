"""Weights of a small network, as a site has them beside those of its run's spec."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

OTHER = "test_resnet"
SIZE = 32


def write_weights(folder: Path, *names: str, seed: int = 0) -> Path:
    """Write random weights of networks as ``NAME.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or (OTHER,):
        torch.manual_seed(seed)
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder
