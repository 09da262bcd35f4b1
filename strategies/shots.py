"""A shot, the evidence that it rests on, and the shots of a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protocol.experiment import Detail, Scenario
from strategies.neighbourhood import PoolTask

__all__ = ["Counsel", "Measured", "Shot", "Why"]

Why = Literal["distance", "learnt", "explored"]


@dataclass(frozen=True)
class Measured:
    """What was measured on one task with the knowledge of a shot, in one metric.

    Parameters
    ----------
    target
        The task it was used on: another one, or the source itself.
    metric
        What was measured.
    performance, baseline
        Means, with the knowledge and without.
    standing
        Mean; 0 is the middle of what was tried there, 1 a standard deviation above.
    measurements
        How many these are means of.
    """

    target: str
    metric: str
    performance: float
    baseline: float | None
    standing: float
    measurements: int


@dataclass(frozen=True)
class Shot:
    """One suggestion.

    Parameters
    ----------
    rank
        1 is to be tried first.
    task
        The source.
    knowledge
        What it has to offer; None where only the task is known.
    also
        Ids of further tasks that offer the very same.
    distance, place
        From the target; 1 is the nearest. None where fingerprints do not compare.
    why
        ``"distance"``: nothing was measured yet; ``"learnt"``: the most promising of those left;
        ``"explored"``: promising enough, and little is known of it.
    standing, sd
        What to expect and how uncertain it is, see `Measured.standing`; None without outcomes.
    better
        Probability of doing better than a typical candidate.
    measured
        The evidence, see `Measured`.
    sentence
        The same in words.
    """

    rank: int
    task: PoolTask
    knowledge: Detail | None
    also: tuple[str, ...]
    distance: float | None
    place: int | None
    why: Why
    standing: float | None
    sd: float | None
    better: float | None
    measured: tuple[Measured, ...]
    sentence: str = ""


@dataclass(frozen=True)
class Counsel:
    """The shots of one scenario.

    Parameters
    ----------
    scenario
        Which.
    outcomes
        How many measurements on other targets they rest on; 0 is a cold start, by distance.
    shots
        In rank order.
    """

    scenario: Scenario
    outcomes: int
    shots: tuple[Shot, ...]
