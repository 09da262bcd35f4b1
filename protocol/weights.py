"""Weights that travel as a start for others: their safetensors file and its digest."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from protocol.files import sha256_hex
from protocol.sharing import BODY, Arrays


def body_of(arrays: Arrays) -> Arrays:
    """Return the body's arrays: head rows belong to classes, and do not travel to other tasks."""
    return {name: value for name, value in arrays.items() if name.startswith(BODY)}


def weights_file(body: Arrays) -> bytes:
    """Return the safetensors file of a body: float32, contiguous, by name in ascending order.

    The same values give the same bytes, so that their SHA-256 names them (`weights_sha256`).
    """
    ordered = {
        name: np.ascontiguousarray(body[name], dtype=np.float32).reshape(np.shape(body[name]))
        for name in sorted(body)
    }
    return safetensors.numpy.save(ordered)


def weights_sha256(body: Arrays) -> str:
    """Return the SHA-256 of a body's safetensors file, 64 hexadecimal digits."""
    return sha256_hex(weights_file(body))
