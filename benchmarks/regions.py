"""Two segmentations of the same images: what whole images and regions tell of them.

Patches of the MNI152 T1 volume that nilearn ships, with grey and white matter as its tissue maps
have them. Grey matter is one task, white matter another; each is held by several sites, and site k
of one task has the very images that site k of the other has. Fingerprints of whole images cannot
tell the tasks apart, for they are the same; those of regions can where the cells of the feature map
are small enough (see --side: voxels along a patch; 480 pixels show it in 15 x 15 cells).

    python benchmarks/regions.py --seeds 10 --json regions.json

The patches are of one brain, and overlap: they show that fingerprints separate tasks, and are no
clinical benchmark.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from fl_client.extract import extract, region_features
from fl_client.histogram import BinCounter
from fl_client.regions import regions_of
from fl_client.site import Site, read_site
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec, load_spec
from strategies.grouping import GroupingOptions, group

Grey = NDArray[np.uint8]

TISSUES = ("gm", "wm")
TOML = """[task]
objective = "segmentation"
[task.classes]
1 = "grey matter"
2 = "white matter"
[data]
manifest = "labels.csv"
"""


def volume(name: str) -> Grey:
    """Return one of the MNI152 volumes: t1, gm or wm, uint8 [right, anterior, superior]."""
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    path = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    return np.asarray(nibabel.load(path).dataobj, dtype=np.uint8)


def tissue() -> Grey:
    """Return 1 where grey matter prevails, 2 where white matter does, else 0."""
    grey, white = (volume(name).astype(int) for name in TISSUES)
    least = 0.3 * max(grey.max(), white.max())
    return np.select([(grey >= white) & (grey > least), white > least], [1, 2]).astype(np.uint8)


def write_patches(folder: Path, count: int, side: int, seed: int = 0) -> Path:
    """Write a site of axial patches, a fifth of each at least of either tissue."""
    image, labels = volume("t1"), tissue()
    rng, lines = np.random.default_rng(seed), ["path,mask,subject_id"]
    folder.mkdir(parents=True)
    while len(lines) <= count:
        x, y, z = (int(rng.integers(20, end)) for end in (175 - side, 210 - side, 140))
        part = slice(x, x + side), slice(y, y + side), z
        if min((labels[part] == 1).mean(), (labels[part] == 2).mean()) < 0.2:
            continue
        name = f"{len(lines):04d}"
        Image.fromarray(np.rot90(image[part])).save(folder / f"{name}.png")
        Image.fromarray(np.rot90(labels[part])).save(folder / f"{name}-mask.png")
        lines.append(f"{name}.png,{name}-mask.png,{name}")
    (folder / "site.toml").write_text(TOML)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def fingerprint(name: str, features: NDArray[np.float32], spec: Spec) -> Fingerprint:
    """Count features [n, M] as a site does."""
    counter = BinCounter(spec, torch.device("cpu"))
    counter.add(torch.from_numpy(features))
    return Fingerprint(name, counter.counts(), spec.digest, len(features))


def agreement(prints: Sequence[Fingerprint], spec: Spec) -> float:
    """Group fingerprints; return the adjusted Rand index with the tasks, named before the colon."""
    found = group(list(prints), spec, GroupingOptions()).groups
    place = {site: number for number, each in enumerate(found) for site in each.sites}
    tasks = [each.site.split(":")[0] for each in prints]
    return float(adjusted_rand_score(tasks, [place[each.site] for each in prints]))


def figures(site: Site, spec: Spec, sites: int, seeds: int) -> dict[str, list[float]]:
    """Deal the images out to `sites` sites a task, once a seed, and group them.

    A region's features are of its own image alone, so they are computed once for all seeds.
    """
    whole = spec.model_copy(update={"regions": None})
    images = extract(site.images, whole, want_features=True).features
    assert images is not None
    regions, features = np.array(regions_of(site, spec)), region_features(site, spec)
    found: dict[str, list[float]] = {"whole images": [], "regions": []}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(site.images))
        parts = list(enumerate(np.array_split(order, sites)))
        of_images, of_regions = [], []
        for label, task in enumerate(TISSUES):
            for number, part in parts:
                name = f"{task}:{number}"
                of_images.append(fingerprint(name, images[part], whole))
                mine = (regions[:, 1] == label) & np.isin(regions[:, 0], part)
                of_regions.append(fingerprint(name, features[mine], spec))
        found["whole images"].append(agreement(of_images, whole))
        found["regions"].append(agreement(of_regions, spec))
    return found


def main() -> None:
    """Print the adjusted Rand index of either kind of fingerprint, mean over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", default="lite0-regions")
    parser.add_argument("--images", type=int, default=90)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    spec = load_spec(options.spec)
    with tempfile.TemporaryDirectory() as folder:
        site = read_site(write_patches(Path(folder) / "patches", options.images, options.side))
        found = figures(site, spec, options.sites, options.seeds)
    for name, values in found.items():
        print(f"{name}: adjusted Rand index {np.mean(values):.2f}, least {min(values):.2f}")
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": ""}, **found}))


if __name__ == "__main__":
    main()
