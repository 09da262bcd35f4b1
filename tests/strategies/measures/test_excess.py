"""The excess as a measure is the distance that groups and partners go by."""

import numpy as np
import pytest

from fl_server.decisions import decide
from strategies.grouping import group
from strategies.measures import get, released
from tests.strategies.synthetic import make_sites, make_spec

SPEC = make_spec(features=6, bins=8)
SITES, _ = make_sites([[30, 50], [40, 60], [70]], SPEC)
TASKS = released(SITES, SPEC)


def test_it_is_what_grouping_used() -> None:
    found = group(SITES, SPEC)
    place = [[f.site for f in SITES].index(name) for name in found.order]
    matrix = get("bkld-excess").matrix(TASKS, TASKS)
    np.testing.assert_allclose(matrix[np.ix_(place, place)], found.distances, rtol=1e-9, atol=1e-12)


def test_some_tasks_against_others_are_compared_as_all() -> None:
    whole = get("bkld-excess").matrix(TASKS, TASKS)
    assert np.array_equal(get("bkld-excess").matrix(TASKS, TASKS[2:]), whole[:, 2:])
    np.testing.assert_allclose(whole, whole.T, rtol=1e-12)
    assert not np.diag(whole).any()


@pytest.mark.parametrize("measure", ["bkld-excess", "bkld-large-unweighted"])
def test_it_groups_as_the_family_does(measure: str) -> None:
    groups = decide(TASKS, measure=measure).groups.groups
    assert groups == decide(TASKS).groups.groups
