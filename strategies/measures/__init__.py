"""Every measure of how much one task may serve another, by name."""

from strategies.measures.base import (
    Direction,
    Measure,
    Need,
    PrivacyClass,
    Task,
    available,
    feature_means,
    get,
    register,
    released,
    rows_of,
    stack,
)
from strategies.measures.bkld import LargeSource, LargeUnweighted, SmallTarget

__all__ = [
    "Direction",
    "LargeSource",
    "LargeUnweighted",
    "Measure",
    "Need",
    "PrivacyClass",
    "SmallTarget",
    "Task",
    "available",
    "feature_means",
    "get",
    "register",
    "released",
    "rows_of",
    "stack",
]
