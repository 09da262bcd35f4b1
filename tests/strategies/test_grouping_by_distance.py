"""Groups out of any distances: scipy and scikit-learn done by hand, and what nobody can know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

from protocol.errors import BadShape
from strategies.excess import symmetrised
from strategies.grouping import GroupingOptions
from strategies.grouping_by_distance import group_by_distance, there_and_back
from strategies.silhouettes import find_groups

OPTIONS = GroupingOptions()
NAMES = [f"s{i}" for i in range(6)]


def line(*places: float) -> np.ndarray:
    return squareform(pdist(np.array(places)[:, None]))


def of(distances: np.ndarray, **options: object) -> list[list[str]]:
    names = [f"s{i}" for i in range(len(distances))]
    apart = options.pop("apart", None)
    found = group_by_distance(
        distances,
        names,
        "test",
        GroupingOptions(**options),
        apart=apart,  # type: ignore[arg-type]
    )
    return [group.sites for group in found.groups]


def test_clear_clusters_are_found() -> None:
    assert of(line(0, 0.1, 5, 5.1, 5.2, 11)) == [["s2", "s3", "s4"], ["s0", "s1"], ["s5"]]


def by_hand(between: np.ndarray, members: list[int], needed: float) -> list[list[int]]:
    """The rule in scipy's and scikit-learn's words."""
    if len(members) < 3:
        return [members]
    inside = between[np.ix_(members, members)]
    tree = linkage(squareform(inside), "average")
    cuts = [fcluster(tree, count, "maxclust") for count in range(2, len(members))]
    scores = [silhouette_score(inside, labels, metric="precomputed") for labels in cuts]
    if max(scores) < needed:
        return [members]
    labels = cuts[int(np.argmax(scores))]
    pieces = [[members[i] for i in np.flatnonzero(labels == c)] for c in np.unique(labels)]
    alone = sum(len(piece) == 1 for piece in pieces)
    further = 0.5 if len(pieces) - alone > 1 else needed
    return [part for piece in pieces for part in by_hand(between, piece, further)]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_cuts_are_those_of_the_best_silhouette(seed: int, k: int) -> None:
    between = squareform(pdist(np.random.default_rng(seed).normal(size=(k, 2))))
    found = find_groups(between, OPTIONS)
    assert found.groups == sorted(by_hand(between, list(range(k)), 0.25))


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([1e3, 1e9, 1e80]))
def test_one_site_that_says_what_is_absurd_groups_nobody_else(
    seed: int, k: int, far: float
) -> None:
    between = squareform(pdist(np.random.default_rng(seed).normal(size=(k, 2))))
    wider = np.full((k + 1, k + 1), far)
    wider[:k, :k], wider[k, k] = between, 0.0
    assert find_groups(wider, OPTIONS).groups == [*find_groups(between, OPTIONS).groups, [k]]


def test_groups_within_groups_are_found() -> None:
    # one silhouette sees the widest gap only: two groups, not four
    places = line(0, 1, 100, 101, 8, 9, 92, 93)
    assert of(places) == [["s0", "s1"], ["s2", "s3"], ["s4", "s5"], ["s6", "s7"]]


def test_without_clusters_everybody_is_one_group() -> None:
    even = 1.0 - np.eye(5)
    assert len(of(even)) == 1
    assert of(line(0, 1)) == [["s0", "s1"]]
    assert of(np.zeros((4, 4))) == [["s0", "s1", "s2", "s3"]]
    assert of(np.zeros((1, 1))) == [["s0"]]


def test_those_who_have_nothing_in_common_stay_apart() -> None:
    assert of(1.0 - np.eye(4), apart=1.0) == [["s0"], ["s1"], ["s2"], ["s3"]]
    pair = 1.0 - np.eye(4)
    pair[0, 1] = pair[1, 0] = 0.4
    assert of(pair, apart=1.0) == [["s0", "s1"], ["s2"], ["s3"]]
    assert of(np.array([[0, 0.5], [0.5, 0]]), apart=1.0) == [["s0", "s1"]]


def test_what_belongs_to_one_side_alone_drops_out() -> None:
    between = line(0, 0.1, 5, 5.1, 9, 9.2)
    rng = np.random.default_rng(0)
    directed = between + rng.normal(size=(6, 1)) + rng.normal(size=(1, 6))
    np.testing.assert_allclose(there_and_back(directed), 2 * between, atol=1e-12)
    assert of(directed) == of(between)


@given(st.integers(0, 1000))
def test_without_gaps_it_is_the_symmetrised_excess(seed: int) -> None:
    distances = np.random.default_rng(seed).normal(size=(5, 5))
    np.testing.assert_array_equal(there_and_back(distances), symmetrised(distances))


def test_what_is_not_known_is_the_farthest() -> None:
    distances = line(0, 1, 3)
    distances[0, 1] = np.nan
    found = there_and_back(distances)
    assert found[0, 1] == found[1, 0] == 1 + 3
    assert found[0, 2] == 6
    np.fill_diagonal(distances, np.nan)  # own models were not scored: the nearest stand in
    assert np.isfinite(there_and_back(distances)).all()
    assert (there_and_back(np.full((3, 3), np.nan)) == 2 * (1 - np.eye(3))).all()


def test_a_site_that_is_not_compared_stays_alone_and_is_nobodys_partner() -> None:
    distances = line(0, 0.1, 5, 5.1, 0)
    distances[4, :] = distances[:, 4] = np.nan
    found = group_by_distance(distances, NAMES[:5], "fid")
    assert [g.sites for g in found.groups] == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    assert found.sites["s4"].reason == "Alone: by measure fid it cannot be compared with anybody."
    assert found.sites["s4"].partners == found.sites["s4"].nearest == []
    assert all("s4" not in [p.site for p in why.partners] for why in found.sites.values())
    assert list(found.sites) == NAMES[:5]
    nobody = group_by_distance(np.full((2, 2), np.nan), ["a", "b"], "fid")
    assert [g.sites for g in nobody.groups] == [["a"], ["b"]]


def test_partners_are_the_nearest_sources_of_the_directed_distance() -> None:
    distances = np.array([[0.0, 3, 1], [1, 0, 2], [2, 1, 0]])
    found = group_by_distance(distances, NAMES[:3], "test")
    assert [p.site for p in found.sites["s0"].partners] == ["s1", "s2"]
    assert [p.distance for p in found.sites["s1"].partners] == [1.0, 3.0]


def test_explanations_are_in_units_of_the_mean_distance() -> None:
    found = group_by_distance(1000 * line(0, 1, 10, 11), NAMES[:4], "vdna")
    why = found.sites["s0"]
    assert why.reason == (
        "Nearest: s1. Distance 0.143 to its group, 1.500 to the next group (s2 and 1 more). "
        "By measure vdna, both ways together; 1 is the mean distance of two sites."
    )
    assert why.margin == pytest.approx(1 - 1 / 10.5)
    assert why.stability == 1.0
    assert 0.143 < found.cut < 1.5


def test_sizes_are_kept() -> None:
    places = line(0, 0.1, 0.2, 0.3, 7, 7.1)
    assert [len(g) for g in of(places, max_size=2)] == [2, 2, 2]
    assert [len(g) for g in of(places, min_size=3)] == [6]


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 8))
def test_order_does_not_matter(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    distances = squareform(pdist(rng.normal(size=(k, 3)) * (1 + rng.integers(0, 5, (k, 1)))))
    turned = rng.permutation(k)
    names = [f"s{i}" for i in range(k)]
    plain = group_by_distance(distances, names, "x")
    other = group_by_distance(distances[np.ix_(turned, turned)], [names[i] for i in turned], "x")
    assert [g.sites for g in plain.groups] == [g.sites for g in other.groups]


def test_the_matrix_must_fit_the_names() -> None:
    with pytest.raises(BadShape, match=r"^distances have shape \(2, 2\), but there are 3 sites$"):
        group_by_distance(np.zeros((2, 2)), NAMES[:3], "x")
