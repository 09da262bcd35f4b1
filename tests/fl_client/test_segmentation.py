"""Segmentation sites end to end: releases with noise, and a run without an engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_asking import AUTOMATIC
from fixtures_masks import label_map, region_spec, write_masked
from fixtures_sites import projected, write_classes
from flwr.app import Context, Message, RecordDict
from PIL import Image

from benchmarks.regions import figures, write_patches
from fl_client import client_app
from fl_client.audit_site import audit_site
from fl_client.contribution import counted_digest, counted_items, counted_number
from fl_client.descriptor_gate import may_leave
from fl_client.extract import extract, region_features
from fl_client.histogram import BinCounter
from fl_client.ledger import Ledger
from fl_client.local_release import release_private
from fl_client.policy import gate, local_policy
from fl_client.regions import regions_of
from fl_client.site import Site, read_site
from fl_server.job import run as run_job
from fl_server.settings import RunSettings
from protocol.cli import main
from protocol.errors import PolicyError
from protocol.files import atomic_json
from protocol.fingerprint import counts_from_bytes
from protocol.keys import generate_key, signer
from protocol.privacy import AskedTerms, terms
from protocol.spec import Spec, load_spec
from tests.strategies.fake_grid import FakeGrid


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return region_spec(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def private(spec: Spec) -> Spec:
    """Return a spec of few directions: noise needs them."""
    whole = spec.model_copy(update={"regions": None})
    whole = whole.model_copy(update={"name": "tiny"})
    return projected(whole).of_regions(32)


@pytest.mark.parametrize("cap", [1, 3])
def test_a_private_release_counts_so_many_regions_of_a_patient(
    tmp_path: Path, private: Spec, monkeypatch: pytest.MonkeyPatch, cap: int
) -> None:
    site = read_site(write_masked(tmp_path / "north", 12, patients=5))
    number = counted_number(site, cap, private)
    assert number < counted_number(site, 0, private)
    monkeypatch.setattr("fl_client.draws.noised", lambda counts, _sigma: counts)
    policy = local_policy(release="private", contribution_cap=cap)
    key = signer(generate_key())
    made = release_private(site, private, policy, key, "cpu", {})
    exact = counts_from_bytes(made.payload)
    assert (exact.sum(axis=1) == number).all()
    said = made.terms
    assert (said.images, said.held, said.contribution_cap, said.patients) == (number, 12, cap, 5)
    expected = terms(private.width, epsilon=policy.epsilon, delta=policy.delta, cap=cap)
    assert said.privacy.sigma == expected.sigma  # of cap images a patient: a region is one
    assert made.line.startswith(f"north: {number} regions of 12 images counted, spec tiny-regions")
    again = release_private(read_site(site.folder), private, policy, key, "cpu", {})
    assert again.payload == made.payload
    assert len(Ledger(site.state).check()) == 1  # kept, and not drawn anew
    gone = replace(site, images=[item for item in site.images if item.subject != "p2"])
    moved = np.abs(exact - _counted(gone, private, cap)).sum(axis=1)
    assert (moved <= cap).all()  # whoever leaves takes at most cap counts of each feature along
    before = counted_digest(site, 9, private)
    Image.fromarray(label_map(disc=9)).save(site.folder / "masks/3.png")
    assert counted_digest(read_site(site.folder), 9, private) != before


def _counted(site: Site, spec: Spec, cap: int) -> np.ndarray:
    counts = extract(counted_items(site, spec, cap), spec, device="cpu").counts
    assert counts is not None
    return counts


def test_an_audit_plays_with_regions(
    tmp_path: Path, private: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_client.audit_gate.STATES", 16)  # each cuts its regions anew
    site = read_site(write_masked(tmp_path / "north", 24, patients=12))
    result = audit_site(site, private, (2.0, 1e-5), 1, games=100, seed=0, device="cpu")
    assert (result.images, result.unit, result.findings) == (12, "patient", [])
    features = region_features(site, private, "cpu")
    assert len(features) == len(regions_of(site, private))
    counter = BinCounter(private, torch.device("cpu"))
    counter.add(torch.from_numpy(features))
    assert np.array_equal(counter.counts(), _counted(site, private, 0))


def test_what_is_not_made_of_regions(tmp_path: Path, spec: Spec) -> None:
    site = read_site(write_masked(tmp_path / "north"))
    policy = local_policy(descriptors=("moments",))
    with pytest.raises(
        PolicyError, match="moments are of whole images, and spec tiny-regions"
    ) as e:
        may_leave(policy, "moments", spec, site, AskedTerms(), simulated=True)
    assert e.value.reason == "of-regions"
    plain = read_site(write_classes(tmp_path / "plain", {"a": 2, "b": 2}))
    with pytest.raises(PolicyError, match="counts regions, and site plain has no masks") as e:
        gate(policy, spec, plain)
    assert e.value.reason == "no-masks"
    rare = local_policy(min_class_patients=7)
    with pytest.raises(PolicyError, match="a class of site north has fewer than 7 patients"):
        gate(rare, spec, site)


def invoke(*words: object, code: int = 0) -> None:
    """Call the command line."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == code


