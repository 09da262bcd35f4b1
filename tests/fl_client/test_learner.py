"""A site's part in co-training, on a small real folder, under both recipes."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_sites import projected, write_classes, write_manifest

from fl_client.backbone import load_backbone
from fl_client.final_model import final_folder
from fl_client.learner import Learner
from fl_client.models import RunModels
from fl_client.site import read_site
from protocol.errors import DataError
from protocol.model_card import WEIGHTS, named_weights
from protocol.orders import Order
from protocol.sharing import BODY, HIDDEN, Arrays, Recipe, initial_adapter, initial_rows, row_name
from protocol.spec import Spec

RECIPES: list[Recipe] = ["adapter", "fine-tune"]
SHARED = ("brain", "liver", "lung")  # the site holds no liver, and nobody else a kidney


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a site of 36 small images."""
    counts = {"brain": 14, "kidney": 12, "lung": 10}
    return write_classes(tmp_path_factory.mktemp("sites") / "north", counts)


@pytest.fixture(scope="module", params=RECIPES)
def learner(request: pytest.FixtureRequest, folder: Path, spec: Spec) -> Learner:
    """Return a learner of each recipe."""
    return Learner(read_site(folder), spec, request.param, "cpu", 0)


def order_for(learner: Learner, **changes: object) -> Order:
    """Return an order of one epoch."""
    values = {
        "run": "run-1",
        "arm": "grouped",
        "spec": learner.spec,
        "recipe": learner.recipe,
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.05,
        "seed": 3,
    }
    return Order.model_validate(values | changes)


def sent_to(learner: Learner) -> Arrays:
    """Return what the coordinator sends in round 1."""
    if learner.recipe == "adapter":
        return initial_adapter(learner.spec.features, 3) | initial_rows(SHARED, HIDDEN, 3)
    return learner.body() | initial_rows(SHARED, learner.spec.features, 3)


def named(learner: Learner, models: RunModels) -> bytes:
    """Return a model's file under the names that others know."""
    return named_weights(models.load("model"), learner.classes, learner.recipe)[0]


def final_model(learner: Learner, run: str) -> bytes:
    """Return the file of the model that the site keeps of a run."""
    return (final_folder(learner.site, run) / WEIGHTS).read_bytes()


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_does_not_see_the_projection(folder: Path, spec: Spec, recipe: Recipe) -> None:
    plain, projecting = (
        Learner(read_site(folder), chosen, recipe, "cpu", 0) for chosen in (spec, projected(spec))
    )
    first, second = (learner.start(3) for learner in (plain, projecting))
    assert {name: value.shape for name, value in first.items()} == {
        name: value.shape for name, value in second.items()
    }
    order = order_for(projecting, arm="alone", run="run-p")
    assert "test_balanced_accuracy" in projecting.train_alone(order)
    assert projecting.examples == plain.examples


def test_a_round(learner: Learner) -> None:
    sent = sent_to(learner)
    before = {name: value.copy() for name, value in sent.items()}
    back = learner.train_round(order_for(learner, arm="plain", server_round=1), sent)

    assert list(back) == list(sent)  # the DP wrappers pair arrays by their order
    assert all(np.array_equal(before[name], sent[name]) for name in sent)
    assert {name: v.shape for name, v in back.items()} == {n: v.shape for n, v in sent.items()}
    np.testing.assert_array_equal(back[row_name("liver")], sent[row_name("liver")])
    moved = {name for name in sent if not np.array_equal(back[name], sent[name])}
    assert {row_name("brain"), row_name("lung")} <= moved
    assert any(name.startswith(BODY) for name in moved)

    private = RunModels(learner.site, "run-1", "plain")
    assert set(private.load_private(0)) == {row_name("kidney")}
    assert row_name("kidney") not in back
    files = [path for path in private.folder.iterdir() if path.is_file()]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)

    factors = {row_name("brain"): 3.0, row_name("liver"): 7.0}
    scaled_order = order_for(learner, arm="scaled", server_round=1, factors=factors)
    scaled = learner.train_round(scaled_order, sent)
    for name, value in back.items():
        update = (value - sent[name]) * factors.get(name, 1.0)
        np.testing.assert_allclose(scaled[name], sent[name] + update, atol=1e-5, rtol=1e-4)


