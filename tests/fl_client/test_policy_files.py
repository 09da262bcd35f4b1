"""Augmentation policies as files: what is listed comes back as it was, anything else is refused."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
from fixtures_sites import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.augment import training_augmentation
from fl_client.policy_candidates import FAMILIES, draw_candidates
from fl_client.policy_files import (
    augmentation,
    default_policy,
    parse_policy,
    pipeline_of,
    policy_digest,
    policy_of,
    read_policy,
    views,
    write_policy,
)
from fl_client.policy_space import AugmentationPolicy, OneOf, Sequential, SomeOf
from fl_client.policy_transforms import Plain, Transform
from protocol.errors import ConfigError
from protocol.experiment import POLICY_BYTES, Policy
from protocol.spec import Preprocess, Spec

SHARE = st.floats(0, 1)
MAKERS = st.sampled_from(list(FAMILIES["all"].values()))
LEAVES: st.SearchStrategy[Transform] = st.builds(
    lambda make, m, p: make(m, p), MAKERS, SHARE, SHARE
)
CHAINS = st.builds(
    lambda inner, p: Sequential(transforms=tuple(inner), p=p),
    st.lists(LEAVES, min_size=1, max_size=2),
    st.floats(0.1, 1),
)
CHOICES = st.lists(CHAINS, min_size=1, max_size=3).map(tuple)
STEPS = st.one_of(
    LEAVES,
    CHAINS,
    st.builds(lambda inner, p: OneOf(transforms=inner, p=p), CHOICES, SHARE),
    st.builds(lambda inner, p: SomeOf(transforms=inner, n=1, p=p), CHOICES, SHARE),
)
POLICIES = st.builds(
    lambda steps: AugmentationPolicy(transforms=tuple(steps)), st.lists(STEPS, max_size=3)
)


def compose(*steps: Any) -> dict[str, Any]:
    """Return what albumentations writes of a pipeline."""
    written: dict[str, Any] = A.to_dict(A.Compose(list(steps)))
    return written


@settings(max_examples=60)
@given(POLICIES, st.integers(0, 2**31 - 1))
def test_what_is_listed_comes_back_and_keeps_the_kind_of_image(
    policy: AugmentationPolicy, seed: int
) -> None:
    pipeline = pipeline_of(policy)
    assert policy_of(pipeline) == policy
    assert parse_policy(json.dumps(pipeline).encode()) == policy
    assert pipeline_of(policy_of(pipeline)) == pipeline
    assert Policy(pipeline=pipeline).pipeline == pipeline  # a pool takes it
    pixels, transform = picture(seed % 100, 40, 36), views(policy, 32)
    found = []
    for _ in range(2):
        transform.set_random_seed(seed)
        found.append(transform(image=pixels)["image"])
    assert found[0].shape == (32, 32, 3)
    assert found[0].dtype == np.uint8
    np.testing.assert_array_equal(*found)


def test_albumentations_itself_reads_the_file_and_does_the_same(tmp_path: Path) -> None:
    for number, (name, policy) in enumerate(draw_candidates(8, 3).items()):
        path = tmp_path / f"{name}.json"
        write_policy(path, policy)
        assert read_policy(path) == policy
        theirs = A.load(path, data_format="json")
        theirs.set_random_seed(number)
        ours = A.Compose([*views(policy, 32).transforms[1:]], seed=number)
        for image in range(5):
            pixels = picture(image, 32, 32)
            np.testing.assert_array_equal(
                theirs(image=pixels)["image"], ours(image=pixels)["image"]
            )


def test_the_default_policy_is_the_usual_augmentation(spec: Spec) -> None:
    usual = training_augmentation(spec.preprocess, 7)
    ours = augmentation(default_policy(), spec.preprocess, 7)
    for image in range(10):
        pixels = picture(image, 36, 50)
        np.testing.assert_array_equal(usual(image=pixels)["image"], ours(image=pixels)["image"])


def test_no_steps_are_the_crop_and_the_normalisation_alone() -> None:
    preprocess = Preprocess(resize=32, crop=32, mean=[0.5] * 3, std=[0.25] * 3)
    pixels = picture(1, 32, 32)
    view = augmentation(AugmentationPolicy(), preprocess, 0)(image=pixels)["image"]
    np.testing.assert_allclose(view, (pixels / 255 - 0.5) / 0.25, atol=1e-5)


def test_the_digest_is_of_what_a_policy_does() -> None:
    candidates = draw_candidates(20, 0)
    assert len({policy_digest(policy) for policy in candidates.values()}) == 20
    sparse = {"transform": {"__class_fullname__": "Compose", "transforms": []}}
    assert policy_digest(policy_of(sparse)) == policy_digest(candidates["crop"])


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: A.Affine(border_mode=2), "transform.transforms.0.border_mode is 2, but only 0 is"),
    (
        lambda: A.CoarseDropout(fill="inpaint_ns"),
        'transform.transforms.0.fill is "inpaint_ns", but only 0.0 is allowed there',
    ),
    (
        lambda: A.GaussianBlur(blur_limit=(3, 801)),
        "transform.transforms.0.blur_limit.0 is 3, but only 0 is allowed there",
    ),
    (
        lambda: A.Affine(translate_px=300),
        "transform.transforms.0.translate_px.x.0 is 300.0, but only 0 is allowed there",
    ),
    (lambda: A.Affine(scale=9), "transforms.0.Affine.scale.x.0: Input should be less than or"),
    (lambda: A.CLAHE(), "transforms.0: Input tag 'CLAHE' found"),
    (lambda: A.Normalize(), "transforms.0: Input tag 'Normalize' found"),
    (
        lambda: A.SomeOf([A.Compose([A.HorizontalFlip()])], n=1),
        "transforms.0.SomeOf.transforms.0: Input tag 'Compose' found",
    ),
    (
        lambda: A.Sequential([A.HorizontalFlip(p=1)] * 9),
        "9 transforms of one image are more than 8",
    ),
    (
        lambda: A.OneOf([A.HorizontalFlip(p=1)] * 257),
        "257 transforms are more than 256",
    ),
]


@pytest.mark.parametrize(("make", "text"), REFUSED)
def test_what_is_not_listed_is_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"augmentation policy: {text}")) as caught:
        policy_of(compose(make()))
    assert "\n" not in str(caught.value)


FLIP = '{"transform":{"__class_fullname__":"Compose","transforms":[%s]}}'
KIND = '"__class_fullname__":"HorizontalFlip"'
HOSTILE = [
    (b"", " is no JSON"),
    (b"\xff", " is no JSON"),
    (b'{"transform":NaN}', " is no JSON (NaN is no number): write it anew"),
    (b'{"transform":{"a":1,"a":2}}', " is no JSON (a key comes twice): write it anew"),
    (b"[" * 60_000, " is no JSON (maximum recursion depth"),
    (b" " * (POLICY_BYTES + 1), f": longer than {POLICY_BYTES} bytes"),
    (b"[]", ": give what albumentations.to_dict writes, a Compose"),
    (b'{"transform":null}', ": give what albumentations.to_dict writes, a Compose"),
    (b'{"transform":{}}', ": give what albumentations.to_dict writes, a Compose"),
    (b'{"transform":{},"lambda_transforms":1}', ": give what albumentations.to_dict writes"),
    (b'{"transform":{"__class_fullname__":"os.system"}}', ": give what albumentations.to_dict"),
    ((FLIP % '{"__class_fullname__":"os.system"}').encode(), ": transforms.0: Input tag 'os.sys"),
    ((FLIP % '{"__class_fullname__":["A"]}').encode(), ": transforms.0: Input tag"),
    ((FLIP % '{%s,"p":1e999}' % KIND).encode(), " holds what JSON cannot: write it anew"),
    ((FLIP % '{%s,"x":"\\ud800"}' % KIND).encode(), " holds what JSON cannot: write it anew"),
    ((FLIP % '{%s,"p":7}' % KIND).encode(), ": transforms.0.HorizontalFlip.p: Input should be"),
    (
        (FLIP % '{%s,"p":"0.5"}' % KIND).encode(),
        ': transform.transforms.0.p is "0.5", but only 0.5 is allowed there',
    ),
    (
        (FLIP % '{%s,"always_apply":true}' % KIND).encode(),
        ": transform.transforms.0 has a parameter always_apply that is unknown",
    ),
    (
        (FLIP % '{%s,"name":"HorizontalFlip"}' % KIND).encode(),
        ": transform.transforms.0 has a parameter name that is unknown",
    ),
]


@pytest.mark.parametrize(("data", "text"), HOSTILE)
def test_hostile_bytes_are_refused_in_one_line(data: bytes, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("augmentation policy" + text)) as caught:
        parse_policy(data)
    assert str(caught.value).isprintable()


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: text.encode("utf-8")))
def test_other_bytes_raise_nothing_else(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_policy(data)


@settings(max_examples=60)
@given(POLICIES, st.data())
def test_a_changed_number_is_refused_or_read_as_it_stands(
    policy: AugmentationPolicy, data: st.DataObject
) -> None:
    pipeline = pipeline_of(policy)
    spots: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if isinstance(inner, dict | list):
                collect(inner)
            elif not isinstance(inner, str):
                spots.append((value, key))

    collect(pipeline["transform"])
    owner, key = data.draw(st.sampled_from(spots))
    owner[key] = data.draw(st.sampled_from([-1e9, -0.5, 0, 1, 3, 1e9, True, None, "x", [], {}]))
    with contextlib.suppress(ConfigError):
        assert pipeline_of(policy_of(pipeline)) == pipeline  # nothing was passed over


def test_a_missing_file(tmp_path: Path) -> None:
    text = f"augmentation policy {tmp_path / 'no.json'} cannot be read (No such file or directory)"
    with pytest.raises(ConfigError, match=re.escape(text)):
        read_policy(tmp_path / "no.json")


def test_a_long_policy_is_refused_however_it_is_spaced() -> None:
    flips = tuple(Plain(name="HorizontalFlip") for _ in range(256))
    longest = AugmentationPolicy(transforms=(OneOf(transforms=flips),))
    assert len(json.dumps(pipeline_of(longest))) < POLICY_BYTES
    padded = pipeline_of(longest) | {"__version__": "2" * POLICY_BYTES}
    with pytest.raises(ConfigError, match=f"longer than {POLICY_BYTES} bytes"):
        policy_of(padded)
