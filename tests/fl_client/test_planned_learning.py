"""Training with another architecture, augmentation or start than the run's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_networks import OTHER, SIZE, write_weights
from fixtures_sites import write_classes

from fl_client.augment import SiteImages
from fl_client.features import cached_features
from fl_client.final_model import final_folder
from fl_client.learner import Learner
from fl_client.learner_data import VIEWS
from fl_client.models import RunModels
from fl_client.policy_files import default_policy, pipeline_of
from fl_client.policy_training import DrawnViews
from fl_client.policy_views import PolicyViews
from fl_client.recipes import ordered_candidate, site_recipes
from fl_client.site import read_site
from protocol.errors import (
    BadDtype,
    BadShape,
    ConfigError,
    DigestMismatch,
    FedprintError,
    NotFinite,
    WeightsError,
)
from protocol.experiment import Policy
from protocol.model_card import WEIGHTS, named_weights
from protocol.orders import Order
from protocol.plan import Knowledge, Start
from protocol.plan_records import RecipesRequest
from protocol.sharing import BODY, HIDDEN, Arrays, Recipe, initial_adapter, initial_rows
from protocol.spec import Spec
from protocol.weights import body_of, weights_sha256

RECIPES: list[Recipe] = ["adapter", "fine-tune"]
AUGMENTED = Policy(pipeline=pipeline_of(default_policy()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("sites") / "north", {"brain": 14, "lung": 12})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def _weights_folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(weights))


@pytest.fixture
def other(weights: Path) -> Spec:
    """Return another architecture's recipe, as the site answers it."""
    return site_recipes(RecipesRequest("run-1", [OTHER], SIZE)).recipes[OTHER]


def learner(folder: Path, spec: Spec, recipe: Recipe, knowledge: Knowledge) -> Learner:
    return Learner(read_site(folder), spec, recipe, "cpu", 0, knowledge)


def order_for(learner: Learner, run_spec: Spec, **changes: object) -> Order:
    values: dict[str, object] = {
        "run": "run-1",
        "arm": "planned",
        "spec": run_spec,
        "recipe": learner.recipe,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.05,
        "seed": 3,
        "knowledge": learner.knowledge,
    }
    return Order.model_validate(values | changes)


def start_of(body: Arrays, architecture: str, **changes: object) -> Start:
    values = {"sha256": weights_sha256(body), "architecture": architecture, "sources": ["a" * 64]}
    return Start.model_validate(values | changes)


@pytest.mark.parametrize("recipe", RECIPES)
def test_another_architecture_has_its_own_width(
    folder: Path, spec: Spec, other: Spec, recipe: Recipe
) -> None:
    found = learner(folder, spec, recipe, Knowledge(architecture=other))
    assert (found.spec.backbone, found.spec.features) == (OTHER, other.features)
    assert other.features != spec.features
    body = body_of(found.start(3))
    if recipe == "adapter":
        assert body[BODY + "weight"].shape == (HIDDEN, other.features)
    else:
        assert body.keys() == found.body().keys()
    order = order_for(found, spec, arm="alone")
    scores = found.train_alone(order)
    assert all(np.isfinite(value) for value in scores.values())
    again = learner(folder, spec, recipe, Knowledge(architecture=other))
    assert again.train_alone(order) == scores

    width = HIDDEN if recipe == "adapter" else other.features
    sent = body | initial_rows(("brain", "liver"), width, 3)
    back = found.train_round(order_for(found, spec, server_round=1), sent)
    assert {n: v.shape for n, v in back.items()} == {n: v.shape for n, v in sent.items()}


