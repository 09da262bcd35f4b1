"""Calibrating a spec's bin edges on public images, once for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fl_client.backbone import create_model, weights_digest
from fl_client.backbone_shape import (
    own_preprocess,
    pooling_of,
    require_fit,
    set_pooling,
    set_size,
    shape,
)
from fl_client.device import choose_device
from fl_client.extract import BATCH_SIZE, extract
from fl_client.projection import directions
from fl_client.readers import Cut, list_images
from fl_client.site import ImageItem
from protocol.errors import ConfigError, DataError, one_line
from protocol.spec import Calibration, Pooling, Projection, Sampling, Spec, Weights, Window

QUANTILES = (0.05, 0.95)
DIGITS = 5
"""Significant digits of an edge: far below a bin's width, and short to write."""

MOST_VALUES = 2**24
"""Features that are sorted at once, in float64: 128 MiB, however many images there are."""


def calibrate(
    folder: Path | str,
    recipe: Spec,
    *,
    cut: Cut | None = None,
    components: int | None = None,
    images: Sequence[str] = (),
    device: str | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: bool = False,
) -> Spec:
    """Turn a recipe into a spec with edges.

    The edges of a feature are its 5 % and 95 % quantiles over one centre view of each image
    (Godau et al., arXiv 2412.08763, use their development tasks so). Use public images: the edges
    are published with the spec.

    Parameters
    ----------
    folder : Path or str
        Public images, in any subfolders.
    recipe : Spec
        What to calibrate; edges it has already are replaced. See `make_recipe`.
    cut : Cut, optional
        How volumes and whole slides are cut into images; sites need not cut theirs the same.
    components : int, optional
        Count so many public directions in the features instead of the features themselves, see
        `fl_client.projection.directions`. By default the recipe's projection, if it has one.
    images : sequence of str
        Names of the public image sets; by default the names of the folder's subfolders.
    device, batch_size, workers, progress
        See `fl_client.extract.extract`.

    Returns
    -------
    Spec
        Ready to fingerprint with.

    Raises
    ------
    DataError
        If the folder holds fewer than 20 images, or one cannot be read.
    ConfigError, WeightsError
        If the backbone, its weights or the number of components cannot be used.
    """
    root = Path(folder)
    sources = list_images(root, cut) if root.is_dir() else []
    if len(sources) < 20:
        raise DataError(
            f"{root} holds {len(sources)} images: quantiles need at least 20 public images "
            "(pictures, DICOM or NIfTI), better some thousand"
        )
    place = choose_device(device)
    model = create_model(recipe.backbone, recipe.weights.source)
    digest = weights_digest(model)
    shape(model, recipe)
    centre = recipe.model_copy(
        update={"lower": None, "upper": None, "edges_sha256": None, "sampling": Sampling()}
    )
    result = extract(
        [ImageItem(source.path, 0, source.name, source=source) for source in sources],
        centre,
        device=place,
        batch_size=batch_size,
        workers=workers,
        want_features=True,
        progress=progress,
        backbone=model.to(place),
    )
    assert result.features is not None
    if not np.isfinite(result.features).all():
        raise DataError("the backbone gave NaN or infinite features: check the weights")
    projection = recipe.projection
    if components is not None:
        projection = Projection.of(directions(result.features, components))
    counted = result.features if projection is None else projection.apply(result.features)
    lower, upper = edges(counted)
    folders = {source.path.relative_to(root).parts[0] for source in sources}
    names = list(images) or sorted(folders)[:100]
    calibration = Calibration(images=names, count=len(sources), quantiles=QUANTILES)
    return recipe.with_edges(
        lower, upper, weights_sha256=digest, calibration=calibration, projection=projection
    )


def edges(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower and upper bin edges of each feature.

    Parameters
    ----------
    features : ndarray of float, shape [n, m]
        Counted features of public images.

    Returns
    -------
    lower, upper : ndarray of float64, shape [m]
        Quantiles, rounded to few decimal digits. A feature that does not vary over the images
        gets a narrow interval around its value, so that every feature has bins.
    """
    parts = np.array_split(features, -(-features.size // MOST_VALUES) or 1, axis=1)
    quantiles = np.hstack(
        [np.quantile(part.astype(np.float64), QUANTILES, axis=0) for part in parts]
    )  # [2, m]
    lower, upper = (_round(values) for values in quantiles)
    # some backbones give features of a thousandth, so that 1 is not small to all of them
    usual = min(float((upper - lower).max()), 1.0) or 1.0
    least = 1e-3 * np.maximum(np.abs(lower), usual)  # [m]
    upper = np.where(upper - lower < least, _round(lower + least), upper)
    return lower, upper


def _round(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to `DIGITS` significant digits, exactly as they will be written."""
    return np.array([float(f"{value:.{DIGITS}g}") for value in values])


def make_recipe(
    *,
    name: str,
    backbone: str,
    weights: str,
    bins: int,
    resize: int = 0,
    crop: int = 0,
    pooling: Pooling | None = None,
    sampling: Sampling | None = None,
    window: Window | None = None,
) -> Spec:
    """Make an uncalibrated spec of any timm model, which sees images as in its pretraining.

    Parameters
    ----------
    name : str
        Name of the spec.
    backbone, weights : str
        See `fl_client.backbone.create_model`.
    bins : int
        Number of bins b.
    resize, crop : int
        Shorter side and centre crop in pixels; 0 takes what the model was pretrained with.
    pooling : str, optional
        Of a transformer, see `protocol.spec.Spec`; by default as it was pretrained.
    sampling : Sampling, optional
        By default each image once, its centre crop.
    window : (float, float), optional
        Intensities in scanner units that become black and white.

    Raises
    ------
    ConfigError, WeightsError
        If a value cannot be used, or the backbone or its weights cannot be had.
    """
    model = create_model(backbone, weights)
    try:
        preprocess = own_preprocess(model, resize=resize, crop=crop, window=window)
        set_size(model, backbone, preprocess.crop)
        set_pooling(model, backbone, pooling)
        return Spec(
            name=name,
            backbone=backbone,
            weights=Weights(source=weights),
            preprocess=preprocess,
            features=require_fit(model, backbone, preprocess.crop),
            pooling=pooling_of(model),
            bins=bins,
            sampling=sampling or Sampling(),
        )
    except ValidationError as error:
        raise ConfigError(f"these options make no spec: {one_line(error)}") from error
