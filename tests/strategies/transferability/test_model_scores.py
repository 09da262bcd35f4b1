"""Measures of models look up what the targets' sites found."""

import numpy as np
import pytest

from strategies.measures import Task, get
from strategies.transferability import SCORES
from tests.strategies.synthetic import make_spec

SPEC = make_spec()
NONE = Task("a", 10, SPEC)
SCORED = Task("b", 10, SPEC, scores={name: {"a": 0.5, "c": -1.0} for name in SCORES})


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_looked_up(name: str) -> None:
    measure = get(name)
    other = Task("c", 10, SPEC, scores={name: {"a": 2.0}})
    found = measure.matrix([NONE, SCORED, other], [NONE, SCORED, other])
    nan = np.nan
    np.testing.assert_array_equal(found, [[nan, 0.5, 2.0], [nan, nan, nan], [nan, -1.0, nan]])
    np.testing.assert_array_equal(measure.distances([NONE], [SCORED]), [[-0.5]])
    assert (measure.direction, measure.needs) == ("higher", {"scores"})
    assert measure.privacy == "local scoring"
