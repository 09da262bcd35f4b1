from __future__ import annotations

import hashlib
import shutil
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_sites import picture, projected, tiny_spec, write_classes
from PIL import Image
from torchvision.transforms import v2

from fl_client.backbone import load_backbone
from fl_client.extract import extract
from fl_client.features import cached_features
from fl_client.images import make_views, pixel_digest
from fl_client.site import ImageItem, read_site
from fl_client.stages import Clock, Stages
from fl_client.streams import Normalised, by_batches, by_workers
from fl_client.viewing import order_views
from protocol.errors import ConfigError, DataError
from protocol.spec import Sampling, Spec

DRAWS = Sampling(rule="with-replacement", draws=60, flip=True, crop="random", seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("data") / "site", {"a": 9, "b": 8})


def items_of(folder: Path) -> list[ImageItem]:
    return read_site(folder).images


def counts_of(images: Sequence[ImageItem], spec: Spec, **options: object) -> np.ndarray:
    counts = extract(images, spec, device="cpu", **options).counts  # type: ignore[arg-type]
    assert counts is not None
    return counts


def test_against_torchvision_and_numpy(folder: Path, spec: Spec) -> None:
    steps = [
        v2.Resize(36, v2.InterpolationMode.BICUBIC),
        v2.CenterCrop(32),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.25] * 3),
    ]
    images = items_of(folder)
    batch = torch.stack([v2.Compose(steps)(Image.open(item.path)) for item in images])
    with torch.inference_mode():
        expected = load_backbone(spec)(batch).numpy()
    result = extract(images, spec, device="cpu", batch_size=4, want_features=True)
    assert result.features is not None
    assert result.counts is not None
    np.testing.assert_allclose(result.features, expected, rtol=1e-4, atol=1e-5)
    edges = np.linspace(0, 0.5, 11)
    for feature in range(0, 512, 37):
        clipped = np.clip(result.features[:, feature].astype(float), 0, 0.5)
        reference = np.histogram(clipped, edges)[0]
        assert np.abs(result.counts[feature] - reference).sum() <= 2  # a value on an edge


@pytest.mark.parametrize("sampling", [Sampling(), DRAWS], ids=["each-once", "with-replacement"])
def test_names_order_and_workers_do_not_matter(
    folder: Path, tmp_path: Path, spec: Spec, sampling: Sampling
) -> None:
    chosen = spec.model_copy(update={"sampling": sampling})
    images = items_of(folder)
    first = counts_of(images, chosen, batch_size=4, workers=1)
    assert np.array_equal(first, counts_of(images[::-1], chosen, batch_size=4, workers=4))
    for number, item in enumerate(images):
        (tmp_path / "x").mkdir(exist_ok=True)
        shutil.copy(item.path, tmp_path / "x" / f"{(number * 7) % 17:03d}.png")
    assert np.array_equal(first, counts_of(items_of(tmp_path), chosen, batch_size=4))
    assert (first.sum(axis=1) == (sampling.draws or 17)).all()


def test_the_file_format_does_not_matter(folder: Path, tmp_path: Path, spec: Spec) -> None:
    chosen = spec.model_copy(update={"sampling": DRAWS})
    for item in items_of(folder):
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.open(item.path).save(tmp_path / "x" / f"{item.label}{item.path.stem}.bmp")
    one, other = items_of(folder), items_of(tmp_path)
    assert np.array_equal(counts_of(one, chosen), counts_of(other, chosen))
    assert np.array_equal(counts_of(one, spec), counts_of(other, spec))


def test_the_seed_matters_and_the_batch_size_hardly(folder: Path, spec: Spec) -> None:
    images = items_of(folder)
    chosen = spec.model_copy(update={"sampling": DRAWS})
    other = DRAWS.model_copy(update={"seed": 4})
    first = counts_of(images, chosen)
    assert not np.array_equal(first, counts_of(images, spec.model_copy(update={"sampling": other})))
    moved = np.abs(first - counts_of(images, chosen, batch_size=5)).sum() / 2
    assert moved <= 1e-3 * first.sum()


