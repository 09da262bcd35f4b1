"""Fingerprints of regions, against means of feature maps computed by the book."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_masks import label_map, region_spec, write_masked
from fixtures_sites import write_classes
from numpy.typing import NDArray
from PIL import Image

from fl_client.backbone import load_backbone
from fl_client.contribution import counted_digest, counted_items, counted_number
from fl_client.extract import extract
from fl_client.images import make_views
from fl_client.policy import Policy, gate, local_policy
from fl_client.regions import regions_of
from fl_client.regions_pooling import RegionHead, cell_of
from fl_client.release import describe
from fl_client.site import Site, read_site
from protocol.errors import ConfigError, DataError, PolicyError, SpecMismatch
from protocol.spec import Sampling, Spec, check_same, load_spec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return region_spec(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return read_site(write_masked(tmp_path / "north", 12, patients=4))


def by_the_book(site: Site, spec: Spec) -> NDArray[np.float64]:
    """Return the features of all regions: the map enlarged to the view, averaged over pixels."""
    model, found = load_backbone(spec), []
    size = spec.preprocess.crop
    for item in site.images:
        assert item.mask is not None
        view = make_views(item.pixels(), spec, [0])[0] / np.float32(255)
        mean, std = np.float32(spec.preprocess.mean), np.float32(spec.preprocess.std)
        inputs = torch.from_numpy(((view - mean) / std).transpose(2, 0, 1)[None])
        with torch.inference_mode():
            maps = model.forward_features(inputs)[0].numpy()  # type: ignore[operator]
        large = np.repeat(np.repeat(maps, 32, 1), 32, 2)  # [m, 96, 96]
        classes = item.mask.classes()
        short = min(classes.shape)
        wide = tuple(spec.preprocess.resize * side // short for side in classes.shape[::-1])
        labels = np.asarray(Image.fromarray(classes).resize(wide, Image.Resampling.NEAREST))
        top, left = (round((side - size) / 2) for side in labels.shape)
        labels = labels[top : top + size, left : left + size]
        for label in (1, 2):
            inside = labels == label
            if inside.sum() >= 256:
                found.append(large[:, inside].mean(axis=1, dtype=np.float64))
    return np.array(found)


def histogram(values: NDArray[np.float64], spec: Spec) -> NDArray[np.int64]:
    place = np.clip(np.floor(values / 0.5 * spec.bins), 0, spec.bins - 1).astype(int)  # [r, m]
    return np.array([np.bincount(column, minlength=spec.bins) for column in place.T])


def counts_of(site: Site, spec: Spec, **options: int) -> NDArray[np.int64]:
    counts = extract(site.images, spec, device="cpu", **options).counts  # type: ignore[arg-type]
    assert counts is not None
    return counts


def test_regions_are_means_over_their_pixels(site: Site, spec: Spec) -> None:
    expected = by_the_book(site, spec)
    counts = counts_of(site, spec)
    assert len(expected) == len(regions_of(site, spec)) < 24  # the smallest discs are left out
    assert (counts.sum(axis=1) == len(expected)).all()
    off = np.abs(counts - histogram(expected, spec)).sum() / 2
    assert off <= 2  # of 10,000 values: one within rounding of an edge may fall beside it


def test_neither_workers_nor_batches_nor_order_matter(site: Site, spec: Spec) -> None:
    counts = counts_of(site, spec, workers=1)
    assert np.array_equal(counts, counts_of(site, spec, workers=3))
    assert np.array_equal(
        counts, counts_of(Site(**{**vars(site), "images": site.images[::-1]}), spec)
    )


def test_a_spec_of_regions_is_another_spec(spec: Spec) -> None:
    whole = load_spec("lite0-100")
    digest = "62f9a505abcea66895e20bcc967c7d09bd16093ef9c1f1594efda7f8efaf964a"
    assert whole.digest == digest  # what the field cost those without it: nothing
    regions = whole.of_regions(32)
    assert regions.digest != digest
    assert "regions" not in whole.model_dump_json()
    same = regions.model_copy(update={"name": whole.name})
    with pytest.raises(SpecMismatch, match=r"differ in regions\.source \(None against 'mask'\)"):
        check_same(whole, same)
    assert cell_of(spec) == 32
    drawn = whole.model_copy(update={"sampling": Sampling(rule="with-replacement", draws=9)})
    with pytest.raises(ConfigError, match="regions are counted once each, in a centre crop"):
        drawn.of_regions(32)
    wrong = spec.model_copy(update={"regions": spec.of_regions(16).regions})
    with pytest.raises(ConfigError, match="regions have cells of 16 pixels, and resnet10t has 3"):
        RegionHead(load_backbone(wrong), wrong, torch.device("cpu"), 2)
    other = load_backbone(spec)
    other.global_pool.pool = torch.nn.AdaptiveMaxPool2d(1)
    with pytest.raises(ConfigError, match="resnet10t does not pool by the mean of a square"):
        RegionHead(other, spec, torch.device("cpu"), 2)


def test_what_a_cap_leaves(site: Site, spec: Spec) -> None:
    regions = regions_of(site, spec)
    chosen = {cap: counted_items(site, spec, cap) for cap in (1, 3, 100)}
    for cap, items in chosen.items():
        counts = extract(items, spec, device="cpu").counts
        assert counts is not None
        assert counts.sum(axis=1).tolist() == [counted_number(site, cap, spec)] * spec.width
    of_patient = [site.images[image].subject for image, _ in regions]
    assert counted_number(site, 1, spec) == 4
    assert counted_number(site, 3, spec) == sum(min(3, of_patient.count(f"p{i}")) for i in range(4))
    assert counted_number(site, 100, spec) == counted_number(site, 0, spec) == len(regions)
    # one patient's other images change nothing of what is counted of the rest
    fewer = Site(**{**vars(site), "images": [i for i in site.images if i.subject != "p1"]})
    rest = {i.path: i.mask for i in counted_items(fewer, spec, 1)}
    assert {i.path for i in chosen[1] if i.subject != "p1"} == set(rest)
    for item in chosen[1]:
        other = rest.get(item.path)
        assert other is None or (item.mask is not None and other.only == item.mask.only)


def test_what_masks_mean_is_part_of_the_data(site: Site, spec: Spec) -> None:
    before = site.data_digest, counted_digest(site, 1, spec), regions_of(site, spec)
    toml = site.folder / "site.toml"
    toml.write_text(toml.read_text().replace('7 = "left"', '7 = "right"\n9 = "none"'))
    again = read_site(site.folder)
    assert again.data_digest != before[0]
    assert counted_digest(again, 1, spec) != before[1]
    assert [held.name for held in again.card.classes] == ["disc", "right", "none"]
    assert again.patients_by_class == {"disc": 4, "right": 4, "none": 0}
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(site.folder / "masks/0.png")
    assert len(regions_of(again, spec)) < len(before[2])  # read anew, for the file has changed


def test_sites_without_masks_are_refused(tmp_path: Path, spec: Spec) -> None:
    plain = read_site(write_classes(tmp_path / "plain", {"a": 2, "b": 2}))
    expected = (
        "spec tiny-regions counts regions, and site plain has no masks: take a spec of whole "
        'images, or give masks and say objective = "segmentation" in site.toml'
    )
    with pytest.raises(DataError) as caught:
        regions_of(plain, spec)
    assert str(caught.value) == expected
    with pytest.raises(ConfigError, match="it has no features per image"):
        extract(plain.images, spec, device="cpu")
    empty = write_masked(tmp_path / "empty", 3)
    for path in (empty / "masks").iterdir():
        Image.fromarray(np.zeros((24, 30), np.uint8)).save(path)
    with pytest.raises(DataError, match="no class covers 256 pixels or more of any view of site"):
        regions_of(read_site(empty), spec)


def test_a_mask_of_another_size(tmp_path: Path, spec: Spec) -> None:
    site = read_site(write_masked(tmp_path / "odd", 3))
    Image.fromarray(label_map(20, 30)).save(site.folder / "masks/1.png")
    with pytest.raises(DataError) as caught:
        counts_of(site, spec)
    assert str(caught.value) == (
        "mask masks/1.png has 30 x 20 pixels, its image 30 x 24: save both on one grid"
    )


def test_what_the_gate_says_of_regions(tmp_path: Path, spec: Spec) -> None:
    folder = write_masked(tmp_path / "s", 12, patients=4)
    for path in (folder / "masks").iterdir():
        if int(path.stem) % 4:  # only the first patient has any
            Image.fromarray(np.zeros((24, 30), np.uint8)).save(path)
    site = read_site(folder)
    few = Policy(name="p", specs=[spec.digest], release="plain", min_images=2, min_patients=3)
    with pytest.raises(PolicyError, match="has 1 patients, at least 3 are needed"):
        gate(few, spec, site)
    local = local_policy()
    assert (describe(site, spec, local).patients, site.patients) == (1, 4)
    # of a spec that is not allowed nothing is told, not even whether regions are so large
    assert spec.regions is not None
    huge = spec.regions.model_copy(update={"least": 1000.0})
    with pytest.raises(PolicyError, match="is not allowed"):
        gate(few, spec.model_copy(update={"regions": huge}), site)
