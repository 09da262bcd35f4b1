"""Augmented views beside plain features: where they go, and that they are computed once."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_sites import write_classes

from fl_client.features import cached_features
from fl_client.policy_files import default_policy
from fl_client.policy_space import AugmentationPolicy
from fl_client.policy_training import augmented_data
from fl_client.policy_views import PolicyViews
from fl_client.site import read_site
from fl_client.splits import split_site
from fl_client.training import TrainData
from protocol.spec import Spec


def inputs(data: TrainData, rows: np.ndarray) -> torch.Tensor:
    return torch.stack([data.train[int(row)][0] for row in rows])


def test_views_join_the_training_split_alone(
    tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = read_site(write_classes(tmp_path / "north", {"a": 8, "b": 7}))
    plain, _ = cached_features(site, spec, "cpu")
    own = split_site(site, 3)
    data = augmented_data(site, spec, default_policy(), ("a", "b"), views=2, seed=3, device="cpu")

    train, n = data.splits["train"], len(own["train"])
    assert len(train) == 3 * n
    np.testing.assert_array_equal(data.splits["val"], own["val"])
    np.testing.assert_array_equal(data.splits["test"], own["test"])
    np.testing.assert_array_equal(data.labels[train], np.tile(site.labels[own["train"]], 3))
    np.testing.assert_array_equal(inputs(data, np.arange(len(plain))), plain)
    pairs = [(int(row), number) for number in (0, 1) for row in own["train"]]
    expected = PolicyViews(site, spec, "cpu", 3).features(default_policy(), pairs)
    np.testing.assert_array_equal(inputs(data, train[n:]), expected)

    files = list((site.state / "features").iterdir())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    with monkeypatch.context() as patch:
        patch.setattr(PolicyViews, "features", None)  # nothing is computed a second time
        again = augmented_data(
            site, spec, default_policy(), ("a", "b"), views=2, seed=3, device="cpu"
        )
    np.testing.assert_array_equal(inputs(again, train), inputs(data, train))
    bare = augmented_data(site, spec, AugmentationPolicy(), ("a", "b"), views=2, device="cpu")
    assert not torch.equal(inputs(bare, train[n:]), inputs(data, train[n:]))


def test_a_damaged_cache_counts_as_absent(tmp_path: Path, spec: Spec) -> None:
    site = read_site(write_classes(tmp_path / "north", {"a": 5, "b": 5}))
    policy = default_policy()
    first = augmented_data(site, spec, policy, ("a", "b"), views=1, device="cpu")
    for path in (site.state / "features").iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    again = augmented_data(site, spec, policy, ("a", "b"), views=1, device="cpu")
    rows = first.splits["train"]
    np.testing.assert_array_equal(inputs(first, rows), inputs(again, rows))
