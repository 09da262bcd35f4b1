"""Which device computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(name: str | None = None) -> torch.device:
    """Return the device to compute on.

    Parameters
    ----------
    name : str, optional
        ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``; by default the first that is there.

    Raises
    ------
    ConfigError
        If the name is unknown or this machine has no such device.
    """
    import torch

    if not name:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: take cpu, cuda, cuda:N or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise ConfigError(f"device {name!r} is not available here: leave --device out or take cpu")
    return device