def test_fingerprint_distances_and_groups(
    tmp_path: Path, spec: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    atomic_json(tmp_path / "spec.json", spec)
    out = tmp_path / "prints"
    for number, name in enumerate(("north", "south")):
        write_masked(tmp_path / name, 8, seed=100 * number)
        command = ["fingerprint", tmp_path / name, "--spec", tmp_path / "spec.json", "--out", out]
        invoke(*command)
    regions = counted_number(read_site(tmp_path / "north"), 0, spec)
    assert f"north: {regions} regions of 8 images, spec tiny-regions" in capsys.readouterr().out
    invoke("distances", out, "--out", tmp_path / "d.csv")
    invoke("groups", out, "--out", tmp_path / "g.json")
    groups = json.loads((tmp_path / "g.json").read_text())
    assert sorted(groups["sites"]) == ["north", "south"]
    assert "Its task is a segmentation" in groups["sites"]["north"]["reason"]
    write_classes(tmp_path / "plain", {"a": 3, "b": 3})
    command = ["fingerprint", tmp_path / "plain", "--spec", tmp_path / "spec.json", "--out", out]
    invoke(*command, code=1)
    assert "site plain has no masks" in capsys.readouterr().err


class Node:
    """A node that answers by the site's ClientApp, in this process."""

    def __init__(self, folder: Path, policy: Path) -> None:
        own = {"site": str(folder), "policy": str(policy), "device": "cpu"}
        self.context = Context(1, 1, {**own}, RecordDict(), {})
        self.asked: list[str] = []

    def __call__(self, message: Message) -> RecordDict:
        self.asked.append(message.metadata.message_type)
        return client_app.app(message, self.context).content


def test_a_run_groups_segmentations_and_trains_the_rest(
    tmp_path: Path, spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tmp_path / "whole.json"
    atomic_json(whole, spec.model_copy(update={"regions": None}))
    atomic_json(tmp_path / "regions.json", spec)
    policy = tmp_path / "policy.toml"
    policy.write_text(AUTOMATIC)
    folders = [write_masked(tmp_path / f"masked-{n}", 8, seed=100 * n) for n in (1, 2)]
    folders += [write_classes(tmp_path / name, {"a": 8, "b": 8}) for name in ("x-1", "x-2")]

    def run(out: str, nodes: int, spec: Path) -> dict[int, Node]:
        answering = {100 + i: Node(folder, policy) for i, folder in enumerate(folders[:nodes])}
        settings = {"out": str(tmp_path / out), "spec": str(spec), "min_sites": nodes, "rounds": 1}
        run_job(FakeGrid(answering), RunSettings.model_validate(settings), out)
        return answering

    caplog.set_level("INFO", "fedprint")
    alone = run("regions", 2, tmp_path / "regions.json")
    assert "not trained, for their task is a segmentation: masked-1, masked-2" in caplog.text
    assert not (tmp_path / "regions/metrics.json").exists()
    assert not any(kind.startswith("train") for node in alone.values() for kind in node.asked)
    assert "Its task is a segmentation" in (tmp_path / "regions/report.html").read_text()
    invoke("verify", tmp_path / "regions")

    mixed = run("whole", 4, whole)
    metrics = json.loads((tmp_path / "whole/metrics.json").read_text())
    assert sorted(metrics["sites"]) == ["x-1", "x-2"]
    assert not any(kind.startswith("train") for kind in mixed[100].asked)
    groups = json.loads((tmp_path / "whole/groups.json").read_text())
    assert {"masked-1", "masked-2"}.isdisjoint(
        *(g["sites"] for g in groups["groups"] if "x-1" in g["sites"])
    )
    invoke("verify", tmp_path / "whole")


def test_regions_tell_two_segmentations_of_the_same_images_apart(tmp_path: Path) -> None:
    site = read_site(write_patches(tmp_path / "patches", 30, 48))
    found = figures(site, load_spec("lite0-regions"), sites=2, seeds=2)
    assert found == {"whole images": [0.0, 0.0], "regions": [1.0, 1.0]}
