"""The coordinator's own metrics of a run: how each group's rounds went, and what each arm came to.

They are made of what sites send anyway: nobody is asked for more. They lie in the run's ``state``
folder, which the log does not cover, because they prove nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from fl_server.progress import STATE
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from protocol.sharing import BODY, Arrays
from protocol.tracking import Series, Tracking, require_installed
from strategies.members import Round

FOLDER = Path(STATE, "tracking")


class RunTracker:
    """Writes the metrics of one run.

    Parameters
    ----------
    tracking : Tracking
        Where to.
    run : str
        Name of the run.
    """

    def __init__(self, tracking: Tracking, run: str) -> None:
        self._tracking, self._run = tracking, run

    def group(self, name: str) -> GroupTracker:
        """Return what follows the rounds of one group.

        Raises
        ------
        ConfigError
            If nothing can be written.
        """
        return GroupTracker(self._open(name))

    def arm(self, name: str, outcome: ArmOutcome) -> None:
        """Write what an arm ended with: each score of each site, and its mean over sites.

        Raises
        ------
        ConfigError
            If nothing can be written.
        """
        series = self._open(name)
        series.write(_arm_metrics(outcome), 0)
        series.close()

    def _open(self, name: str) -> Series:
        from pytorch_lightning import loggers

        return self._tracking.open(loggers, self._run, name)


class GroupTracker:
    """Follows one group round by round."""

    def __init__(self, series: Series) -> None:
        self._series, self._since = series, time.monotonic()
        self._before: Arrays | None = None

    def round(self, number: int, ended: Round) -> None:
        """Write what a round came to."""
        now = time.monotonic()
        bodies = [_body(content) for content in ended.replies.values()]
        weights = [_examples(content) for content in ended.replies.values()]
        metrics: dict[str, float] = {
            "sites": len(ended.replies),
            "images": sum(weights),
            "losses": len(ended.losses),
            "seconds": now - self._since,
        }
        if bodies and sum(weights):
            mean = _mean(bodies, weights)
            metrics["spread"] = float(np.mean([_apart(body, mean) for body in bodies]))
            if self._before is not None:
                metrics["change"] = _apart(mean, self._before)
            self._before = mean
        self._series.write(metrics, number)
        self._since = now

    def close(self) -> None:
        """Say that the group has ended."""
        self._series.close()


def check_tracking(settings: RunSettings) -> None:
    """Find out before hours of training, not after, whether a run can be tracked.

    Raises
    ------
    ConfigError
        If what it asks for is not installed.
    """
    if settings.track:
        require_installed(settings.track)


def run_tracker(settings: RunSettings, folder: Path, run: str) -> RunTracker | None:
    """Return what tracks a run whose settings ask for it, None otherwise."""
    if not settings.track:
        return None
    return RunTracker(Tracking(settings.track, str(folder / FOLDER)), run)


def _body(content: RecordDict) -> Arrays:
    """Return the body's arrays of a reply; head rows are not everybody's."""
    record = content.array_records.get("arrays", ArrayRecord())
    return {name: array.numpy() for name, array in record.items() if name.startswith(BODY)}


def _examples(content: RecordDict) -> int:
    metrics = content.metric_records.get("metrics")
    said = metrics.get("num-examples") if metrics else None
    return said if isinstance(said, int) else 0


def _mean(bodies: list[Arrays], weights: list[int]) -> Arrays:
    return {
        name: np.average([body[name] for body in bodies], axis=0, weights=weights)
        for name in bodies[0]
    }


def _apart(one: Arrays, other: Arrays) -> float:
    """Return how far two bodies are apart, as a share of the second one's norm."""
    far = math.sqrt(sum(float(np.sum((one[name] - other[name]) ** 2.0)) for name in other))
    size = math.sqrt(sum(float(np.sum(value**2.0)) for value in other.values()))
    return far / size if size else 0.0


def _arm_metrics(outcome: ArmOutcome) -> Mapping[str, float]:
    by_name: dict[str, dict[str, float]] = {}
    for site, scores in outcome.scores.items():
        for name, value in scores.items():
            if math.isfinite(value):
                by_name.setdefault(name, {})[site] = value
    each = {f"{name}/{site}": v for name, of in by_name.items() for site, v in of.items()}
    means = {f"mean_{name}": float(np.mean([*of.values()])) for name, of in by_name.items()}
    return {**each, **means, "sites": len(outcome.scores), "seconds": outcome.seconds}
