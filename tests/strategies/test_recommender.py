"""The learning recommender: its maths against scikit-learn, and what it must never do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import BayesianRidge, Ridge

from protocol.errors import BadShape
from strategies.bordered import Rows, Sums
from strategies.recommender import Recommender, prior_components
from strategies.standing import Outcomes, Standings, normal_scores, standings
from strategies.task_pairs import BLOCKS, TaskPairs, Tasks, keyword_similarity, latent, nearness
from strategies.variance_components import Components, fit, learn

RNG = np.random.default_rng(0)


def components(p, variance=0.5, noise=2.0, mean=0.0):
    block = np.zeros(p, dtype=np.intp)
    return Components(block, np.full(p, mean), np.array([variance]), noise)


def alone(x, y):
    """Sums of a design without groups."""
    return Sums.of(together(x), y, 1)


def together(x):
    n = len(x)
    return Rows(np.zeros(n, dtype=np.intp), np.zeros((n, 0)), x)


def dense(rows, groups):
    """Return the design with the groups' columns side by side."""
    own = np.eye(groups)[rows.group][:, :, None] * rows.own[:, None, :]
    return np.hstack([own.reshape(len(own), -1), rows.shared])


def grouped(n=60, groups=5, width=3, common=4):
    """Observations of groups, the last of which has none."""
    group = RNG.integers(0, groups - 1, n)
    rows = Rows(group, RNG.standard_normal((n, width)), RNG.standard_normal((n, common)))
    block = np.concatenate([np.tile([0, 0, 1], groups), np.repeat(2, common)])
    mean = RNG.standard_normal(len(block))
    parts = Components(block.astype(np.intp), mean, np.array([0.5, 0.02, 3.0]), 0.7)
    return rows, RNG.standard_normal(n), parts


def model(n=12, metrics=2, **parts):
    return Recommender(TaskPairs(Tasks(n, **parts), metrics), metrics)


def world(n=12, seed=0, noise=0.3):
    """Standings where the worth of a source is its own."""
    rng = np.random.default_rng(seed)
    worth = rng.standard_normal(n)
    t, s = np.nonzero(~np.eye(n, dtype=bool))
    value = worth[s] + noise * rng.standard_normal(len(s))
    return worth, Standings(t, s, np.zeros(len(t), dtype=np.intp), value)


def test_posterior_mean_is_ridge_regression():
    x, y = RNG.standard_normal((40, 5)), RNG.standard_normal(40)
    state = fit(alone(x, y), components(5))
    ridge = Ridge(alpha=2.0 / 0.5, fit_intercept=False).fit(x, y)
    np.testing.assert_allclose(state.weights, ridge.coef_)
    _, covariance = state.predict(together(np.eye(5)))
    np.testing.assert_allclose(covariance, np.linalg.inv(x.T @ x / 2 + np.eye(5) / 0.5), atol=1e-12)


def test_without_data_the_posterior_is_the_prior():
    state = fit(alone(np.zeros((0, 3)), np.zeros(0)), components(3, mean=0.7))
    mean, covariance = state.predict(together(np.eye(3)))
    np.testing.assert_allclose(mean, 0.7)
    np.testing.assert_allclose(covariance, 0.5 * np.eye(3), atol=1e-12)


