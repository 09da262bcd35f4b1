"""The spec: digest, readiness, edges, what differs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.errors import ConfigError, SpecMismatch
from protocol.files import atomic_json
from protocol.spec import (
    Calibration,
    Spec,
    check_same,
    edges_digest,
    list_specs,
    load_spec,
    parse_spec,
)

from .conftest import BINS, FEATURES, make_spec


def test_the_digest_covers_every_field(tiny_spec: Spec) -> None:
    values = tiny_spec.model_dump(mode="json")
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert tiny_spec.digest == hashlib.sha256(canonical.encode()).hexdigest()
    changes: list[dict[str, Any]] = [
        {"name": "b"},
        {"backbone": "b"},
        {"weights": {"source": "timm", "sha256": "a" * 64}},
        {"preprocess": {**values["preprocess"], "crop": 27}},
        {"bins": BINS + 1},
        {"sampling": {"flip": True}},
        {"calibration": {"images": ["x"], "count": 3}},
    ]
    digests = {make_spec(**change).digest for change in changes}
    assert len(digests | {tiny_spec.digest}) == len(changes) + 1


def test_a_spec_survives_its_file(tiny_spec: Spec, tmp_path: Path) -> None:
    atomic_json(tmp_path / "spec.json", tiny_spec)
    restored = load_spec(tmp_path / "spec.json")
    assert restored == tiny_spec
    assert restored.digest == tiny_spec.digest


def test_edges_and_centres(tiny_spec: Spec) -> None:
    centres = tiny_spec.centres
    assert centres.shape == (FEATURES, BINS)
    for i in range(FEATURES):
        edges = np.linspace(tiny_spec.lower_array[i], tiny_spec.upper_array[i], BINS + 1)
        np.testing.assert_allclose(centres[i], (edges[1:] + edges[:-1]) / 2, atol=1e-15)
    raw = tiny_spec.lower_array.astype("<f8").tobytes() + tiny_spec.upper_array.tobytes()
    assert tiny_spec.edges_sha256 == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("name", ["resnet34-100", "resnet34-1000"])
def test_the_papers_specs_are_recipes(name: str) -> None:
    spec = load_spec(name)
    assert (spec.backbone, spec.features) == ("resnet34.a1_in1k", 512)
    assert spec.bins == int(name.split("-")[1])
    assert spec.sampling.draws == 10_000
    assert not spec.ready
    with pytest.raises(ConfigError, match=rf"spec {name} is a recipe .*fedprint spec calibrate"):
        spec.require_ready()
    with pytest.raises(ConfigError, match="is a recipe"):
        _ = spec.centres


def test_a_recipe_becomes_a_spec() -> None:
    recipe = load_spec("resnet34-100")
    lower, upper = np.zeros(512), np.linspace(0.5, 2, 512)
    calibration = Calibration(images=["public"], count=100)
    ready = recipe.with_edges(lower, upper, weights_sha256="1" * 64, calibration=calibration)
    assert ready.require_ready().edges_sha256 == edges_digest(lower, upper)
    np.testing.assert_array_equal(ready.upper_array, upper)


def test_every_shipped_spec_is_sound() -> None:
    specs = list_specs()
    assert {"resnet34-100", "resnet34-1000"} <= {spec.name for spec in specs}
    assert all(load_spec(spec.name) == spec for spec in specs)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lower": [0.0]}, "lower and upper must hold 6 values each"),
        ({"upper": None}, "lower, upper and edges_sha256 must be given together"),
        ({"edges_sha256": "0" * 64}, "edges_sha256 is not the digest of lower and upper"),
        ({"lower": [9.0] * 6}, "every lower edge must lie below its upper edge"),
        ({"lower": [float("nan")] * 6}, "lower.0: Input should be a finite number"),
        ({"bins": 1}, "bins: Input should be greater than 1"),
        ({"sampling": {"draws": 5}}, "draws must be given for with-replacement, and only then"),
        ({"sampling": {"rule": "with-replacement"}}, "draws must be given for with-replacement"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_faulty_specs(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_spec(**change)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_differs_is_named(tiny_spec: Spec) -> None:
    check_same(tiny_spec, make_spec())
    with pytest.raises(SpecMismatch, match=r"tiny and tiny differ in bins \(5 against 7\)"):
        check_same(tiny_spec, make_spec(bins=7))
    other = make_spec(preprocess={**tiny_spec.preprocess.model_dump(), "crop": 20})
    with pytest.raises(SpecMismatch, match=r"differ in preprocess\.crop \(28 against 20\)"):
        check_same(tiny_spec, other)


def test_unknown_specs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown spec 'nope': take one of .*resnet34-100"):
        load_spec("nope")
    with pytest.raises(ConfigError, match="no spec file"):
        load_spec(tmp_path / "spec.json")
    (tmp_path / "spec.json").write_text("{")
    with pytest.raises(ConfigError, match=r"spec\.json is not a valid spec: Invalid JSON"):
        load_spec(tmp_path / "spec.json")
    with pytest.raises(ConfigError, match=r"spec is not a valid spec: name: Field required"):
        parse_spec({})