def test_private_rows_go_on_from_round_to_round_and_start_anew_in_the_first(
    learner: Learner,
) -> None:
    sent, name, run = sent_to(learner), row_name("kidney"), f"rounds-{learner.recipe}"
    models = RunModels(learner.site, run, "grouped")
    start = initial_rows(["kidney"], sent[row_name("lung")].size - 1, 3)[name]

    learner.train_round(order_for(learner, run=run, server_round=1), sent)
    first = models.load_private(0)[name]
    assert not np.array_equal(first, start)
    # another round at no speed: what was kept is taken up and kept again
    still = order_for(learner, run=run, server_round=2, learning_rate=1e-30)
    learner.train_round(still, sent)
    np.testing.assert_array_equal(models.load_private(0)[name], first)
    learner.finish(order_for(learner, run=run), sent)
    np.testing.assert_array_equal(models.load("model")[name], first)
    again = order_for(learner, run=run, server_round=1)
    learner.train_round(again, sent)
    np.testing.assert_array_equal(models.load_private(2)[name], first)


def test_a_round_that_is_redone_starts_from_the_same_private_rows(learner: Learner) -> None:
    sent = sent_to(learner)
    learner.train_round(order_for(learner, arm="redone", server_round=1), sent)
    second = order_for(learner, arm="redone", server_round=2)
    once, twice = learner.train_round(second, sent), learner.train_round(second, sent)
    assert all(np.array_equal(once[name], twice[name]) for name in once)


