"""The exact counts of a site's images: what is noised or signed next, and never leaves as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_client.contribution import counted, counted_items
from fl_client.data_digest import known_digest
from fl_client.site import Site
from protocol.errors import DataError
from protocol.spec import Spec

# torch is imported inside: sending again what was let go needs none


def count(
    site: Site,
    spec: Spec,
    device: str | None,
    *,
    cap: int = 0,
    keeps_features: bool = False,
    options: Mapping[str, Any] | None = None,
) -> NDArray[np.int64]:
    """Count a site's images.

    Parameters
    ----------
    site, spec, device
        What to count, by what, and where to compute.
    cap : int
        Count so many images, or regions, of a patient at most; 0 counts all.
    keeps_features : bool
        Whether the features of all images are kept too, for training; counts come of them then.
        Of a segmentation they are not: it is not trained.
    options : mapping, optional
        More arguments of `fl_client.extract.extract`.

    Returns
    -------
    ndarray of int64, shape [m, b]
    """
    if keeps_features and spec.regions is None:
        chosen = counted(site, cap) if cap else list(range(len(site.images)))
        from fl_client.features import cached_features, one_view

        features, counts = cached_features(site, spec, device, **(options or {}))
        if len(chosen) == len(site.images):
            return counts
        if one_view(spec):
            return _binned(features[chosen], spec)
    from fl_client.extract import extract

    images = counted_items(site, spec.require_ready(), cap)
    found = extract(images, spec, device=device, **(options or {})).counts
    assert found is not None
    return found


def count_unchanged(site: Site, *arguments: Any, **options: Any) -> tuple[NDArray[np.int64], str]:
    """Count as `count` does; also return the digest of the images that were counted.

    Raises
    ------
    DataError
        If an image changed meanwhile.
    """
    before = known_digest(site)
    counts = count(site, *arguments, **options)
    if known_digest(site) != before:
        raise DataError(f"images of site {site.name} changed while they were read: retry")
    return counts, before


def _binned(features: NDArray[np.float32], spec: Spec) -> NDArray[np.int64]:
    import torch

    from fl_client.histogram import BinCounter

    counter = BinCounter(spec, torch.device("cpu"))
    counter.add(torch.from_numpy(features))
    return counter.counts()