def test_an_architecture_is_the_sites_own_whatever_source_the_order_names(
    folder: Path, spec: Spec, other: Spec
) -> None:
    assert other.weights.source == "site"
    stolen = other.weights.model_copy(update={"source": "file:/home/site/secret.pt"})
    ordered = other.model_copy(update={"weights": stolen})
    with pytest.raises(DigestMismatch, match=r"^the ordered recipe of test_resnet has digest "):
        learner(folder, spec, "adapter", Knowledge(architecture=ordered))
    wider = other.preprocess.model_copy(update={"mean": [0.1, 0.2, 0.3]})
    with pytest.raises(
        DigestMismatch, match=r"own [0-9a-f]{12}: order what the site answered to query\.recipes$"
    ):
        learner(
            *(folder, spec, "adapter"),
            Knowledge(architecture=other.model_copy(update={"preprocess": wider})),
        )


def test_recipes_are_answered_or_why_not(weights: Path) -> None:
    names = [OTHER, "resnet999", "resnet50./../../x", "hf-hub:evil/net"]
    found = site_recipes(RecipesRequest("run-1", names, SIZE))
    assert list(found.recipes) == [OTHER]
    assert found.missing.keys() == set(names[1:])
    assert found.missing["resnet50./../../x"] == (
        "unknown backbone 'resnet50./../../x': take a timm model"
    )
    assert found.missing["hf-hub:evil/net"].startswith("unknown backbone")
    windowed = site_recipes(RecipesRequest("run-1", [OTHER], SIZE, (-160, 240))).recipes[OTHER]
    assert windowed.preprocess.window == (-160, 240)
    assert ordered_candidate(windowed).recipe.preprocess == windowed.preprocess
    backwards = site_recipes(RecipesRequest("run-1", [OTHER], SIZE, (240, -160)))
    assert "lower end must lie below" in backwards.missing[OTHER]
    huge = site_recipes(RecipesRequest("run-1", [OTHER], 4000))
    assert huge.missing == {OTHER: "a crop of 4000 pixels is too large: at most 512"}
    quiet = site_recipes(RecipesRequest("run-1", ["resnet999"], 0), lambda _error: "no")
    assert quiet.missing == {"resnet999": "no"}


def test_nobody_makes_a_site_download_what_no_preset_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fl_client import candidates

    asked = []
    monkeypatch.setattr(candidates, "create_model", lambda name, _: asked.append(name))
    names = ["eva_giant_patch14_224.clip_ft_in1k", "resnet18.hf-hub:evil", "vit_large_patch16_224"]
    found = site_recipes(RecipesRequest("run-1", names, SIZE))
    assert found.missing == {
        name: f"nothing is downloaded for {name}, which is in no preset: put {name}.safetensors "
        "into a folder and name that in FEDPRINT_WEIGHTS"
        for name in names
    }
    assert asked == []


def test_other_weights_of_one_architecture_are_another_recipe(
    folder: Path, spec: Spec, other: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fl_client import recipes

    write_weights(tmp_path, OTHER, seed=1)
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(tmp_path))
    recipes._prepared.cache_clear()  # as in another process, or at another site
    try:
        with pytest.raises(DigestMismatch):
            learner(folder, spec, "adapter", Knowledge(architecture=other))
        monkeypatch.setenv("FEDPRINT_WEIGHTS", str(tmp_path / "nowhere"))
        monkeypatch.setattr("timm.create_model", _no_hub)
        with pytest.raises(WeightsError, match=r"^nothing is downloaded for test_resnet, which"):
            learner(folder, spec, "adapter", Knowledge(architecture=other))
    finally:
        recipes._prepared.cache_clear()


def _no_hub(*_: object, **__: object) -> None:
    raise OSError("no route to host")