def test_views(spec: Spec) -> None:
    pixels = picture(5, 40, 60)
    chosen = spec.model_copy(update={"sampling": DRAWS})
    views = make_views(pixels, chosen, [0, 1, 2, 0])
    assert views.shape == (4, 32, 32, 3)
    assert np.array_equal(views[0], views[3])
    assert not np.array_equal(views[0], views[1])
    chance = hashlib.sha256(
        pixel_digest(pixels) + (3).to_bytes(8, "little") + (1).to_bytes(8, "little")
    ).digest()
    resized = np.asarray(Image.fromarray(pixels).resize((54, 36), Image.Resampling.BICUBIC))
    top = int.from_bytes(chance[:8], "little") % 5
    left = int.from_bytes(chance[8:16], "little") % 23
    view = resized[top : top + 32, left : left + 32]
    assert np.array_equal(views[1], view[:, ::-1] if chance[16] % 2 else view)


def test_every_image_is_drawn_about_equally_often(spec: Spec, tmp_path: Path) -> None:
    sampling = DRAWS.model_copy(update={"draws": 4000})
    images = items_of(write_classes(tmp_path, {"a": 8}))
    with ThreadPoolExecutor(2) as pool:
        order = order_views(images, sampling, pool)
    assert sorted(draw for _, draw in order) == list(range(4000))
    drawn = np.bincount([index for index, _ in order], minlength=8)
    assert np.all(np.abs(drawn - 500) < 5 * 500**0.5)
    changes = sum(one != other for (one, _), (other, _) in pairwise(order))
    assert changes == 7  # draws of one image follow one another: it is decoded once a few views


@pytest.mark.parametrize("sampling", [Sampling(), DRAWS], ids=["each-once", "with-replacement"])
@pytest.mark.parametrize("size", [1, 8, 11, 64])
def test_the_way_of_a_gpu_gives_the_same_features(
    folder: Path, spec: Spec, sampling: Sampling, size: int
) -> None:
    chosen = spec.model_copy(update={"sampling": sampling})
    images, device = items_of(folder) * 3, torch.device("cpu")
    network = Normalised(load_backbone(spec), chosen, device)
    with ThreadPoolExecutor(3) as pool:
        order = order_views(images, sampling, pool)
        one = list(by_workers(network, images, chosen, order, pool, 3, Clock(device)))
        clock = Clock(device)
        other = list(by_batches(network, images, chosen, order, pool, size, device, clock))
    assert [view for views, _ in one for view in views] == order
    assert [view for views, _ in other for view in views] == order
    assert [len(views) for views, _ in other[:-1]] == [size] * (len(other) - 1)
    assert [len(values) for _, values in other] == [len(views) for views, _ in other]
    found, expected = (torch.cat([values for _, values in each]) for each in (other, one))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert clock.seconds().keys() == {"decoding", "transfer", "network"}


def test_a_damaged_image_ends_the_way_of_a_gpu(folder: Path, tmp_path: Path, spec: Spec) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    images = [*items_of(folder), ImageItem(tmp_path / "x.png", 0, "x")]
    device, order = torch.device("cpu"), [(index, 0) for index in range(len(images))]
    network = Normalised(load_backbone(spec), spec, device)
    with (
        ThreadPoolExecutor(2) as pool,
        pytest.raises(DataError, match=r"x\.png cannot be read"),
    ):
        list(by_batches(network, images, spec, order, pool, 4, device, Clock(device)))


def test_threads_are_given_back_and_stages_told(folder: Path, spec: Spec) -> None:
    before, told = torch.get_num_threads(), list[Stages]()
    result = extract(items_of(folder), spec, device="cpu", workers=2, tell=told.append)
    assert torch.get_num_threads() == before
    assert told == [result.stages]
    assert result.stages.workers == 2
    assert result.stages.rates.keys() == {"decoding", "network", "histogram"}
    assert all(0 < share < 1.5 for share in result.stages.shares.values())


