r"""The privacy of a release: sensitivity, noise and budget, in exact terms.

Neighbours are two data sets with the same, public, numbers of images and patients that differ in
the images of one patient (*replace-one*). With at most k images of a patient counted, a histogram
of m features moves by at most :math:`\Delta = k \sqrt{2 m}` in L2 norm. Discrete Gaussian noise of
standard deviation :math:`\sigma` (Canonne, Kamath and Steinke, arXiv 2004.00010, theorem 4) then
spends :math:`\rho = \Delta^2 / 2 \sigma^2` of zero-concentrated differential privacy, which adds
up over releases; epsilon at a delta is what dp-accounting makes of rho.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from protocol.errors import BadPrivacy, ConfigError
from protocol.statement import Privacy

EPSILON, DELTA = 2.0, 1e-5
"""What is asked of a private release by default."""
LEAST_EPSILON, MOST_EPSILON = 0.01, 100.0
LEAST_DELTA, MOST_DELTA = 1e-12, 1e-2
LEAST_RHO = 1e-7
MOST_CAP = 1_000_000
"""Images of one patient; the noise for as many still fits an int64."""
MOST_SIGMA = 2.0**40
"""In counts; far above any that has a use, and far below what an int64 holds."""

LOUD = 0.5
"""From this `noise_share` on grouping told only tasks apart, see docs/explanation/privacy.md."""

Neighbours = Literal["add-remove", "replace-one"]
_SAME, _ROUNDED = 1e-9, 1e-5  # relative: what floats, and what short figures, may differ by


class AskedTerms(BaseModel):
    """What a coordinator asks of a release: a site may be stricter, never less.

    Parameters
    ----------
    mode : {"plain", "private"}
        Whether noise is asked for.
    epsilon, delta : float
        Most that one private release may spend; without meaning in mode plain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["plain", "private"] = "plain"
    epsilon: float = Field(default=EPSILON, ge=LEAST_EPSILON, le=MOST_EPSILON)
    delta: float = Field(default=DELTA, ge=LEAST_DELTA, le=MOST_DELTA)


def noise_share(sigma: float, images: int, bins: int) -> float:
    """Return the noise of a count over the images that an evenly filled bin holds."""
    return sigma * bins / images


def sensitivity(width: int, cap: int = 1, neighbours: Neighbours = "replace-one") -> float:
    """Return the most by which one patient moves the counts, in L2 norm.

    Parameters
    ----------
    width : int
        Number of counted features m; each image adds one count to each.
    cap : int
        At most so many images of one patient are counted.
    neighbours : {"replace-one", "add-remove"}
        Whether a patient's images are exchanged for others or left out.
    """
    if width < 1 or cap < 1:
        raise ConfigError("a private release counts at least one feature and caps contributions")
    return cap * math.sqrt((2 if neighbours == "replace-one" else 1) * width)


def sigma_for(rho: float, sensitivity: float) -> float:
    """Return the standard deviation of the noise, in counts, that spends `rho`."""
    return sensitivity / math.sqrt(2 * rho)


def rho_for(sigma: float, sensitivity: float) -> float:
    """Return the zCDP budget that noise of standard deviation `sigma` spends."""
    return sensitivity**2 / (2 * sigma**2)


@lru_cache(maxsize=1024)  # sites of one run spend much the same
def epsilon_of(rho: float, delta: float) -> float:
    """Return the epsilon of a zCDP budget at `delta`, by dp-accounting's RdpAccountant.

    The neighbour relation does not enter here: it decides the sensitivity, and so rho.

    Raises
    ------
    ConfigError
        When rho is negative or not finite, or delta not a probability above 0.
    """
    if not (0 <= rho < math.inf and 0 < delta < 1):
        raise ConfigError(f"rho {rho:g} at delta {delta:g} has no epsilon: check the two")
    from dp_accounting import ZCDpEvent
    from dp_accounting.rdp import RdpAccountant

    return float(RdpAccountant().compose(ZCDpEvent(rho)).get_epsilon(delta))


