"""Comparing what a file says with what was computed again, perhaps on another machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

CLOSE = 1e-9
"""Relative: what the last bits of floating-point sums may differ by between two machines."""
TINY = 1e-12
"""Absolute: the same for figures that are nought but for rounding."""


def differences(found: BaseModel, wanted: BaseModel) -> list[str]:
    """Return in at most one line what a file says otherwise than was computed.

    Everything is compared exactly but fractional numbers, see `close`.
    """
    other = list(_compare(found.model_dump(mode="json"), wanted.model_dump(mode="json"), ""))
    return [other[0] + (f" (and {len(other) - 1} more)" if other[1:] else "")] if other else []


def close(found: float, wanted: float) -> bool:
    """Tell whether two figures are the same but for rounding."""
    return math.isclose(found, wanted, rel_tol=CLOSE, abs_tol=TINY)


def _compare(found: Any, wanted: Any, where: str) -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys()):
            inner = f"{where}.{name}" if where else str(name)
            yield from _compare(found.get(name), wanted.get(name), inner)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (a, b) in enumerate(zip(found, wanted, strict=True), 1):
            yield from _compare(a, b, f"{where}[{number}]")
    elif isinstance(found, float) and isinstance(wanted, float):
        if not close(found, wanted):
            yield f"{where} is {found!r}, computed again it is {wanted!r}"
    elif found != wanted or type(found) is not type(wanted):
        yield f"{where} is {found!r:.80}, computed again it is {wanted!r:.80}"
