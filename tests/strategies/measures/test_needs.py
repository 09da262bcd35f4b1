"""What a task lacks is said in one line."""

import re
from dataclasses import replace

import numpy as np
import pytest

from protocol.descriptors import Fisher, Moments
from protocol.errors import ConfigError, FedprintError, NotFinite, SpecMismatch
from strategies.measures import Measure, Task, available, get, require
from tests.strategies.measures.made_up import SPEC, make_task, make_tasks
from tests.strategies.synthetic import make_spec

TASKS = make_tasks([0, 1])
RUN = "run with run-config descriptors="
LACKING = [
    (
        "fid",
        "moments",
        "measure fid needs moments of every site, site-1 released none: "
        f'{RUN}"moments", or fedprint fingerprint --also moments',
    ),
    (
        "flux",
        "class_moments",
        "measure flux needs class-moments of every site, site-1 released none: "
        f'{RUN}"class-moments", or fedprint fingerprint --also class-moments',
    ),
    (
        "fed",
        "fisher",
        "measure fed needs fisher of every site, site-1 released none: "
        f'{RUN}"fisher", or fedprint fingerprint --also fisher',
    ),
    (
        "sinkhorn",
        "features",
        "measure sinkhorn needs raw features of every site, site-1 released none: "
        'run a simulation with run-config descriptors="features": no deployment lets them go',
    ),
    (
        "vdna",
        "fingerprint",
        "measure vdna needs the fingerprint of every site, site-1 released none: "
        "compare run folders, or folders of signed fingerprints",
    ),
    (
        "manual",
        "card",
        "measure manual needs the task card of every site, site-1 released none: "
        "compare run folders, or folders of signed fingerprints",
    ),
]


@pytest.mark.parametrize(("name", "field", "text"), LACKING)
def test_what_is_lacking_is_named(name: str, field: str, text: str) -> None:
    tasks = [TASKS[0], replace(TASKS[1], **{field: None})]
    require(get(name), TASKS)
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        require(get(name), tasks)
    with pytest.raises(ConfigError, match=r"^task site-1 has (not released|no fingerprint)"):
        get(name).matrix(tasks, tasks)


def test_scores_are_of_the_measure() -> None:
    class Scored(Measure):
        name = "scored"
        direction = "higher"
        needs = frozenset({"scores"})

        def matrix(self, sources, targets):  # type: ignore[no-untyped-def]
            return np.array([[t.scores["scored"][s.name] for t in targets] for s in sources])

    tasks = [replace(TASKS[0], scores={"scored": {"site-0": 1.0}}), TASKS[1]]
    text = (
        "measure scored needs scores of every site, site-1 released none: "
        "run with run-config scores=true"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        require(Scored(), tasks)
    assert Scored().distances(tasks[:1], tasks[:1]).tolist() == [[-1.0]]


def test_tasks_of_two_specs_are_refused() -> None:
    other = make_task("other", 0, spec=make_spec(features=6, bins=9, name="other"))
    for name in available():
        if get(name).needs & {"fingerprint", "moments", "class-moments", "fisher", "features"}:
            with pytest.raises(SpecMismatch, match=r"^specs \w+ and \w+ differ in name"):
                get(name).matrix([other], TASKS)


def test_descriptors_of_the_wrong_size_or_not_finite_are_refused() -> None:
    short = replace(TASKS[0], moments=Moments(np.zeros(5), np.eye(5), 10))
    text = (
        "mean of task site-0 have shape (5,), but (6,) is expected: "
        "release them again under the spec of the others"
    )
    with pytest.raises(SpecMismatch, match=f"^{re.escape(text)}$"):
        get("fid").matrix([short], TASKS)
    odd = replace(TASKS[0], fisher=Fisher(np.full(30, np.nan)))
    with pytest.raises(NotFinite, match=r"^Fisher embedding of task site-0 are not finite: "):
        get("fed").matrix([odd], TASKS)


@pytest.mark.parametrize("name", ["fid", "manual", "sinkhorn", "fed", "flux", "pacfl-angles"])
def test_nothing_to_compare_is_refused(name: str) -> None:
    with pytest.raises(FedprintError, match=r"^there are no tasks to compare: give at least one$"):
        get(name).matrix([], [])


def test_every_measure_says_what_it_is() -> None:
    for name in available():
        measure = get(name)
        assert measure.name == name
        assert measure.description
        assert measure.source
        assert measure.needs


def test_a_task_without_anything_lacks_what_is_needed() -> None:
    bare = Task("bare", 1, SPEC)
    assert {n for n in available() if not get(n).needs} == set()
    with pytest.raises(ConfigError):
        require(get("flux"), [bare])
