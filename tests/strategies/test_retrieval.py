"""Nearest fingerprints against the sorted float64 matrix of the measures."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocol.errors import BadShape, ConfigError, FedprintError, SpecMismatch
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.augmented import MAX_TOTAL, MEASURES, decode, encode, layout_for
from strategies.contenders import Batch, contenders, scores, slack
from strategies.measures import get, released
from strategies.retrieval import TIE, Nearest, distances, question, ranked
from tests.strategies.synthetic import make_sites, make_spec

IDS = [f"{i * 7919 % 10007:064x}" for i in range(10007)]  # not in the order of positions


def near_duplicates(spec: Spec, count: int, seed: int) -> list[Fingerprint]:
    """A few tasks, each many times: as it is, or with single counts moved to the next bin."""
    rng = np.random.default_rng(seed)
    tasks, _ = make_sites([[200], [90], [400], [33]], spec, seed)
    out = []
    for i in range(count):
        counts = tasks[rng.integers(len(tasks))].counts.astype(np.int64)
        for _ in range(int(rng.integers(0, 3))):
            row, source = rng.integers(spec.width), rng.integers(spec.bins)
            if counts[row, source] > 0:
                counts[row, source] -= 1
                counts[row, (source + 1) % spec.bins] += 1
        out.append(Fingerprint(f"site-{i}", counts, spec.digest, int(counts[0].sum())))
    return out


def nearest(
    sources: list[Fingerprint], target: Fingerprint, spec: Spec, measure: str, k: int
) -> tuple[Nearest, int]:
    """All steps of a query on vectors in memory, and how many contenders there were."""
    asked = question(target, spec, measure)
    records = encode(sources, spec, asked.layout)
    values = scores(records, Batch.of([asked]))[:, 0]
    kept = contenders(values, slack(values, asked), k, np.ones(len(sources), dtype=bool))
    exact = distances(records[kept], asked)
    return ranked([IDS[i] for i in kept], exact, k, len(sources)), len(kept)


def by_matrix(
    sources: list[Fingerprint], target: Fingerprint, spec: Spec, measure: str
) -> NDArray[np.float64]:
    return get(measure).matrix(released(sources, spec), released([target], spec))[:, 0]


def assert_same_order(answer: Nearest, column: NDArray[np.float64], k: int) -> None:
    """Sorting the matrix gives the same order, except where its own rounding decides."""
    rounding = 2e-14
    by_id = dict(zip(IDS, column.tolist(), strict=False))
    found = np.array([by_id.pop(i) for i in answer.ids])
    assert len(found) == min(k, len(column))
    np.testing.assert_allclose(answer.distances, found, rtol=0, atol=rounding)
    assert (np.diff(answer.distances) >= 0).all()
    assert min(by_id.values(), default=np.inf) > found[-1] - rounding
    for i, (name, other) in enumerate(pairwise(answer.ids)):
        assert name < other or answer.distances[i] < answer.distances[i + 1]
    least = [1 - (column < value + rounding).mean() for value in found]
    most = [1 - (column < value - rounding).mean() for value in found]
    assert (answer.percentiles >= np.array(least) - 1e-12).all()
    assert (answer.percentiles <= np.array(most) + 1e-12).all()


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_thousands_of_random_fingerprints(measure: str) -> None:
    spec = make_spec(features=24, bins=16)
    rng = np.random.default_rng(5)
    sources = []
    for i in range(3000):
        counts = rng.multinomial(300, rng.dirichlet(np.full(16, 0.5), 24))
        sources.append(Fingerprint(f"s{i}", counts, spec.digest, 300))
    for target in sources[:3]:
        answer, kept = nearest(sources, target, spec, measure, 20)
        assert_same_order(answer, by_matrix(sources, target, spec, measure), 20)
        assert kept < 60  # the bound is tight enough to be of use


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_thousands_of_near_duplicates(measure: str) -> None:
    spec = make_spec(features=40, bins=128)  # 5,120 products: more than one chunk
    sources = near_duplicates(spec, 2000, seed=1)
    for target in sources[:3]:
        answer, _ = nearest(sources, target, spec, measure, 50)
        assert_same_order(answer, by_matrix(sources, target, spec, measure), 50)


@given(
    measure=st.sampled_from(sorted(MEASURES)),
    m=st.integers(1, 12),
    b=st.integers(2, 20),
    n=st.integers(1, 60),
    k=st.integers(1, 70),
    seed=st.integers(0, 9999),
)
@settings(max_examples=80)
def test_noised_counts_of_any_shape(
    measure: str, m: int, b: int, n: int, k: int, seed: int
) -> None:
    spec = make_spec(features=m, bins=b)
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.choice([0.1, 3.0, 500.0], (n, m, 1)), (n, m, b))
    counts = counts + rng.integers(-2, 3, counts.shape)  # noise: negative counts, uneven sums
    sources = [Fingerprint(f"s{i}", c, spec.digest, 10, sigma=1.0) for i, c in enumerate(counts)]
    answer, _ = nearest(sources, sources[0], spec, measure, k)
    assert_same_order(answer, by_matrix(sources, sources[0], spec, measure), k)


@given(st.integers(0, 9999), st.sampled_from(sorted(MEASURES)))
@settings(max_examples=60)
def test_records_give_the_rows_back_bit_for_bit(seed: int, measure: str) -> None:
    spec = make_spec(features=5, bins=7)
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, rng.choice([2, 200, MAX_TOTAL // 7]), (3, 5, 7))
    counts[0, 2] = 0  # a row without any count is uniform
    sources = [Fingerprint("s", c, spec.digest, 1) for c in counts]
    layout = layout_for(measure, spec)
    rows = decode(encode(sources, spec, layout))
    np.testing.assert_array_equal(rows, [source.rows for source in sources])


@given(
    seed=st.integers(0, 9999),
    measure=st.sampled_from(sorted(MEASURES)),
    precise=st.booleans(),
    spread=st.sampled_from([0.02, 1.0, 50.0]),
)
@settings(max_examples=40)
def test_slack_bounds_the_error_of_scores(
    seed: int, measure: str, precise: bool, spread: float
) -> None:
    spec = make_spec(features=45, bins=100)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(500, rng.dirichlet(np.full(100, spread), (6, 45)))
    sources = [Fingerprint("s", c, spec.digest, 500) for c in counts]
    asked = question(sources[0], spec, measure)
    records = encode(sources, spec, asked.layout)
    values = scores(records, Batch.of([asked], precise=precise))[:, 0]
    bound = slack(values, asked, precise=precise)
    truth = -by_matrix(sources, sources[0], spec, measure)
    # scores leave out a constant of the target, so differences are what can be compared
    error = (values[:, None] - values) - (truth[:, None] - truth)
    assert (np.abs(error) <= bound[:, None] + bound).all()


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_distances_are_good_to_half_a_tie(measure: str) -> None:
    spec = make_spec(features=512, bins=100)
    sources = near_duplicates(spec, 12, seed=3)
    asked = question(sources[0], spec, measure)
    found = distances(encode(sources, spec, asked.layout), asked)
    # 64 bits of mantissa; shares anew, because those of float64 are rounded
    counts = np.array([s.counts for s in sources], np.longdouble)
    q = counts / counts.sum(axis=2, keepdims=True)
    p = q[0]  # [m, b]
    logs = np.log(p, where=p > 0, out=np.zeros_like(p))
    kl = (p * (logs - q + np.log(np.exp(q).sum(axis=2))[:, :, None])).sum(axis=2)  # [k, m]
    means = (q * spec.centres).sum(axis=2)  # [k, m]
    weights = {
        "bkld-small-target": np.exp(means[:1] - means[0].max()),
        "bkld-large-source": np.abs(means),
        "bkld-large-unweighted": np.ones_like(means[:1]),
    }[measure]
    truth = (weights * kl).sum(axis=1) / weights.sum(axis=1)
    assert np.abs(found - truth).max() < TIE / 2


def test_contenders_by_hand() -> None:
    values = np.array([0.5, 0.9, 0.8, 0.85, 0.1])
    every = np.ones(5, dtype=bool)
    tight, wide = np.full(5, 0.01), np.full(5, 0.06)
    assert contenders(values, tight, 2, every).tolist() == [1, 3]
    assert contenders(values, wide, 2, every).tolist() == [1, 2, 3]  # 0.86 reaches 0.79
    assert contenders(values, tight, 9, every).tolist() == [0, 1, 2, 3, 4]
    without = np.array([True, False, True, True, True])
    assert contenders(values, tight, 1, without).tolist() == [3]


def test_several_questions_and_blocks_score_alike() -> None:
    spec = make_spec(features=45, bins=100)
    sources = near_duplicates(spec, 9, seed=2)
    asked = [question(s, spec, "bkld-small-target") for s in sources[:4]]
    records = encode(sources, spec, asked[0].layout)
    together = scores(records, Batch.of(asked))
    for t, q in enumerate(asked):
        alone = scores(records, Batch.of([q]))[:, 0]
        np.testing.assert_allclose(together[:, t], alone, rtol=0, atol=1e-6)


def test_ties_go_by_id_and_share_their_percentile() -> None:
    answer = ranked(["c", "a", "b"], np.array([0.5, 0.5 + 1e-15, 0.2]), 3, candidates=10)
    assert answer.distances.tolist() == [0.2, 0.5, 0.5]
    assert answer.ids == ["b", "a", "c"]
    assert answer.percentiles.tolist() == [1.0, 0.9, 0.9]
    text = "cannot return 0 nearest tasks: ask for at least 1"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        ranked(["a"], np.array([0.5]), 0, 1)


def test_what_cannot_be_retrieved_is_refused() -> None:
    spec = make_spec(features=3, bins=4)
    sources, _ = make_sites([[9]], spec)
    text = (
        "measure 'excess' cannot be retrieved by inner products: take one of bkld-large-source, "
        "bkld-large-unweighted, bkld-small-target"
    )
    with pytest.raises(ConfigError, match=f"^{text}$"):
        question(sources[0], spec, "excess")
    with pytest.raises(SpecMismatch):
        question(sources[0], make_spec(features=3, bins=4, name="other"), "bkld-small-target")
    many = Fingerprint("big", np.full((3, 4), 2**22), spec.digest, 2**24)
    text = re.escape(
        "fingerprint of big counts 16777216 views a feature: retrieval is exact up to "
        "16777215, so fingerprint fewer images or draws"
    )
    with pytest.raises(FedprintError, match=f"^{text}$"):
        encode([many], spec, layout_for("bkld-small-target", spec))
    with pytest.raises(BadShape):
        Fingerprint("flat", np.ones(3, dtype=np.int64), spec.digest, 3)
