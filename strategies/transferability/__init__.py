"""How well a source's model, or its data, would serve a target: pure functions, no training."""

from strategies.transferability.checks import even_sample
from strategies.transferability.class_transport import otce_classes
from strategies.transferability.evidence import logme
from strategies.transferability.h_score import h_score, h_score_shrunk
from strategies.transferability.label_transfer import conditional_entropy, leep, nce
from strategies.transferability.otce import Otce, otce
from strategies.transferability.scoring import SCORES, score_model

__all__ = [
    "SCORES",
    "Otce",
    "conditional_entropy",
    "even_sample",
    "h_score",
    "h_score_shrunk",
    "leep",
    "logme",
    "nce",
    "otce",
    "otce_classes",
    "score_model",
]
