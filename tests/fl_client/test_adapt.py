"""Adapting models of other tasks to a small real site: ways, budget, files, command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import typer
from fixtures_sites import picture, projected, write_classes
from PIL import Image
from typer.testing import CliRunner

from fl_client import adaptation as ways_module
from fl_client.adapt_command import add
from fl_client.adaptation import Adaptation, Budget, Trained
from fl_client.adaptation_result import Adapted, Row
from fl_client.features import cached_features
from fl_client.learner import Learner
from fl_client.otce_tuning import Labelled
from fl_client.site import Site, read_site
from fl_client.source_models import SourceModel, adapter_of, read_model, read_models
from fl_client.source_moments import read_class_moments
from fl_client.splits import split_site
from protocol.descriptor_files import to_bytes
from protocol.descriptors import ClassMoments
from protocol.errors import ConfigError, DataError, NotFinite
from protocol.sharing import BODY, HIDDEN, initial_adapter, initial_rows
from protocol.spec import Spec

BUDGET = Budget(epochs=8, batch_size=8)


def make_site(folder: Path, seed: int) -> Site:
    """Write a site whose classes are pictures of three brightnesses."""
    levels = {"bright": 150, "dark": 0, "middle": 70}
    write_classes(folder, dict.fromkeys(levels, 12), seed)
    for label, level in levels.items():
        for number, path in enumerate(sorted((folder / label).iterdir())):
            pixels = level + picture(seed + number + level) * 0.4
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return read_site(folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("sites") / "north", 0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("sites") / "south"
    return read_site(write_classes(folder, {"a": 12, "b": 12, "c": 12}, 500))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, spec: Spec) -> list[Path]:
    """Return a model as run folders hold them, body and head rows, and one as pools do, a body."""
    folder = tmp_path_factory.mktemp("models")
    body, rows = initial_adapter(spec.features, 1), initial_rows(["x", "y"], HIDDEN, 1)
    safetensors.numpy.save_file(body | rows, folder / "model-1.safetensors")
    body, about = initial_adapter(spec.features, 2), {"fedprint": "{}"}
    safetensors.numpy.save_file(body, folder / "model-2.safetensors", about)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def moments(source: Site, spec: Spec, models: list[Path]) -> Path:
    """Return the source's class moments as a file."""
    features = cached_features(source, spec, "cpu")[0]
    parts = [features[source.labels == label] for label in range(3)]
    released = ClassMoments(
        np.array([len(part) for part in parts]),
        np.stack([part.mean(axis=0) for part in parts]).astype(np.float64),
        np.stack([part.var(axis=0, ddof=1) for part in parts]).astype(np.float64),
    )
    path = models[0].parent.parent / "south.class-moments.safetensors"
    path.write_bytes(to_bytes(released))
    return path


