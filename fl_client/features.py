"""The site's own cache of features, for training on a frozen backbone; it never leaves the site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fl_client.data_digest import known_digest
from fl_client.device import choose_device
from fl_client.extract import BATCH_SIZE, extract
from fl_client.feature_files import keep_features, used
from fl_client.site import Site
from protocol.errors import DataError
from protocol.files import atomic_write, sha256_hex
from protocol.spec import Sampling, Spec


def cached_features(
    site: Site,
    spec: Spec,
    device: str | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the features and counts of a site's images, computed once.

    Parameters
    ----------
    site : Site
        Whose images; the cache lies in its state folder.
    spec : Spec
        What to compute them with; must be calibrated.
    device, batch_size, workers, progress
        See `fl_client.extract.extract`.

    Returns
    -------
    features : ndarray of float32, shape [n, m]
        One centre view an image, in the order of `site.images`.
    counts : ndarray of int64, shape [m, b]
        The fingerprint's counts by the spec's own sampling rule.

    Raises
    ------
    DataError
        If an image cannot be read or the state folder cannot be written.
    """
    spec.require_ready()
    place = choose_device(device)
    key = sha256_hex(f"{spec.digest} {known_digest(site)} {place.type} {batch_size}".encode())
    path = site.state / "features" / f"{key[:32]}.safetensors"
    cached = _read(path, len(site.images), spec)
    if cached is not None:
        return cached
    _probe(path.parent)  # fail before the work, not after it
    options = {"device": place, "batch_size": batch_size, "workers": workers, "progress": progress}
    if one_view(spec):
        result = extract(site.images, spec, want_features=True, **options)  # type: ignore[arg-type]
        features, counts = result.features, result.counts
    else:
        centre = spec.model_copy(update={"sampling": Sampling()})
        features = extract(site.images, centre, want_features=True, **options).features  # type: ignore[arg-type]
        counts = extract(site.images, spec, **options).counts  # type: ignore[arg-type]
    assert features is not None
    assert counts is not None
    keep_features(path, safetensors.numpy.save({"features": features, "counts": counts}))
    return features, counts


def one_view(spec: Spec) -> bool:
    """Tell whether a spec counts the very views that the features are of: one centre view each."""
    sampling = spec.sampling
    return sampling.rule == "each-once" and sampling.crop == "centre" and not sampling.flip


def _read(
    path: Path, images: int, spec: Spec
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """Read the cache; a damaged or unfitting file counts as absent."""
    try:
        stored = safetensors.numpy.load_file(path)
        features, counts = stored["features"], stored["counts"]
    except (OSError, SafetensorError, KeyError):
        return None
    fits = features.shape == (images, spec.features) and counts.shape == (spec.width, spec.bins)
    if not fits:
        return None
    used(path)
    return features, counts


def _probe(folder: Path) -> None:
    try:
        atomic_write(folder / ".probe", b"")
        (folder / ".probe").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"state folder {folder} cannot be written ({error.strerror}): name another with --state"
        ) from error
