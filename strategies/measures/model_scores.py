"""Measures of a source's model, or of its data, on a target; the maths are in `transferability`.

Scores were computed at the target's own site, and all that is left to do is to look them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from strategies.measures.base import Direction, FloatArray, Measure, Need, Task, register


class ModelScore(Measure):
    """How well a source's model fits a target, as the target's site found; NaN where it did not."""

    direction: ClassVar[Direction] = "higher"
    needs = frozenset[Need]({"scores"})
    privacy = "local scoring"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Look the scores up, see `Measure.matrix`."""
        rows = [
            [target.scores.get(self.name, {}).get(source.name, np.nan) for target in targets]
            for source in sources
        ]
        return np.array(rows, dtype=np.float64).reshape(len(sources), len(targets))  # [S, T]


@register
class HScore(ModelScore):
    """H-score of the model's embeddings."""

    name = "h-score"
    source = "Bao et al., ICIP 2019"
    description = "how much of what the source model's embeddings tell is about the target's labels"


@register
class HScoreShrunk(ModelScore):
    """H-score with Ledoit and Wolf's covariance."""

    name = "h-score-shrunk"
    source = "Ibrahim et al., arXiv 2110.06893"
    description = "H-score with a shrunk covariance, for few images"


@register
class Nce(ModelScore):
    """Negative conditional entropy."""

    name = "nce"
    source = "Tran et al., ICCV 2019"
    description = "negative entropy of the target's labels given the labels of the source model"


@register
class Leep(ModelScore):
    """Log expected empirical prediction."""

    name = "leep"
    source = "Nguyen et al., arXiv 2002.12462"
    description = "log likelihood of the target's labels by the source model's probabilities"


@register
class LogMe(ModelScore):
    """Log maximum evidence."""

    name = "logme"
    source = "You et al., ICML 2021"
    description = "evidence of a linear model of the labels on the source model's embeddings"
