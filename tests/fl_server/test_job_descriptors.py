"""A whole run that decides by descriptors: interrupted, with a site that refuses, and joined."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fl_server import collector
from fl_server.late import join_late
from fl_server.tasks import tasks_of_folder
from protocol.descriptor_files import to_bytes
from protocol.descriptor_records import (
    DescriptorsReply,
    Sent,
    from_descriptors_request,
    to_descriptors,
)
from protocol.descriptor_statement import DescriptorRelease, descriptor_statement
from protocol.descriptors import Descriptor, Fisher, Kind, Moments
from protocol.envelope import sign
from protocol.files import sha256_hex
from protocol.keys import signer
from protocol.records import from_reply
from protocol.statement import RELEASE_VALIDITY, utc_now
from strategies.measures import get
from tests.fl_server.deployed import Deployed, WholeSite, prepare
from tests.fl_server.joining import CLASSES, FINGERPRINTS, MEMBERS, SPEC
from tests.strategies.fake_grid import Killed


class Describing(WholeSite):
    """A site that answers with moments that are those of its family, or refuses."""

    refuses = False
    filters = 9

    def __call__(self, message: Message) -> RecordDict:
        if message.metadata.message_type != "query.descriptors":
            return super().__call__(message)
        self.asked.append("query.descriptors")
        kinds = from_descriptors_request(message.content).kinds
        if self.refuses:
            refused = {kind: ("descriptors-not-allowed", "they stay") for kind in kinds}
            return to_descriptors(DescriptorsReply({}, refused))
        return to_descriptors(DescriptorsReply({kind: self.sent(kind) for kind in kinds}))

    def release(self, content: RecordDict) -> RecordDict:
        reply = super().release(content)
        self.fingerprint = sha256_hex(from_reply(reply).payload)
        return reply

    def sent(self, kind: Kind) -> Sent:
        family, number = map(int, self.name.split("-")[1:])
        images = FINGERPRINTS[self.name].n_images
        rng = np.random.default_rng([family, number])
        mean = np.full(SPEC.width, 10.0 * family) + 0.1 * rng.normal(size=SPEC.width)
        made: dict[Kind, Descriptor] = {
            "moments": Moments(mean, np.eye(SPEC.width), images),
            "fisher": Fisher(rng.random(self.filters)),
        }
        payload, now = to_bytes(made[kind]), utc_now()
        release = DescriptorRelease(
            site=self.name,
            spec_digest=SPEC.digest,
            spec_name=SPEC.name,
            kind=kind,
            images=images,
            fingerprint=self.fingerprint,
            policy_digest="b" * 64,
            issued=now,
            expires=now + RELEASE_VALIDITY,
        )
        return Sent(payload, sign(descriptor_statement(payload, release), signer(self.key)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Describing]]:
    folder = tmp_path_factory.mktemp("described") / "coordinator"
    sites = {name: Describing(name) for name in CLASSES}
    prepare(folder, sites)
    return folder, sites


@pytest.fixture
def deployed(
    prepared: tuple[Path, dict[str, Describing]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Deployed:
    monkeypatch.setattr(collector, "ROSTER_SECONDS", 0.0)
    folder, sites = prepared
    shutil.copytree(folder, tmp_path / "coordinator")
    fresh = {name: Describing(name, site.key) for name, site in sites.items()}
    grid = Deployed(tmp_path / "coordinator", fresh)  # type: ignore[arg-type]
    grid.away(*(set(CLASSES) - set(MEMBERS)))
    return grid


def go(deployed: Deployed, **changes: Any) -> None:
    deployed.go(**{"arms": "", "measure": "fid"} | changes)


def site_of(deployed: Deployed, name: str) -> Describing:
    site = deployed.sites[name]
    assert isinstance(site, Describing)
    return site


def table(deployed: Deployed) -> dict[str, dict[str, float]]:
    with (deployed.out / "distances.csv").open() as file:
        rows = {row.pop("source"): row for row in csv.DictReader(file)}
    return {source: {t: float(x) for t, x in row.items()} for source, row in rows.items()}


FAMILIES = [list(MEMBERS[:2]), list(MEMBERS[2:4]), [MEMBERS[4]]]


def test_groups_are_those_of_the_moments(deployed: Deployed) -> None:
    go(deployed)
    assert sorted(deployed.groups()) == FAMILIES
    tasks = tasks_of_folder(deployed.out)
    wanted = get("fid").distances(tasks, tasks)
    found = table(deployed)
    np.testing.assert_allclose([[found[s][t] for t in found] for s in found], wanted, atol=1e-9)
    assert deployed.is_whole()


def test_refusing_site_stays_and_is_compared_with_nobody(deployed: Deployed) -> None:
    site_of(deployed, "site-1-1").refuses = True
    go(deployed)
    found = table(deployed)
    assert np.isnan([found["site-1-1"]["site-0-0"], found["site-0-0"]["site-1-1"]]).all()
    assert ["site-0-0", "site-0-1"] in deployed.groups()
    assert ["site-1-1"] in deployed.groups()
    warned = deployed.read("groups.json")["sites"]["site-1-1"]["warnings"]
    assert "moments" in warned[0]
    assert deployed.is_whole()


@pytest.mark.parametrize("lives", [6, 8, 10, 11])
def test_run_that_is_interrupted_anywhere_ends_as_it_would_have(
    deployed: Deployed, lives: int
) -> None:
    deployed.lives = lives
    with pytest.raises(Killed):
        go(deployed)
    deployed.lives = None
    go(deployed)
    assert sorted(deployed.groups()) == FAMILIES
    asked = [site_of(deployed, name).asked for name in MEMBERS]
    assert all(kinds.count("query.fingerprint") == 1 for kinds in asked)
    assert all(kinds.count("query.descriptors") == 1 for kinds in asked)
    assert deployed.is_whole()


def test_who_comes_late_is_asked_for_descriptors_too(deployed: Deployed) -> None:
    go(deployed, descriptors=("fisher",))
    deployed.away("site-3-0", "site-3-1", "site-2-1", "site-1-2")
    assert join_late(deployed, deployed.settings(), deployed.coordinator) == ["site-0-2"]
    found = table(deployed)
    assert found["site-0-2"]["site-0-0"] < 1 < found["site-0-2"]["site-1-0"]
    newcomer = next(t for t in tasks_of_folder(deployed.out) if t.name == "site-0-2")
    assert newcomer.moments is not None
    assert newcomer.fisher is not None
    assert deployed.is_whole()


def test_newcomer_with_another_network_joins_without_its_embedding(deployed: Deployed) -> None:
    go(deployed, descriptors=("fisher",))
    deployed.away("site-3-0", "site-3-1", "site-2-1", "site-1-2")
    site_of(deployed, "site-0-2").filters = 5
    assert join_late(deployed, deployed.settings(), deployed.coordinator) == ["site-0-2"]
    newcomer = next(t for t in tasks_of_folder(deployed.out) if t.name == "site-0-2")
    assert newcomer.fisher is None
    assert newcomer.moments is not None
    assert deployed.is_whole()
