"""Distances between tasks by name: thin classes over pure functions, and their registry."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from protocol.errors import ConfigError, FedprintError, SpecMismatch
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.bkld import bkld_matrix

__all__ = ["Measure", "available", "feature_means", "get", "register", "stack"]

FloatArray = NDArray[np.float64]


class Measure(ABC):
    """A distance between tasks, computed from their fingerprints alone.

    Attributes
    ----------
    name : str
        How users and files call it.
    direction : str
        ``"lower"``: lower values are closer.
    description : str
        One line for listings.
    """

    name: ClassVar[str]
    direction: ClassVar[str] = "lower"
    description: ClassVar[str] = ""

    @abstractmethod
    def matrix(
        self, sources: Sequence[Fingerprint], targets: Sequence[Fingerprint], spec: Spec
    ) -> FloatArray:
        """Compare every source with every target.

        Parameters
        ----------
        sources, targets
            S and T fingerprints, all made by the spec.
        spec
            Says what the bins mean.

        Returns
        -------
        numpy.ndarray
            Shape ``[S, T]``: row = source, column = target.

        Raises
        ------
        SpecMismatch
            If a fingerprint was made by another spec.
        """


_REGISTRY: dict[str, Measure] = {}


def register(measure: type[Measure]) -> type[Measure]:
    """Add a measure to the registry under its name; usable as a class decorator.

    Raises
    ------
    ConfigError
        If the name is taken by another class.
    """
    known = _REGISTRY.get(measure.name)
    if known is not None and type(known) is not measure:
        raise ConfigError(f"measure {measure.name!r} is registered already: choose another name")
    _REGISTRY[measure.name] = measure()
    return measure


def get(name: str) -> Measure:
    """Return the measure of this name.

    Raises
    ------
    ConfigError
        If there is none; the message lists the known ones.
    """
    if name not in _REGISTRY:
        raise ConfigError(f"unknown measure {name!r}: known are {', '.join(available())}")
    return _REGISTRY[name]


def available() -> list[str]:
    """Return the names of all measures, sorted."""
    return sorted(_REGISTRY)


def stack(fingerprints: Sequence[Fingerprint], spec: Spec) -> FloatArray:
    """Return the rows of k fingerprints as one array ``[k, m, b]``, each row summing to 1.

    Raises
    ------
    FedprintError
        If there are none.
    SpecMismatch
        If one was made by another spec.
    """
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
    return np.stack([fingerprint.rows for fingerprint in fingerprints])  # [k, m, b]


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


@register
class SmallTarget(Measure):
    """bKLD(small,target): weighted by the softmax of the target's feature means; 100 bins."""

    name = "bkld-small-target"
    description = "bKLD weighted by the softmax of the target's feature means (paper: 100 bins)"

    def matrix(
        self, sources: Sequence[Fingerprint], targets: Sequence[Fingerprint], spec: Spec
    ) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        p = stack(targets, spec)  # [T, m, b]
        weights = np.asarray(softmax(feature_means(p, spec), axis=1))  # [T, m]
        return bkld_matrix(stack(sources, spec), p, target_weights=weights)


@register
class LargeSource(Measure):
    """bKLD(large,source): weighted by the source's absolute feature means; 1,000 bins."""

    name = "bkld-large-source"
    description = "bKLD weighted by the source's absolute feature means (paper: 1000 bins)"

    def matrix(
        self, sources: Sequence[Fingerprint], targets: Sequence[Fingerprint], spec: Spec
    ) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        q = stack(sources, spec)  # [S, m, b]
        return bkld_matrix(q, stack(targets, spec), source_weights=np.abs(feature_means(q, spec)))


@register
class LargeUnweighted(Measure):
    """bKLD(large,unweighted): all features alike; 1,000 bins."""

    name = "bkld-large-unweighted"
    description = "bKLD with all features alike (paper: 1000 bins)"

    def matrix(
        self, sources: Sequence[Fingerprint], targets: Sequence[Fingerprint], spec: Spec
    ) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        return bkld_matrix(stack(sources, spec), stack(targets, spec))
