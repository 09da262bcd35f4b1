"""The spec: digest, readiness, edges, what differs."""

from __future__ import annotations

import copy
import hashlib
import json
from base64 import b64decode, b64encode
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.errors import ConfigError, SpecMismatch
from protocol.files import atomic_json, canonical_json, sha256_hex
from protocol.spec import (
    Calibration,
    Projection,
    Spec,
    check_same,
    edges_digest,
    list_specs,
    load_spec,
    parse_spec,
)

from .conftest import BINS, FEATURES, make_spec, projected_spec


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


def test_a_window_is_part_of_the_spec_and_none_is_not() -> None:
    for path in sorted((resources.files("protocol") / "specs").iterdir(), key=str):
        written = json.loads(path.read_bytes())
        assert "window" not in written["preprocess"]
        assert parse_spec(written).digest == sha256_hex(canonical_json(written))
    plain = make_spec()
    preprocess = plain.preprocess.model_dump()
    assert "window" not in preprocess
    windowed = make_spec(preprocess={**preprocess, "window": [-160, 240]})
    assert make_spec(preprocess={**preprocess, "window": None}).digest == plain.digest
    assert windowed.digest != plain.digest
    assert windowed.model_dump(mode="json")["preprocess"]["window"] == [-160.0, 240.0]
    assert parse_spec(windowed.model_dump_json()).digest == windowed.digest
    with pytest.raises(
        SpecMismatch, match=r"differ in preprocess\.window \(None against \[-160.0, 240.0\]\)"
    ):
        check_same(plain, windowed)
    with pytest.raises(ConfigError, match="the window's lower end must lie below its upper end"):
        make_spec(preprocess={**preprocess, "window": [240, -160]})
    recipe = windowed.model_copy(update={"lower": None, "upper": None, "edges_sha256": None})
    with pytest.raises(ConfigError, match=r"--bins 5 --window -160 240 --name tiny"):
        recipe.require_ready()


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


def test_specs_that_are_in_use_keep_their_digests() -> None:
    digests = {
        "lite0-100": "62f9a505abcea66895e20bcc967c7d09bd16093ef9c1f1594efda7f8efaf964a",
        "lite0-1000": "f73183c2a0cfe9b90e686225d48ed57b35062d6315884e4dc4752807bf82b487",
        "resnet34-100": "8ba322ed1bc9051c114a2e9d041178dc1fb4c78bdcdf23cc0eb9f1df4cb16399",
        "resnet34-1000": "e09511d829c2af1ddbe31238914af48dbf3a99d1ec50dc4da3ab027a9f713f7b",
    }
    assert {name: load_spec(name).digest for name in digests} == digests


def test_the_private_spec_counts_few_directions() -> None:
    private, plain = load_spec("lite0-private"), load_spec("lite0-100")
    assert private.projection is not None
    assert private.width == private.projection.components < private.features == plain.features
    assert private.centres.shape == (private.width, private.bins)
    assert (private.preprocess, private.weights) == (plain.preprocess, plain.weights)
    assert private.sampling == plain.sampling  # so the features are the same ones


def test_a_projection_and_its_file(tmp_path: Path) -> None:
    spec = projected_spec()
    assert (spec.width, spec.features) == (3, FEATURES)
    assert make_spec().width == FEATURES
    assert spec.projection is not None
    matrix = np.random.default_rng(3).normal(size=(3, FEATURES))
    np.testing.assert_array_equal(spec.projection.array, matrix.astype(np.float32))
    raw = matrix.astype("<f4").tobytes()
    assert b64decode(spec.projection.matrix) == raw
    assert spec.projection.sha256 == hashlib.sha256(raw).hexdigest()
    features = np.random.default_rng(0).normal(size=(7, FEATURES)).astype(np.float32)
    expected = features.astype(float) @ spec.projection.array.T
    np.testing.assert_allclose(spec.projection.apply(features), expected, rtol=1e-14)
    atomic_json(tmp_path / "spec.json", spec)
    assert load_spec(tmp_path / "spec.json").digest == spec.digest
    assert spec.digest != projected_spec(2).digest
    assert spec.projection.matrix not in repr(spec)


