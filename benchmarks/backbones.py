"""Backbones through calibration and extraction, and whether their fingerprints group sites.

    fedprint spec images public
    python benchmarks/backbones.py mechanics public [--only NAME ...]
    python benchmarks/backbones.py distil public test_vit.safetensors [--epochs 8]
    python benchmarks/backbones.py groups runs/demo/sites SPEC.json ...

`mechanics` gives every backbone of `fedprint spec backbones` random weights in a file, since what
it shows does not depend on them: that the architecture takes images of that size, that two
extractions agree to the last count, how many images a second there are, and which share of the
bare forward pass that is, both in processor time. `groups` prints the adjusted Rand index of the
groups that fingerprints under a spec make, against the sites' tasks. `distil` teaches a small
transformer the features of lite0 on public images alone, where no pretrained one can be had.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from sklearn.metrics import adjusted_rand_score
from torch import nn

from fl_client.backbone import load_backbone
from fl_client.backbones import TRIED, describe
from fl_client.calibrate import calibrate, make_recipe
from fl_client.extract import extract
from fl_client.images import make_views
from fl_client.projection import directions
from fl_client.readers import list_images
from fl_client.site import ImageItem, read_site
from fl_client.streams import FEW
from fl_client.weights import WEIGHTS_FOLDER
from protocol.fingerprint import Fingerprint
from protocol.spec import load_spec
from strategies.grouping import GroupingOptions, group

IMAGES = 24
FAMILY = {"farm survey": "land cover", "pasture survey": "land cover"}
"""Tasks of the demo's sites that are one task under another name."""


def mechanics(public: Path, names: list[str]) -> None:
    """Print one line a backbone."""
    files = [source.path for source in list_images(public)]
    print(f"{'backbone':38} features   px  images/s  of forward  again")
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ[WEIGHTS_FOLDER] = scratch
            torch.manual_seed(0)
            save_file(timm.create_model(name).state_dict(), Path(scratch, f"{name}.safetensors"))
            folder = Path(scratch, "images")
            folder.mkdir()
            for number in np.linspace(0, len(files) - 1, IMAGES).astype(int):
                shutil.copy(files[number], folder / f"{number}.png")
            print(_mechanics(name, folder), flush=True)


def _mechanics(name: str, folder: Path) -> str:
    seen = describe(name).preprocess
    sizes = {"resize": seen.resize, "crop": seen.crop}
    recipe = make_recipe(name=name, backbone=name, weights="timm", bins=100, **sizes)
    spec, model = calibrate(folder, recipe, device="cpu"), load_backbone(recipe)
    images = [ImageItem(s.path, 0, s.name, source=s) for s in list_images(folder)]
    counts, ours, bare = [], [], []
    batch = torch.zeros(FEW, 3, seen.crop, seen.crop).contiguous(memory_format=torch.channels_last)
    for workers in (1, 2):  # processor time, and in turns: the machine may be busy
        started = time.process_time()
        found = extract(images, spec, device="cpu", backbone=model, workers=workers)
        ours.append(time.process_time() - started)
        counts.append(found.counts)
        started = time.process_time()
        with torch.inference_mode():
            for _ in range(IMAGES // FEW):
                model(batch)
        bare.append(time.process_time() - started)
    share, rate = np.median(np.divide(bare, ours)), IMAGES / np.median(ours)
    same = all(np.array_equal(counts[0], other) for other in counts)
    return (
        f"{name:38} {spec.features:8} {seen.crop:4} {rate:9.1f} {share:11.2f}  "
        f"{'same' if same else 'OTHER'}"
    )


def groups(sites: Path, specs: list[str]) -> None:
    """Print one line a spec."""
    print(f"{'spec':30} {'counted':>8} bins   ARI  groups")
    for name in specs:
        spec = load_spec(name)
        found = {}
        for folder in sorted(path for path in sites.iterdir() if path.is_dir()):
            site = read_site(folder)
            found[site.name] = site.card.name, extract(site.images, spec, device="cpu").counts
        prints = [
            Fingerprint(name, counts, spec.digest, int(counts[0].sum()))
            for name, (_, counts) in found.items()
            if counts is not None
        ]
        made = group(prints, spec, GroupingOptions(draws=0)).groups
        place = {site: number for number, each in enumerate(made) for site in each.sites}
        truth = [FAMILY.get(task, task) for task, _ in found.values()]
        score = adjusted_rand_score(truth, [place[name] for name in found])
        print(f"{spec.name:30} {spec.width:8} {spec.bins:4} {score:5.2f}  {len(made)}", flush=True)


def distil(public: Path, out: Path, epochs: int) -> None:
    """Write the weights of a test_vit that gives, but for a linear map, lite0's features."""
    torch.manual_seed(0)
    images = [ImageItem(s.path, 0, s.name, source=s) for s in list_images(public)]
    teacher = load_spec("lite0-100")
    features = extract(images, teacher, device="cpu", want_features=True).features
    assert features is not None
    axes = directions(features, 64)  # [64, M]
    wanted = torch.tensor((features - features.mean(axis=0)) @ axes.T, dtype=torch.float32)
    wanted /= wanted.std(dim=0)
    pixels = torch.tensor(
        np.concatenate([make_views(item.pixels(), teacher, [0]) for item in images])
    )  # uint8 [n, 160, 160, 3]
    student = timm.create_model("test_vit", num_classes=64)
    steps = epochs * (len(images) // 32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for epoch in range(epochs):
        losses = []
        for rows in torch.randperm(len(images))[: len(images) // 32 * 32].split(32):
            batch = pixels[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            loss = nn.functional.mse_loss(student(batch), wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1}: {np.mean(losses):.3f} of the variance left", flush=True)
    save_file(student.state_dict(), out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    first = commands.add_parser("mechanics")
    first.add_argument("public", type=Path)
    first.add_argument("--only", nargs="*", default=list(TRIED))
    third = commands.add_parser("distil")
    third.add_argument("public", type=Path)
    third.add_argument("out", type=Path)
    third.add_argument("--epochs", type=int, default=8)
    second = commands.add_parser("groups")
    second.add_argument("sites", type=Path)
    second.add_argument("specs", nargs="+")
    options = parser.parse_args()
    if options.command == "mechanics":
        mechanics(options.public, options.only)
    elif options.command == "distil":
        distil(options.public, options.out, options.epochs)
    else:
        groups(options.sites, options.specs)


if __name__ == "__main__":
    main()
