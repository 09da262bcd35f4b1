"""What a measure is, what it may need to know of a task, and the registry of all measures."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from protocol.descriptors import ClassMoments, Features, Fisher, Moments
from protocol.errors import BadShape, ConfigError, FedprintError, NotFinite, SpecMismatch
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from protocol.taskcard import TaskCard

FloatArray = NDArray[np.float64]
Direction = Literal["lower", "higher"]
Need = Literal["fingerprint", "card", "moments", "class-moments", "fisher", "features", "scores"]
PrivacyClass = Literal["shareable", "shareable with noise", "local scoring", "simulation only"]

ENTRY_POINTS = "fedprint.measures"
LARGEST = 1e100
"""Largest absolute value of a measure: sums and products of two stay finite."""
_NAME = re.compile("[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, eq=False)
class Task:
    """What is known of one task; what is None was not released.

    Parameters
    ----------
    name : str
        The site that holds it.
    images : int
        How many images it has.
    spec : Spec
        What its fingerprint and descriptors were made by.
    fingerprint : Fingerprint or None
        The released histograms.
    card : TaskCard or None
        The public description.
    moments, class_moments, fisher, features
        Descriptors, see `protocol.descriptors`.
    scores : mapping
        By measure and then by source task: how well the source's model fits this task, as this
        task's own site found.
    """

    name: str
    images: int
    spec: Spec
    fingerprint: Fingerprint | None = None
    card: TaskCard | None = None
    moments: Moments | None = None
    class_moments: ClassMoments | None = None
    fisher: Fisher | None = None
    features: Features | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Measure(ABC):
    """How much one task may serve another.

    Attributes
    ----------
    name : str
        How users and files call it.
    direction : str
        ``"lower"``: lower values are closer; ``"higher"``: higher values promise more.
    needs : frozenset of str
        What it has to know of a task, see `Task`.
    privacy : str
        ``shareable``, ``shareable with noise``, ``local scoring`` (at the target's site; scores
        leave, images and features do not) or ``simulation only``.
    source : str
        Who proposed it.
    description : str
        One line for listings.
    apart : float or None
        The distance from which on two tasks have nothing in common; None where there is no such.
    """

    name: ClassVar[str]
    direction: ClassVar[Direction] = "lower"
    needs: ClassVar[frozenset[Need]] = frozenset({"fingerprint"})
    privacy: ClassVar[PrivacyClass] = "shareable with noise"
    source: ClassVar[str] = ""
    description: ClassVar[str] = ""
    apart: ClassVar[float | None] = None

    @abstractmethod
    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target.

        Parameters
        ----------
        sources, targets
            S and T tasks of one spec, with all that `needs` names.

        Returns
        -------
        numpy.ndarray
            Shape ``[S, T]``: row = source, column = target; NaN where nothing can be said.

        Raises
        ------
        SpecMismatch
            If tasks are of different specs.
        ConfigError
            If a task lacks what the measure needs.
        """

    def distances(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare as `matrix` does, but lower is closer whatever the direction.

        Raises
        ------
        FedprintError
            As the measure says, or if it fails otherwise, as one from another package may.
        BadShape, NotFinite
            If the measure returns another shape, or values that are infinite or as good as that.
        """
        values = self._numbers(sources, targets)
        if values.shape != (len(sources), len(targets)):
            raise BadShape(
                f"measure {self.name} returned shape {values.shape} for {len(sources)} sources and "
                f"{len(targets)} targets: mend it"
            )
        if np.isinf(values).any():
            raise NotFinite(
                f"measure {self.name} returned infinity: it must be NaN where nothing can be said"
            )
        if (np.abs(values) > LARGEST).any():
            raise NotFinite(f"measure {self.name} returned values above {LARGEST:g}: scale them")
        return values if self.direction == "lower" else -values

    def _numbers(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        try:
            values = np.asarray(self.matrix(sources, targets))
            if values.dtype.kind not in "fiu":
                raise TypeError(f"it returned {values.dtype} instead of numbers")
            return values.astype(np.float64)
        except FedprintError:
            raise
        except Exception as error:
            fault = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise FedprintError(f"measure {self.name} failed ({fault}): mend it") from error


def released(fingerprints: Sequence[Fingerprint], spec: Spec) -> list[Task]:
    """Return tasks of which nothing but the fingerprint is known."""
    return [Task(f.site, f.n_images, spec, fingerprint=f) for f in fingerprints]


_REGISTRY: dict[str, Measure] = {}


def register(measure: type[Measure]) -> type[Measure]:
    """Add a measure to the registry under its name; usable as a class decorator.

    Raises
    ------
    ConfigError
        If the name is taken by another class, or the class does not say what `Measure` asks for.
    """
    for what, valid in _claims(measure).items():
        if not valid:
            raise ConfigError(
                f"measure {measure.__name__} has an unusable {what}: "
                "see strategies.measures.Measure"
            )
    known = _REGISTRY.get(measure.name)
    if known is not None and type(known) is not measure:
        raise ConfigError(f"measure {measure.name!r} is registered already: choose another name")
    _REGISTRY[measure.name] = measure()
    return measure


def _claims(measure: type[Measure]) -> dict[str, bool]:
    """Return whether each attribute of a measure, which files and commands rely on, is one."""
    name, apart = getattr(measure, "name", None), measure.apart
    needs = measure.needs if isinstance(measure.needs, frozenset) else frozenset({None})
    return {
        "name": isinstance(name, str) and _NAME.fullmatch(name) is not None,
        "direction": measure.direction in get_args(Direction),
        "needs": needs <= frozenset(get_args(Need)),
        "privacy": measure.privacy in get_args(PrivacyClass),
        "source": isinstance(measure.source, str),
        "description": isinstance(measure.description, str),
        "apart": apart is None or (isinstance(apart, (int, float)) and 0 < apart <= LARGEST),
    }


def get(name: str) -> Measure:
    """Return the measure of this name.

    Raises
    ------
    ConfigError
        If there is none; the message lists the known ones.
    """
    if name not in _REGISTRY:
        _load_entry_points()
    if name not in _REGISTRY:
        raise ConfigError(f"unknown measure {name!r}: known are {', '.join(available())}")
    return _REGISTRY[name]


def available() -> list[str]:
    """Return the names of all measures, sorted, with those of other packages."""
    _load_entry_points()
    return sorted(_REGISTRY)


def _load_entry_points() -> None:
    """Register the measures of installed packages (entry points ``fedprint.measures``)."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            measure = point.load()
            if not (isinstance(measure, type) and issubclass(measure, Measure)):
                raise TypeError(f"{point.value} is no subclass of Measure")
            register(measure)
        except Exception as error:
            package = point.dist.name if point.dist else "an installed package"
            fault = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(
                f"measure {point.name!r} of {package} cannot be loaded ({fault}): "
                f"mend or uninstall {package}"
            ) from error


def stack(fingerprints: Sequence[Fingerprint], spec: Spec) -> FloatArray:
    """Return the rows of k fingerprints as one array ``[k, m, b]``, each row summing to 1.

    Raises
    ------
    FedprintError
        If there are none.
    SpecMismatch
        If one was made by another spec.
    """
    require_one_spec(fingerprints, spec)
    rows = np.empty((len(fingerprints), spec.width, spec.bins))  # [k, m, b]
    for row, fingerprint in zip(rows, fingerprints, strict=True):
        row[:] = fingerprint.rows  # one at a time: all of them would lie in memory twice
    return rows


def require_one_spec(fingerprints: Sequence[Fingerprint], spec: Spec) -> None:
    """Raise unless there are fingerprints, all made by the spec; see `stack`."""
    if not fingerprints:
        raise FedprintError("there are no fingerprints to compare: give at least one")
    digest = spec.digest
    for fingerprint in fingerprints:
        if fingerprint.spec_digest != digest:
            raise SpecMismatch(
                f"fingerprint of {fingerprint.site} was made by spec "
                f"{fingerprint.spec_digest[:12]}, not by {spec.name} ({digest[:12]}): "
                "fingerprint it again with the spec of the others"
            )
        if fingerprint.counts.shape != (spec.width, spec.bins):
            raise SpecMismatch(
                f"fingerprint of {fingerprint.site} has shape {fingerprint.counts.shape}, but spec "
                f"{spec.name} says {spec.width} features x {spec.bins} bins"
            )


def feature_means(rows: FloatArray, spec: Spec) -> FloatArray:
    """Return the mean of each feature as the histograms tell it: no second release.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    spec
        Supplies the bins' centres, in feature units.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, m]``.
    """
    return np.asarray(np.einsum("kmb,mb->km", rows, spec.centres))


def rows_of(tasks: Sequence[Task]) -> tuple[FloatArray, Spec]:
    """Return the tasks' histograms ``[k, m, b]`` and their spec.

    Raises
    ------
    FedprintError, SpecMismatch
        As in `stack`.
    ConfigError
        If a task has no fingerprint.
    """
    prints = fingerprints_of(tasks)
    return stack(prints, tasks[0].spec), tasks[0].spec


def fingerprints_of(tasks: Sequence[Task]) -> list[Fingerprint]:
    """Return the fingerprint of every task.

    Raises
    ------
    FedprintError
        If there are no tasks.
    ConfigError
        If one has no fingerprint.
    """
    if not tasks:
        raise FedprintError("there are no fingerprints to compare: give at least one")
    for task in tasks:
        if task.fingerprint is None:
            raise ConfigError(f"task {task.name} has no fingerprint: release one first")
    return [task.fingerprint for task in tasks if task.fingerprint is not None]
