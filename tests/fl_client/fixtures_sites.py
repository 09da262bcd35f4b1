"""Small site folders and a tiny backbone for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image

from fl_client.backbone import create_model, weights_digest
from protocol.spec import Calibration, Preprocess, Projection, Sampling, Spec, Weights

BACKBONE = "resnet10t"


def picture(seed: int, height: int = 24, width: int = 30) -> NDArray[np.uint8]:
    """Return a random smooth picture, uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def write_classes(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write a site of class subfolders."""
    for number, (label, count) in enumerate(counts.items()):
        (folder / label).mkdir(parents=True)
        for image in range(count):
            pixels = picture(seed + 1000 * number + image)
            Image.fromarray(pixels).save(folder / label / f"{image:03d}.png")
    return folder


def write_manifest(folder: Path, rows: list[str], header: str = "path,label,subject_id") -> Path:
    """Write site.toml, labels.csv and an image for every path that the rows name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "site.toml").write_text('[data]\nmanifest = "labels.csv"\n')
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    for number, row in enumerate(rows):
        path = folder / row.split(",")[0]
        if path.suffix == ".png" and ".." not in row and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).save(path)
    return folder


def projected(spec: Spec, components: int = 4) -> Spec:
    """Return a spec that counts a few directions in the features of another one."""
    matrix = np.random.default_rng(1).normal(size=(components, spec.features)) / spec.features**0.5
    return spec.with_edges(
        np.full(components, -0.5),
        np.full(components, 0.5),
        weights_sha256=str(spec.weights.sha256),
        calibration=Calibration(images=["none"], count=1),
        projection=Projection.of(matrix),
    )


def tiny_spec(folder: Path, bins: int = 10, sampling: Sampling | None = None) -> Spec:
    """Return a ready spec of a small residual network with random weights in a file."""
    path = folder / "weights.pt"
    if not path.exists():
        torch.manual_seed(0)
        torch.save(timm.create_model(BACKBONE, num_classes=7).state_dict(), path)
    source = f"file:{path}"
    recipe = Spec(
        name="tiny",
        backbone=BACKBONE,
        weights=Weights(source=source),
        preprocess=Preprocess(resize=36, crop=32, mean=[0.5] * 3, std=[0.25] * 3),
        features=512,
        bins=bins,
        sampling=sampling or Sampling(),
    )
    return recipe.with_edges(
        np.zeros(512),
        np.full(512, 0.5),
        weights_sha256=weights_digest(create_model(BACKBONE, source)),
        calibration=Calibration(images=["none"], count=1),
    )
