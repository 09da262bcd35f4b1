"""The model of a site: arrays in and out, frozen batch norm, FedProx's term, class weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from fl_client.model import Adapter, SiteModel, class_weights
from fl_client.training import feature_data, fit
from protocol.sharing import BODY, HIDDEN, initial_adapter, initial_rows, row_name

CLASSES = ("cyst", "stone", "tumour")


def adapter_model(features: int = 4, **options: float) -> SiteModel:
    """Return a model on cached features, as it starts."""
    model = SiteModel(Adapter(features), HIDDEN, CLASSES, torch.ones(3), **{"lr": 0.1, **options})
    model.load_arrays(initial_adapter(features, 0) | initial_rows(CLASSES, HIDDEN, 0))
    return model


class Normed(nn.Module):
    """A body with batch norm and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, HIDDEN))
        self.layers[2].bias.requires_grad_(False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(batch)
        return result


def test_arrays_come_out_as_they_went_in() -> None:
    arrays = initial_adapter(4, 7) | initial_rows(CLASSES, HIDDEN, 7)
    model = adapter_model()
    model.load_arrays({**arrays, "head.of-another-site": np.zeros(3, np.float32)})
    out = model.arrays()
    assert out.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(out[name], value)
        assert out[name].dtype == np.float32


def test_what_comes_out_does_not_change_with_the_model() -> None:
    model = adapter_model()
    before = model.arrays()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(np.all(model.arrays()[name] != before[name]) for name in before)


def test_the_logits_are_those_of_the_formula() -> None:
    model = adapter_model()
    arrays = model.arrays()
    batch = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    hidden = np.maximum(batch @ arrays[BODY + "weight"].T + arrays[BODY + "bias"], 0)
    rows = np.stack([arrays[row_name(key)] for key in CLASSES])
    expected = hidden @ rows[:, :-1].T + rows[:, -1]
    found = model(torch.from_numpy(batch)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_double_precision_and_read_only_arrays_are_taken() -> None:
    arrays = initial_adapter(4, 1) | initial_rows(CLASSES, HIDDEN, 1)
    wide = {name: value.astype(np.float64) for name, value in arrays.items()}
    for value in wide.values():
        value.flags.writeable = False
    model = adapter_model()
    model.load_arrays(wide)  # type: ignore[arg-type]
    np.testing.assert_allclose(model.arrays()[BODY + "bias"], arrays[BODY + "bias"])


@pytest.mark.parametrize("missing", [BODY + "weight", row_name("stone")])
def test_a_missing_array_is_an_error(missing: str) -> None:
    arrays = initial_adapter(4, 0) | initial_rows(CLASSES, HIDDEN, 0)
    del arrays[missing]
    with pytest.raises(KeyError, match=missing.replace(".", r"\.")):
        adapter_model().load_arrays(arrays)


def test_batch_norm_statistics_and_frozen_weights_stay_while_the_rest_learns() -> None:
    torch.manual_seed(0)
    body = Normed()
    model = SiteModel(body, HIDDEN, CLASSES, torch.ones(3), lr=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 24)
    data = feature_data(
        rng.normal(3, 2, (24, 4)).astype(np.float32),
        labels,
        CLASSES,
        {"train": np.arange(24), "val": np.arange(0), "test": np.arange(0)},
    )
    fit(model, data, epochs=2, batch_size=8, seed=0, find_lr=False)
    after = model.state_dict()
    same = {name for name in before if torch.equal(before[name].float(), after[name].float())}
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert same - {"loss.weight"} == {
        *(f"body.layers.1.{name}" for name in statistics),
        "body.layers.2.bias",
    }
    # parameters travel, statistics do not: every site has the pretrained ones
    assert not any("running" in name for name in model.arrays())


def test_fedprox_pulls_towards_where_the_round_began() -> None:
    batch = [torch.randn(8, 4, generator=torch.manual_seed(1)), torch.arange(8) % 3]
    plain, pulled = adapter_model(), adapter_model(proximal_mu=0.6)
    for model in (plain, pulled):
        model.on_fit_start()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.25)
    moved = sum(p.numel() for p in pulled.parameters()) * 0.25**2
    difference = float(pulled.training_step(batch, 0) - plain.training_step(batch, 0))
    # Li et al., arXiv 1812.06127, eq. 2: mu / 2 * ||w - w_t||^2
    assert difference == pytest.approx(0.6 / 2 * moved, rel=1e-5)


def test_fedprox_costs_nothing_before_the_first_step() -> None:
    batch = [torch.randn(8, 4, generator=torch.manual_seed(1)), torch.arange(8) % 3]
    plain, pulled = adapter_model(), adapter_model(proximal_mu=5.0)
    pulled.on_fit_start()
    assert torch.equal(pulled.training_step(batch, 0), plain.training_step(batch, 0))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80))
def test_class_weights_are_those_of_scikit_learn(labels: list[int]) -> None:
    given = np.array(labels, dtype=np.int64)
    weights = class_weights(given, 5).numpy()
    present = np.unique(given)
    balanced = compute_class_weight("balanced", classes=present, y=given)
    # scikit-learn counts the classes present, here the absent ones count too
    np.testing.assert_allclose(weights[present], balanced * len(present) / 5, rtol=1e-6)
    assert weights.dtype == np.float32
    assert np.all(np.delete(weights, present) == 0)