def test_groups_are_what_the_whole_design_would_give():
    rows, y, parts = grouped()
    whole = dense(rows, 5)
    got, plain = fit(Sums.of(rows, y, 5), parts), fit(alone(whole, y), parts)
    np.testing.assert_allclose(got.weights, plain.weights, atol=1e-12)
    np.testing.assert_allclose(got.variance, plain.variance, atol=1e-12)
    for one, other in zip(got.predict(rows), plain.predict(together(whole)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_groups_learn_the_variances_of_the_whole_design():
    rows, y, parts = grouped()
    got = learn(Sums.of(rows, y, 5), parts, parts)
    whole = learn(alone(dense(rows, 5), y), parts, parts)
    np.testing.assert_allclose(got.variance, whole.variance, rtol=1e-9)
    assert got.noise == pytest.approx(whole.noise, rel=1e-9)


def test_sums_without_an_observation_are_those_of_the_rest():
    rows, y, _ = grouped()
    part = [Rows(rows.group[k], rows.own[k], rows.shared[k]) for k in (slice(20), slice(20, None))]
    rest = Sums.of(rows, y, 5) - Sums.of(part[0], y[:20], 5)
    expected = Sums.of(part[1], y[20:], 5)
    for name in ("own", "border", "shared", "moment", "square", "count"):
        np.testing.assert_allclose(getattr(rest, name), getattr(expected, name), atol=1e-12)


def test_variances_agree_with_scikit_learns_evidence():
    x = RNG.standard_normal((400, 30))
    y = x @ RNG.normal(0, 0.5, 30) + RNG.normal(0, 1.5, 400)
    start = components(30, 0.1, 1.0)
    got = learn(alone(x, y), start, start, strength=0, noise_strength=0, steps=200)
    theirs = BayesianRidge(fit_intercept=False, max_iter=1000, tol=1e-9).fit(x, y)
    assert got.variance[0] == pytest.approx(1 / theirs.lambda_, rel=1e-3)
    assert got.noise == pytest.approx(1 / theirs.alpha_, rel=1e-3)


def test_no_data_leaves_the_prior_variances():
    start = components(4)
    got = learn(alone(np.zeros((0, 4)), np.zeros(0)), start, start)
    assert got.variance[0] == pytest.approx(0.5)
    assert got.noise == pytest.approx(2.0)


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-5, 5), unique=True))
def test_normal_scores_keep_the_order_and_add_up_to_nothing(values):
    scores = normal_scores(values)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(values))
    assert scores.sum() == pytest.approx(0, abs=1e-9)


def test_standings_are_ranks_within_a_target_averaged_over_repetitions():
    def positions(*values):
        return np.array(values, dtype=np.intp)

    outcomes = Outcomes(
        target=positions(0, 0, 0, 0, 1),
        source=positions(1, 2, 1, 2, 0),
        metric=positions(0, 0, 0, 0, 0),
        repetition=positions(0, 0, 1, 1, 0),
        performance=np.array([0.9, 0.1, 0.2, 0.8, np.nan]),
    )
    got = standings(outcomes)
    assert got.source.tolist() == [1, 2]
    np.testing.assert_allclose(got.value, 0, atol=1e-12)  # won once, lost once


def test_a_baseline_tells_whether_all_tried_sources_were_good():
    ones = np.zeros(2, dtype=np.intp)
    args = (ones, np.arange(1, 3), ones, ones, np.array([0.8, 0.9]))
    assert standings(Outcomes(*args)).value.sum() == pytest.approx(0)
    assert standings(Outcomes(*args, baseline=np.full(2, 0.5))).value.sum() > 0.5


def test_an_empty_pool_follows_the_distances():
    distance = RNG.random((12, 12))
    advice = model(distances=distance[None]).advise(3)
    others = [s for s in np.argsort(distance[:, 3]) if s != 3]
    assert advice.ranked().tolist() == others


def test_without_anything_known_all_sources_are_equal_and_doubtful():
    advice = model().advise(0)
    np.testing.assert_allclose(advice.joint_mean, 0, atol=1e-12)
    assert (advice.sd > 0).all()


def test_outcomes_overrule_distances_that_mislead():
    worth, outcomes = world(noise=0.1)
    misleading = np.repeat(worth[:, None], 12, axis=1)[None]  # the good are far
    pool = model(distances=misleading)
    pool.add(outcomes)
    pool.learn()
    best = [s for s in np.argsort(-worth) if s != 0]
    assert pool.advise(0).ranked()[0] == best[0]


def test_a_distance_that_tells_counts_more_than_those_that_do_not():
    rng = np.random.default_rng(0)
    distances = rng.random((5, 16, 16))
    t, s = np.nonzero(~np.eye(16, dtype=bool))
    pairs = TaskPairs(Tasks(16, distances=distances), 1)
    rows = pairs.rows(t, s, np.zeros(len(t), dtype=np.intp))
    value = rng.standard_normal(len(t)) / 2 - 3 * (distances[2, s, t] - 0.5)
    prior = prior_components(pairs)
    got = learn(Sums.of(rows, value, 16), prior, prior)
    own = got.variance[pairs.kind == BLOCKS.index("distances")]
    assert len(own) == 5 + 1  # and their mean
    assert own[2] > 4 * np.delete(own, 2).max()


