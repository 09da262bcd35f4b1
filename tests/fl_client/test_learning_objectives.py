"""Training where an image has several labels or a grade, under both recipes, and what refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_asking import ask, config_for
from flwr.supercore.task_identity import TaskIdentity

from fl_client.adaptation import Adaptation, Budget
from fl_client.audit import counted_images
from fl_client.describe import describe
from fl_client.descriptor_gate import may_leave
from fl_client.learner import Learner
from fl_client.learner_data import learner_data
from fl_client.policy import Policy
from fl_client.policy_files import default_policy, pipeline_of
from fl_client.policy_search import search_policy
from fl_client.site import Site, read_site
from fl_client.training import evaluate
from fl_client.trials import Trials
from protocol.errors import DataError, PolicyError
from protocol.experiment import Policy as OrderedPolicy
from protocol.orders import Order
from protocol.privacy import AskedTerms
from protocol.records import refusal
from protocol.sharing import HIDDEN, Recipe, initial_adapter, initial_rows
from protocol.spec import Spec, load_spec
from tests.objectives import LABELS, write_graded, write_several

OWN = {"multilabel": {"average_precision"}, "ordinal": {"quadratic_kappa", "grade_error"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objectives")
    write_several(folder / "multilabel", 0, 40)
    write_graded(folder / "ordinal", 40, 40)
    return folder


@pytest.fixture(scope="module")
def several(root: Path) -> Site:
    return read_site(root / "multilabel")


def order(spec: Spec, recipe: Recipe, **changes: object) -> Order:
    values = {"run": "r", "arm": "grouped", "spec": spec, "recipe": recipe, "epochs": 1}
    rest = {"batch_size": 8, "learning_rate": 0.05, "seed": 3}
    return Order.model_validate(values | rest | changes)


@pytest.mark.parametrize("recipe", ["adapter", "fine-tune"])
@pytest.mark.parametrize("objective", ["multilabel", "ordinal"])
def test_alone_and_a_round(root: Path, spec: Spec, objective: str, recipe: Recipe) -> None:
    learner = Learner(read_site(root / objective), spec, recipe, "cpu", 0)
    scores = learner.train_alone(order(spec, recipe, arm="alone"))
    assert {name.removeprefix("test_") for name in scores if name.startswith("test_")} == (
        {"balanced_accuracy", "auroc", "loss"} | OWN[objective]
    )
    assert all(np.isfinite(value) for value in scores.values())
    shared = learner.classes[:2]
    width = HIDDEN if recipe == "adapter" else spec.features
    body = initial_adapter(spec.features, 3) if recipe == "adapter" else learner.body()
    sent = body | initial_rows(shared, width, 3)
    back = learner.train_round(order(spec, recipe, server_round=1), sent)
    assert back.keys() == sent.keys()
    assert all((back[name] != sent[name]).any() for name in initial_rows(shared, width, 3))
    judged = learner.finish(order(spec, recipe), back)
    assert judged.keys() == scores.keys()


def test_labels_are_learnt_each_by_itself(several: Site) -> None:
    """Real features of digits: every label is told well above chance, loops best of all."""
    learner = Learner(several, load_spec("lite0-100"), "adapter", "cpu", 0)
    model = learner._trained(order(learner.spec, "adapter", epochs=60), learner.start(0))
    held = replace(learner.data, splits={"all": np.arange(40)})
    scores = evaluate(model, held, "all")
    assert scores["auroc"] > 0.9
    assert scores["average_precision"] > 0.9
    with torch.inference_mode():
        features = learner.data.evaluation.tensors[0]  # type: ignore[attr-defined]
        logits = model.cpu()(features).numpy()
    # several labels at once, and none: no softmax would say so
    assert set((logits > 0).sum(axis=1)) >= {0, 1, 2}
    assert logits.shape == (40, len(LABELS))


def test_augmented_features_have_the_labels_of_their_images(several: Site, spec: Spec) -> None:
    policy = OrderedPolicy(pipeline=pipeline_of(default_policy()))
    data = learner_data(several, spec, "adapter", policy, ("a", "b", "c"), 0, "cpu")
    row = int(data.splits["train"][3])
    assert data.train[row][1].tolist() == several.targets[row].tolist()


def test_what_needs_one_class_an_image_says_so(several: Site, spec: Spec) -> None:
    def says(what: str) -> str:
        return (
            f"{what} needs one class an image, which only the objectives classification and "
            "ordinal have: that of site multilabel is multilabel"
        )

    for kind in ("class-moments", "fisher", "features"):
        with pytest.raises(DataError, match=says(kind)):
            describe(several, spec, kind, "cpu")
        policy = Policy(name="p", specs=["*"], descriptors=[kind], automatic=True, release="plain")
        with pytest.raises(PolicyError) as caught:
            may_leave(policy, kind, spec, several, AskedTerms(mode="plain"), simulated=True)
        assert (caught.value.reason, str(caught.value)) == (
            "other-objective",
            f"p: {kind} of site multilabel would need one class an image: its task is multilabel",
        )
    assert describe(several, spec, "moments", "cpu")
    with pytest.raises(DataError, match=says("adapting models of others")):
        Adaptation(several, spec, Budget(), "cpu")
    with pytest.raises(DataError, match=says("a search for architectures")):
        Trials(several, [], [], torch.device("cpu"))
    with pytest.raises(DataError, match=says("a search for augmentation policies")):
        search_policy(several, spec, budget=100)


def test_scores_of_models_are_refused(root: Path, spec: Spec) -> None:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    own = "site multilabel has no part in scores of models: these need one class an image, and"
    answer = ask(root / "multilabel", "query.model", config_for(spec, arm="alone"))
    assert refusal(answer) == ("other-objective", f"{own} its task is multilabel")


def test_an_audit_takes_equal_labels_for_one_class(several: Site, spec: Spec) -> None:
    counted = counted_images(several, np.zeros((40, 4), np.float32), 0)
    kinds = {tuple(row) for row in several.targets.tolist()}
    assert len(np.unique(counted.labels)) == len(kinds)
    for label in np.unique(counted.labels):
        assert len(np.unique(several.targets[counted.labels == label], axis=0)) == 1
