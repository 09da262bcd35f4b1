"""A second run asks the pool that the first went into, and tries other things than the first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_server.advising import adviser
from fl_server.offers import Adviser, Offer
from fl_server.pool import open_pool
from fl_server.pool.add import add, of_experiments, of_run
from fl_server.pool.withdraw import withdraw
from fl_server.recommended import write_recommendations
from fl_server.settings import RunSettings
from fl_server.shelf import shelved
from protocol.augmentations import SHIPPED, shipped_policies
from protocol.errors import DataError
from protocol.experiment import Architecture, Detail, Experiment, Policy, Weights
from protocol.files import sha256_hex
from protocol.plan import Knowledge
from protocol.presets import OFFLINE
from protocol.runfiles import RecommendationsFile
from tests.fl_server.advised import NEW, Run, first_run, second_run, sharing_run, written
from tests.fl_server.joining import MEMBERS, SPEC, Federation
from tests.fl_server.pool.pooling import COORDINATOR, NOON

POLICY = Policy(pipeline={"transform": {"__class_fullname__": "Compose", "transforms": []}})
BEST = {  # what did best where: one task's best is what the second run trains anyhow
    MEMBERS[0]: ("net-good", POLICY),
    MEMBERS[1]: ("net-good", POLICY),
    MEMBERS[2]: ("net-good", shipped_policies()["usual"]),
    MEMBERS[3]: ("net-fair", POLICY),
    MEMBERS[4]: (SPEC.backbone, POLICY),
}


def task_of(run: Federation, site: str) -> str:
    return sha256_hex(run.exchange.releases[site].payload)


def tried(run: Federation) -> Iterator[Experiment]:
    """Yield experiments on the first run's tasks."""
    for site, (net, policy) in BEST.items():
        for name in ("net-good", "net-fair", SPEC.backbone):
            yield _tried(run, site, Architecture(name=name), 0.8 if name == net else 0.6)
        for each in (POLICY, shipped_policies()["usual"]):
            yield _tried(run, site, each, 0.8 if each == policy else 0.6)


def _tried(run: Federation, site: str, detail: Detail, score: float) -> Experiment:
    scenario = {"architecture": "architecture", "policy": "augmentation"}[detail.kind]
    return Experiment.model_validate(
        {
            "scenario": scenario,
            "target": task_of(run, site),
            "detail": detail,
            "seed": 4,
            "metric": "balanced_accuracy",
            "performance": score,
            "baseline": 0.5,
            "recorded": NOON,
        }
    )


@pytest.fixture(scope="module")
def run() -> Federation:
    return sharing_run()


@pytest.fixture(scope="module")
def folder(run: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("first"), run)


@pytest.fixture
def pool(run: Federation, folder: Path, tmp_path: Path) -> str:
    """Return a pool that holds the first run, and what was tried in it."""
    where = str(tmp_path / "pool.db")
    with open_pool(where, create=True) as pool:
        add(pool, of_run(folder, COORDINATOR))
        add(pool, of_experiments(list(tried(run)), COORDINATOR))
    return where


def asked(run: Run) -> Adviser:
    return adviser(run.settings, run.exchange, run.decision, run.outcomes)


def labels(offers: list[Offer]) -> list[str]:
    return [offer.label for offer in offers]