def rho_of(epsilon: float, delta: float) -> float:
    """Return the largest zCDP budget whose epsilon at `delta` is not above `epsilon`.

    Raises
    ------
    ConfigError
        When epsilon or delta lie outside what makes sense.
    """
    from scipy.optimize import brentq

    if not LEAST_EPSILON <= epsilon <= MOST_EPSILON:
        raise ConfigError(f"epsilon {epsilon:g} must lie in {LEAST_EPSILON:g} to {MOST_EPSILON:g}")
    if not LEAST_DELTA <= delta <= MOST_DELTA:
        raise ConfigError(f"delta {delta:g} must lie in {LEAST_DELTA:g} to {MOST_DELTA:g}")

    def excess(rho: float) -> float:
        return epsilon_of(rho, delta) - epsilon

    if excess(LEAST_RHO) > 0:
        raise ConfigError(
            f"epsilon {epsilon:g} at delta {delta:g} cannot be had: ask for a larger epsilon"
        )
    # epsilon_of(rho) is above rho; the root may lie a rounding error too high
    rho, step = float(brentq(excess, LEAST_RHO, epsilon, xtol=1e-18, rtol=1e-12)), 1e-12
    while excess(rho) > 0:
        rho, step = rho * (1 - step), 2 * step
    return rho


def terms(width: int, *, epsilon: float, delta: float, cap: int = 1) -> Privacy:
    """Return the terms of a private release that spends `epsilon` at `delta`.

    Parameters
    ----------
    width : int
        Number of counted features m, see `protocol.spec.Spec.width`.
    epsilon, delta : float
        Approximate differential privacy that the release has at least.
    cap : int
        At most so many images of one patient are counted.

    Raises
    ------
    ConfigError
        When epsilon, delta or cap cannot be used.
    """
    return terms_for(sensitivity(width, cap), epsilon=epsilon, delta=delta)


def terms_for(sensitivity: float, *, epsilon: float, delta: float) -> Privacy:
    """Return the terms of a release that one patient moves by at most `sensitivity`, as `terms`.

    Raises
    ------
    ConfigError
        As in `terms`, or when it takes more noise than can be drawn.
    """
    rho = rho_of(epsilon, delta)
    sigma = _round_up(sigma_for(rho, sensitivity))
    if sigma > MOST_SIGMA:
        raise ConfigError(
            f"epsilon {epsilon:g} takes noise of {sigma:.4g}, at most {MOST_SIGMA:.4g} can be "
            "drawn: count fewer images of each patient, or fewer features"
        )
    return Privacy(
        mode="private",
        rho=rho,
        sigma=sigma,
        neighbours="replace-one",
        epsilon=epsilon,
        delta=delta,
    )


def _round_up(value: float) -> float:
    """Round up to 6 significant digits: short to write, and never less noise than rho needs."""
    step = 10.0 ** (math.floor(math.log10(value)) - 5)
    return float(f"{math.ceil(value / step) * step:.6g}")


def noised(counts: NDArray[np.integer[Any]], sigma: float) -> NDArray[np.int64]:
    """Return counts [m, b] with discrete Gaussian noise of standard deviation `sigma` added.

    Exact integers from OpenDP's sampler with the operating system's randomness: there is no seed,
    and no floating-point noise that could be told apart (Mironov, CCS 2012).

    Raises
    ------
    ConfigError
        When sigma is not positive or too large.
    """
    if not 0 < sigma <= MOST_SIGMA:
        raise ConfigError(f"sigma {sigma:g} must lie above 0 and not above {MOST_SIGMA:g} counts")
    values = mechanism(sigma)(np.ravel(counts).astype(np.int64))
    return np.asarray(values, dtype=np.int64).reshape(counts.shape)


