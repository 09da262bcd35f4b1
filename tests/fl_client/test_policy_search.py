"""The search on a small real site: its budget, its repeatability, its command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from fixtures_sites import picture, write_classes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fl_client.augment import SiteImages
from fl_client.policy_candidates import DEFAULT
from fl_client.policy_command import add
from fl_client.policy_files import augmentation, policy_of, read_policy, write_policy
from fl_client.policy_result import NONE, Found
from fl_client.policy_search import FEWEST, MOST, VIEWS, planned, search_policy
from fl_client.policy_space import AugmentationPolicy
from fl_client.policy_transforms import Plain
from fl_client.policy_views import PolicyViews
from fl_client.site import Site, read_site
from protocol.errors import ConfigError
from protocol.experiment import Experiment
from protocol.spec import Spec

BUDGET = 400


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a site whose two classes are bright and dark pictures."""
    folder = write_classes(tmp_path_factory.mktemp("sites") / "north", {"bright": 15, "dark": 15})
    for label, level in (("bright", 150), ("dark", 0)):
        for number, path in enumerate(sorted((folder / label).iterdir())):
            pixels = level + picture(number + level) * 0.4
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return read_site(folder)


@pytest.fixture(scope="module")
def found(site: Site, spec: Spec) -> Found:
    return search_policy(site, spec, BUDGET, seed=1, device="cpu")


def told(found: Found) -> dict[str, Any]:
    return found.summary()


@given(st.integers(1, 2000), st.integers(1, 200_000))
def test_a_plan_uses_the_budget_and_no_more(images: int, budget: int) -> None:
    try:
        count, efforts = planned(images, budget)
    except ConfigError:
        with pytest.raises(ConfigError):
            planned(images, max(budget // 2, 1))
        return
    assert FEWEST <= count <= MOST
    assert efforts[-1] == VIEWS * images
    assert efforts == sorted(efforts)
    assert planned(images, 2 * budget)[0] >= count


def test_a_budget_that_is_too_small() -> None:
    text = "a budget of 10 views is too small for 100 training images: give at least 1200"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        planned(100, 10)
    assert planned(100, 1200)[0] == FEWEST


def test_the_search(found: Found, site: Site) -> None:
    summary = told(found)
    assert 0 < summary["spent_views"] <= BUDGET
    assert sum(row["views"] for row in summary["ranking"]) == summary["spent_views"]
    assert {row["name"] for row in summary["ranking"]} == set(found.policies)
    assert policy_of(summary["policy"]) == found.policy
    assert set(summary["held_out"]) == {"val", "test"}
    assert set(summary["held_out"]["val"]) == {NONE, DEFAULT, found.best}
    assert summary["plain"]["recall"] == 1  # bright and dark are easy
    views = {row["name"]: row["views"] for row in summary["ranking"]}
    train = round(0.6 * len(site.images))
    assert views[found.best] == views[DEFAULT] == VIEWS * train
    json.dumps(summary, allow_nan=False)


def test_what_does_not_keep_classes_apart_ranks_last(found: Found) -> None:
    passes = [found.judgements[course.name].passes for course in found.race.ranking]
    first = [found.judgements[c.name].passes for c in found.race.ranking if c.complete == 4]
    assert any(passes)
    assert first[0]


def test_a_seed_gives_the_same_result_and_another_one_does_not(
    found: Found, site: Site, spec: Spec
) -> None:
    again = search_policy(site, spec, BUDGET, seed=1, device="cpu")
    assert told(again) == told(found)
    other = search_policy(site, spec, BUDGET, seed=2, device="cpu")
    assert told(other) != told(found)


def test_views_depend_on_image_and_number_alone(found: Found, site: Site, spec: Spec) -> None:
    policy = found.policies["sub-policies-02"]
    pairs = [(0, 0), (0, 1), (3, 0), (7, 2)]
    first = PolicyViews(site, spec, "cpu", 5).features(policy, pairs)
    maker = PolicyViews(site, spec, "cpu", 5)
    maker.features(found.policies[DEFAULT], [(3, 0)])
    turned = maker.features(policy, pairs[::-1])[::-1]
    np.testing.assert_allclose(first, turned, atol=1e-5)
    assert first.shape == (4, spec.features)
    assert np.abs(first[0] - first[1]).max() > 1e-4


def test_the_bare_crop_sees_what_the_features_are_of(site: Site, spec: Spec) -> None:
    square = spec.model_copy(
        update={"preprocess": spec.preprocess.model_copy(update={"resize": 32})}
    )
    views = PolicyViews(site, square, "cpu", 0).features(AugmentationPolicy(), [(4, 0), (4, 1)])
    assert views.shape == (2, 512)


def test_a_policy_augments_a_sites_images_in_training(found: Found, site: Site, spec: Spec) -> None:
    data = SiteImages(
        site.images, site.labels, spec, augmentation(found.policy, spec.preprocess, 0)
    )
    data.reseed(3)
    first = [data[index][0] for index in range(4)]
    data.reseed(3)
    assert all(bool((data[index][0] == first[index]).all()) for index in range(4))
    assert tuple(first[0].shape) == (3, 32, 32)


def test_experiments_name_the_task_and_stand_beside_no_augmentation(found: Found) -> None:
    lines = found.experiments("a" * 64)
    assert [line.hyperparameters["policy"] for line in lines] == list(
        dict.fromkeys([DEFAULT, found.best])
    )
    for line in lines:
        verdicts = found.held_out["test"]
        assert line.scenario == "augmentation"
        assert line.target == "a" * 64
        assert line.baseline == verdicts[NONE].recall
        assert line.performance == verdicts[str(line.hyperparameters["policy"])].recall
        assert Experiment.model_validate_json(line.model_dump_json()).id == line.id


def test_a_site_without_validation_data_is_told_so(found: Found) -> None:
    from dataclasses import replace

    blind = replace(found, held_out={"val": {}, "test": {}})
    assert not blind.helps
    assert "without validation images nobody can tell" in blind.sentence
    assert blind.experiments("a" * 64) == []


def test_the_command(
    site: Site, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protocol.files import atomic_json

    app = typer.Typer()
    app.callback()(lambda: None)
    add(app)
    atomic_json(tmp_path / "spec.json", spec)
    release = tmp_path / "north.safetensors"
    release.write_bytes(b"a release")
    out, lines, summary = (tmp_path / name for name in ("policy.json", "lines.jsonl", "s.json"))
    write_policy(tmp_path / "mine.json", AugmentationPolicy(transforms=(Plain(name="ToGray"),)))
    chosen = ["augmentation", str(site.folder), "--candidate", str(tmp_path / "mine.json")]
    chosen += ["--budget", str(BUDGET), "--seed", "1", "--device", "cpu"]
    more = ["--spec", str(tmp_path / "spec.json"), "--out", str(out), "--json", str(summary)]
    task = ["--release", str(release), "--experiments", str(lines)]
    result = CliRunner().invoke(app, chosen + more + task, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = json.loads(summary.read_text())
    assert out.exists() == written["helps"]
    if out.exists():
        assert read_policy(out) == policy_of(written["policy"])
    assert {"1: mine.json"} < {row["name"] for row in written["ranking"]}
    assert len(lines.read_text().splitlines()) == len(written["experiments"]) > 0
    assert written["sentence"] in result.output.replace("\n", " ")
    with pytest.raises(ConfigError, match="--experiments needs --release"):
        CliRunner().invoke(app, [*chosen, *task[2:]], catch_exceptions=False)
