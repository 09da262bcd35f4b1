"""Every shipped policy is one that a site would apply."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client.policy_files import default_policy, policy_of, views
from protocol.augmentations import SHIPPED, USUAL, shipped_policies


def test_they_come_in_their_order() -> None:
    assert tuple(shipped_policies()) == SHIPPED == ("usual", "flips-and-turns")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_site_would_apply_it(name: str) -> None:
    policy = policy_of(shipped_policies()[name].pipeline, name)
    pixels = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    assert views(policy, 28)(image=pixels)["image"].shape == (28, 28, 3)


def test_the_usual_one_is_what_fine_tuning_does() -> None:
    assert policy_of(shipped_policies()[USUAL].pipeline) == default_policy()