def test_another_run_is_advised_what_did_well_in_the_first(run: Federation, pool: str) -> None:
    second, cold = asked(second_run(run, pool)), asked(second_run(run, ""))
    nets = second.shots("architecture", NEW[:1], Knowledge(), 3)
    # two of three sites do best with net-good; the run's own network is no shot, though a task
    # offers it, and what the pool leaves free is filled up with the preset's
    assert labels(nets) == ["net-good", "net-fair", OFFLINE.candidates[0]]
    assert labels(cold.shots("architecture", NEW[:1], Knowledge(), 3)) == list(OFFLINE.candidates)
    assert nets[0].detail == Architecture(name="net-good")
    assert nets[0].source in {task_of(run, site) for site in MEMBERS[:3]}
    assert nets[0].sentence.startswith("Use net-good, which site-")
    assert nets[0].evidence is not None
    assert nets[0].evidence.why == "learnt"
    policies = second.shots("augmentation", NEW[:1], Knowledge(), 3)
    # the pool knows the usual policy, too: it is no shot twice
    assert [o.detail for o in policies] == [
        POLICY,
        shipped_policies()["usual"],
        shipped_policies()[SHIPPED[1]],
    ]
    assert [o.evidence is None for o in policies] == [False, False, True]


def test_a_group_gets_one_ranking_of_what_its_sites_are_advised(run: Federation, pool: str) -> None:
    second = asked(second_run(run, pool))
    (net, *_) = second.shots("architecture", NEW, Knowledge(), 2)
    assert net.label == "net-good"
    assert re.search(
        r"\. This is the advice for site-\d-\d; among what the group's 3 sites are advised it has "
        r"place 1\.\d on average\.$",
        net.sentence,
    )


def test_what_was_chosen_is_not_proposed_again(run: Federation, pool: str) -> None:
    second = asked(second_run(run, pool))
    known = Knowledge(
        architecture=SPEC.model_copy(update={"backbone": "net-good"}), augmentation=POLICY
    )
    assert labels(second.shots("architecture", NEW[:1], known, 1)) == ["net-fair"]
    assert second.shots("augmentation", NEW[:1], known, 1)[0].label == "usual"
    fine = asked(second_run(run, pool, recipe="fine-tune"))
    usual = shipped_policies()["usual"]
    assert usual not in [o.detail for o in fine.shots("augmentation", NEW, Knowledge(), 5)]


def test_weights_come_from_the_shelf_in_the_order_of_the_advice(run: Federation, pool: str) -> None:
    with open_pool(pool) as opened:
        shelf = {each.about.sources[0]: each for each in shelved(opened)}
    assert len(shelf) == 2
    found = asked(second_run(run, pool)).shots("pretraining", ["site-1-2"], Knowledge(), 2)
    # its own kind is nearest: the weights of the first run's second group
    kin = sorted(task_of(run, site) for site in MEMBERS[2:4])
    assert sorted(found[0].sources) == kin
    assert found[0].source in kin
    assert found[0].detail == Weights(sha256=shelf[kin[0]].sha256, architecture=SPEC.backbone)
    assert found[0].body is not None
    assert sorted(found[0].body) == ["body.bias", "body.weight"]
    assert found[0].sentence.startswith("Start from weights that site-1-")
    assert len(found) == 2


@pytest.mark.parametrize("change", [{"recipe": "fine-tune"}, {}])
def test_weights_must_fit(run: Federation, pool: str, change: dict[str, str]) -> None:
    wide = SPEC.model_copy(update={"backbone": "wide"})
    knowledge = Knowledge() if change else Knowledge(architecture=wide)
    second = asked(second_run(run, pool, **change))
    assert second.shots("pretraining", NEW[:1], knowledge, 2) == []


def test_a_group_never_starts_from_its_own_images(run: Federation, pool: str) -> None:
    again = asked(first_run(run, pool=pool))
    found = again.shots("pretraining", MEMBERS[:2], Knowledge(), 5)
    own = {task_of(run, site) for site in MEMBERS[:2]}
    assert found
    assert not any(own & {*offer.sources} for offer in found)


def test_the_source_is_a_task_of_another_group(run: Federation, pool: str) -> None:
    again = asked(first_run(run, pool=pool))
    inside = {task_of(run, site) for site in MEMBERS}
    offers = again.shots("architecture", MEMBERS, Knowledge(), 2)
    assert offers[0].label == "net-good"
    assert not inside & {offer.source for offer in offers}


