"""`fedprint compare` on folders of fingerprints, on a whole run, and on bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from click.testing import Result
from scipy import stats
from typer.testing import CliRunner

from fl_server import compare_command
from fl_server.compare import Computed, compare, compute
from fl_server.compare_data import families_of, released_bytes, tasks_in
from fl_server.compare_outcomes import own_outcomes, recorded_outcomes
from protocol.errors import ConfigError
from protocol.experiment import Experiment, Weights
from protocol.files import atomic_write, file_digest
from protocol.statement import utc_now
from strategies.measures import Measure, Task, available, get
from strategies.transfer_evidence import JUDGEMENTS
from tests.fl_server.comparing import described, write_csv, write_outcomes, write_prints
from tests.fl_server.joining import MEMBERS, federation, write_run

BKLD = ("bkld-large-source", "bkld-large-unweighted", "bkld-small-target")


def command(*arguments: object) -> Result:
    app = typer.Typer()
    compare_command.register(app)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def error(*arguments: object) -> str:
    """Return the message with which the command ends."""
    result = command(*arguments)
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


def only(*names: str) -> list[str]:
    return [part for name in names for part in ("--measure", name)]


@pytest.fixture(scope="module")
def prints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prints")
    write_prints(folder)
    return folder


@pytest.fixture(scope="module")
def sites(prints: Path) -> list[str]:
    return [task.name for task in tasks_in(prints)]


@pytest.fixture
def outcomes(tmp_path: Path, sites: list[str]) -> Path:
    return write_outcomes(tmp_path / "outcomes", sites)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("comparing") / "run", federation())


class Fake(Measure):
    """A measure that says what it is told to."""

    name = "fake"

    def __init__(self, values: Any) -> None:
        self.values = values

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> np.ndarray:  # type: ignore[type-arg]
        if isinstance(self.values, Exception):
            raise self.values
        return np.asarray(self.values[: len(sources), : len(targets)])


def test_a_folder_of_fingerprints_is_compared(
    prints: Path, sites: list[str], outcomes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.json"
    result = command(prints, *only(*BKLD), "--outcomes", outcomes, "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["sites"] == sites
    assert found["families"] == ["lungs"] * 2 + ["eyes"] * 2 + ["skin"] * 2
    assert found["nearest_by_chance"] == pytest.approx(1 / 5)
    assert [row["name"] for row in found["measures"]] == list(BKLD)
    assert found["groups"] == {"number": 3, "adjusted_rand": 1.0, "nearest": 1.0}
    assert (
        "finds 3 groups (adjusted Rand index 1.00); first partners are kin: 1.00." in result.output
    )
    unweighted = found["measures"][1]
    assert (unweighted["adjusted_rand"], unweighted["nearest"]) == (1.0, 1.0)
    assert unweighted["bytes_per_site"] == np.mean(
        [
            sum((prints / f"{s}.{end}").stat().st_size for end in ("safetensors", "dsse.json"))
            for s in sites
        ]
    )
    assert (unweighted["needs"], unweighted["sites"]) == (["fingerprint"], 6)
    assert 0 < unweighted["seconds_per_pair"] < 1
    assert [row["measure"] for row in found["transfer"]][-1] == "(random)"
    for row in found["transfer"]:
        assert (row["origin"], row["scenario"], row["metric"]) == (
            "outcomes",
            "pretraining",
            "auroc",
        )
        assert row["targets"] == 6
        for name in JUDGEMENTS:
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    by_name = {row["measure"]: row for row in found["transfer"]}
    assert by_name[BKLD[1]]["over_default"] == 0
    assert by_name["(random)"]["weightedtau"] == 0
    assert by_name["(random)"]["over_default"] == -by_name[BKLD[1]]["weightedtau"]
    assert "3 measures on 6 sites of 3 families (kin by chance: 0.20)" in result.output
    assert "pretraining, auroc, recorded outcomes: mean over targets with 95" in result.output


def test_transfer_is_judged_as_scipy_does(prints: Path, sites: list[str], outcomes: Path) -> None:
    tasks = tasks_in(prints)
    (measured,) = recorded_outcomes(outcomes, sites)
    found = compare(tasks, [get(BKLD[1])], measured=[measured])
    distances = get(BKLD[1]).distances(tasks, tasks)
    others = np.arange(1, 6)
    wanted = stats.spearmanr(-distances[others, 0], measured.performance[0, 0, others]).statistic
    assert found.judged[0][0, 1, 0] == pytest.approx(wanted)
    assert measured.performance.shape == (2, 6, 6)  # the task that is no site is not there
    assert np.isnan(measured.performance[:, *np.diag_indices(6)]).all()


def test_two_comparisons_differ_in_nothing_but_the_clock(
    prints: Path, outcomes: Path, tmp_path: Path
) -> None:
    texts = []
    for n in (1, 2):
        paths = [tmp_path / f"{n}.{ending}" for ending in ("json", "csv", "svg")]
        options = zip(("--json", "--out", "--plot"), paths, strict=True)
        flat = [part for option in options for part in option]
        result = command(prints, *only(*BKLD), "--outcomes", outcomes, *flat)
        assert result.exit_code == 0, result.output
        found = json.loads(paths[0].read_text())
        for row in found["measures"]:
            del row["seconds_per_pair"]
        texts.append((found, paths[2].read_bytes()))
    assert texts[0] == texts[1]
    assert texts[0][1].startswith(b"<?xml")


def test_the_csv_has_a_line_a_measure(prints: Path, outcomes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.csv"
    result = command(prints, *only(*BKLD, "fid"), "--outcomes", outcomes, "--out", out)
    assert result.output.splitlines()[-1] == f"written: {out}"
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [*BKLD, "fid"]
    assert rows[3]["sites"] == ""
    assert rows[3]["left_out"].startswith("measure fid needs moments of every site, ")
    for row in rows[:3]:
        assert row[f"agreement/{row['name']}"] == "1.0"
        assert float(row["outcomes/pretraining/auroc/weightedtau"]) <= 1
        assert row["outcomes/pretraining/auroc/targets"] == "6"


def test_a_whole_run_is_compared_with_its_own_trials(run: Path, tmp_path: Path) -> None:
    ids = {site: file_digest(run / "fingerprints" / f"{site}.safetensors") for site in MEMBERS}
    target = MEMBERS[0]
    tried = [
        Experiment(
            scenario="pretraining",
            target=ids[target],
            source=ids[source],
            detail=Weights(sha256=str(number) * 64),
            metric="auroc",
            performance=0.9 - 0.1 * number,
            baseline=0.5,
            run="run-1",
            recorded=utc_now(),
        )
        for number, source in enumerate(MEMBERS[1:4])
    ]
    lines = "".join(f"{each.model_dump_json()}\n" for each in tried)
    (measured,) = own_outcomes_of(run, lines, ids, tmp_path)
    assert (measured.origin, measured.scenario, measured.metric) == ("run", "pretraining", "auroc")
    standings = measured.performance[0, 0]
    assert standings[1] > standings[2] > standings[3]
    assert np.isfinite(measured.performance).sum() == 3
    families = write_csv(
        tmp_path / "f.csv", ["site", "family"], *([site, site[:6]] for site in MEMBERS)
    )
    out = tmp_path / "c.json"
    result = command(run, *only(*BKLD), "--families", families, "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["transfer"] == []
    assert found["measures"][1]["adjusted_rand"] == 1.0


def own_outcomes_of(run: Path, lines: str, ids: dict[str, str], folder: Path) -> Any:
    assert own_outcomes(run, ids) == []
    atomic_write(folder / "experiments.jsonl", lines)
    return own_outcomes(folder, ids)


def test_every_measure_is_computed_where_all_is_known(prints: Path, outcomes: Path) -> None:
    tasks = described(tasks_in(prints))
    found = compare(
        tasks,
        [get(name) for name in available()],
        families=families_of(tasks),
        measured=recorded_outcomes(outcomes, [task.name for task in tasks]),
    )
    assert found.left_out.keys() <= {"sinkhorn-projected"}  # the spec projects nothing
    assert {each.tasks for each in found.computed} == {6}
    assert np.isfinite(found.agreement).all()
    for each, recovered in zip(found.computed, found.recovered, strict=True):
        if "scores" not in each.measure.needs and each.measure.name != "properties":
            assert recovered.nearest > recovered.chance, each.measure.name


def test_what_is_lacking_is_said(prints: Path, tmp_path: Path) -> None:
    tasks = tasks_in(prints)

    class Needy(Fake):
        name = "needy"
        needs = frozenset({"moments", "scores"})

    assert compute(Needy(np.ones((6, 6))), tasks) == (
        f"measure needy needs moments of every site, {tasks[0].name} released none: "
        'run with run-config descriptors="moments", or fedprint fingerprint --also moments'
    )


def test_tasks_that_lack_nothing_are_compared(prints: Path) -> None:
    tasks = tasks_in(prints)
    tasks[2] = Task(tasks[2].name, 80, tasks[2].spec)
    found = compute(get(BKLD[0]), tasks)
    assert isinstance(found, Computed)
    assert found.tasks == 5
    assert np.isnan(found.distances[2]).all()
    assert np.isnan(found.distances[:, 2]).all()
    assert np.isfinite(found.distances).sum() == 25


def test_targets_without_scores_are_sources_still(prints: Path) -> None:
    tasks = tasks_in(prints)
    scores = {task.name: float(n) for n, task in enumerate(tasks)}
    tasks[:4] = [replace(task, scores={"leep": scores}) for task in tasks[:4]]
    found = compute(get("leep"), tasks)
    assert isinstance(found, Computed)
    assert found.tasks == 4
    assert np.isnan(found.distances[:, 4:]).all()
    np.testing.assert_array_equal(found.distances[:, 0], -np.arange(6))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (ValueError("no\nway"), "measure fake failed (ValueError: no way): mend it"),
        (ConfigError("take another spec"), "take another spec"),
        (
            np.ones((2, 3)),
            "measure fake returned shape (2, 3) for 6 sources and 6 targets: mend it",
        ),
        (
            np.full((6, 6), np.inf),
            "measure fake returned infinity: it must be NaN where nothing can be said",
        ),
        (
            np.diag([1.0] * 6) + np.where(np.eye(6), 0, np.nan),
            "says nothing of any pair of these tasks",
        ),
    ],
)
def test_a_measure_that_fails_costs_only_itself(prints: Path, values: Any, why: str) -> None:
    found = compare(tasks_in(prints), [Fake(values), get(BKLD[0])])
    assert found.left_out == {"fake": why}
    assert [each.measure.name for each in found.computed] == [BKLD[0]]


def test_measures_that_lack_the_same_share_a_row() -> None:
    why = "needs fisher of every site, a released none"
    left_out = {
        "fed": f"measure fed {why}",
        "slow": "failed",
        "task2vec": f"measure task2vec {why}",
    }
    assert compare_command._alike(left_out) == [("fed, task2vec", why), ("slow", "failed")]


def test_sites_are_a_column_only_where_some_lack_something(
    prints: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tasks_in(prints)
    for tasks, shown in (
        (whole, False),
        ([Task(whole[0].name, 80, whole[0].spec), *whole[1:]], True),
    ):
        monkeypatch.setattr("fl_server.compare_data.tasks_in", lambda _run, t=tasks: t)
        compare_command.compare(prints, measure=[BKLD[0]])
        assert (" sites " in capsys.readouterr().out.split("privacy")[1].split("bytes")[0]) is shown


def test_what_is_known_of_no_measure_is_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = {"measure": "vdna", "targets": 3}
    for name in ("over_default", *JUDGEMENTS):
        row |= {name: 0.5, f"{name}_low": 0.25, f"{name}_high": 0.75}
    compare_command._show_transfer(("run", "pretraining", "auroc"), [row])
    assert "its gain" in capsys.readouterr().out
    compare_command._show_transfer(("run", "pretraining", "auroc"), [row | {"improvement1": None}])
    shown = capsys.readouterr().out
    assert "its gain" not in shown
    assert shown.count("0.50 [0.25, 0.75]") == 5


def test_a_folder_that_allows_no_measure_is_an_error(
    prints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(get(BKLD[0])), "needs", frozenset({"moments"}))
    assert error(prints, *only(BKLD[0])) == (
        f"measure {BKLD[0]} needs moments of every site, {tasks_in(prints)[0].name} released none: "
        'run with run-config descriptors="moments", or fedprint fingerprint --also moments'
    )


def test_bytes_are_those_of_the_files(prints: Path, sites: list[str], tmp_path: Path) -> None:
    tasks = tasks_in(prints)
    (tmp_path / "fingerprints").mkdir()
    for name, size in (
        ("fingerprints/{}.safetensors", 100),
        ("fingerprints/{}.dsse.json", 10),
        ("descriptors/{}.moments.safetensors", 1000),
        ("descriptors/{}.moments.dsse.json", 5),
        ("descriptors/{}.class-moments.safetensors", 7),
        ("scores/{}.dsse.json", 3),
    ):
        atomic_write(tmp_path / name.format(sites[0]), b"x" * size)
    sizes = {need: found[0] for need, found in released_bytes(tmp_path, tasks).items()}
    card = sizes.pop("card")
    assert 100 < card < 300
    assert sizes == {
        "fingerprint": 110,
        "moments": 1005,
        "class-moments": 7,
        "scores": 3,
        "fisher": 0,
        "features": 0,
    }


def test_a_model_that_was_scored_had_to_leave_its_site(prints: Path) -> None:
    tasks = tasks_in(prints)
    tasks[1] = replace(tasks[1], scores={"leep": {tasks[0].name: 0.1}})
    sizes = released_bytes(prints, tasks)["scores"]
    assert sizes == [4 * (64 * 24 + 64 + 65), 0, 0, 0, 0, 0]  # adapter, and the row of one class


def test_without_families_nothing_is_recovered(tmp_path: Path) -> None:
    write_prints(tmp_path, ("same", "same", "same"))
    result = command(tmp_path, *only(*BKLD))
    assert "3 measures on 6 sites; no families known, name them with --families" in result.output


def test_faults_are_told_in_one_line(prints: Path, sites: list[str], tmp_path: Path) -> None:
    def families(*rows: Sequence[str]) -> str:
        path = write_csv(tmp_path / "f.csv", *rows)
        return error(prints, "--families", path).removeprefix(str(path))

    head, of = ["site", "family"], [[site, "one"] for site in sites]
    assert families(["name", "family"]) == ": no column 'site': the header is site,family"
    assert families(head, ["zebra", "x"]) == (
        f": no site is called 'zebra': known are {', '.join(sites)}"
    )
    assert families(head, *of[1:]) == f": site {sites[0]} has no family: add a line for it"
    assert families(head, of[0], of[0]) == (
        f", line 3: site {sites[0]} is listed twice: name each once"
    )
    assert families(head, [sites[0], " "]) == ", line 2: no family: write site,family"
    assert families(head, *of) == (
        ": 1 families of 6 sites leave nothing to find: name at least two families, one of them "
        "with two sites"
    )
    assert error(prints, "--families", tmp_path / "none.csv").startswith(
        f"{tmp_path / 'none.csv'} cannot be read: "
    )
    strangers = write_outcomes(tmp_path / "outcomes", ["x", "y", "z"])
    assert error(prints, "--outcomes", strangers) == (
        f"--outcomes {strangers} tells no two sources apart for any site of the run "
        f"({', '.join(sites[:5])}, ...): its tasks must be named like the sites"
    )
    assert error(prints, "--plot", "x.pdf") == "--plot x.pdf: give a file that ends in .png or .svg"
    assert error(tmp_path) == (
        f"{tmp_path} holds no fingerprints: make some with fedprint fingerprint"
    )
    for site in sites[2:]:
        (prints / f"{site}.safetensors").rename(tmp_path / site)
    try:
        assert error(prints) == (
            f"{prints} holds 2 sites: measures rank sources, so compare at least three"
        )
    finally:
        for site in sites[2:]:
            (tmp_path / site).rename(prints / f"{site}.safetensors")
