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

from strategies.bordered import Rows, Sums
from strategies.standing import Standings
from strategies.task_pairs import TaskPairs
from strategies.variance_components import Components, Fit, fit, learn

__all__ = ["Advice", "Evidence", "Recommender", "prior_components"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

# Typical variances on the 28 development tasks of the published results: what is believed of a
# pool before it has outcomes. In the order of BLOCKS.
PRIOR_VARIANCE = (0.03, 0.003, 0.04, 0.005, 0.004, 0.001, 0.0007, 0.05)
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
        self._seen: dict[int, tuple[Standings, Rows]] = {}
        nothing = np.zeros(0, dtype=np.intp)
        self._sums = self._summed(pairs.rows(nothing, nothing, nothing), np.zeros(0))

    def add(self, standings: Standings) -> None:
        """Take in outcomes; those of a target that was seen before replace the earlier ones."""
        for target in map(int, np.unique(standings.target)):
            if target in self._seen:
                self._sums -= self._of(target)
            own = standings.of(target)
            self._seen[target] = (own, self._pairs.rows(own.target, own.source, own.metric))
            self._sums += self._of(target)

    def learn(self, steps: int = 25) -> None:
        """Learn the variances from all outcomes seen."""
        self._learnt = learn(self._sums, self._learnt, self._prior, steps=steps)

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
        sums = self._sums
        for other in left_out:
            sums -= self._of(other)
        components = self._learnt
        if relearn:
            components = learn(sums, self._prior, self._prior, steps=relearn)
        source = np.flatnonzero(self._pairs.tasks.allowed()[:, target])
        return self._predict(target, source, fit(sums, components))

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

    def _predict(self, target: int, source: Ints, state: Fit) -> Advice:
        who = np.full(len(source), target)
        each = [
            self._pairs.rows(who, source, np.full(len(source), metric))
            for metric in range(self._metrics)
        ]
        found = [state.predict(rows) for rows in each]
        joint = Rows(
            source,
            np.mean([rows.own for rows in each], axis=0),
            np.mean([rows.shared for rows in each], axis=0),
        )
        return Advice(
            source,
            np.stack([mean for mean, _ in found]),
            np.sqrt(np.maximum([np.diag(covariance) for _, covariance in found], 0)),
            *state.predict(joint),
        )

    def _of(self, target: int) -> Sums:
        own, rows = self._seen[target]
        return self._summed(rows, own.value)

    def _summed(self, rows: Rows, values: Floats) -> Sums:
        return Sums.of(rows, values, self._pairs.tasks.count)
