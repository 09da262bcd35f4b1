"""Images as network inputs, with and without augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from fixtures_sites import write_classes

from fl_client.augment import SiteImages, evaluation_view, training_augmentation
from fl_client.images import resize_shorter
from fl_client.site import read_site
from protocol.spec import Spec


def images(folder: Path, spec: Spec, seed: int | None = None) -> SiteImages:
    """Return the images of a small site; with a seed, augmented."""
    site = read_site(write_classes(folder / f"site-{seed}", {"a": 2, "b": 1}))
    view = (
        evaluation_view(spec.preprocess)
        if seed is None
        else training_augmentation(spec.preprocess, seed)
    )
    return SiteImages(site.images, site.labels, spec, view)


def test_evaluation_sees_the_specs_own_view(tmp_path: Path, spec: Spec) -> None:
    data = images(tmp_path, spec)
    assert len(data) == 3
    for index, label in enumerate([0, 0, 1]):
        found, found_label = data[index]
        resized = np.asarray(resize_shorter(data._items[index].pixels(), spec.preprocess))
        height, width = resized.shape[:2]
        assert min(height, width) == 36
        top, left = (height - 32) // 2, (width - 32) // 2
        crop = resized[top : top + 32, left : left + 32] / 255
        expected = ((crop - 0.5) / 0.25).transpose(2, 0, 1)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        assert (found.dtype, found_label.item()) == (torch.float32, label)


def test_training_differs_from_view_to_view_and_keeps_the_shape(tmp_path: Path, spec: Spec) -> None:
    data = images(tmp_path, spec, 0)
    views = [data[0][0] for _ in range(4)]
    assert {tuple(view.shape) for view in views} == {(3, 32, 32)}
    assert all(torch.isfinite(view).all() for view in views)
    assert not torch.equal(views[0], views[1])


def test_a_seed_gives_the_same_views_whatever_ran_before(tmp_path: Path, spec: Spec) -> None:
    data = images(tmp_path, spec, 1)
    data[0], data[1]
    data.reseed(5)
    first = [data[index][0] for index in range(3)]
    data.reseed(5)
    again = [data[index][0] for index in range(3)]
    data.reseed(6)
    other = [data[index][0] for index in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_shifts_go_both_ways(spec: Spec) -> None:
    policy = training_augmentation(spec.preprocess, 0)
    affine = next(step for step in policy.transforms if type(step).__name__ == "Affine")
    pixels = np.zeros((100, 100, 3), np.uint8)
    drawn = [affine.get_params_dependent_on_data({"shape": pixels.shape}, {}) for _ in range(200)]
    shifts = np.array([values["matrix"][:2] @ [49.5, 49.5, 1] - 49.5 for values in drawn])  # [k, 2]
    assert np.abs(shifts).max() <= 6.5
    assert (shifts.min(axis=0) < -3).all()
    assert (shifts.max(axis=0) > 3).all()


def test_every_image_is_decoded_once(tmp_path: Path, spec: Spec) -> None:
    data = images(tmp_path, spec)
    before = data[2][0]
    for item in data._items:
        item.path.unlink()
    assert torch.equal(data[2][0], before)
