"""Fused bodies: weights by score, units taken out, and more seen than by any one body."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_client.fusion import FusedBody, Joining, fusion_weights, wide_adapter
from fl_client.model import Adapter, SiteModel
from fl_client.training import TrainData, evaluate, feature_data, fit
from protocol.errors import DataError
from protocol.sharing import BODY, row_name

CPU = torch.device("cpu")
scores = st.lists(st.floats(-100, 100), min_size=1, max_size=6)


@given(scores, st.floats(0.01, 100), st.floats(-50, 50))
def test_weights_follow_scores_and_know_no_units(
    values: list[float], scale: float, shift: float
) -> None:
    weights = fusion_weights(values)
    assert weights.sum() == pytest.approx(1)
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            assert not (one > other and weights[i] < weights[j])
    if np.std(values) > 1e-3:
        moved = fusion_weights(scale * np.array(values) + shift)
        np.testing.assert_allclose(moved, weights, atol=1e-6)


def test_weights_by_hand() -> None:
    e = np.exp(1.0)
    np.testing.assert_allclose(fusion_weights([3.0, 5.0]), [1 / (1 + e * e), e * e / (1 + e * e)])
    np.testing.assert_allclose(fusion_weights([2.0, 2.0, 2.0]), 1 / 3)


def linear(*rows: list[float]) -> torch.nn.Linear:
    layer = torch.nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def test_embeddings_are_weighted_after_their_units_are_gone() -> None:
    sample = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    bodies = [linear([1.0, 0.0]), linear([0.0, 100.0])]
    joined = FusedBody(bodies, [0.2, 0.8], sample, "concatenation")
    added = FusedBody(bodies, [0.2, 0.8], sample, "sum")
    assert (joined.width, added.width) == (2, 1)
    torch.testing.assert_close(joined(sample), torch.tensor([[0.2, 0.8]]).expand(2, 2))
    torch.testing.assert_close(added(sample), torch.tensor([[1.0]]).expand(2, 1))
    assert not any(parameter.requires_grad for parameter in joined.parameters())


def quadrants(seed: int) -> TrainData:
    """Four classes, each a quadrant of two features."""
    rng = np.random.default_rng(seed)
    labels = np.arange(400) % 4
    signs = np.stack([2 * (labels % 2) - 1, 2 * (labels // 2) - 1], axis=1)
    features = signs + 0.4 * rng.normal(size=(400, 2))
    splits = {"train": np.arange(80), "val": np.arange(80, 160), "test": np.arange(160, 400)}
    return feature_data(features.astype(np.float32), labels, list("abcd"), splits)


def scored(body: torch.nn.Module, width: int, data: TrainData) -> float:
    torch.manual_seed(0)
    model = SiteModel(body, width, data.classes, torch.ones(4), lr=0.5)
    fit(model, data, epochs=10, batch_size=16, seed=0, find_lr=False, device=CPU)
    return evaluate(model, data, "test")["balanced_accuracy"]


@pytest.mark.parametrize("joining", ["concatenation", "sum"])
def test_together_bodies_see_what_neither_sees_alone(joining: Joining) -> None:
    data = quadrants(0)
    left, right = linear([1.0, 0.0], [0.0, 0.0]), linear([0.0, 0.0], [0.0, 1.0])
    alone = max(scored(FusedBody([b], [1.0], _all(data), "sum"), 2, data) for b in (left, right))
    fused = FusedBody([left, right], [0.5, 0.5], _all(data), joining)
    assert alone < 0.6
    assert scored(fused, fused.width, data) > 0.9


def _all(data: TrainData) -> torch.Tensor:
    return torch.stack([data.train[index][0] for index in data.splits["train"]])


@pytest.mark.parametrize("joining", ["concatenation", "sum"])
def test_a_wide_adapter_says_the_same(joining: Joining) -> None:
    torch.manual_seed(0)
    adapters = [Adapter(5), Adapter(5)]
    for parameter in torch.nn.ParameterList(p for a in adapters for p in a.parameters()):
        torch.nn.init.normal_(parameter)
    batch = torch.randn(7, 5)
    body = FusedBody(adapters, [0.3, 0.7], batch, joining)
    model = SiteModel(body, body.width, ["x", "y", "z"], torch.ones(3), lr=0.1)
    wide = wide_adapter(model)
    hidden = np.maximum(batch.numpy() @ wide[BODY + "weight"].T + wide[BODY + "bias"], 0)
    rows = np.stack([wide[row_name(key)] for key in "xyz"])  # [3, 2h + 1]
    expected = model(batch).detach().numpy()
    np.testing.assert_allclose(hidden @ rows[:, :-1].T + rows[:, -1], expected, atol=1e-4)


def test_what_cannot_be_fused_is_refused() -> None:
    def refused(text: str) -> object:
        return pytest.raises(DataError, match=f"^{re.escape(text)}$")

    sample = torch.ones(1, 2)
    bodies = [linear([1.0, 0.0]), linear([0.0, 1.0], [1.0, 1.0])]
    with refused("fusing needs a finite score of every model: leave out what has none"):
        fusion_weights([1.0, np.nan])
    with refused("fusing needs a finite score of every model: leave out what has none"):
        fusion_weights([])
    with refused("2 models need as many weights, not 1"):
        FusedBody(bodies, [1.0], sample, "sum")
    with refused("embeddings of differing width cannot be summed: concatenate them"):
        FusedBody(bodies, [0.5, 0.5], sample, "sum")
