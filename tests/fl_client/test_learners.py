"""Learners kept between messages: as if made anew each time, never stale, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_asking import ask, config_for
from fixtures_sites import picture, write_classes, write_manifest
from flwr.app import MessageType
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image

from fl_client import client_app, learner
from fl_client.backbone import load_backbone
from fl_client.learner import Learner, pretrained
from fl_client.learners import Learners
from fl_client.site import Site, read_site
from protocol.orders import Order
from protocol.sharing import BODY, HIDDEN, Arrays, Recipe, initial_adapter, initial_rows
from protocol.spec import Spec


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    """Give this process the identity that Flower gives to a task."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    client_app._learners.clear()
    yield
    client_app._learners.clear()


def trained(folder: Path, spec: Spec, recipe: Recipe, *, forget: bool) -> list[object]:
    """Return what three rounds and an evaluation answer, with one process a message or one."""
    if recipe == "adapter":
        arrays = initial_adapter(spec.features, 0) | initial_rows(["brain"], HIDDEN, 0)
    else:
        body = {BODY + n: p.detach().numpy() for n, p in load_backbone(spec).named_parameters()}
        arrays = body | initial_rows(["brain"], spec.features, 0)
    answers: list[object] = []
    for number in (1, 2, 3, 0):
        if forget:
            client_app._learners.clear()
            learner._backbones.clear()
        kind = MessageType.TRAIN if number else MessageType.EVALUATE
        config = config_for(spec, recipe=recipe, run=f"forgets-{forget}", server_round=number)
        answer = ask(folder, kind, config, arrays)
        answers.append(dict(answer.metric_records["metrics"]))
        if number:
            record = answer.array_records["arrays"]
            arrays = {name: array.numpy() for name, array in record.items()}
            answers += [(name, value.tobytes()) for name, value in arrays.items()]
    return answers


@pytest.mark.parametrize("recipe", ["adapter", "fine-tune"])
def test_a_kept_learner_answers_as_a_new_one(tmp_path: Path, spec: Spec, recipe: Recipe) -> None:
    folder = write_classes(tmp_path / "north", {"brain": 12, "lung": 10})
    first = trained(folder, spec, recipe, forget=True)
    assert trained(folder, spec, recipe, forget=False) == first
    assert len(list(client_app._learners)) == 1


def learner_of(folder: Path, spec: Spec, **changes: object) -> Learner:
    """Return the learner with which a process answers an order now."""
    ask(folder, "train.alone", config_for(spec, **changes))
    return list(client_app._learners)[-1]


def test_a_learner_is_kept_until_what_it_learns_from_changes(tmp_path: Path, spec: Spec) -> None:
    folder = write_classes(tmp_path / "north", {"brain": 12, "lung": 10})
    first = learner_of(folder, spec)
    assert learner_of(folder, spec, run="run-2", arm="alone") is first

    image = folder / "brain" / "003.png"
    Image.fromarray(picture(77)).save(image)  # other bytes under the same name
    second = learner_of(folder, spec)
    assert second is not first
    fresh = Learner(read_site(folder), spec, "adapter", "cpu", 0)
    rows = np.arange(22)
    for items in (second.data.train, fresh.data.train):
        assert not torch.equal(items[3][0], first.data.train[3][0])
    assert all(torch.equal(second.data.train[n][0], fresh.data.train[n][0]) for n in rows)

    Image.fromarray(picture(78)).save(folder / "lung" / "x.png")
    assert len(learner_of(folder, spec).data.labels) == 23
    (folder / "lung" / "x.png").unlink()
    assert len(learner_of(folder, spec).data.labels) == 22
    assert learner_of(folder, spec, seed=9) is not learner_of(folder, spec)


def test_other_labels_of_the_same_images_make_another_learner(tmp_path: Path, spec: Spec) -> None:
    rows = [f"{n:02}.png,{'ab'[n % 2]},p{n}" for n in range(16)]
    folder = write_manifest(tmp_path / "east", rows)
    first = learner_of(folder, spec)
    turned = [f"{n:02}.png,{'ba'[n % 2]},p{n}" for n in range(16)]
    (folder / "labels.csv").write_text("\n".join(["path,label,subject_id", *turned, ""]))
    second = learner_of(folder, spec)
    assert second.data.labels.tolist() == (1 - first.data.labels).tolist()


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, spec: Spec) -> None:
    sites = [
        read_site(write_classes(tmp_path / name, {"brain": 6, "lung": 6}, seed=50 * number))
        for number, name in enumerate("abc")
    ]
    order = Order.model_validate(
        {"run": "r", "arm": "a", "spec": spec, "recipe": "adapter", "epochs": 1}
        | {"batch_size": 8, "learning_rate": 0.0, "seed": 0}
    )
    each = 12 * 4 * spec.features
    made: list[str] = []

    def of(kept: Learners, site: Site) -> Learner:
        def make() -> Learner:
            made.append(site.name)
            return Learner(site, spec, "adapter", "cpu", 0)

        return kept.of(site, order, "cpu", make)

    kept = Learners(most_bytes=2 * each)
    a, b, c = (of(kept, site) for site in sites)
    assert a.bytes == each
    assert list(kept) == [b, c]
    assert of(kept, sites[1]) is b
    of(kept, sites[0])
    assert [learner.site.name for learner in kept] == ["b", "a"]
    assert made == ["a", "b", "c", "a"]
    small = Learners(most_bytes=1)  # the one in use stays
    of(small, sites[0])
    of(small, sites[1])
    assert [learner.site.name for learner in small] == ["b"]


def test_training_one_copy_of_a_backbone_changes_no_other(spec: Spec) -> None:
    def values(model: torch.nn.Module) -> Arrays:
        return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}

    expected = values(load_backbone(spec))
    first = pretrained(spec)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    again = values(pretrained(spec))
    assert again.keys() == expected.keys()
    assert all(np.array_equal(again[name], expected[name]) for name in expected)


def test_a_backbone_without_a_digest_is_loaded_anew(
    spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(wanted: Spec) -> torch.nn.Module:
        loaded.append(wanted.digest)
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(learner, "load_backbone", load)
    monkeypatch.setattr(learner, "_backbones", {})
    recipe = spec.model_copy(update={"weights": spec.weights.model_copy(update={"sha256": None})})
    for wanted in (spec, spec, recipe, recipe):
        pretrained(wanted)
    assert loaded == [spec.digest, recipe.digest, recipe.digest]