def test_more_outcomes_leave_less_doubt():
    _, outcomes = world()
    pool = model()
    before = pool.advise(0).sd.mean()
    pool.add(outcomes)
    assert pool.advise(0).sd.mean() < before


def test_the_targets_own_outcomes_are_never_used():
    _, outcomes = world()
    own = outcomes.target == 0
    bent = Standings(
        outcomes.target, outcomes.source, outcomes.metric, np.where(own, 9.0, outcomes.value)
    )
    advice = []
    for seen in (outcomes, bent):
        pool = model()
        pool.add(seen)
        advice.append(pool.advise(0, relearn=5).mean)
    np.testing.assert_allclose(advice[0], advice[1], atol=1e-9)


def test_adding_twice_changes_nothing():
    _, outcomes = world()
    once, twice = model(), model()
    once.add(outcomes)
    twice.add(outcomes)
    twice.add(outcomes)
    np.testing.assert_allclose(once.advise(1).mean, twice.advise(1).mean, atol=1e-9)


def test_what_may_not_serve_a_target_is_not_suggested():
    eligible = np.ones((12, 12), dtype=bool)
    eligible[4, 0] = False
    assert model(eligible=eligible).advise(0).source.tolist() == [1, 2, 3, *range(5, 12)]


def test_shots_start_with_the_best_and_never_repeat():
    _, outcomes = world()
    pool = model()
    pool.add(outcomes)
    advice = pool.advise(0)
    for seed in range(20):
        shots = advice.shots(3, np.random.default_rng(seed)).tolist()
        assert shots[0] == advice.ranked()[0]
        assert len(set(shots)) == 3
    assert len(advice.shots(99, np.random.default_rng(0))) == 11


def test_similar_targets_count_more():
    n = 12
    half = np.arange(n) < n // 2
    t, s = np.nonzero(~np.eye(n, dtype=bool))
    value = np.where(half[t] == half[s], 1.0, -1.0)  # a source helps its own kind only
    alike = (half[:, None] == half[None]).astype(float)
    pool = model(similarity=alike, metrics=1)
    pool.add(Standings(t, s, np.zeros(len(t), dtype=np.intp), value))
    pool.learn()
    assert set(pool.advise(0).ranked()[:5].tolist()) == {1, 2, 3, 4, 5}


def test_evidence_leaves_the_asking_target_out():
    _, outcomes = world()
    pool = model()
    pool.add(outcomes)
    found = pool.evidence(source=2, target=0)
    assert found.targets.tolist() == [1, *range(3, 12)]
    k = (outcomes.target == 1) & (outcomes.source == 2)
    assert found.standing[0] == pytest.approx(outcomes.value[k][0])


def test_an_unknown_distance_is_in_the_middle():
    distance = np.array([[0, 1, 1], [1, 0, np.nan], [2, 1, 0]], dtype=float)[None]
    near = nearness(Tasks(3, distances=distance))
    assert near[1, 2, 0] == 0
    assert near[1, 0, 0] > near[2, 0, 0]


def test_keywords_in_common_by_hand():
    words = [frozenset("ab"), frozenset("bc"), frozenset()]
    np.testing.assert_allclose(keyword_similarity(words)[:2, :2], [[1, 1 / 3], [1 / 3, 1]])
    assert keyword_similarity(words)[2].tolist() == [0, 0, 1]
    assert latent(np.ones((4, 4))).shape == (4, 0)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(BadShape, match=r"covariates have shape \(3, 1\), but there are 4 tasks"):
        Tasks(4, covariates=np.zeros((3, 1)))
    short = np.zeros(1, dtype=np.intp)
    with pytest.raises(BadShape, match="one-dimensional and equally long"):
        Outcomes(short, short, short, short, np.zeros(2))
