"""The Fisher embedding against plain autograd, one image and one weight after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fl_client.fisher import Probe, filter_fisher, fit_head
from protocol.errors import DataError


class Small(nn.Module):
    """Two convolutions, one of them by groups, with batch normalisation between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, groups=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.norm(self.first(images)))).mean(dim=(2, 3))


@pytest.fixture
def probe() -> Probe:
    torch.manual_seed(1)
    backbone = Small()
    backbone(torch.randn(16, 3, 8, 8))  # in training mode: gives the normalisation statistics
    rng = np.random.default_rng(0)
    return Probe(backbone.eval(), rng.normal(size=(3, 6)), rng.normal(size=3)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def naive(probe: Probe, images: torch.Tensor, seed: int) -> np.ndarray:
    """Return the Fisher by one backward pass an image, and labels drawn one by one."""
    backbone, points = probe.backbone, np.random.default_rng(seed).random(len(images))
    total = [np.zeros(4), np.zeros(6)]
    for image, point in zip(images, points, strict=True):
        probe.zero_grad()
        log_chances = torch.log_softmax(probe(image[None])[0], dim=0)
        passed, label = 0.0, 0
        for number, chance in enumerate(log_chances.exp().tolist()):
            passed += chance
            if point <= passed:
                label = number
                break
        (-log_chances[label]).backward()
        for place, part in enumerate((backbone.first, backbone.second)):
            gradient = part.weight.grad.numpy()
            for channel in range(len(gradient)):
                total[place][channel] += np.mean(gradient[channel] ** 2)
    return np.concatenate(total) / len(images)


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_fisher_is_that_of_plain_autograd(probe: Probe, images: torch.Tensor, chunk: int) -> None:
    found = filter_fisher(probe, images, seed=5, chunk=chunk)
    np.testing.assert_allclose(found, naive(probe, images, seed=5), rtol=1e-4)


def test_images_keep_normalisation_and_weights_as_they_were(
    probe: Probe, images: torch.Tensor
) -> None:
    before = {name: value.clone() for name, value in probe.state_dict().items()}
    filter_fisher(probe, images, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in probe.state_dict().items())


def test_many_draws_come_to_the_exact_expectation(probe: Probe, images: torch.Tensor) -> None:
    one = images[:1]
    chances = torch.softmax(probe(one)[0], dim=0).detach()
    exact = np.zeros(10)
    for label, chance in enumerate(chances.tolist()):
        probe.zero_grad()
        nn.functional.cross_entropy(probe(one), torch.tensor([label])).backward()
        parts = (probe.backbone.first.weight.grad, probe.backbone.second.weight.grad)
        exact += chance * np.concatenate([g.square().mean(dim=(1, 2, 3)).numpy() for g in parts])
    found = filter_fisher(probe, one.expand(4000, -1, -1, -1), seed=0, chunk=500)
    np.testing.assert_allclose(found, exact, rtol=0.1)


def test_head_separates_what_can_be_separated_and_ignores_dead_features() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = rng.normal(size=(60, 5)) + 4 * np.eye(5)[labels]
    features[:, 4] = 7.0  # the same of all images
    for classes in (2, 3):
        chosen = labels < classes
        weight, bias = fit_head(features[chosen], labels[chosen])
        assert weight.shape == (classes, 5)
        assert not weight[:, 4].any()
        guessed = (features[chosen] @ weight.T + bias).argmax(axis=1)
        assert np.mean(guessed == labels[chosen]) > 0.9


def test_one_class_has_no_fisher() -> None:
    with pytest.raises(DataError, match=r"^a Fisher embedding needs at least two classes: "):
        fit_head(np.ones((4, 3)), np.zeros(4, int))


def test_network_without_filters_is_refused() -> None:
    with pytest.raises(DataError, match=r"^a Fisher embedding is of filters: this backbone has no"):
        filter_fisher(nn.Sequential(nn.Linear(3, 2)), torch.ones(2, 3), seed=0)


def test_feature_that_hardly_ever_responds_is_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    features = rng.normal(size=(40, 5)) + 2 * np.eye(5)[labels]
    features[:, 4] = 0.0
    features[0, 4] = 1e-6
    weight, _ = fit_head(features, labels)
    assert np.abs(weight[:, 4]).max() < 0.01 * np.abs(weight).max()


def test_scale_of_the_features_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 4)) + 2 * np.eye(4)[labels]
    weight, bias = fit_head(features, labels)
    wide, moved = fit_head(1000 * features + 5, labels)
    found = (1000 * features + 5) @ wide.T + moved
    np.testing.assert_allclose(found, features @ weight.T + bias, atol=1e-3)