@pytest.fixture(scope="module")
def adaptation(site: Site, spec: Spec) -> Adaptation:
    return Adaptation(site, spec, BUDGET, "cpu")


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the epochs of each training."""
    spent: list[int] = []
    real = ways_module.fit

    def counting(*args: object, epochs: int, **more: object) -> None:
        spent.append(epochs)
        real(*args, epochs=epochs, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ways_module, "fit", counting)
    return spent


def test_every_way_has_the_same_budget_and_says_its_scores(
    adaptation: Adaptation,
    spec: Spec,
    models: list[Path],
    moments: Path,
    epochs: list[int],
) -> None:
    given = read_models(models, spec.features)
    released = read_class_moments(moments, spec.width)
    tuned, course = adaptation.otce(given[0], released)
    every = [
        adaptation.scratch(),
        adaptation.head(given[0]),
        adaptation.fine_tune(given[0]),
        adaptation.fusion(given, "concatenation", "logme"),
        adaptation.fusion(given, "sum", "h-score"),
        tuned,
    ]
    assert epochs == [6, 8, 8, 8, 8, 8]  # two of them were tuned with
    assert course[1] < course[0]
    names = {"balanced_accuracy", "auroc", "loss"}
    expected = {f"{split}_{name}" for split in ("val", "test") for name in names}
    assert all(set(trained.scores) == expected for trained in every)
    assert all(np.isfinite(list(trained.scores.values())).all() for trained in every)


def test_ways_repeat_to_the_last_digit(adaptation: Adaptation, models: list[Path]) -> None:
    model = read_model(models[0], adaptation.spec.features)
    assert adaptation.fine_tune(model).scores == adaptation.fine_tune(model).scores
    assert adaptation.scratch().scores == adaptation.scratch().scores


def test_only_the_head_moves_where_the_body_shall_stay(
    adaptation: Adaptation, models: list[Path]
) -> None:
    model, name = read_model(models[0], adaptation.spec.features), BODY + "weight"
    np.testing.assert_array_equal(adaptation.head(model).arrays[name], model.body[name])
    assert not np.array_equal(adaptation.fine_tune(model).arrays[name], model.body[name])


def test_tuning_by_raw_features_and_by_moments_lower_the_entropy(
    adaptation: Adaptation, source: Site, spec: Spec, moments: Path
) -> None:
    rows = split_site(source, 0)["train"]
    raw = Labelled(cached_features(source, spec, "cpu")[0][rows], source.labels[rows])
    for side in (raw, read_class_moments(moments, spec.width)):
        body = adapter_of(initial_adapter(spec.features, 3))
        course = adaptation.tuned(body, side)
        assert min(course) < 0.9 * course[0]


def test_models_are_told_apart_by_their_scores(adaptation: Adaptation) -> None:
    width = adaptation.spec.features
    useful = SourceModel("useful", initial_adapter(width, 1))
    blank = {name: np.zeros_like(value) for name, value in useful.body.items()}
    for weigher in ways_module.WEIGHERS:
        fits = adaptation.fits([useful, SourceModel("blank", blank)], weigher)
        assert fits["useful"] > fits["blank"]


def test_an_own_model_beats_a_blank_one_by_the_head_alone(
    adaptation: Adaptation, site: Site, spec: Spec
) -> None:
    from protocol.orders import Order

    learner = Learner(site, spec, "adapter", "cpu", 0)
    order = Order(
        run="r", arm="alone", spec=spec, recipe="adapter", epochs=30, batch_size=8,
        learning_rate=0.1, seed=0,
    )  # fmt: skip
    trained = learner._trained(order, learner.start(0)).arrays()
    own = SourceModel("own", {n: v for n, v in trained.items() if n.startswith(BODY)})
    blank = {name: np.zeros_like(value) for name, value in own.body.items()}
    better, worse = adaptation.head(own), adaptation.head(SourceModel("blank", blank))
    assert better.scores["val_loss"] < worse.scores["val_loss"]


def refused(text: str, kind: type[Exception] = DataError) -> object:
    return pytest.raises(kind, match=f"^{re.escape(text)}$")


def test_files_of_others_are_checked(tmp_path: Path, models: list[Path], spec: Spec) -> None:
    m, path = spec.features, tmp_path / "model.safetensors"
    with refused(f"cannot read {path}: No such file or directory"):
        read_model(path, m)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"is no model \(.+\): name a safetensors file$"):
        read_model(path, m)
    end = f"; name a model of the adapter recipe on {m} features"
    good = initial_adapter(m, 0)
    cases = [
        ({BODY + "weight": good[BODY + "weight"]}, "does not hold the arrays of the body: "
         "body.bias is amiss"),
        (initial_adapter(m + 1, 0), f"'s body.weight has shape (64, {m + 1}), not (64, {m})"),
        ({n: v.astype(np.float64) for n, v in good.items()}, "'s body.weight is float64, not "
         "float32"),
        ({n: np.full_like(v, np.inf) for n, v in good.items()}, "'s body.weight holds NaN or "
         "infinite values"),
    ]  # fmt: skip
    for arrays, text in cases:
        safetensors.numpy.save_file(arrays, path)
        gap = "" if text.startswith("'") else " "
        with refused(f"{path}: the model{gap}{text}{end}"):
            read_model(path, m)
    safetensors.numpy.save_file({n: np.full_like(v, -1e30) for n, v in good.items()}, path)
    with refused(f"{path} holds weights above 1e+06: leave that model out"):
        read_model(path, m)
    twin = tmp_path / models[0].name
    twin.write_bytes(models[0].read_bytes())
    with refused("two models are called model-1: rename one of the files"):
        read_models([models[0], twin], m)


def test_moments_of_others_are_checked(tmp_path: Path, moments: Path, spec: Spec) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match=f"^cannot read {re.escape(str(path))}: No such file"):
        read_class_moments(path, spec.width)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"holds no class moments of 512 features: "):
        read_class_moments(path, spec.width)
    with pytest.raises(DataError, match=r"holds no class moments of 9 features: "):
        read_class_moments(moments, 9)


@pytest.mark.parametrize("dtype", ["BOOL", "F16", "F64", "BF16", "F8_E4M3", "C64", "U64", "none"])
def test_tensors_of_any_other_type_are_refused(tmp_path: Path, dtype: str) -> None:
    size = {"F16": 2, "BF16": 2, "F64": 8, "C64": 8, "U64": 8}.get(dtype, 1)
    data = b"\x7f\xf0" * size  # 2 values, not finite where they are floating
    header = json.dumps({"counts": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(data)]}})
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)
    for read in (read_class_moments, read_model):
        with pytest.raises(DataError, match=r"x\.safetensors") as caught:
            read(path, 512)
        assert "\n" not in str(caught.value)


def test_moments_of_projected_features_cannot_tune(
    adaptation: Adaptation, models: list[Path], spec: Spec
) -> None:
    few = ClassMoments(np.array([5, 5]), np.zeros((2, 4)), np.ones((2, 4)))
    text = (
        f"the source's class moments are of 4 features, the model's of {spec.features}: "
        "take those of a spec without a projection"
    )
    assert projected(spec).width == 4
    with refused(text, ConfigError):
        adaptation.otce(read_model(models[0], spec.features), few)
    brief = Adaptation(adaptation.learner.site, spec, Budget(epochs=3), "cpu")
    with refused("3 epochs are too few to tune: take 4", ConfigError):
        brief.otce(read_model(models[0], spec.features), few)


def test_training_that_diverges_says_so(site: Site, spec: Spec) -> None:
    wild = Adaptation(site, spec, Budget(epochs=3, learning_rate=1e30), "cpu")
    text = "what the model answers is not finite: take a smaller learning rate, or another start"
    with refused(text, NotFinite):
        wild.scratch()


def row(way: str, auroc: float, test: float) -> Row:
    scores = {"val_auroc": auroc, "val_balanced_accuracy": 0.5, "val_loss": 1.0}
    scores |= {"test_auroc": 0.5, "test_balanced_accuracy": test}
    return Row(way, ("m",), Trained(scores, {BODY + "weight": np.full((1, 1), auroc, np.float32)}))


def adapted(*rows: Row) -> Adapted:
    return Adapted("north", 8, 0, list(rows), {"m": 0.1}, "logme", "5" * 64, ("a", "b"))


def test_validation_images_choose() -> None:
    scratch, worse, better = row("scratch", 0.7, 0.6), row("head", 0.6, 0.9), row("otce", 0.8, 0.5)
    none = adapted(scratch, worse)
    assert none.best is scratch
    assert none.sentence == "no way gained over training from scratch on validation images"
    found = adapted(scratch, worse, better)
    assert found.sentence == (
        "validation images choose otce of m: balanced accuracy -0.100 on test images against "
        "scratch"
    )
    blind = adapted(scratch, row("otce", 0.8, np.nan))
    assert blind.sentence.endswith("of m; without test images nobody can tell by how much")
    assert blind.summary()["ways"][1]["test_balanced_accuracy"] is None


def test_the_best_model_is_written_with_what_it_is(tmp_path: Path) -> None:
    found = adapted(row("scratch", 0.7, 0.6), row("otce", 0.8, 0.5))
    (tmp_path / "m").write_bytes(found.model_file())
    with safetensors.safe_open(tmp_path / "m", framework="numpy") as file:
        assert json.loads(file.metadata()["fedprint"]) == {
            "spec": "5" * 64,
            "classes": ["a", "b"],
            "way": "otce",
            "models": ["m"],
        }
        assert file.get_tensor(BODY + "weight") == np.float32(0.8)


def test_command(site: Site, spec: Spec, models: list[Path], moments: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    add(app)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    out = tmp_path / "found.json"
    one = [str(site.folder), "--spec", str(tmp_path / "spec.json"), "--model", str(models[0])]
    weights = tmp_path / "best.safetensors"
    more = ["--epochs", "4", "--device", "cpu", "--json", str(out), "--out", str(weights)]
    both = [*one, "--model", str(models[1]), "--source-moments", str(moments)]
    result = CliRunner().invoke(
        app, [*both, "--source-moments", str(moments), "--all", *more], catch_exceptions=False
    )
    assert result.exit_code == 0
    told = json.loads(out.read_text())
    assert [way["way"] for way in told["ways"]] == [
        "scratch",
        *["head", "fine-tune", "otce"] * 2,
        "fusion by concatenation",
        "fusion by sum",
    ]
    assert [len(way["models"]) for way in told["ways"]] == [0, *[1] * 6, 2, 2]
    assert told["epochs"] == 4
    assert set(told["scores"]["models"]) == {"model-1", "model-2"}
    assert told["sentence"] in " ".join(result.output.split())
    best = told["ways"][told["best"]]
    assert f"{best['way']} is written to" in " ".join(result.output.split())
    assert len(safetensors.numpy.load_file(weights)) == 2 + 3  # body, one head row a class
    assert {len(w["conditional_entropy"]) for w in told["ways"] if w["way"] == "otce"} == {2}

    result = CliRunner().invoke(app, [*one, *more], catch_exceptions=False)
    assert [w["way"] for w in json.loads(out.read_text())["ways"]] == ["scratch", "fine-tune"]

    def fails(*arguments: str, because: str) -> None:
        with refused(because, ConfigError):
            CliRunner().invoke(app, [*one, *arguments], catch_exceptions=False)

    fails("--all", "--how", "head", because="--all and --how exclude each other: give one")
    fails("--how", "x", because="unknown way 'x': take head, fine-tune, otce, fusion")
    fails(
        *["--source-moments", str(moments)] * 2,
        because="2 --source-moments for 1 --model: give one a model",
    )
    fails(
        "--how", "otce",
        because="otce needs the class moments of the source: give --source-moments",
    )  # fmt: skip
    fails("--weights-by", "y", because="unknown score 'y': take logme, h-score, h-score-shrunk")