@lru_cache(maxsize=16)
def mechanism(sigma: float) -> Any:
    """Return OpenDP's measurement: int64 vectors under L2 distance, zCDP as privacy measure."""
    import opendp.prelude as dp

    dp.enable_features("contrib")  # discrete Gaussian noise is there, behind this switch
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    return dp.m.make_gaussian(*space, scale=sigma)


def check_terms(privacy: Privacy, width: int, cap: int) -> None:
    """Check that the stated privacy of a release holds together, without believing any of it.

    Parameters
    ----------
    privacy : Privacy
        What the statement says.
    width : int
        Number of counted features m of the spec.
    cap : int
        The stated contribution cap; 0 means none.

    Raises
    ------
    BadPrivacy
        Naming what contradicts what.
    """
    check_mode(privacy, cap)
    if privacy.mode == "private":
        check_noise(privacy, sensitivity(width, cap))


def check_mode(privacy: Privacy, cap: int) -> None:
    """Check that a plain release states no noise, and that a private one caps contributions.

    Raises
    ------
    BadPrivacy
    """
    stated = privacy.model_dump(exclude={"mode"})
    if privacy.mode == "plain":
        if any(value is not None for value in stated.values()):
            raise BadPrivacy("a plain release states noise: it must be private, or state none")
        return
    if cap < 1:
        raise BadPrivacy("a private release needs a contribution cap of at least 1")


def check_noise(privacy: Privacy, sensitivity: float) -> None:
    """Check that the stated noise is what `sensitivity`, rho, epsilon and delta ask for.

    Raises
    ------
    BadPrivacy
        Naming what contradicts what.
    """
    if privacy.neighbours != "replace-one":
        raise BadPrivacy(
            f"the neighbour relation is {privacy.neighbours}, it must be replace-one: the number "
            "of images is public"
        )
    rho, sigma, epsilon, delta = (_stated(privacy, k) for k in ("rho", "sigma", "epsilon", "delta"))
    _check_range(rho, sigma, epsilon, delta)
    needed = sigma_for(rho, sensitivity)
    if not needed * (1 - _SAME) <= sigma <= needed * (1 + _ROUNDED):
        raise BadPrivacy(f"sigma is {sigma:.6g} counts, but rho {rho:.6g} needs {needed:.6g}")
    exact = epsilon_of(rho, delta)
    if not exact * (1 - _SAME) <= epsilon <= exact * (1 + _ROUNDED):
        raise BadPrivacy(
            f"epsilon is {epsilon:.6g}, but rho {rho:.6g} at delta {delta:g} is {exact:.6g}"
        )
    _check_ledger(privacy, rho)


def _stated(privacy: Privacy, name: str) -> float:
    value = getattr(privacy, name)
    if value is None:
        raise BadPrivacy(f"a private release must state its {name}")
    return float(value)


def _check_range(rho: float, sigma: float, epsilon: float, delta: float) -> None:
    for name, value, low, high in (
        ("rho", rho, LEAST_RHO, MOST_EPSILON),
        ("sigma", sigma, 0.0, MOST_SIGMA),
        ("epsilon", epsilon, LEAST_EPSILON, MOST_EPSILON),
        ("delta", delta, LEAST_DELTA, MOST_DELTA),
    ):
        if not low <= value <= high or value == 0:
            raise BadPrivacy(f"{name} {value:g} lies outside {low:g} to {high:g}")


def _check_ledger(privacy: Privacy, rho: float) -> None:
    """Check that what was spent in all is at least this release and within the budget."""
    spent, budget = privacy.spent_rho, privacy.budget_rho
    if spent is not None and spent < rho * (1 - _SAME):
        raise BadPrivacy(f"spent in all {spent:.6g}, less than this release alone ({rho:.6g})")
    if spent is not None and budget is not None and spent > budget * (1 + _SAME):
        raise BadPrivacy(f"spent in all {spent:.6g} of a budget of {budget:.6g}")
