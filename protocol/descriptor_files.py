"""The files of descriptors: one strict safetensors form a kind.

=============  ===================================================================
kind           tensors
=============  ===================================================================
moments        ``mean`` float32 [m], ``factor`` float32 [r, m]: covariance = factor' factor
class-moments  ``counts`` int64 [c], ``means`` and ``variances`` float32 [c, m]
fisher         ``values`` float32 [p], one a filter
features       ``values`` float32 [n, m], ``labels`` int64 [n]
=============  ===================================================================

A covariance of n images has at most n - 1 directions: its factor is that many rows, some twentieth
of the matrix at a small site, and what it makes is symmetric and non-negative whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from protocol.descriptors import (
    Arrays,
    ClassMoments,
    Descriptor,
    Features,
    Fisher,
    Kind,
    Moments,
)
from protocol.errors import (
    BadDescriptor,
    BadDtype,
    BadShape,
    MalformedPayload,
    NotFinite,
    TooLarge,
)

MOST_FILTERS = 1_048_576
"""Most filters of a probe network; large convolutional networks have some 50,000."""
MOST_VALUE = 1e9
"""Largest absolute value: what is squared and summed stays far inside a float64."""
_HEADER = 4096  # bytes of a safetensors header, which has some 200

Shape = tuple[int | None, ...]  # None where the file decides


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a site's descriptors follow from.

    Parameters
    ----------
    width : int
        Counted features m, see `protocol.spec.Spec.width`.
    classes : int
        Classes c of the site's task card.
    images : int
        Images n that a descriptor says it is of.
    """

    width: int
    classes: int
    images: int

    @property
    def rank(self) -> int:
        """Most directions r of a covariance."""
        return max(1, min(self.width, self.images - 1))


def to_bytes(descriptor: Descriptor) -> bytes:
    """Return the exact bytes of a descriptor's safetensors file."""
    arrays = _arrays(descriptor)
    # safetensors would write arrays that are not contiguous corrupted
    return safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in arrays.items()})


def from_bytes(data: bytes, kind: Kind, sizes: Sizes) -> Descriptor:
    """Return the descriptor of a safetensors file.

    Parameters
    ----------
    data : bytes
        The file.
    kind : str
        What it must be.
    sizes : Sizes
        What its shapes must follow from.

    Raises
    ------
    TooLarge, MalformedPayload, BadShape, BadDtype, NotFinite, BadDescriptor
        When it is none.
    """
    if len(data) > (limit := most_bytes(kind, sizes)):
        raise TooLarge(f"the {kind} have {len(data)} bytes, the limit is {limit}")
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedPayload(f"the {kind} are no readable safetensors file: {error}") from None
    _check(tensors, kind, sizes)
    if kind == "moments":
        mean, factor = (tensors[name].astype(np.float64) for name in ("mean", "factor"))
        return Moments(mean, factor.T @ factor, sizes.images)  # [m], [m, m]
    if kind == "class-moments":
        return _class_moments(tensors, sizes)
    if kind == "fisher":
        return _fisher(tensors["values"])
    return _features(tensors, sizes)


def most_bytes(kind: Kind, sizes: Sizes) -> int:
    """Return the most bytes that a descriptor's file can have: known before it is read."""
    entries = {
        name: np.prod([MOST_FILTERS if side is None else side for side in shape], dtype=object)
        for name, (_, shape) in _form(kind, sizes).items()
    }
    if kind == "moments":
        entries["factor"] = sizes.rank * sizes.width
    return _HEADER + 8 * int(sum(entries.values()))


def _arrays(descriptor: Descriptor) -> Arrays:
    match descriptor:
        case Moments():
            return {
                "mean": descriptor.mean.astype(np.float32),
                "factor": _factor(descriptor.covariance, descriptor.images),
            }
        case ClassMoments():
            return {
                "counts": descriptor.counts.astype(np.int64),
                "means": descriptor.means.astype(np.float32),
                "variances": descriptor.variances.astype(np.float32),
            }
        case Fisher():
            return {"values": descriptor.values.astype(np.float32)}
        case Features():
            return {
                "values": descriptor.values.astype(np.float32),
                "labels": descriptor.labels.astype(np.int64),
            }