def test_rounds_interrupted_on_either_side_end_as_if_nothing_had_happened(
    learner: Learner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, name = sent_to(learner), row_name("kidney")

    def orders(arm: str) -> list[Order]:
        return [order_for(learner, arm=arm, server_round=number) for number in (1, 2, 3)]

    def final(arm: str) -> Arrays:
        return RunModels(learner.site, "run-1", arm).load_private(0)

    expected = [learner.train_round(order, sent) for order in orders("whole")]

    def killed(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    first, second, third = orders("broken")
    learner.train_round(first, sent)
    for place in ("fl_client.learner.fit", "fl_client.models.RunModels.save_private"):
        with monkeypatch.context() as patch:  # the site dies while it trains, then when it keeps
            patch.setattr(place, killed)
            with pytest.raises(KeyboardInterrupt):
                learner.train_round(second, sent)
    restarted = Learner(read_site(folder), learner.spec, learner.recipe, "cpu", 0)
    restarted.train_round(second, sent)
    restarted.train_round(third, sent)
    # the coordinator dies with the replies to rounds 2 and 3, and asks again
    again = [restarted.train_round(order, sent) for order in (second, third)]
    for found, whole in zip(again, expected[1:], strict=True):
        assert all(np.array_equal(found[key], whole[key]) for key in whole)
    np.testing.assert_array_equal(final("broken")[name], final("whole")[name])


def test_training_alone_scores_and_keeps_a_model_that_does_not_depend_on_what_ran_before(
    learner: Learner, folder: Path
) -> None:
    order = order_for(learner, arm="alone", epochs=2)
    scores = learner.train_alone(order)
    splits = ("val", "test")
    metrics = ("balanced_accuracy", "auroc", "loss")
    assert list(scores) == [f"{split}_{metric}" for split in splits for metric in metrics]
    assert all(np.isfinite(value) for value in scores.values())
    models = RunModels(learner.site, "run-1", "alone")
    assert models.load_scores() == scores
    kept = models.load("model")
    assert {row_name(key) for key in ("brain", "kidney", "lung")} <= kept.keys()

    assert learner.train_alone(order) == scores
    fresh = Learner(read_site(folder), learner.spec, learner.recipe, "cpu", 0)
    assert fresh.train_alone(order) == scores
    assert all(np.array_equal(kept[name], v) for name, v in models.load("model").items())


def test_who_joins_starts_from_the_groups_model_and_its_own_rows(learner: Learner) -> None:
    run = f"join-{learner.recipe}"
    group = sent_to(learner)
    group = {name: value * np.float32(1.01) for name, value in group.items()}
    del group[row_name("lung")]  # held by this site, but not shared by the group
    before = {name: value.copy() for name, value in group.items()}
    still = order_for(learner, run=run, learning_rate=1e-30)
    scores = learner.train_join(still, group)
    models = RunModels(learner.site, run, "grouped")
    assert models.load_scores() == scores
    kept, start = models.load("model"), learner.start(3)
    for name, value in kept.items():
        expected = group.get(name, start[name])
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-20)
    assert row_name("liver") not in kept
    assert all(np.array_equal(before[name], group[name]) for name in before)

    learner.train_alone(order_for(learner, run=run, arm="alone", epochs=2))
    order = order_for(learner, run=run, epochs=2, guard_against="alone")
    first = learner.train_join(order, group)
    assert learner.train_join(order, group) == first  # whatever was kept before
    moved = models.load("model")
    assert not np.array_equal(moved[row_name("lung")], kept[row_name("lung")])
    chosen = models if learner.decide(order, "alone") else RunModels(learner.site, run, "alone")
    assert final_model(learner, run) == named(learner, chosen)


def test_the_site_keeps_the_better_model(learner: Learner) -> None:
    sent, run = sent_to(learner), f"guard-{learner.recipe}"
    local, group = (RunModels(learner.site, run, arm) for arm in ("alone", "grouped"))
    order = order_for(learner, run=run)
    with pytest.raises(DataError, match=r"^site north has not trained both models to choose from$"):
        learner.decide(order, "alone")
    learner.train_alone(order_for(learner, run=run, arm="alone"))
    assert final_model(learner, run) == named(learner, local)
    scores = learner.finish(order, sent)
    assert group.load_scores() == scores
    for accuracy, kept, expected in ((2.0, group, True), (-1.0, local, False)):
        group.save_scores({**scores, "val_auroc": accuracy})
        assert learner.decide(order, "alone") is expected
        assert final_model(learner, run) == named(learner, kept)


def test_the_group_starts_where_a_site_alone_starts(learner: Learner) -> None:
    start, sent = learner.start(3), sent_to(learner)
    for name in start.keys() & sent.keys():
        np.testing.assert_array_equal(start[name], sent[name])
    assert start.keys() - sent.keys() == {row_name("kidney")}


def test_the_weight_of_a_site_is_its_training_images(learner: Learner) -> None:
    assert learner.examples == len(learner.data.splits["train"])
    assert 18 <= learner.examples <= 24


def test_fine_tuning_starts_from_the_pretrained_backbone(folder: Path, spec: Spec) -> None:
    body = Learner(read_site(folder), spec, "fine-tune", "cpu", 0).body()
    pretrained = dict(load_backbone(spec).named_parameters())
    assert body.keys() == {BODY + name for name in pretrained}
    for name, value in pretrained.items():
        np.testing.assert_array_equal(body[BODY + name], value.detach().numpy())
    assert all(value.flags.c_contiguous for value in body.values())


def test_a_finetuned_model_sees_the_statistics_of_the_pretrained_one(
    folder: Path, spec: Spec
) -> None:
    learner = Learner(read_site(folder), spec, "fine-tune", "cpu", 0)
    model = learner._trained(order_for(learner, learning_rate=0.01), learner.start(3))
    for name, value in load_backbone(spec).named_buffers():
        assert torch.equal(dict(model.body.named_buffers())[name], value)


@pytest.mark.parametrize("rate", [-1.0, -0.5])
def test_a_negative_rate_asks_the_finder(folder: Path, spec: Spec, rate: float) -> None:
    learner = Learner(read_site(folder), spec, "adapter", "cpu", 0)
    model = learner._trained(order_for(learner, learning_rate=rate), learner.start(3))
    assert 1e-3 <= model.lr <= 1.0
    assert model.lr != 0.1


def test_a_rate_of_zero_takes_the_recipes_own(folder: Path, spec: Spec) -> None:
    learner = Learner(read_site(folder), spec, "adapter", "cpu", 0)
    assert learner._model(order_for(learner, learning_rate=0)).lr == 0.1


def test_one_class_is_not_enough(tmp_path: Path, spec: Spec) -> None:
    site = read_site(write_classes(tmp_path / "east", {"brain": 4}))
    with pytest.raises(
        DataError, match=r"^site east holds one class only: training needs at least two$"
    ):
        Learner(site, spec, "adapter", "cpu", 0)


def test_two_classes_of_one_meaning_are_refused(tmp_path: Path, spec: Spec) -> None:
    site = read_site(write_classes(tmp_path / "east", {"Brain": 4, "brain": 4, "lung": 4}))
    expected = (
        r"^site east has several classes that mean 'brain': merge them, "
        r"or give them other names or codes$"
    )
    with pytest.raises(DataError, match=expected):
        Learner(site, spec, "adapter", "cpu", 0)


def test_a_site_without_training_images_is_refused(tmp_path: Path, spec: Spec) -> None:
    rows = [f"{n}.png,{'ab'[n % 2]},p{n},{'test' if n < 4 else 'val'}" for n in range(8)]
    folder = write_manifest(tmp_path / "east", rows, "path,label,subject_id,split")
    with pytest.raises(
        DataError, match=r"^site east has no training images: correct its split column$"
    ):
        Learner(read_site(folder), spec, "adapter", "cpu", 0)
