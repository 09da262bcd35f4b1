"""Findings against fingerprints: what they find, what they leave alone, and how often by chance."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from protocol.errors import SpecMismatch
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.copies import shared_noise, shared_sample
from strategies.declared_noise import (
    _negative,
    impossible_counts,
    too_little_noise,
    too_much_noise,
)
from strategies.plausible import far_from_all, smooth, spread_of
from strategies.suspicion import CERTAIN, LEVEL, Suspicion, suspicions
from tests.strategies.synthetic import count, make_sites, make_spec, task_images

NARROW, WIDE = make_spec(features=8, bins=5), make_spec(features=64, bins=40)
SIZES = [[150, 150, 150], [150, 150], [150]]
SIGMA = 8.0
RNG = np.random.default_rng(7)


def noised(fingerprint: Fingerprint, sigma: float, declared: float = SIGMA) -> Fingerprint:
    noise = np.rint(RNG.normal(0, sigma, fingerprint.counts.shape)).astype(np.int64)
    return replace(fingerprint, counts=fingerprint.counts + noise, sigma=declared)


def private_pool(seed: int = 0) -> list[Fingerprint]:
    return [noised(f, SIGMA) for f in make_sites(SIZES, NARROW, seed)[0]]


def kinds(found: list[Suspicion], certain: bool | None = None) -> set[tuple[str, str]]:
    return {(s.site, s.kind) for s in found if certain is None or s.certain == certain}


def made_up(spec_shape: tuple[int, int], total: int) -> NDArray[np.int64]:
    """Counts that follow a smooth curve, rounded so that rows add up."""
    m, bins = spec_shape
    centres = np.linspace(0.35, 0.65, m)[:, None] * bins
    curve = np.exp(-0.5 * ((np.arange(bins) - centres) / (0.2 * bins)) ** 2)
    counts = np.floor(curve / curve.sum(1, keepdims=True) * total).astype(np.int64)
    counts[:, bins // 2] += total - counts.sum(1)
    return counts


def test_honest_pools_are_left_alone() -> None:
    plain = [make_sites(SIZES, spec, seed)[0] for spec in (NARROW, WIDE) for seed in range(20)]
    pools = plain + [private_pool(seed) for seed in range(40)]
    found = [s for pool in pools for s in suspicions(pool, pool_spec(pool))]
    assert [s for s in found if s.kind != "far"] == []
    assert suspicions([], NARROW) == []


def pool_spec(pool: list[Fingerprint]) -> Spec:
    return NARROW if pool[0].spec_digest == NARROW.digest else WIDE


def test_chances_are_uniform_where_they_should_be() -> None:
    """Where the true counts are known to add nothing, the tests are exact."""
    empty = Fingerprint("a", np.zeros((8, 5), dtype=np.int64), NARROW.digest, 0)
    drawn = [noised(empty, SIGMA) for _ in range(600)]
    assert stats.kstest([too_much_noise(f) for f in drawn], "uniform").pvalue > 1e-4
    bare = replace(empty, sigma=SIGMA, n_images=1)  # who copies knows the other's noise or not
    chances = shared_noise([*(replace(f, n_images=1) for f in drawn), bare])[:-1, -1]
    assert (chances < 0.2).mean() == pytest.approx(0.1, abs=0.06)  # twice the chance of one look
    low = np.array([too_little_noise(f) for f in drawn])
    assert (low < 0.05).mean() == pytest.approx(0.05, abs=0.03)  # of two looks at the same noise


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), images=st.integers(20, 2000))
def test_whatever_the_images_chances_stay_above_their_level(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    pair = []
    for _ in range(2):
        true = rng.multinomial(images, rng.dirichlet(np.full(5, 0.3), size=8))
        noise = np.rint(rng.normal(0, SIGMA, true.shape)).astype(np.int64)
        pair.append(Fingerprint("a", true + noise, NARROW.digest, images, SIGMA))
    assert shared_noise(pair)[0, 1] > 1e-7
    assert too_little_noise(pair[0]) > 1e-7
    assert too_much_noise(pair[0]) > 1e-7
    assert impossible_counts(pair[0]) > 1e-7


def test_a_copied_release_is_certain_even_with_another_number_of_images() -> None:
    pool = private_pool()
    other = private_pool(1)[0]
    copy = replace(pool[0], site="liar")
    larger = np.rint(pool[0].counts * 1.4).astype(np.int64)
    scaled = replace(pool[0], site="liar", counts=larger, n_images=210)
    for liar in (copy, scaled):
        found = suspicions([*pool, liar, replace(other, site="other")], NARROW)
        assert kinds(found, certain=True) == {("liar", "duplicate"), ("site-0-0", "duplicate")}
    assert found[0].message == (
        "liar and site-0-0 released the same noise: one copied the other, or both hold the same "
        "data; keep one of them"
    )
    assert shared_noise([pool[0], noised(pool[0], SIGMA / 4)])[0, 1] < CERTAIN


def test_plain_copies_are_told_from_other_images_of_the_same_task() -> None:
    for spec in (NARROW, WIDE):
        pool, _ = make_sites(SIZES, spec, seed=3)
        copy = replace(pool[0], site="liar")
        found = kinds(suspicions([*pool, copy], spec))
        assert {("liar", "duplicate"), ("site-0-0", "duplicate")} <= found
        assert all(site in ("liar", "site-0-0") for site, kind in found if kind == "duplicate")
        assert shared_sample(pool[:2])[0, 1] > 1e-3
        assert shared_sample([pool[0], pool[0]])[0, 1] < 1e-30
    # nearly the same: three of 150 images exchanged
    rng = np.random.default_rng(0)
    indices = task_images(rng, 0, 153, WIDE)
    pair = [
        Fingerprint(name, count(indices[part], WIDE.bins), WIDE.digest, 150)
        for name, part in (("a", slice(0, 150)), ("b", slice(3, 153)))
    ]
    assert kinds(suspicions(pair, WIDE)) == {("a", "duplicate"), ("b", "duplicate")}


def test_all_pairs_at_once_are_each_pair_by_itself() -> None:
    plain = [replace(f, site=str(i)) for i, f in enumerate(make_sites(SIZES, WIDE, seed=5)[0])]
    plain[2] = replace(plain[2], counts=plain[2].counts * 2, n_images=2 * plain[2].n_images)
    chances = shared_sample(plain)
    for i, f in enumerate(plain):
        for j, g in enumerate(plain):
            below = np.stack([f.rows, g.rows]).cumsum(axis=2)[:, :, :-1]
            apart = 2 * ((below[0] - below[1]) ** 2).mean()
            n = np.array([f.n_images, g.n_images])
            expected = (2 * (below * (1 - below)).mean(axis=(1, 2)) / (1 - 1 / n) / n).sum()
            pair = stats.chi2.cdf(20 * apart / expected, 20) if i != j else 1.0
            assert chances[i, j] == pytest.approx(pair, rel=1e-9)
    noises = private_pool(3)
    noises[0] = replace(noises[0], n_images=300, sigma=2 * SIGMA)
    chances = shared_noise(noises)
    for i, f in enumerate(noises):
        for j, g in enumerate(noises):
            looks = [1.0]
            for ratio in (1.0, f.n_images / g.n_images):
                apart = ((f.counts - ratio * g.counts) ** 2).sum()
                variance = min(f.sigma, ratio * g.sigma) ** 2
                looks.append(stats.chi2.cdf(apart / variance, f.counts.size))
            pair = min(1.0, 2 * min(looks)) if i != j else 1.0
            assert chances[i, j] == pytest.approx(pair, rel=1e-9)


def test_the_declared_noise_must_be_there() -> None:
    pool = private_pool()
    true = make_sites(SIZES, NARROW, 0)[0][0]
    bare = noised(replace(true, site="liar"), 0.0)
    found = suspicions([*pool, bare], NARROW)
    assert ("liar", "noise") in kinds(found, certain=True)
    assert found[0].message == (
        "the release of liar holds less noise than it declares: it protects less than it says, or "
        "was made up (declared: 8 counts)"
    )
    loud = noised(replace(true, site="liar"), 6 * SIGMA)
    found = [s for s in suspicions([*pool, loud], NARROW) if s.kind == "noise"]
    assert [s.site for s in found] == ["liar"]
    assert re.search("more noise than it declares", found[0].message)


def test_impossible_counts_are_certain() -> None:
    pool = private_pool()
    off = pool[0].counts.copy()
    off[2, 3] -= 200
    off[2, 1] += 200
    found = suspicions([*pool[1:], replace(pool[0], counts=off)], NARROW)
    assert ("site-0-0", "impossible") in kinds(found, certain=True)
    plain, _ = make_sites(SIZES, NARROW, 0)
    more = plain[0].counts.copy()
    more[0, 0] += 1
    found = suspicions([*plain[1:], replace(plain[0], counts=more)], NARROW)
    assert [s.message for s in found if s.certain] == [
        "the counts of site-0-0 cannot come from 150 images, whatever they show: they were made up "
        "or damaged"
    ]
    drawn = Fingerprint("a", np.full((8, 5), 20), NARROW.digest, 7)
    assert impossible_counts(drawn, draws=100) == 1.0
    assert impossible_counts(drawn) == 0.0


def lifted(amplitude: int) -> Fingerprint:
    """Two bins lifted and three lowered, row sums kept: no count lies far below 0 by itself."""
    true = np.full((8, 5), 20) + np.where(np.arange(5) < 2, 1.5 * amplitude, -amplitude)
    bare = Fingerprint("liar", np.rint(true).astype(np.int64), NARROW.digest, 100)
    return noised(bare, SIGMA)


def test_many_counts_a_little_below_zero_are_impossible_together() -> None:
    liars = [lifted(38) for _ in range(20)]  # 24 counts at -18, noise 8: none beyond 6 of it
    found = [suspicions([*private_pool(), liar], NARROW) for liar in liars]
    assert all(("liar", "impossible") in kinds(f, certain=True) for f in found)
    assert [kinds(suspicions([*private_pool(), lifted(0)], NARROW))] == [set()]


def test_the_mass_below_zero_is_exact_where_every_true_count_is_zero() -> None:
    """Its law is known there, and true counts above 0 can only lessen it."""
    rng = np.random.default_rng(2)
    chances = np.array([_negative(rng.normal(size=(8, 5))) for _ in range(4000)])
    assert stats.kstest(chances, "uniform").pvalue > 1e-3
    corner = np.zeros((8, 5), dtype=np.int64)
    corner[:, 4] = 150
    bare = Fingerprint("a", corner, NARROW.digest, 150)
    drawn = np.array([impossible_counts(noised(bare, SIGMA)) for _ in range(2000)])
    assert (drawn < 0.01).mean() <= 0.01 + 3 * np.sqrt(0.01 / 2000)
    assert _negative(np.ones((8, 5))) == 1.0


def test_more_images_than_a_hundred_times_the_median_are_a_warning() -> None:
    pool = private_pool()
    liar = noised(replace(pool[0], site="liar", counts=pool[1].counts * 102, n_images=15300), SIGMA)
    found = [s for s in suspicions([*pool, liar], NARROW) if s.kind == "size"]
    assert [(s.site, s.certain) for s in found] == [("liar", False)]
    assert found[0].message == (
        "liar states 15300 images, more than 100 times the median of the pool (150): ask the site "
        "whether it has them"
    )
    assert "size" not in {
        s.kind for s in suspicions([*pool, replace(liar, n_images=15000)], NARROW)
    }


def test_counts_that_were_computed_are_too_smooth() -> None:
    pool, _ = make_sites(SIZES, WIDE, 0)
    liar = Fingerprint("liar", made_up((64, 40), 4000), WIDE.digest, 4000)
    assert smooth(liar) < 0.3
    assert all(smooth(f) > 0.8 for f in pool)
    assert kinds(suspicions([*pool, liar], WIDE)) >= {("liar", "smooth")}
    assert smooth(private_pool()[0]) == 1.0  # too few bins to tell


def test_a_spread_that_images_do_not_have_is_a_warning() -> None:
    pool, _ = make_sites(SIZES, NARROW, 0)
    one = np.zeros((8, 5), dtype=np.int64)
    one[:, 4] = 150
    even = np.full((8, 5), 30)
    for counts, words in ((one, "one image over and over"), (even, "scatter wider")):
        liar = Fingerprint("liar", counts, NARROW.digest, 150)
        found = [s for s in suspicions([*pool, liar], NARROW) if s.kind == "spread"]
        assert [(s.site, s.certain) for s in found] == [("liar", False)]
        assert re.search(words, found[0].message)
    assert spread_of(liar) == (pytest.approx(0.4), 0.0)


def test_the_spread_of_a_noised_release_is_unbiased() -> None:
    true = make_sites(SIZES, NARROW, 0)[0][0]
    wanted, none = spread_of(true)
    drawn = np.array([spread_of(noised(true, SIGMA)) for _ in range(400)])
    assert none == 0.0
    assert drawn[:, 0].mean() == pytest.approx(wanted, abs=4 * drawn[:, 0].std() / 20)
    assert 0.7 < drawn[:, 1].mean() / drawn[:, 0].std() < 2


def test_who_is_far_from_everybody_is_asked_about() -> None:
    """All in the last bin, among sites that are much alike; noise as in a private release."""
    shares = np.array([0.1, 0.7, 0.15, 0.05, 0.0])
    pool = [
        Fingerprint(f"site-{i}", RNG.multinomial(150, shares, size=8), NARROW.digest, 150)
        for i in range(5)
    ]
    corner = np.zeros((8, 5), dtype=np.int64)
    corner[:, 4] = 150
    liar = Fingerprint("liar", corner, NARROW.digest, 150)
    for sites in ([*pool, liar], [noised(f, SIGMA / 4, SIGMA / 4) for f in [*pool, liar]]):
        assert ("liar", "far") in kinds(suspicions(sites, NARROW), certain=False)
        assert not any(kind == "far" for _, kind in kinds(suspicions(sites[:-1], NARROW)))
    assert far_from_all(pool[:2]) == {}


def test_names_and_order_play_no_part() -> None:
    pool = [*private_pool(), replace(private_pool(1)[0], site="liar", sigma=30.0)]
    found = suspicions(pool, NARROW)
    assert found == suspicions(pool[::-1], NARROW)
    assert all(s.site == "liar" for s in found)  # it declares more than it drew: no harm to others


def test_other_specs_are_refused_and_levels_are_stated() -> None:
    with pytest.raises(SpecMismatch, match="was made by spec"):
        suspicions(private_pool(), WIDE)
    assert CERTAIN < LEVEL == 0.01