def test_an_epoch_draws_one_of_plain_and_views_for_every_training_image(
    folder: Path, spec: Spec
) -> None:
    found = learner(folder, spec, "adapter", Knowledge(augmentation=AUGMENTED))
    plain, _ = cached_features(found.site, spec, "cpu")
    train, drawn = found.data.splits["train"], found.data.train
    assert isinstance(drawn, DrawnViews)
    assert (
        found.examples == len(train) == len(learner_of_the_run(folder, spec).data.splits["train"])
    )
    pairs = [(int(row), number) for number in range(VIEWS) for row in train]
    made = PolicyViews(found.site, spec, "cpu", 0).features(default_policy(), pairs)
    choices = np.stack([plain[train], *made.reshape(VIEWS, len(train), -1)])

    drawn.reseed(1)
    seen = np.zeros(1 + VIEWS, int)
    for _ in range(30):
        for place, row in enumerate(train):
            value, label = drawn[int(row)]
            same = [np.array_equal(value.numpy(), choice[place]) for choice in choices]
            assert sum(same) == 1
            seen[same.index(True)] += 1
            assert label == found.site.labels[row]
    share = seen / seen.sum()
    assert np.abs(share - 1 / 3).max() < 0.08
    for row in found.data.splits["val"]:  # what is scored is never augmented
        np.testing.assert_array_equal(found.data.evaluation[int(row)][0].numpy(), plain[row])


def learner_of_the_run(folder: Path, spec: Spec) -> Learner:
    return learner(folder, spec, "adapter", Knowledge())


@pytest.mark.parametrize("recipe", RECIPES)
def test_augmentation_changes_training_and_depends_on_nothing_that_ran_before(
    folder: Path, spec: Spec, recipe: Recipe
) -> None:
    bare = Policy(
        pipeline={"transform": {"__class_fullname__": "Compose", "p": 1, "transforms": []}}
    )
    found = learner(folder, spec, recipe, Knowledge(augmentation=AUGMENTED))
    order = order_for(found, spec)
    first = found.train_alone(order)
    model = RunModels(found.site, "run-1", "planned").load("model")
    assert found.train_alone(order) == first
    assert learner(folder, spec, recipe, found.knowledge).train_alone(order) == first
    plain = learner(folder, spec, recipe, Knowledge(augmentation=bare))
    plain.train_alone(order_for(plain, spec))
    other = RunModels(found.site, "run-1", "planned").load("model")
    assert any(not np.array_equal(model[name], other[name]) for name in model)
    if recipe == "fine-tune":
        assert isinstance(found.data.train, SiteImages)


def test_the_usual_policy_is_what_fine_tuning_does_by_itself(folder: Path, spec: Spec) -> None:
    usual, own = (
        learner(folder, spec, "fine-tune", knowledge)
        for knowledge in (Knowledge(augmentation=AUGMENTED), Knowledge())
    )
    for each in (usual, own):
        assert isinstance(each.data.train, SiteImages)
        each.data.train.reseed(4)
    for index in range(5):
        assert torch.equal(usual.data.train[index][0], own.data.train[index][0])


