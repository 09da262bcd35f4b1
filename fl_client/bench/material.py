"""What the extraction's benchmarks work on: pictures, and networks without weights at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from fl_client.backbone import create_model, feature_width, weights_digest
from fl_client.images import Pixels
from fl_client.site import ImageItem
from protocol.spec import Calibration, Preprocess, Spec, Weights


def picture(rng: np.random.Generator, side: int) -> Pixels:
    """Return a picture as smooth as a photograph (noise over octaves), uint8 [side, side, 3]."""
    layers = []
    for octave, share in ((4, 0.4), (16, 0.3), (64, 0.2), (side, 0.1)):
        size = min(octave, side)
        coarse = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
        layers.append(share * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)))
    found: Pixels = np.sum(layers, axis=0).astype(np.uint8)
    return found


def arrays(count: int, side: int) -> list[ImageItem]:
    """Return images that lie in memory, as those of an npz file do."""
    rng = np.random.default_rng(side)
    return [ImageItem(Path("x.npz"), 0, str(i), array=picture(rng, side)) for i in range(count)]


def jpegs(folder: Path, count: int, side: int) -> list[ImageItem]:
    """Write JPEG files of quality 90 into a new folder; return them as images."""
    rng, folder = np.random.default_rng(side), folder / f"{side}px"
    folder.mkdir()
    for number in range(count):
        Image.fromarray(picture(rng, side)).save(folder / f"{number:05d}.jpg", quality=90)
    return [ImageItem(path, 0, path.name) for path in sorted(folder.iterdir())]


def random_spec(folder: Path, backbone: str, crop: int) -> Spec:
    """Return a spec of any timm model, with random weights: speed does not depend on them."""
    torch.save(timm.create_model(backbone, num_classes=0).state_dict(), folder / "weights.pt")
    source = f"file:{folder / 'weights.pt'}"
    model = create_model(backbone, source)
    recipe = Spec(
        name=backbone,
        backbone=backbone,
        weights=Weights(source=source),
        preprocess=Preprocess(
            resize=round(crop * 8 / 7),
            crop=crop,
            mean=[0.485, 0.456, 0.406],
            std=[0.229, 0.224, 0.225],
        ),
        features=feature_width(model),
        bins=100,
    )
    zeros = np.zeros(recipe.features)
    calibration = Calibration(images=["none"], count=1)
    return recipe.with_edges(
        zeros, zeros + 3, weights_sha256=weights_digest(model), calibration=calibration
    )
