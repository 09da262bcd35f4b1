"""Weights to start from: they come from others, and are checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from protocol.errors import BadDtype, BadShape, DigestMismatch, NotFinite
from protocol.plan import Start
from protocol.sharing import Arrays
from protocol.weights import weights_sha256


def require_start(
    start: Start, arrays: Arrays, backbone: str, shapes: Mapping[str, tuple[int, ...]]
) -> Arrays:
    """Return a body that is to be started from, having checked it.

    Parameters
    ----------
    start : Start
        What an order or a plan says of it.
    arrays : dict
        What came along, by array name.
    backbone : str
        Name of the network that will train.
    shapes : mapping
        Shape of each array of its body.

    Raises
    ------
    VerificationError
        If these are not the arrays of this network's body, in finite float32, whose digest the
        order names.
    """
    if start.architecture != backbone:
        raise BadShape(f"the start is of {start.architecture!r}, the order trains {backbone!r}")
    require_arrays(arrays, shapes, "start")
    if (found := weights_sha256(arrays)) != start.sha256:
        raise DigestMismatch(
            f"the start has SHA-256 {found[:12]}, the order names {start.sha256[:12]}: send the "
            "very weights"
        )
    return arrays


def require_arrays(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raise unless arrays that came from others are those of a body, in finite float32.

    Parameters
    ----------
    arrays : dict
        What came, by array name.
    shapes : mapping
        Shape of each array that there must be.
    what : str
        What they are, for messages.

    Raises
    ------
    BadShape, BadDtype, NotFinite
        Naming the array.
    """
    if arrays.keys() != shapes.keys():
        odd = sorted(arrays.keys() ^ shapes.keys())[0]
        raise BadShape(f"the {what} does not hold the arrays of the body: {odd:.80} is amiss")
    for name, shape in shapes.items():
        value = arrays[name]
        if value.dtype != np.float32:
            raise BadDtype(f"the {what}'s {name} is {value.dtype}, not float32")
        if value.shape != shape:
            raise BadShape(f"the {what}'s {name} has shape {value.shape}, not {shape}")
        if not np.isfinite(value).all():
            raise NotFinite(f"the {what}'s {name} holds NaN or infinite values")
