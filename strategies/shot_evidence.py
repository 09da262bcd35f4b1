"""What a shot rests on: what was measured with its knowledge, who else offers it, and the words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from protocol.experiment import Detail, Scenario
from strategies.advice_words import sentence
from strategies.measurements import NAMED, Measurement, knowledge_id
from strategies.neighbourhood import Neighbourhood
from strategies.shots import Measured, Shot

__all__ = ["with_evidence"]

PRIMARY = "balanced_accuracy"  # told first


def with_evidence(
    shot: Shot,
    around: Neighbourhood,
    scenario: Scenario,
    offered: Mapping[str, Detail],
    measured: Sequence[Measurement],
) -> Shot:
    """Return a shot with all that speaks for it or against it.

    Parameters
    ----------
    shot
        With its rank, task and place.
    around
        The tasks.
    scenario
        What is handed over.
    offered
        What each task has to offer.
    measured
        With the tasks that each measurement speaks for; none of them on the asking target.
    """
    detail = offered.get(shot.task.id)
    known = None if detail is None else knowledge_id(detail)
    rows: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for each in measured:
        itself = scenario in NAMED and each.target == shot.task.id and each.knowledge == known
        if shot.task.id in each.sources or itself:
            rows[each.target, each.metric].append(each)
    counted = Counter(metric for _, metric in rows)
    order = sorted(rows, key=lambda row: (-counted[row[1]], row[1] != PRIMARY, *row[::-1]))
    whole = replace(
        shot,
        knowledge=detail,
        also=() if known is None else _others(shot, around, offered, known),
        measured=tuple(_mean(rows[row]) for row in order),
    )
    return replace(whole, sentence=sentence(scenario, whole, around.candidates))


def _others(
    shot: Shot, around: Neighbourhood, offered: Mapping[str, Detail], known: str
) -> tuple[str, ...]:
    asking = around.tasks[around.target]
    return tuple(
        task.id
        for task in around.tasks
        if task.id in offered
        and task.id != shot.task.id
        and not task.is_same(asking)
        and knowledge_id(offered[task.id]) == known
    )


def _mean(same: Sequence[Measurement]) -> Measured:
    """Return the means of measurements on one task in one metric."""
    baselines = sorted(each.baseline for each in same if each.baseline is not None)
    return Measured(
        target=same[0].target,
        metric=same[0].metric,
        performance=float(np.mean(sorted(each.performance for each in same))),
        baseline=float(np.mean(baselines)) if len(baselines) == len(same) else None,
        standing=float(np.mean(sorted(each.standing for each in same))),
        measurements=len(same),
    )