def of(values: Any, /, **changes: Any) -> dict[str, Any]:
    """Return the projection of a matrix, spoilt, under a digest that fits."""
    raw = np.asarray(values, "<f4").tobytes()
    matrix, digest = b64encode(raw).decode(), hashlib.sha256(raw).hexdigest()
    return {"components": 3, "matrix": matrix, "sha256": digest, **changes}


WHOLE = np.ones((3, FEATURES))


@pytest.mark.parametrize(
    ("projection", "text"),
    [
        (of(np.ones((3, 5))), "the projection takes 5 features, not 6"),
        (of(np.ones((3, 7))), "the projection takes 7 features, not 6"),
        (of(WHOLE, components=2), "the projection takes 9 features, not 6"),
        (of(WHOLE, components=4), "matrix must hold 4 rows of float32 values"),
        (of(WHOLE, components=0), "projection.components: Input should be greater than 0"),
        (of([]), "matrix must hold 3 rows of float32 values"),
        (of(WHOLE, matrix="no base64!"), "matrix is not base64"),
        (of(WHOLE, matrix="é"), "matrix is not base64"),
        (of(WHOLE, matrix="A" * (8 * 2**20 + 1)), "String should have at most 8388608 characters"),
        (of(WHOLE, sha256="0" * 64), "sha256 is not the digest of the matrix"),
        (of(WHOLE * np.nan), "the matrix must be finite, of values up to 1e+06"),
        (of(WHOLE * np.inf), "the matrix must be finite, of values up to 1e+06"),
        (of(WHOLE * 1e7), "the matrix must be finite, of values up to 1e+06"),
        (of(np.diag([1, 1, 0]) @ WHOLE), "a direction of the matrix is zero everywhere"),
        (of(WHOLE, mean=0), "projection.mean: Extra inputs are not permitted"),
        (7, "projection: Input should be a valid dictionary"),
    ],
)
def test_faulty_projections(projection: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        projected_spec(projection=projection)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_edges_are_those_of_the_directions() -> None:
    with pytest.raises(ConfigError, match="lower and upper must hold 3 values each"):
        projected_spec(lower=[0.0] * FEATURES)
    recipe = projected_spec(lower=None, upper=None, edges_sha256=None)
    with pytest.raises(ConfigError, match=r"fedprint spec calibrate .* --bins 5 --components 3 "):
        recipe.require_ready()
    calibration = Calibration(images=["public"], count=9)
    options: dict[str, Any] = {"weights_sha256": "a" * 64, "calibration": calibration}
    ready = recipe.with_edges(np.zeros(3), np.ones(3), **options)
    assert ready.projection == recipe.projection
    other = Projection.of(np.eye(FEATURES)[:2])
    assert recipe.with_edges(np.zeros(2), np.ones(2), projection=other, **options).width == 2


def test_differing_projections_are_named_by_their_digests() -> None:
    plain = make_spec()
    with pytest.raises(SpecMismatch, match=r"differ in projection \('2 d.* against '3 directions"):
        check_same(projected_spec(2), projected_spec())
    with pytest.raises(SpecMismatch, match=r"in projection \(None against '3 directions \w{12}'\)"):
        check_same(plain, projected_spec())
    turned = Projection.of(-np.random.default_rng(3).normal(size=(3, FEATURES)))
    with pytest.raises(
        SpecMismatch, match=r"projection \('3 directions \w+' against '3 "
    ) as caught:
        check_same(projected_spec(), projected_spec(projection=turned.model_dump()))
    assert len(str(caught.value)) < 300


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


def test_a_changed_copy_has_a_digest_and_text_of_its_own() -> None:
    spec = make_spec()
    before = (spec.digest, spec.as_json)
    for other in (
        spec.model_copy(update={"name": "other"}),
        spec.model_copy(update={"name": "other"}, deep=True),
        copy.copy(spec).model_copy(update={"name": "other"}),
    ):
        assert other.digest == make_spec(name="other").digest
        assert other.as_json == make_spec(name="other").as_json
    assert (spec.digest, spec.as_json) == before
    assert spec == make_spec()
