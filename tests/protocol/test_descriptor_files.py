"""Files of descriptors: what is written is read again, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from protocol.descriptor_files import MOST_FILTERS, Sizes, from_bytes, most_bytes, to_bytes
from protocol.descriptors import KINDS, ClassMoments, Descriptor, Features, Fisher, Kind, Moments
from protocol.errors import (
    BadDescriptor,
    BadDtype,
    BadShape,
    MalformedPayload,
    NotFinite,
    TooLarge,
    VerificationError,
)

SIZES = Sizes(width=5, classes=3, images=9)
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(9, 5)).astype(np.float32)
DESCRIPTORS: dict[Kind, Descriptor] = {
    "moments": Moments(FEATURES.mean(axis=0), np.cov(FEATURES, rowvar=False), 9),
    "class-moments": ClassMoments(
        np.array([4, 4, 1]), RNG.normal(size=(3, 5)), np.diag([1.0, 2.0, 0.0]) @ np.ones((3, 5))
    ),
    "fisher": Fisher(RNG.random(11)),
    "features": Features(FEATURES, np.arange(9) % 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_again(kind: Kind) -> None:
    data = to_bytes(DESCRIPTORS[kind])
    found = from_bytes(data, kind, SIZES)
    for name, value in vars(DESCRIPTORS[kind]).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-6, atol=1e-6)
    assert len(data) <= most_bytes(kind, SIZES)


@given(seed=st.integers(0, 99), n=st.integers(2, 12), m=st.integers(1, 8))
def test_covariance_of_few_images_needs_few_rows(seed: int, n: int, m: int) -> None:
    features = np.random.default_rng(seed).normal(size=(n, m))
    covariance = np.cov(features, rowvar=False).reshape(m, m)
    data = to_bytes(Moments(features.mean(axis=0), covariance, n))
    assert len(safetensors.numpy.load(data)["factor"]) == min(m, n - 1)
    found = from_bytes(data, "moments", Sizes(m, 1, n))
    assert isinstance(found, Moments)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.covariance, found.covariance.T)


def tensors(kind: Kind) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(to_bytes(DESCRIPTORS[kind]))


def changed(kind: Kind, **changes: np.ndarray) -> bytes:
    return safetensors.numpy.save(tensors(kind) | changes)


def marred(name: str, kind: Kind, value: float) -> Callable[[], bytes]:
    def make() -> bytes:
        array = tensors(kind)[name].copy()
        array.flat[0] = value
        return changed(kind, **{name: array})

    return make


BAD: list[tuple[Kind, Callable[[], bytes], type[VerificationError], str]] = [
    ("moments", lambda: b"\x00" * 40, MalformedPayload, "are no readable safetensors file"),
    ("moments", lambda: b"x" * 9000, TooLarge, r"have 9000 bytes, the limit is \d+"),
    (
        "moments",
        lambda: changed("moments", more=np.ones(1)),
        MalformedPayload,
        "the moments must hold mean, factor, not 'factor, mean, more'",
    ),
    (
        "moments",
        lambda: changed("moments", mean=np.ones(5)),
        BadDtype,
        "mean of the moments is float64, not float32",
    ),
    (
        "moments",
        lambda: changed("moments", mean=np.ones(4, np.float32)),
        BadShape,
        r"mean of the moments has shape \(4,\), not 5",
    ),
    (
        "moments",
        lambda: changed("moments", factor=np.ones((6, 5), np.float32)),
        BadShape,
        "factor of the moments has 6 rows, 9 images span at most 5 directions",
    ),
    ("moments", marred("factor", "moments", np.nan), NotFinite, "factor .* holds NaN or infinity"),
    ("moments", marred("mean", "moments", 1e10), BadDescriptor, "holds values above 1e"),
    (
        "class-moments",
        marred("counts", "class-moments", 5),
        BadDescriptor,
        "counts of the class-moments do not add up to their 9 images",
    ),
    (
        "class-moments",
        marred("counts", "class-moments", -1),
        BadDescriptor,
        "do not add up to their 9 images",
    ),
    (
        "class-moments",
        marred("variances", "class-moments", -0.1),
        BadDescriptor,
        "variances of the class-moments are negative",
    ),
    (
        "class-moments",
        lambda: changed("class-moments", variances=np.ones((3, 5), np.float32)),
        BadDescriptor,
        "a class of one image has no variance, these class-moments say it has",
    ),
    ("fisher", marred("values", "fisher", -1e-9), BadDescriptor, "values of the fisher are neg"),
    (
        "fisher",
        lambda: changed("fisher", values=np.ones(MOST_FILTERS + 1, np.float32)),
        TooLarge,
        "has 1048577 filters, the limit is 1048576",
    ),
    (
        "fisher",
        lambda: changed("fisher", values=np.ones((2, 2), np.float32)),
        BadShape,
        r"values of the fisher has shape \(2, 2\), not any",
    ),
    (
        "features",
        marred("labels", "features", 3),
        BadDescriptor,
        "labels of the features lie outside 0 to 2",
    ),
    (
        "features",
        lambda: changed("features", values=np.ones((8, 5), np.float32)),
        BadShape,
        r"values of the features has shape \(8, 5\), not 9 x 5",
    ),
]


@pytest.mark.parametrize(("kind", "make", "error", "text"), BAD)
def test_everything_else_is_refused(
    kind: Kind, make: Callable[[], bytes], error: type[VerificationError], text: str
) -> None:
    with pytest.raises(error, match=text):
        from_bytes(make(), kind, SIZES)


def test_counts_that_wrap_around_do_not_add_up() -> None:
    counts = np.full(2049, 2**53, np.int64)  # 2048 of them are 0 as int64
    zeros = np.zeros((2049, 1), np.float32)
    data = safetensors.numpy.save({"counts": counts, "means": zeros, "variances": zeros})
    with pytest.raises(BadDescriptor, match="do not add up to their 9007199254740992 images"):
        from_bytes(data, "class-moments", Sizes(width=1, classes=2049, images=2**53))


@given(st.binary(max_size=300), st.sampled_from(KINDS))
def test_noise_is_never_anything_but_refused(data: bytes, kind: Kind) -> None:
    with pytest.raises(VerificationError):
        from_bytes(data, kind, SIZES)
