"""Training curves at a site: read back from TensorBoard's files and MLflow's database."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from fixtures_sites import write_classes
from flwr.app import Context
from pytorch_lightning import loggers

from fl_client import node
from fl_client.check_tracking import check_tracking
from fl_client.finding import Visit
from fl_client.learner import Learner
from fl_client.site import Site, read_site
from fl_client.tracking import TrackingTable, site_tracking
from protocol.errors import ConfigError, DataError
from protocol.names import slug
from protocol.orders import Order
from protocol.sharing import HIDDEN, initial_adapter, initial_rows
from protocol.spec import Spec
from protocol.tracking import KINDS, Kind, Tracking

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("sites") / "north"
    return read_site(write_classes(folder, {"brain": 14, "lung": 10}))


def order_for(spec: Spec, **changes: object) -> Order:
    values: dict[str, object] = {"run": "7", "arm": "alone", "spec": spec, "recipe": "adapter"}
    values |= {"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "seed": 3}
    return Order.model_validate(values | changes)


def read_back(tracking: Tracking, *name: str) -> Points:
    """Return the points of every metric, as the programs that show them read them."""
    if tracking.kind == "tensorboard":
        from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

        reader = EventMultiplexer().AddRunsFromDirectory(tracking.to).Reload()
        runs = reader.Runs()
        assert set(runs) >= {slug(*name)}
        tags = runs[slug(*name)]["scalars"]
        return {t: [(e.step, e.value) for e in reader.Scalars(slug(*name), t)] for t in tags}
    from mlflow import MlflowClient

    client = MlflowClient(tracking.uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "fedprint"]
    runs = client.search_runs([experiment.experiment_id])
    [run] = [run for run in runs if run.info.run_name == slug(*name)]
    assert run.info.status == "FINISHED"
    history = {m: client.get_metric_history(run.info.run_id, m) for m in run.data.metrics}
    return {m: [(p.step, p.value) for p in points] for m, points in history.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_curves_go_on_from_round_to_round_and_change_nothing(
    kind: Kind, site: Site, spec: Spec, tmp_path: Path
) -> None:
    tracking = Tracking(kind, str(tmp_path / "curves"))
    quiet, tracked = (
        Learner(site, spec, "adapter", "cpu", 0, tracking=wanted) for wanted in (None, tracking)
    )
    alone = order_for(spec)
    assert tracked.train_alone(alone) == quiet.train_alone(alone)

    sent = initial_adapter(spec.features, 3) | initial_rows(("brain", "lung"), HIDDEN, 3)
    for number in (1, 2):
        order = order_for(spec, arm="grouped", server_round=number)
        back, same = (learner.train_round(order, sent) for learner in (tracked, quiet))
        assert all(np.array_equal(back[name], same[name]) for name in sent)
    scores = tracked.finish(order_for(spec, arm="grouped"), sent)

    of_alone = read_back(tracking, "north", "7", "alone")
    assert [step for step, _ in of_alone["train_loss"]] == [1, 2, 3]
    assert [step for step, _ in of_alone["val_auroc"]] == [3]
    of_group = read_back(tracking, "north", "7", "grouped")
    assert [step for step, _ in of_group["train_loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in of_group["val_loss"]] == [3, 6]
    assert of_group["final_test_auroc"][-1][1] == pytest.approx(scores["test_auroc"])
    losses = [loss for _, loss in of_alone["train_loss"]]
    assert losses == sorted(losses, reverse=True)  # it learnt something
    if kind == "mlflow":
        from mlflow.telemetry.utils import is_telemetry_disabled

        assert is_telemetry_disabled()  # what a site computes is nobody's business


def test_a_trial_leaves_no_curve(site: Site, spec: Spec, tmp_path: Path) -> None:
    tracking = Tracking("tensorboard", str(tmp_path / "curves"))
    Learner(site, spec, "adapter", "cpu", 0, tracking=tracking).try_out(order_for(spec, epochs=1))
    assert not (tmp_path / "curves").exists()


@pytest.mark.parametrize(
    ("told", "run_config", "wanted"),
    [
        ({}, {}, None),
        ({}, {"track": "tensorboard"}, Tracking("tensorboard", "STATE/tracking")),
        ({}, {"track": "http://coordinator.example"}, None),
        ({"logger": "mlflow"}, {"track": "tensorboard"}, Tracking("mlflow", "STATE/tracking")),
        ({"logger": "tensorboard", "to": "curves"}, {}, Tracking("tensorboard", "SITE/curves")),
        (
            {"logger": "mlflow", "to": "http://mlflow.north:5000"},
            {},
            Tracking("mlflow", "http://mlflow.north:5000"),
        ),
    ],
)
def test_where_curves_go(
    told: dict[str, str], run_config: dict[str, object], wanted: Tracking | None, site: Site
) -> None:
    found = site_tracking(site, TrackingTable.model_validate(told), run_config)
    if wanted is not None:
        to = wanted.to.replace("STATE", str(site.state)).replace("SITE", str(site.folder))
        wanted = Tracking(wanted.kind, to)
    assert found == wanted


@pytest.mark.parametrize("engine", [False, True])
def test_a_coordinator_has_no_say_at_a_deployed_site(
    engine: bool, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "simulated", lambda: engine)
    context = cast(Context, SimpleNamespace(run_config={"track": "tensorboard"}))
    found = node.node_tracking(context, site)
    assert (found is None) != engine


def test_site_toml_is_checked(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "north", {"a": 1, "b": 1})
    (folder / "site.toml").write_text('[tracking]\nlogger = "wandb"\n')
    with pytest.raises(DataError, match=r"tracking\.logger"):
        read_site(folder)


def test_a_missing_extra_is_one_line(site: Site, spec: Spec, monkeypatch: Any) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "protocol.tracking.find_spec", lambda name: None if name == "mlflow" else find(name)
    )
    learner = Learner(site, spec, "adapter", "cpu", 0, tracking=Tracking("mlflow", "x"))
    with pytest.raises(ConfigError) as caught:
        learner.train_alone(order_for(spec, epochs=1))
    assert str(caught.value) == "mlflow is not installed: run `pip install 'fedprint[mlflow]'`"


def test_a_sites_check_says_where_curves_go(tmp_path: Path, monkeypatch: Any) -> None:
    settings = SimpleNamespace(folder=tmp_path, state=tmp_path / "state")
    visit = cast(Visit, SimpleNamespace(settings=settings))
    assert list(check_tracking(visit)) == []
    (tmp_path / "site.toml").write_text('[tracking]\nlogger = "tensorboard"\n')
    [found] = check_tracking(visit)
    assert (found.state, found.found) == ("ok", f"tensorboard, {tmp_path / 'state' / 'tracking'}")
    monkeypatch.setattr("protocol.tracking.find_spec", lambda _name: None)
    [found] = check_tracking(visit)
    assert (found.state, found.reason) == ("failed", "tracking-missing")


@pytest.mark.parametrize(
    ("kind", "to", "says"),
    [
        ("tensorboard", "http://x", "TensorBoard writes into a folder, not to a URI"),
        ("tensorboard", "FILE/curves", "Not a directory"),
        ("mlflow", "FILE/curves", "Not a directory"),
        ("mlflow", "gopher://x", "gopher"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    kind: Kind, to: str, says: str, site: Site, spec: Spec, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    tracking = Tracking(kind, to.replace("FILE", str(tmp_path / "file")))
    with pytest.raises(ConfigError, match=says) as caught:
        Learner(site, spec, "adapter", "cpu", 0, tracking=tracking).train_alone(order_for(spec))
    assert str(caught.value).startswith(f"cannot track to {tracking.to} by {kind}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("nosuch://ward:p@ss:word@127.0.0.1/x", "nosuch://ward:***@127.0.0.1/x"),
        ("nosuch://:secret@host", "nosuch://:***@host"),
        ("nosuch://host:5000/a@b", "nosuch://host:5000/a@b"),
    ],
)
def test_a_password_is_not_shown(uri: str, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Tracking("mlflow", uri).open(loggers, "run")
    assert str(caught.value).startswith(f"cannot track to {shown} by mlflow: ")
    assert "word" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_name_from_elsewhere_leaves_the_folder_for_nowhere() -> None:
    names = [slug("../../etc", "x"), slug("..", "/etc/x"), slug("a", "b"), slug("a-b")]
    assert all("/" not in name and "." not in name and "'" not in name for name in names)
    assert len(set(names)) == 4
    assert "mlflow" not in sys.modules or slug("'; --") != slug("'; -- ")