def test_withdrawn_weights_are_no_shots(run: Federation, pool: str) -> None:
    with open_pool(pool) as opened:
        withdraw(opened, task_of(run, MEMBERS[2]))
    (found,) = asked(second_run(run, pool)).shots("pretraining", ["site-1-2"], Knowledge(), 2)
    assert task_of(run, MEMBERS[0]) in found.sources


def test_damaged_weights_are_an_error(run: Federation, pool: str) -> None:
    with open_pool(pool) as opened:
        for each in shelved(opened):
            content = each.path.read_bytes()
            each.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"holds other weights than its name says: delete it"):
        asked(second_run(run, pool)).shots("pretraining", NEW[:1], Knowledge(), 2)


def test_an_empty_pool_leaves_it_to_the_run(run: Federation, tmp_path: Path) -> None:
    where = str(tmp_path / "empty.db")
    open_pool(where, create=True).close()
    second, cold = asked(second_run(run, where)), asked(second_run(run, ""))
    for scenario in ("architecture", "augmentation", "pretraining"):
        found = second.shots(scenario, NEW, Knowledge(), 3)
        assert found == cold.shots(scenario, NEW, Knowledge(), 3)


def test_recommendations_say_what_each_site_is_advised_and_why(
    run: Federation, pool: str, tmp_path: Path
) -> None:
    second = second_run(run, pool)
    scenarios = ("architecture", "pretraining")
    write_recommendations(tmp_path, second.exchange, second.decision, asked(second), scenarios, 3)
    file = RecommendationsFile.model_validate_json((tmp_path / "recommendations.json").read_bytes())
    assert list(file.sites) == list(NEW)
    shots = json.loads((tmp_path / "recommendations.json").read_text())["sites"][NEW[0]]
    assert list(shots) == ["co-training", *scenarios]
    first, _, own = shots["architecture"]
    assert (first["rank"], first["label"], first["why"]) == (1, "net-good", "learnt")
    assert first["source"] in MEMBERS
    assert first["task"] == task_of(run, first["source"])
    assert first["knowledge"] == {"kind": "architecture", "name": "net-good"}
    assert first["standing"] > 0
    assert 0.5 < first["better"] <= 1
    assert first["measured"][0]["metric"] == "balanced_accuracy"
    assert (own["why"], own["source"], own["measured"]) == ("cold-start", "the run", [])
    assert shots["pretraining"][0]["knowledge"]["kind"] == "weights"


def test_without_a_pool_recommendations_are_named_as_what_they_are(
    run: Federation, tmp_path: Path
) -> None:
    first = first_run(run)
    write_recommendations(
        tmp_path, first.exchange, first.decision, asked(first), ("pretraining",), 2
    )
    sites = json.loads((tmp_path / "recommendations.json").read_text())["sites"]
    (shot,) = sites[MEMBERS[0]]["pretraining"]
    assert shot["why"] == "cold-start"
    assert shot["source"] in MEMBERS[2:4]
    assert shot["task"] == task_of(run, shot["source"])


def test_no_password_of_a_pool_is_written(run: Federation) -> None:
    url = "postgresql://user:secret@db/pool"
    settings = RunSettings.from_run_config({"pool": url})
    assert settings.pool == url
    assert "secret" not in settings.model_dump_json()
    assert "pool" not in settings.decisive


def test_advice_stays_what_it_was_while_others_add_to_the_pool(run: Federation, pool: str) -> None:
    advice = asked(second_run(run, pool))
    before = advice.shots("architecture", NEW, Knowledge(), 2)
    with open_pool(pool) as opened:
        more = [_tried(run, site, Architecture(name="net-new"), 0.99) for site in MEMBERS]
        add(opened, of_experiments(more, COORDINATOR))
    assert advice.shots("architecture", NEW, Knowledge(), 2) == before
    (first, *_) = asked(second_run(run, pool)).shots("architecture", NEW, Knowledge(), 2)
    assert first.label == "net-new"