def test_a_policy_that_no_site_applies_is_refused(folder: Path, spec: Spec) -> None:
    step = {"__class_fullname__": "Lambda", "p": 1.0}
    odd = {"transform": {"__class_fullname__": "Compose", "p": 1, "transforms": [step]}}
    with pytest.raises(ConfigError, match=r"^the ordered augmentation: transforms\.0: "):
        learner(folder, spec, "adapter", Knowledge(augmentation=Policy(pipeline=odd)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_starts_from_the_body_that_came_along(
    folder: Path, spec: Spec, recipe: Recipe
) -> None:
    own = learner(folder, spec, recipe, Knowledge())
    body = {name: value * np.float32(0.5) for name, value in body_of(own.start(3)).items()}
    found = learner(folder, spec, recipe, Knowledge(start=start_of(body, spec.backbone)))
    given = found.require_start(body)
    still = order_for(found, spec, learning_rate=1e-30)
    found.train_alone(still, given)
    kept = RunModels(found.site, "run-1", "planned").load("model")
    for name, value in body.items():
        np.testing.assert_allclose(kept[name], value, rtol=1e-6, atol=1e-20)
    assert found.try_out(order_for(found, spec), given) != own.try_out(order_for(own, spec))


def test_a_trial_keeps_no_model(folder: Path, spec: Spec) -> None:
    found = learner_of_the_run(folder, spec)
    order = order_for(found, spec, run="trials", arm="trial-augmentation-1")
    scores = found.try_out(order)
    assert scores == found.train_alone(order_for(found, spec, run="trials", arm="alone"))
    assert not RunModels(found.site, "trials", "trial-augmentation-1").folder.exists()


def test_a_round_starts_from_the_plans_body_and_goes_on_from_any(folder: Path, spec: Spec) -> None:
    body = initial_adapter(spec.features, 9)
    found = learner(folder, spec, "adapter", Knowledge(start=start_of(body, spec.backbone)))
    rows = initial_rows(("brain", "lung"), HIDDEN, 3)
    back = found.train_round(order_for(found, spec, server_round=1), body | rows)
    found.train_round(order_for(found, spec, server_round=2), back)
    with pytest.raises(DigestMismatch, match=r"^the start has SHA-256 [0-9a-f]{12}, the order na"):
        found.train_round(order_for(found, spec, server_round=1), back)


@pytest.mark.parametrize(
    ("harm", "error", "text"),
    [
        (lambda b: b | {BODY + "bias": b[BODY + "bias"] + 1}, DigestMismatch, "send the very wei"),
        (
            lambda b: b | {BODY + "bias": np.zeros(3, np.float32)},
            BadShape,
            r"^the start's body\.bias has shape \(3,\), not \(64,\)$",
        ),
        (
            lambda b: {BODY + "weight": b[BODY + "weight"]},
            BadShape,
            r"^the start does not hold the arrays of the body: body\.bias is amiss$",
        ),
        (lambda b: b | {"head.0": np.zeros(2, np.float32)}, BadShape, "head.0 is amiss$"),
        (
            lambda b: b | {BODY + "bias": b[BODY + "bias"].astype(np.float64)},
            BadDtype,
            r"^the start's body\.bias is float64, not float32$",
        ),
        (
            lambda b: b | {BODY + "bias": b[BODY + "bias"] * np.float32("nan")},
            NotFinite,
            r"^the start's body\.bias holds NaN or infinite values$",
        ),
    ],
)
def test_a_start_that_is_not_what_was_ordered(
    folder: Path, spec: Spec, harm: object, error: type[FedprintError], text: str
) -> None:
    body = initial_adapter(spec.features, 9)
    found = learner(folder, spec, "adapter", Knowledge(start=start_of(body, spec.backbone)))
    assert callable(harm)
    with pytest.raises(error, match=text):
        found.require_start(harm(body))


def test_a_start_of_another_network_is_refused(folder: Path, spec: Spec, other: Spec) -> None:
    body = initial_adapter(spec.features, 9)
    start = start_of(body, spec.backbone)
    found = learner(folder, spec, "adapter", Knowledge(architecture=other, start=start))
    with pytest.raises(
        BadShape, match=r"^the start is of 'resnet10t', the order trains 'test_resnet'$"
    ):
        found.require_start(body)


def test_the_planned_model_takes_the_place_of_the_one_kept_so_far(folder: Path, spec: Spec) -> None:
    found, run = learner_of_the_run(folder, spec), "choice"
    for arm in ("alone", "grouped", "planned"):
        found.train_alone(order_for(found, spec, run=run, arm=arm, epochs=1))
    models = {arm: RunModels(found.site, run, arm) for arm in ("alone", "grouped", "planned")}
    scores = models["alone"].load_scores()
    assert scores is not None
    for number, arm in enumerate(models):
        named = models[arm].load("model")
        models[arm].save("model", {k: v + np.float32(number) for k, v in named.items()})

    def kept() -> str:
        chosen = (final_folder(found.site, run) / WEIGHTS).read_bytes()
        return next(
            arm
            for arm, model in models.items()
            if named_weights(model.load("model"), found.classes, "adapter")[0] == chosen
        )

    for before in ("alone", "grouped"):
        for accuracy, expected in ((2.0, "planned"), (-1.0, before)):
            models["planned"].save_scores({**scores, "val_auroc": accuracy})
            order = order_for(found, spec, run=run, guard_against=before)
            assert found.decide(order, before) is (expected == "planned")
            assert kept() == expected
