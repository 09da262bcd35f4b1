"""What a run proposes by itself: presets, shipped policies, and models of its other groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_server.advising import adviser
from fl_server.offers import Offer
from protocol.augmentations import SHIPPED, shipped_policies
from protocol.experiment import Architecture, Scenario, Weights
from protocol.files import sha256_hex
from protocol.plan import Knowledge
from protocol.presets import OFFLINE, PAPER
from protocol.spec import Spec
from protocol.weights import weights_sha256
from tests.fl_server.advised import first_run, sharing_run
from tests.fl_server.joining import MEMBERS, SPEC, Federation
from tests.strategies.synthetic import make_spec

GROUPS = [list(MEMBERS[:2]), list(MEMBERS[2:4]), list(MEMBERS[4:])]


@pytest.fixture(scope="module")
def run() -> Federation:
    return sharing_run()


def named(backbone: str) -> Spec:
    return SPEC.model_copy(update={"backbone": backbone})


def shots(
    run: Federation,
    scenario: Scenario,
    group: list[str] = GROUPS[0],
    knowledge: Knowledge | None = None,
    k: int = 20,
    **settings: Any,
) -> list[Offer]:
    first = first_run(run, **settings)
    advice = adviser(first.settings, first.exchange, first.decision, first.outcomes)
    return advice.shots(scenario, group, knowledge or Knowledge(), k)


def test_architectures_are_the_presets_but_those_in_use(run: Federation) -> None:
    found = shots(run, "architecture")
    assert [offer.detail for offer in found] == [Architecture(name=n) for n in OFFLINE.candidates]
    assert [offer.label for offer in found] == list(OFFLINE.candidates)
    assert found[0].source is None
    assert found[0].sentence == (
        "Use tf_efficientnet_lite0, a candidate of the preset offline: nothing is known of it yet."
    )
    using = Knowledge(architecture=named(OFFLINE.candidates[1]))
    left = shots(run, "architecture", knowledge=using)
    assert [offer.label for offer in left] == [OFFLINE.candidates[0], OFFLINE.candidates[2]]
    paper = shots(run, "architecture", k=3, preset="paper")
    assert [offer.label for offer in paper] == list(PAPER.candidates[:3])


def test_the_runs_own_architecture_is_no_candidate() -> None:
    run = sharing_run()
    run.exchange.spec = named(OFFLINE.candidates[0])
    assert [o.label for o in shots(run, "architecture")] == list(OFFLINE.candidates[1:])


def test_policies_are_the_shipped_ones_but_the_one_in_use(run: Federation) -> None:
    policies = shipped_policies()
    assert [o.label for o in shots(run, "augmentation")] == list(SHIPPED)
    assert [o.detail for o in shots(run, "augmentation")] == list(policies.values())
    # fine-tuning augments in the usual way by itself
    assert [o.label for o in shots(run, "augmentation", recipe="fine-tune")] == [SHIPPED[1]]
    using = Knowledge(augmentation=policies[SHIPPED[1]])
    assert [o.label for o in shots(run, "augmentation", knowledge=using)] == [SHIPPED[0]]


def test_weights_are_the_models_of_the_other_groups(run: Federation) -> None:
    (found,) = shots(run, "pretraining", GROUPS[0])
    ids = {s: sha256_hex(run.exchange.releases[s].payload) for s in MEMBERS}
    assert sorted(found.sources) == sorted(ids[s] for s in GROUPS[1])
    assert found.source in found.sources
    assert found.body is not None
    assert sorted(found.body) == ["body.bias", "body.weight"]
    model = run.outcomes["grouped"].models["grouped-2"]
    assert np.array_equal(found.body["body.weight"], model["body.weight"].numpy())
    assert found.detail == Weights(sha256=weights_sha256(found.body), architecture=SPEC.backbone)
    assert found.label == "weights of site-1-0, site-1-1"


def test_the_nearest_group_comes_first(run: Federation) -> None:
    found = shots(run, "pretraining", GROUPS[2])
    names, d = run.decision.names, run.decision.distances
    here = names.index(GROUPS[2][0])

    def apart(group: list[str]) -> float:
        rows = [names.index(site) for site in group]
        return float(np.mean([d[i, here] + d[here, i] - d[i, i] - d[here, here] for i in rows]))

    wanted = sorted(GROUPS[:2], key=apart)
    assert [offer.label for offer in found] == [f"weights of {', '.join(g)}" for g in wanted]
    assert len(shots(run, "pretraining", GROUPS[2], k=1)) == 1


def test_weights_go_on_only_if_every_site_behind_them_says_so() -> None:
    run = sharing_run(MEMBERS[:3])  # site-1-1 does not
    assert shots(run, "pretraining", GROUPS[0]) == []
    assert [o.label for o in shots(run, "pretraining", GROUPS[1])] == [
        "weights of site-0-0, site-0-1"
    ]


def test_weights_must_fit_the_architecture(run: Federation) -> None:
    other = Knowledge(architecture=make_spec(features=7).model_copy(update={"backbone": "other"}))
    assert shots(run, "pretraining", GROUPS[0], other) == []
    same = Knowledge(architecture=SPEC)
    assert len(shots(run, "pretraining", GROUPS[0], same)) == 1