def test_memory_does_not_grow_with_the_number_of_images(
    monkeypatch: pytest.MonkeyPatch, folder: Path, spec: Spec
) -> None:
    monkeypatch.setattr(Normalised, "__call__", lambda self, views, count: torch.zeros(count, 512))
    peaks = []
    for copies in (10, 60):
        images = items_of(folder) * copies
        tracemalloc.start()
        counts_of(images, spec, batch_size=8, workers=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    per_image = (peaks[1] - peaks[0]) / (50 * 17)
    assert per_image < 500  # bytes, against 3 kB of the view and 2 kB of features


def test_bad_input(folder: Path, tmp_path: Path, spec: Spec) -> None:
    with pytest.raises(DataError, match=r"^there are no images to fingerprint: check the folder"):
        extract([], spec)
    images = items_of(folder)
    recipe = spec.model_copy(update={"lower": None, "upper": None, "edges_sha256": None})
    with pytest.raises(ConfigError, match="spec tiny is a recipe without bin edges"):
        extract(images, recipe)
    with pytest.raises(ConfigError, match="batch size and workers must be at least 1"):
        extract(images, spec, batch_size=0)
    with pytest.raises(ConfigError, match="it has no features per image"):
        extract(images, spec.model_copy(update={"sampling": DRAWS}), want_features=True)
    crop = spec.preprocess.model_copy(update={"crop": 40})
    with pytest.raises(ConfigError, match="crop 40 is larger than resize 36"):
        extract(images, spec.model_copy(update={"preprocess": crop}))
    corrupt = tmp_path / "x.png"
    corrupt.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"x\.png cannot be read"):
        extract([*images, ImageItem(corrupt, 0, "x")], spec, device="cpu")


def test_cached_features(
    folder: Path, tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = read_site(folder, state=tmp_path / "state")
    features, counts = cached_features(site, spec, "cpu")
    assert features.shape == (17, 512)
    assert np.array_equal(counts, counts_of(site.images, spec))
    drawn = spec.model_copy(update={"sampling": DRAWS})
    again, other = cached_features(site, drawn, "cpu")
    assert np.array_equal(features, again)
    assert (other.sum(axis=1) == 60).all()
    files = sorted((tmp_path / "state" / "features").iterdir())
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr("fl_client.features.extract", refuse)
        assert np.array_equal(cached_features(site, spec, "cpu")[0], features)
    for path in files:
        path.write_bytes(b"damaged")
    assert np.array_equal(cached_features(site, spec, "cpu")[1], counts)


@pytest.mark.parametrize("sampling", [Sampling(), DRAWS], ids=["each-once", "with-replacement"])
def test_a_projected_spec(folder: Path, spec: Spec, sampling: Sampling) -> None:
    chosen = projected(spec).model_copy(update={"sampling": sampling})
    assert chosen.projection is not None
    images = items_of(folder)
    counts = counts_of(images, chosen, batch_size=4, workers=1)
    assert counts.shape == (4, 10)
    assert (counts.sum(axis=1) == (sampling.draws or 17)).all()
    # float64 all the way: order, workers and batches move no value over an edge
    assert np.array_equal(counts, counts_of(images[::-1], chosen, batch_size=4, workers=3))
    for size in (1, 5, 32):
        assert np.array_equal(counts, counts_of(images, chosen, batch_size=size))
    if sampling.rule == "each-once":
        features = extract(images, spec, device="cpu", want_features=True).features
        assert features is not None
        values = np.clip(chosen.projection.apply(features), -0.5, 0.5)
        expected = [np.histogram(column, np.linspace(-0.5, 0.5, 11))[0] for column in values.T]
        assert np.array_equal(counts, expected)


def test_the_cache_of_a_projected_spec_holds_all_features(
    folder: Path, tmp_path: Path, spec: Spec
) -> None:
    site = read_site(folder, state=tmp_path / "state")
    features, counts = cached_features(site, projected(spec), "cpu")
    assert (features.shape, counts.shape) == ((17, 512), (4, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("fl_client.features.extract")
        assert np.array_equal(cached_features(site, projected(spec), "cpu")[1], counts)
    assert np.array_equal(cached_features(site, spec, "cpu")[0], features)


def test_unwritable_state(folder: Path, tmp_path: Path, spec: Spec) -> None:
    (tmp_path / "file").write_text("")
    site = read_site(folder, state=tmp_path / "file")
    with pytest.raises(DataError, match=r"^state folder .* cannot be written \(.*\): name another"):
        cached_features(site, spec, "cpu")


def test_two_bins_of_the_tiny_spec_differ(tmp_path: Path) -> None:
    assert tiny_spec(tmp_path, bins=10).digest != tiny_spec(tmp_path, bins=20).digest
