"""What the gate adds: any noise but the declared one is found, and the declared one never is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fixtures_noise import drawn
from numpy.typing import NDArray

from fl_client.audit_gate import STATES, TESTS, ask
from fl_client.audit_mechanism import Counts
from protocol.privacy import noised

SIGMA, IMAGES = 8.59, 150
RNG = np.random.default_rng(0)
EXACT = RNG.multinomial(IMAGES, np.full(5, 0.2), 8)
ROW = np.arange(40).reshape(8, 5) < 5
CELLS = np.arange(40).reshape(8, 5) % 5 == 0
Release = Callable[[Counts], Counts]


class Gate:
    """A mechanism whose gate releases by a function."""

    def __init__(self, release: Release) -> None:
        self.release = release

    def counts(self, features: NDArray[np.float32]) -> Counts:
        raise AssertionError("not asked for")

    def answers(self, queries: int) -> Counts:
        return np.stack([self.release(EXACT)] * queries)


def intact(counts: Counts, sigma: float = SIGMA) -> Counts:
    return noised(counts, sigma)


def without(where: NDArray[np.bool_]) -> Release:
    return lambda counts: np.where(where, counts, intact(counts))


def seeded(counts: Counts) -> Counts:
    noise = np.random.default_rng(0).normal(0, SIGMA, counts.shape)
    return counts + np.rint(noise).astype(np.int64)


def one_draw_a_row(counts: Counts) -> Counts:
    return counts + intact(np.zeros((8, 1), int))


def one_draw_for_two(counts: Counts) -> Counts:
    found = intact(counts)
    found[0, 1] = counts[0, 1] + found[0, 0] - counts[0, 0]
    return found


def uniform(counts: Counts) -> Counts:
    return counts + RNG.integers(-14, 15, counts.shape)


BROKEN: dict[str, tuple[Release, str]] = {
    "a row bare": (without(ROW), "in 5 of 40 counts 0.00 times"),
    "every fifth count bare": (without(CELLS), "in 8 of 40 counts 0.00 times"),
    "three in a hundred bare": (
        lambda c: np.where(RNG.random(c.shape) < 0.03, c, intact(c)),
        "the gate adds no noise to some counts: ",
    ),
    "none": (lambda c: c, "the gate's noise is 0.00 times the declared one"),
    "a tenth too small": (lambda c: intact(c, 0.9 * SIGMA), "the gate's noise is 0."),
    "a third too large": (lambda c: intact(c, 1.3 * SIGMA), "the gate's noise is 1."),
    "a row too small": (
        lambda c: np.where(ROW, intact(c, 0.7 * SIGMA), intact(c)),
        " of 40 counts 0.",
    ),
    "seeded": (seeded, "the gate's noise is 0.00 times the declared one"),
    "doubled": (lambda c: intact(2 * c), "the gate releases other counts, of "),
    "eight images more": (
        lambda c: intact(c + (CELLS * 8)),
        "the gate releases other counts, of 1",  # 158, give or take what the noise leaves
    ),
    "shared": (one_draw_a_row, "the gate"),  # zeros of a row come together, too
    "two alike": (one_draw_for_two, "the gate's noise of one count depends on that of another"),
    "uniform": (uniform, "the gate's noise is not distributed as declared"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_else_the_gate_does_is_found(name: str) -> None:
    release, said = BROKEN[name]
    for _ in range(3):
        found = ask(Gate(release), EXACT, IMAGES, SIGMA, np.random.default_rng(1))
        assert said in found.wrong


@pytest.mark.parametrize("sigma", [0.4, 2.6, SIGMA, 80.0, 3000.0])
def test_declared_noise_passes(sigma: float) -> None:
    for number in range(20):
        rng = np.random.default_rng(number)
        found = ask(Gate(lambda c: intact(c, sigma)), EXACT, IMAGES, sigma, rng)
        assert found.wrong == ""
        assert (found.states, found.different) == (STATES, 1)
        assert 0.94 < found.noise_least < 1 < found.noise_most < 1.06
        assert found.noise == pytest.approx(1, abs=0.1)


def test_intact_noise_fails_no_more_often_than_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    alarm, wrong = 0.1, 0
    monkeypatch.setattr("fl_client.audit_gate.NOISE_ALARM", alarm)
    for number in range(200):
        rng = np.random.default_rng(number)
        wrong += bool(ask(Gate(lambda c: drawn(c, SIGMA)), EXACT, IMAGES, SIGMA, rng).wrong)
    assert wrong < 200 * alarm + 4 * np.sqrt(200 * alarm)
    assert TESTS == 5


def test_rows_that_hold_other_numbers_of_images_need_no_statistics() -> None:
    found = ask(Gate(intact), EXACT, IMAGES + 1, SIGMA, np.random.default_rng(1))
    assert found.wrong == "rows of the counts hold 150 to 150 images, counted are 151"
