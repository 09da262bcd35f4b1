"""How much one site can weigh among others when groups are found by evidence."""

from dataclasses import replace

import numpy as np
import pytest

from protocol.fingerprint import Fingerprint
from strategies.alike import MOST, pool_of
from strategies.grouping import GroupingOptions, group
from strategies.influence import agreement, members
from tests.strategies.synthetic import make_sites, make_spec

SPEC, SIGMA = make_spec(features=8, bins=5), 8.0


def private(seed: int) -> tuple[list[Fingerprint], dict[str, str]]:
    sites, truth = make_sites([[150] * 4, [150] * 3, [150] * 3], SPEC, seed)
    rng = np.random.default_rng(seed)
    noise = [np.rint(rng.normal(0, SIGMA, f.counts.shape)).astype(np.int64) for f in sites]
    released = [
        replace(f, counts=f.counts + z, sigma=SIGMA) for f, z in zip(sites, noise, strict=True)
    ]
    return released, {site: str(task) for site, task in truth.items()}


def test_images_count_up_to_a_multiple_of_the_median() -> None:
    sites, _ = private(0)
    claims = [*sites[:-1], replace(sites[-1], n_images=10**7)]
    assert pool_of(claims)[0].images.tolist() == [150] * 9 + [MOST * 150]
    fair = [*sites[:-1], replace(sites[-1], n_images=MOST * 150)]
    assert pool_of(fair)[0].images.tolist() == [150] * 9 + [MOST * 150]


@pytest.mark.parametrize("truth", ["task", "data"])
def test_sites_that_claim_millions_of_images_do_not_break_the_groups_of_others(
    truth: str,
) -> None:
    options = GroupingOptions(draws=0, truth=truth)  # type: ignore[arg-type]
    for seed in range(5):
        sites, _ = private(seed)
        mixed = sites[0].counts + sites[4].counts
        corner = np.zeros((8, 5), dtype=np.int64)
        corner[:, 4] = 10**7
        claims = [
            replace(sites[0], site="mixed", counts=mixed * 50_000, n_images=15_000_000),
            replace(sites[0], site="corner", counts=corner, n_images=10**7),
            replace(sites[0], site="other", counts=corner[:, ::-1], n_images=10**7),
        ]
        without = members(group(sites, SPEC, options))
        for liars in (claims[:1], claims[1:]):
            within = members(group([*sites, *liars], SPEC, options))
            assert agreement(without, within) == pytest.approx(1.0), (seed, liars[0].site)
