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
from strategies.measures.label_transport import OtceOfClasses, OtceOfImages
from strategies.measures.model_scores import HScore, HScoreShrunk, Leep, LogMe, Nce

__all__ = [
    "Direction",
    "HScore",
    "HScoreShrunk",
    "LargeSource",
    "LargeUnweighted",
    "Leep",
    "LogMe",
    "Measure",
    "Nce",
    "Need",
    "OtceOfClasses",
    "OtceOfImages",
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
