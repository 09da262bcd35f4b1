"""Which source to try next: what distances promise, corrected by what was measured.

A hierarchical Bayesian model of one scenario: the standing of a source on a target is the
source's general worth, plus its worth for targets like this one, plus what its task card and its
distances promise, plus noise. Every part is shrunk by a variance learnt from the outcomes, so an
empty pool follows the distances (the paper's way) and a full one the outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.standing import Standings
from strategies.task_pairs import TaskPairs
from strategies.variance_components import Components, fit, learn

__all__ = ["Advice", "Evidence", "Recommender", "prior_components"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

# Typical variances on the 28 development tasks of the published results: what is believed of a
# pool before it has outcomes. In the order of BLOCKS.
PRIOR_VARIANCE = (0.03, 0.005, 0.004, 0.003, 0.001, 0.0007, 0.04, 0.05)
PRIOR_NOISE = 0.3
NEARNESS = 0.1  # expected slope of the mean nearness: near is better until outcomes say otherwise


@dataclass(frozen=True)
class Evidence:
    """What was measured of a source on other targets.

    Parameters
    ----------
    targets
        Positions of the targets, shape ``[n]``.
    standing
        Mean standing there, shape ``[n]``; 0 is the middle, 1 one standard deviation above.
    """

    targets: Ints
    standing: Floats


@dataclass(frozen=True)
class Advice:
    """What to expect of every possible source for one target, best guess and doubt.

    Parameters
    ----------
    source
        Positions of the possible sources, shape ``[n]``.
    mean, sd
        Posterior of the standing, shape ``[M, n]``: metric, source. The higher the better.
    joint_mean, joint_covariance
        Of the mean over the metrics, shapes ``[n]`` and ``[n, n]``.
    """

    source: Ints
    mean: Floats
    sd: Floats
    joint_mean: Floats
    joint_covariance: Floats

    def ranked(self) -> Ints:
        """Return the sources, most promising first; equals in the order of the tasks."""
        return self.source[np.argsort(-self.joint_mean, kind="stable")]

    def shots(self, k: int, rng: np.random.Generator) -> Ints:
        """Return k sources to try: the most promising one, then Thompson samples.

        Exploration is paid for by the later shots only: each of them is the best source of one
        world drawn from the posterior (Thompson 1933), so doubtful sources get their chance.
        """
        chosen = [int(np.argmax(self.joint_mean))] if len(self.source) else []
        size = len(self.source)
        root = np.linalg.cholesky(self.joint_covariance + 1e-9 * np.eye(size)) if size else None
        while root is not None and len(chosen) < min(k, size):
            world = self.joint_mean + root @ rng.standard_normal(size)
            world[chosen] = -np.inf
            chosen.append(int(np.argmax(world)))
        return self.source[chosen]


def prior_components(pairs: TaskPairs) -> Components:
    """Return what is believed before any outcome is known."""
    mean = np.zeros(len(pairs.block))
    if pairs.consensus is not None:
        mean[pairs.consensus] = NEARNESS
    return Components(pairs.block, mean, np.array(PRIOR_VARIANCE)[pairs.kind], PRIOR_NOISE)


class Recommender:
    """Learns from outcomes of one scenario and advises targets, never from their own outcomes.

    Parameters
    ----------
    pairs
        What is known of the tasks.
    metrics
        Number of metrics.
    """

    def __init__(self, pairs: TaskPairs, metrics: int) -> None:
        self._pairs, self._metrics = pairs, metrics
        self._prior = prior_components(pairs)
        self._learnt = self._prior
        self._seen: dict[int, tuple[Standings, Floats]] = {}
        size = len(pairs.block)
        self._gram, self._moment = np.zeros((size, size)), np.zeros(size)
        self._square, self._count = 0.0, 0

    def add(self, standings: Standings) -> None:
        """Take in outcomes; those of a target that was seen before replace the earlier ones."""
        for target in np.unique(standings.target):
            if int(target) in self._seen:
                self._count_in(int(target), -1)
            own = standings.of(int(target))
            rows = self._pairs.rows(own.target, own.source, own.metric)
            self._seen[int(target)] = (own, rows)
            self._count_in(int(target), 1)

    def learn(self, steps: int = 25) -> None:
        """Learn the variances from all outcomes seen."""
        self._learnt = learn(
            self._gram, self._moment, self._square, self._count, self._learnt, self._prior,
            steps=steps,
        )  # fmt: skip

    def advise(self, target: int, *, without: Ints | None = None, relearn: int = 10) -> Advice:
        """Return what to expect of every possible source.

        Parameters
        ----------
        target
            Who asks; its own outcomes are never used.
        without
            Further targets whose outcomes are not used.
        relearn
            Steps by which the variances are learnt anew, from the prior and without these
            outcomes; 0 keeps what `learn` found, which is for targets without outcomes.
        """
        left_out = {target, *([] if without is None else map(int, without))} & set(self._seen)
        gram, moment, square, count = self._gram, self._moment, self._square, self._count
        for other in left_out:
            own, rows = self._seen[other]
            gram, moment = gram - rows.T @ rows, moment - rows.T @ own.value
            square, count = square - float(own.value @ own.value), count - len(own.value)
        components = self._learnt
        if relearn:
            components = learn(gram, moment, square, count, self._prior, self._prior, steps=relearn)
        state = fit(gram, moment, components)
        source = np.flatnonzero(self._pairs.tasks.allowed()[:, target])
        return self._predict(target, source, state.weights, state.covariance)

    def evidence(self, source: int, target: int) -> Evidence:
        """Return what was measured of a source on targets other than the one that asks."""
        found = [
            (other, float(own.value[own.source == source].mean()))
            for other, (own, _) in sorted(self._seen.items())
            if other != target and (own.source == source).any()
        ]
        return Evidence(
            np.array([other for other, _ in found], dtype=np.intp),
            np.array([value for _, value in found]),
        )

    def _predict(self, target: int, source: Ints, weights: Floats, covariance: Floats) -> Advice:
        who = np.full(len(source), target)
        rows = np.stack(
            [self._pairs.rows(who, source, np.full(len(source), m)) for m in range(self._metrics)]
        )  # [M, n, p]
        variance = np.einsum("mnp,pq,mnq->mn", rows, covariance, rows, optimize=True)
        joint = rows.mean(axis=0)
        return Advice(
            source, rows @ weights, np.sqrt(np.maximum(variance, 0)),
            joint @ weights, joint @ covariance @ joint.T,
        )  # fmt: skip

    def _count_in(self, target: int, sign: int) -> None:
        own, rows = self._seen[target]
        self._gram = self._gram + sign * rows.T @ rows
        self._moment = self._moment + sign * rows.T @ own.value
        self._square += sign * float(own.value @ own.value)
        self._count += sign * len(own.value)
