"""Small segmentation sites, and a tiny spec that counts regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fixtures_sites import picture, tiny_spec
from numpy.typing import NDArray
from PIL import Image

from protocol.spec import Spec

TOML = """[task]
objective = "segmentation"
[task.classes]
7 = "left"
3 = "disc"
[data]
manifest = "labels.csv"
"""


def region_spec(folder: Path) -> Spec:
    """Return `tiny_spec` with a 3 x 3 feature map, counting regions."""
    spec = tiny_spec(folder)
    larger = spec.preprocess.model_copy(update={"resize": 100, "crop": 96})
    return spec.model_copy(update={"preprocess": larger}).of_regions(32)


def label_map(height: int = 24, width: int = 30, disc: int = 6) -> NDArray[np.uint8]:
    """Return a label map: 7 in the left third, 3 in a disc in the middle, else 0."""
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    labels[:, : width // 3] = 7
    labels[(rows - height // 2) ** 2 + (columns - width // 2) ** 2 < disc**2] = 3
    return labels


def write_masked(folder: Path, images: int = 6, *, patients: int = 0, seed: int = 0) -> Path:
    """Write a segmentation site: pictures, label maps of several sizes of disc, manifest."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "site.toml").write_text(TOML)
    lines = ["path,mask,subject_id"]
    for number in range(images):
        Image.fromarray(picture(seed + number)).save(folder / f"images/{number}.png")
        Image.fromarray(label_map(disc=number % 6 + 1)).save(folder / f"masks/{number}.png")
        subject = number % patients if patients else number
        lines.append(f"images/{number}.png,masks/{number}.png,p{subject}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
