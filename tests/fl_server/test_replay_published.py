"""``fedprint replay --as-published`` against the published conventions, written down once more.

Nothing of fedprint judges here: the tables are joined by pandas, and Kendall's tau is the plain sum
over all pairs.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from fl_server import replay_commands

DEV = Path(__file__).parents[2] / "benchmarks" / "replay" / "dev"
SETUP = ["scenario", "metric", "target", "repetition"]
DISTANCES = sorted(path.stem for path in (DEV / "distances").glob("*.csv"))


def replayed(folder: Path, *flags: str) -> pd.DataFrame:
    """Return the rows of the full protocol: mean of every measure by selector, scenario, metric."""
    app = typer.Typer()
    replay_commands.register(app)
    out = folder / "replay.json"
    args = ["--data", str(DEV), "--protocol", "full", "--json", str(out), *flags]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    rows = pd.DataFrame(json.loads(out.read_text())["rows"])
    return rows.set_index(["selector", "scenario", "metric"])


def transfers() -> pd.DataFrame:
    """Return every recorded transfer with the baseline of its target and repetition."""
    tasks = pd.read_csv(DEV / "tasks.csv").rename(columns={"shrunk_as_target": "shrunk"})
    outcomes = pd.read_csv(DEV / "outcomes.csv.gz")
    outcomes = outcomes.merge(tasks[["task", "shrunk"]], left_on="target", right_on="task")
    baselines = pd.read_csv(DEV / "baselines.csv").rename(columns={"performance": "baseline"})
    joined = outcomes.merge(baselines, on=["metric", "target", "repetition", "shrunk"], how="left")
    assert len(joined) == len(outcomes) == joined["baseline"].count()
    return joined


def weighted_tau(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Kendall's tau, a pair weighing 1 / rank of the one + 1 / rank of the other.

    Ranks are those of the greater x, equals by y, and of the greater y, equals by x: the mean of
    the two is the result (Vigna, *A weighted correlation index for rankings with ties*, 2015).
    """
    dx, dy = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    taus = []
    for first, second in ((x, y), (y, x)):
        rank = np.argsort(np.lexsort((second, first))[::-1]) + 1.0
        weight = 1 / rank[:, None] + 1 / rank
        square = (weight * dx**2).sum() * (weight * dy**2).sum()
        taus.append((weight * dx * dy).sum() / np.sqrt(square) if square else np.nan)
    return float(np.mean(taus))


def conventions(setup: pd.DataFrame) -> pd.Series:
    """Judge one target's sources, nearest first, in one scenario, metric and repetition."""
    setup = setup.sort_values("distance")
    performance, first = setup["performance"], setup["performance"].iloc[0]
    share = performance.rank(pct=True)
    gained = performance > setup["baseline"]
    regret = 1.0 if first == 1 else (performance.max() - first) / (1 - first)
    return pd.Series(
        {
            "percentile1": share.iloc[0],
            "percentile3": share.head(3).mean(),
            **{f"gain{k}": float(gained.head(k).any()) for k in (1, 3, 5)},
            "improvement1": first - setup["baseline"].iloc[0],
            "regret1": regret,
            "weightedtau": weighted_tau(-setup["distance"].to_numpy(), performance.to_numpy()),
        }
    )


def judged(outcomes: pd.DataFrame, distance: str) -> pd.DataFrame:
    """Return the mean of every measure over repetitions and targets, by scenario and metric."""
    table = pd.read_csv(DEV / "distances" / f"{distance}.csv", index_col=0)
    table = table.rename_axis("source").reset_index()
    long = table.melt("source", var_name="target", value_name="distance")
    setups = outcomes.merge(long, on=["source", "target"]).groupby(SETUP)
    rows = pd.DataFrame({name: conventions(setup) for name, setup in setups}).T
    rows.index.names = SETUP
    # one repetition has equal outcomes throughout and no tau: its target counts as much as others
    targets = rows.groupby(["scenario", "metric", "target"]).mean()
    return targets.groupby(["scenario", "metric"]).mean()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return replayed(tmp_path_factory.mktemp("published"), "--as-published")


@pytest.mark.parametrize("distance", DISTANCES)
def test_every_distance_is_judged_by_the_published_conventions(
    published: pd.DataFrame, distance: str
) -> None:
    expected = judged(transfers(), distance)
    got = published.loc[distance].loc[expected.index, expected.columns]
    np.testing.assert_allclose(got.astype(float), expected, rtol=0, atol=1e-12)


def test_only_ties_and_perfect_picks_are_judged_differently(
    published: pd.DataFrame, tmp_path: Path
) -> None:
    usual = replayed(tmp_path)
    measures = [c for c in usual.columns if f"{c}_low" in usual.columns]
    change = (published[measures] - usual[measures]).loc[DISTANCES].astype(float)
    differ = set(change.columns[(change.abs() > 1e-12).any()])
    assert differ == {"percentile1", "percentile3", "regret1"}
    assert (change[["percentile1", "percentile3"]] <= 1e-12).all(axis=None)
    assert (change["regret1"] >= -1e-12).all()
