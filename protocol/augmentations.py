"""Augmentation policies that ship with fedprint, for whoever knows of none that is better."""

from __future__ import annotations

import json
from importlib import resources

from protocol.experiment import Policy

USUAL = "usual"
"""Flip, small shifts and turns, brightness and contrast: what fine-tuning does anyhow."""

SHIPPED = (USUAL, "flips-and-turns")
"""Names of the policies, in the order in which they are worth a try; the second is for images
without an upright."""


def shipped_policies() -> dict[str, Policy]:
    """Return the shipped policies by name, in the order of `SHIPPED`."""
    folder = resources.files("protocol") / "augmentations"
    return {
        name: Policy(pipeline=json.loads((folder / f"{name}.json").read_bytes()))
        for name in SHIPPED
    }