def _factor(covariance: NDArray[np.float64], images: int) -> NDArray[np.float32]:
    """Return a factor [r, m] of a covariance [m, m], its rows by falling variance."""
    values, axes = np.linalg.eigh(covariance)  # ascending
    rank = Sizes(len(values), 0, images).rank
    sizes = np.sqrt(np.maximum(values[::-1][:rank], 0.0))  # [r]
    factor: NDArray[np.float64] = sizes[:, None] * axes[:, ::-1].T[:rank]  # [r, m]
    return factor.astype(np.float32)


def _form(kind: Kind, sizes: Sizes) -> dict[str, tuple[type[Any], Shape]]:
    m, c, n = sizes.width, sizes.classes, sizes.images
    forms: Mapping[Kind, dict[str, tuple[type[Any], Shape]]] = {
        "moments": {"mean": (np.float32, (m,)), "factor": (np.float32, (None, m))},
        "class-moments": {
            "counts": (np.int64, (c,)),
            "means": (np.float32, (c, m)),
            "variances": (np.float32, (c, m)),
        },
        "fisher": {"values": (np.float32, (None,))},
        "features": {"values": (np.float32, (n, m)), "labels": (np.int64, (n,))},
    }
    return forms[kind]


def _check(tensors: Mapping[str, NDArray[Any]], kind: Kind, sizes: Sizes) -> None:
    """Check names, types, shapes and finiteness, in this order."""
    form = _form(kind, sizes)
    if tensors.keys() != form.keys():
        raise MalformedPayload(
            f"the {kind} must hold {', '.join(form)}, not {', '.join(sorted(tensors)[:5])!r}"
        )
    for name, (dtype, shape) in form.items():
        found = tensors[name]
        if found.dtype != np.dtype(dtype):
            raise BadDtype(f"{name} of the {kind} is {found.dtype}, not {np.dtype(dtype)}")
        fits = len(found.shape) == len(shape) and all(
            side in (wanted, None) or wanted is None
            for side, wanted in zip(found.shape, shape, strict=True)
        )
        if not fits or 0 in found.shape:
            wanted = " x ".join("any" if side is None else str(side) for side in shape)
            raise BadShape(f"{name} of the {kind} has shape {found.shape}, not {wanted}")
        if dtype is np.float32 and not bool(np.isfinite(found).all()):
            raise NotFinite(f"{name} of the {kind} holds NaN or infinity")
        if dtype is np.float32 and float(np.abs(found).max()) > MOST_VALUE:
            raise BadDescriptor(f"{name} of the {kind} holds values above {MOST_VALUE:g}")
    if kind == "moments" and len(tensors["factor"]) > sizes.rank:
        raise BadShape(
            f"factor of the moments has {len(tensors['factor'])} rows, {sizes.images} images span "
            f"at most {sizes.rank} directions"
        )


def _class_moments(tensors: Mapping[str, NDArray[Any]], sizes: Sizes) -> ClassMoments:
    counts = tensors["counts"]  # [c]
    # the sum of int64 wraps: that of Python's integers does not
    if bool((counts < 0).any()) or sum(counts.tolist()) != sizes.images:
        raise BadDescriptor(
            f"counts of the class-moments do not add up to their {sizes.images} images"
        )
    means, variances = (tensors[name].astype(np.float64) for name in ("means", "variances"))
    if bool((variances < 0).any()):
        raise BadDescriptor("variances of the class-moments are negative")
    if bool(variances[counts < 2].any()):
        raise BadDescriptor("a class of one image has no variance, these class-moments say it has")
    return ClassMoments(counts, means, variances)


def _fisher(values: NDArray[np.float32]) -> Fisher:
    if len(values) > MOST_FILTERS:
        raise TooLarge(f"the fisher has {len(values)} filters, the limit is {MOST_FILTERS}")
    if bool((values < 0).any()):
        raise BadDescriptor("values of the fisher are negative")
    return Fisher(values.astype(np.float64))


def _features(tensors: Mapping[str, NDArray[Any]], sizes: Sizes) -> Features:
    labels = tensors["labels"]
    if bool(((labels < 0) | (labels >= sizes.classes)).any()):
        raise BadDescriptor(f"labels of the features lie outside 0 to {sizes.classes - 1}")
    return Features(tensors["values"], labels)
