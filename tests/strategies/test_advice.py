"""Shots: nearest first, then learnt from outcomes of others, and never from those of the target."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from protocol.errors import BadShape, ConfigError
from protocol.experiment import Architecture, Experiment, Partner, Policy, Weights
from protocol.files import sha256_hex
from strategies.advice import counsel
from strategies.advice_words import likely
from strategies.measurements import credited, measurements, offers, pooled
from strategies.neighbourhood import Neighbourhood, PoolTask

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
IDS = sorted(sha256_hex(str(i).encode()) for i in range(8))
SCENARIOS = ("architecture", "pretraining", "augmentation", "co-training")


def task(i, **changes):
    return PoolTask(
        IDS[i], f"site-{i}", f"task {i}", f"{i}" * 64, 100 + i, 3, frozenset(), **changes
    )


def around(target=0, n=8, tasks=None, seed=0):
    distances = np.random.default_rng(seed).uniform(1, 2, (n, n))
    order = sorted((s for s in range(n) if s != target), key=lambda s: distances[s, target])
    places = {IDS[s]: place for place, s in enumerate(order, 1)}
    return Neighbourhood(tasks or [task(i) for i in range(n)], target, distances, places, n - 1)


def experiment(target, source=None, detail=None, performance=0.8, **changes):
    scenario = {"architecture": "architecture", "weights": "pretraining", "policy": "augmentation"}
    detail = detail or Partner(arm="pair", tasks=2)
    said = {
        "scenario": scenario.get(detail.kind, "co-training"),
        "target": IDS[target],
        "source": None if source is None else IDS[source],
        "detail": detail,
        "metric": "balanced_accuracy",
        "performance": performance,
        "baseline": 0.5,
        "recorded": NOON,
    }
    return Experiment.model_validate(said | changes)


def searched(target, **scores):
    """Return what a site measured of architectures by name, on its own data."""
    return [experiment(target, None, Architecture(name=n), v) for n, v in scores.items()]


def nearest(hood):
    column = hood.distances[:, hood.target]
    return [hood.tasks[s].id for s in np.argsort(column) if s != hood.target]


def sources(found):
    return [shot.task.id for shot in found.shots]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_cold_start_goes_by_distance(scenario):
    hood = around()
    found = counsel(hood, [], scenario, k=4)
    assert sources(found) == nearest(hood)[:4]
    assert found.outcomes == 0
    assert [shot.rank for shot in found.shots] == [1, 2, 3, 4]
    assert {(s.why, s.standing, s.sd, s.better, s.knowledge) for s in found.shots} == {
        ("distance", None, None, None, None)
    }
    assert found.shots[0].sentence.endswith(
        ": the nearest of 7 tasks, nothing was measured of it yet."
    )


def test_a_cold_start_offers_what_did_best_on_the_nearest_task_that_knows():
    hood = around()
    near = [IDS.index(i) for i in nearest(hood)]
    found = counsel(hood, searched(near[2], b0=0.7, b1=0.9, b2=0.8), "architecture")
    (shot,) = found.shots
    assert shot.task.id == IDS[near[2]]
    assert shot.knowledge == Architecture(name="b1")
    assert (shot.why, shot.place) == ("distance", 3)
    who = f"site-{near[2]} (task {near[2]})"
    assert shot.sentence == (
        f"Use b1, which {who} would take: number 3 by nearness of 7 tasks, "
        "balanced accuracy rose by 0.400 there."
    )
    assert [(m.target, m.performance, m.baseline) for m in shot.measured] == [
        (IDS[near[2]], 0.9, 0.5)
    ]


def test_no_two_shots_hand_over_the_same():
    told = [e for t in range(1, 8) for e in searched(t, **{f"net{t % 3}": 0.9, "poor": 0.6})]
    found = counsel(around(), told, "architecture", k=5)
    named = [shot.knowledge.name for shot in found.shots]
    assert sorted(named) == ["net0", "net1", "net2"]
    for shot in found.shots:
        same = {IDS[t] for t in range(1, 8) if f"net{t % 3}" == shot.knowledge.name}
        assert {shot.task.id, *shot.also} == same


def test_a_search_tells_of_all_tasks_that_would_take_the_same():
    told = searched(1, good=0.9, poor=0.6) + searched(2, good=0.8, poor=0.7)
    told += searched(3, good=0.5, poor=0.9)
    measured = measurements(told)
    offered = offers(measured, "architecture")
    assert {IDS.index(i): d.name for i, d in offered.items()} == {1: "good", 2: "good", 3: "poor"}
    found = pooled(credited(measured, offered, "architecture"), IDS, ["balanced_accuracy"])
    cells = zip(found.target.tolist(), found.source.tolist(), found.value.tolist(), strict=True)
    blom = [norm.ppf((rank - 0.375) / 3.25) for rank in (1, 2, 3)]  # baseline is the third
    assert {(t, s): round(v, 9) for t, s, v in cells} == {
        (1, 2): round(blom[2], 9),  # good at 1, as 2 would take it
        (1, 3): round(blom[1], 9),
        (2, 1): round(blom[2], 9),
        (2, 3): round(blom[1], 9),
        (3, 1): round(norm.ppf((1.5 - 0.375) / 3.25), 9),  # as good as the baseline
        (3, 2): round(norm.ppf((1.5 - 0.375) / 3.25), 9),
    }


def test_a_group_is_one_contender_however_many_partners_tell_of_it():
    grouped = [
        experiment(0, s, Partner(arm="grouped", tasks=4), 0.9, baseline=None) for s in (1, 2, 3)
    ]
    all_ = [
        experiment(0, s, Partner(arm="together", tasks=8), 0.6, baseline=None) for s in range(1, 8)
    ]
    measured = measurements(grouped + all_)
    assert [(m.performance, len(m.sources)) for m in measured] in (
        [(0.9, 3), (0.6, 7)],
        [(0.6, 7), (0.9, 3)],
    )
    high = norm.ppf((2 - 0.375) / 2.25)
    found = pooled(measured, IDS, ["balanced_accuracy"])
    np.testing.assert_allclose(found.value, [0, 0, 0, -high, -high, -high, -high], atol=1e-12)


def test_what_a_plan_gained_is_not_credited_to_partners():
    grouped = experiment(0, 1, Partner(arm="grouped", tasks=2), 0.6, baseline=0.5)
    planned = experiment(0, 2, Partner(arm="planned", tasks=2), 0.9, baseline=0.5)
    assert [m.performance for m in measurements([grouped, planned])] == [0.6]
    assert measurements([planned]) == []


def test_partners_of_pairs_are_contenders_each():
    told = [experiment(0, s, None, v, baseline=None) for s, v in ((1, 0.5), (2, 0.7), (3, 0.9))]
    found = pooled(measurements(told), IDS, ["balanced_accuracy"])
    np.testing.assert_allclose(found.value, norm.ppf((np.arange(1, 4) - 0.375) / 3.25), atol=1e-12)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"baseline": 0.5}, [2, 3]),  # of three: the baseline is the first
        ({"baseline": 0.5, "hyperparameters": ({"size": 1}, {"size": 2})}, [2, 3]),
        ({"baseline": None}, [1, 2]),
        ({"baseline": None, "hyperparameters": ({"size": 1}, {"size": 2})}, [1, 1]),
        ({"seed": (1, 2)}, [2, 2]),
        ({"run": ("a", "b")}, [2, 2]),
        ({"baseline": (0.5, 0.6)}, [2, 2]),
    ],
)
def test_who_is_compared_with_whom(conditions, expected):
    told = []
    for i, name in enumerate(("low", "high")):
        own = {k: v[i] if isinstance(v, tuple) else v for k, v in conditions.items()}
        told.append(experiment(1, None, Architecture(name=name), 0.7 + 0.1 * i, **own))
    races = {len(set(expected)) > 1}
    n = {True: 2, False: 1}[races.pop()] + (conditions.get("baseline", 0.5) is not None)
    found = {each.detail.name: each.standing for each in measurements(told)}
    wanted = norm.ppf((np.array(expected) - 0.375) / (n + 0.25))
    np.testing.assert_allclose([found["low"], found["high"]], wanted, atol=1e-12)


def test_outcomes_on_other_tasks_beat_nearness():
    hood = around()
    last = IDS.index(nearest(hood)[-1])
    told = [
        experiment(t, s, None, 0.95 if s == last else 0.6 + 0.01 * s)
        for t in range(1, 8)
        for s in range(8)
        if s != t
    ]
    found = counsel(hood, told, "co-training", k=2)
    shot = found.shots[0]
    assert shot.task.id == IDS[last]
    assert shot.why == "learnt"
    assert found.outcomes == sum(e.source != IDS[0] for e in told)
    assert shot.standing > 0.5
    assert 0 < shot.sd < 1
    assert shot.better > 0.9
    assert len(shot.measured) == 6
    assert "balanced accuracy rose by 0.450 on 6 other tasks" in shot.sentence
    assert f"{likely(shot.better)} likely to do better than a typical candidate" in shot.sentence


def test_nothing_is_said_to_be_certain():
    assert [likely(p) for p in (0, 0.005, 0.01, 0.5, 0.99, 0.999, 1)] == [
        *("under 1%", "under 1%", "1%", "50%", "99%", "over 99%", "over 99%"),
    ]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10),
    own=st.lists(st.tuples(st.integers(1, 7), st.floats(0, 1)), min_size=1, max_size=6),
    scenario=st.sampled_from(["architecture", "pretraining", "augmentation", "co-training"]),
)
def test_what_was_measured_on_the_target_is_never_used(seed, own, scenario):
    def detail(number):
        return {
            "architecture": Architecture(name=f"net{number % 3}"),
            "pretraining": Weights(sha256=f"{number}" * 64),
            "augmentation": Policy(pipeline={"p": number % 3}),
            "co-training": Partner(arm="pair", tasks=2),
        }[scenario]

    rng = np.random.default_rng(seed)
    pairs = [(t, s) for t in range(1, 8) for s in range(8) if s != t]
    others = [experiment(t, s, detail(s), float(rng.uniform())) for t, s in pairs[::3]]
    mine = [experiment(0, s, detail(s), value) for s, value in own]
    if scenario in ("architecture", "augmentation"):
        mine += [experiment(0, None, detail(s), value) for s, value in own]
    hood = around(seed=seed)
    assert counsel(hood, others + mine, scenario, 3, seed) == counsel(
        hood, others[::-1], scenario, 3, seed
    )
    assert counsel(hood, mine, scenario, 3).outcomes == 0


def test_another_release_of_the_same_task_neither_advises_nor_tells():
    tasks = [task(i) for i in range(8)]
    tasks[3] = PoolTask(IDS[3], "site-0", "task 0", "0" * 64, 101, 3)
    told = [experiment(3, s, None, 0.9 if s == 5 else 0.6) for s in (1, 2, 4, 5)]
    found = counsel(around(tasks=tasks), told, "co-training", k=8)
    assert IDS[3] not in sources(found)
    assert found.outcomes == 0


def test_other_releases_of_a_measured_task_get_no_credit_on_it():
    tasks = [task(i) for i in range(8)]
    tasks[3] = PoolTask(IDS[3], "site-2", "task 2", "2" * 64, 101, 3)
    told = [experiment(2, s, None, 0.9 if s == 3 else 0.6) for s in (1, 3, 4)]
    found = counsel(around(tasks=tasks), told, "co-training", k=8)
    (shot,) = (shot for shot in found.shots if shot.task.id == IDS[3])
    assert shot.measured == ()
    assert found.outcomes == 2


def test_exploration_is_said_and_repeats_with_its_seed():
    hood = around()
    told = [experiment(t, t - 1, None, 0.6) for t in (2, 3)]
    runs = [counsel(hood, told, "co-training", 4, seed) for seed in range(6)]
    assert counsel(hood, told, "co-training", 4, 3) == runs[3]
    assert {sources(run)[0] for run in runs} == {sources(runs[0])[0]}
    assert len({tuple(sources(run)) for run in runs}) > 1
    explored = [shot for run in runs for shot in run.shots if shot.why == "explored"]
    assert explored
    assert all(shot.sentence.endswith(", tried to learn more about it.") for shot in explored)


def test_tasks_of_another_spec_come_last_in_a_cold_start():
    hood = around()
    hood.distances[4] = np.nan
    del hood.places[IDS[4]]
    found = counsel(hood, [], "co-training", k=8)
    assert sources(found)[-1] == IDS[4]
    assert found.shots[-1].distance is None
    assert "how near it is cannot be told" in found.shots[-1].sentence


def test_keywords_and_sizes_may_be_missing():
    bare = [PoolTask(i, "a", name=i) for i in IDS]
    told = [experiment(t, s, None, 0.1 * s) for t in (2, 3) for s in (4, 5)]
    assert len(counsel(around(tasks=bare), told, "co-training").shots) == 3
    worded = [PoolTask(i, "a", name=i, words=frozenset({i[0]})) for i in IDS]
    assert len(counsel(around(tasks=worded), told, "co-training").shots) == 3


def test_a_pool_of_one_has_nothing_to_say():
    hood = Neighbourhood([task(0)], 0, np.zeros((1, 1)), {}, 0)
    assert counsel(hood, [], "architecture").shots == ()


def test_refusals():
    with pytest.raises(ConfigError, match=r"^cannot return 0 shots: ask for at least 1$"):
        counsel(around(), [], "architecture", 0)
    with pytest.raises(BadShape, match=r"^distances have shape \(2, 2\), but there are 1 tasks$"):
        Neighbourhood([task(0)], 0, np.zeros((2, 2)), {}, 0)


@pytest.mark.parametrize("measured", [[], [experiment(t, s) for t in (3, 5) for s in (1, 2, 7)]])
def test_nobody_trains_together_with_a_task_of_another_objective(measured):
    tasks = [task(i, objective="multilabel" if i in (0, 2, 5) else "ordinal") for i in range(8)]
    hood = around(tasks=tasks)
    found = counsel(hood, measured, "co-training", k=5)
    assert {shot.task.id for shot in found.shots} == {IDS[2], IDS[5]}
    others = counsel(hood, measured, "architecture", k=7)
    assert len(others.shots) == 7
