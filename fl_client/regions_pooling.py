"""From feature maps to one feature vector a region: means over the cells that its pixels lie in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fl_client.backbone import load_backbone
from protocol.errors import ConfigError
from protocol.spec import Spec

_TOLERANCE = 1e-3  # of the largest feature


class FeatureMap(nn.Module):
    """A timm backbone up to its last feature map, float ``[k, c, h, w]``.

    Parameters
    ----------
    backbone : torch.nn.Module
        Without a classifier, in evaluation mode.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self._last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the maps of images ``[k, 3, crop, crop]``."""
        maps: Tensor = self.backbone.forward_features(inputs)
        return maps.permute(0, 3, 1, 2) if self._last else maps


class RegionHead:
    """What a backbone does after its last feature map, for the mean of a region instead of all.

    Parameters
    ----------
    backbone : torch.nn.Module
        In evaluation mode, on the device.
    spec : Spec
        With `regions`.
    device : torch.device
        Where to compute.
    classes : int
        How many classes masks have, at most.

    Raises
    ------
    ConfigError
        If the backbone does not pool by the mean of a feature map, or its cells are of another
        size than the spec says.
    """

    def __init__(self, backbone: Any, spec: Spec, device: torch.device, classes: int) -> None:
        assert spec.regions is not None
        self._backbone, self._classes = backbone, classes
        self._least = spec.regions.pixels
        size = spec.preprocess.crop
        self.side, cell = _side(backbone, spec, device), spec.regions.cell
        if self.side not in (size // cell, -(-size // cell)):
            raise ConfigError(
                f"spec {spec.name}: regions have cells of {cell} pixels, and {spec.backbone} has "
                f"{self.side} x {self.side} in {size}: make it anew with fedprint spec regions"
            )
        places = torch.arange(size, device=device) * self.side // size  # [crop]
        self._cells = places[:, None] * self.side + places[None, :]  # [crop, crop]

    def __call__(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the features of all regions that are large enough, float32 ``[r, m]``.

        Parameters
        ----------
        maps : Tensor
            Float ``[k, c, h, w]``.
        labels : Tensor
            Class of each pixel of the views, uint8 ``[k, crop, crop]``; 0 for none, else the
            class's index plus 1.

        Returns
        -------
        Tensor
            By view, and within one by class. A pixel counts for the cell that it lies in, so the
            mean is weighted by how much of a cell the region covers.
        """
        # [k, classes, cells]
        areas = region_areas(labels, self._cells, self._classes, self.side**2)
        total = areas.sum(dim=2)  # [k, classes]
        weights = areas / total.clamp(min=1)[..., None]
        means = torch.einsum("kcp,krp->krc", maps.float().flatten(2), weights.float())
        # all of them go on, so that what a region's features are depends on no other view's regions
        return _after(self._backbone, means.flatten(0, 1))[(total >= self._least).flatten()]


def cell_of(spec: Spec) -> int:
    """Return the side of a cell of a backbone's last feature map, in pixels of a view.

    Raises
    ------
    ConfigError, WeightsError
        If the backbone cannot be loaded, or does not pool by the mean of a feature map.
    """
    side = _side(load_backbone(spec), spec, torch.device("cpu"))
    return -(-spec.preprocess.crop // side)


@torch.inference_mode()
def _side(backbone: Any, spec: Spec, device: torch.device) -> int:
    """Return the number of cells along a side of the feature map, and see that its mean is pooled.

    Raises
    ------
    ConfigError
        If something else is.
    """
    crop = spec.preprocess.crop
    probe = torch.linspace(-1, 1, 3 * crop * crop, device=device).view(1, 3, crop, crop)
    maps = FeatureMap(backbone)(probe)
    whole = backbone(probe).float()
    square = maps.ndim == 4 and maps.shape[2] == maps.shape[3]
    found = _after(backbone, maps.float().mean(dim=(2, 3))) if square else whole * torch.nan
    if not float((found - whole).abs().max()) <= _TOLERANCE * float(whole.abs().max()):
        raise ConfigError(
            f"spec {spec.name}: {spec.backbone} does not pool by the mean of a square feature map, "
            "which regions need: take a convolutional network such as resnet34"
        )
    return int(maps.shape[2])


def _after(backbone: Any, means: Tensor) -> Tensor:
    """Do what follows a backbone's pooling, to means [r, c]: to features, float32 [r, m]."""
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    maps = means[:, None, None, :] if last else means[:, :, None, None]
    features: Tensor = backbone.forward_head(maps)
    return features.float()


def region_areas(labels: Tensor, cells: Tensor, classes: int, count: int) -> Tensor:
    """Count the pixels of each class in each cell of each view.

    Parameters
    ----------
    labels : Tensor
        uint8 ``[k, crop, crop]``; 0 for no class, else its index plus 1.
    cells : Tensor
        int64 ``[crop, crop]``: which of the `count` cells a pixel lies in.
    classes, count : int
        Number of classes, and of cells.

    Returns
    -------
    Tensor
        int64 ``[k, classes, count]``, exact.
    """
    views = len(labels)
    start = torch.arange(views, device=labels.device)[:, None, None] * (classes + 1)
    flat = (start + labels) * count + cells  # [k, crop, crop]
    found = torch.bincount(flat.flatten(), minlength=views * (classes + 1) * count)
    return found.view(views, classes + 1, count)[:, 1:]
