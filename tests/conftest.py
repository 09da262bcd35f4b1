"""Small federations of real images, written once a session."""

from __future__ import annotations

import csv
import gc
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

# other work on the machine fails no test
settings.register_profile("fedprint", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedprint")

Images = Mapping[str, NDArray[np.uint8]]  # by class: [n, h, w] or [n, h, w, 3]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no test file without a test that ``-m engine ...`` or ``-m deployment`` asks for."""
    first = config.option.markexpr.partition(" ")[0]
    if first not in ("engine", "deployment") or collection_path.suffix != ".py":
        return None
    return None if f"mark.{first}" in collection_path.read_text() else True


def pytest_configure() -> None:
    """Look for no garbage while modules are imported: they make none."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Never look through what was imported again: Flower collects garbage with every message."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let go of everything in the end, else libraries report leaks."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own key and Flower settings out of the tests."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(home))
        patch.setenv("FLWR_HOME", str(home / "flwr"))
        yield


@pytest.fixture(autouse=True, scope="session")
def frugal() -> Iterator[None]:
    """Spend no time that shows nothing.

    Each of Ray's workers imports torch for seconds, so a simulation gets one of them unless its
    test says otherwise. Nobody pulls the plug here, so nothing waits for the disk; tests of that
    count the calls.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*ray_workers(1))
        patch.setattr(os, "fsync", lambda _handle: None)
        yield


def ray_workers(number: int) -> tuple[str, str]:
    """Return the environment variable, and its value, that says how many workers Ray starts."""
    return "RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": number})


def digits(classes: tuple[int, ...], each: int, first: int = 0) -> Images:
    """Return handwritten digits, enlarged to 32 x 32."""
    bunch = load_digits()
    shades = (bunch.images * 15.9).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return {f"digit {c}": shades[bunch.target == c][first : first + each] for c in classes}


def patches(each: int, seed: int) -> Images:
    """Return 48 x 48 patches of two photographs: a Chinese roof and a flower."""
    rng = np.random.default_rng(seed)

    def cut(name: str) -> NDArray[np.uint8]:
        photograph = load_sample_image(name)  # [427, 640, 3]
        corners = zip(rng.integers(0, 379, each), rng.integers(0, 592, each), strict=True)
        return np.stack([photograph[y : y + 48, x : x + 48] for y, x in corners])

    return {"roof": cut("china.jpg"), "petal": cut("flower.jpg")}


def write_subfolders(folder: Path, images: Images) -> Path:
    """Write one subfolder of PNG files a class."""
    for label, shades in images.items():
        (folder / label).mkdir(parents=True)
        for number, pixels in enumerate(shades):
            Image.fromarray(pixels).save(folder / label / f"{number:03}.png")
    return folder


def write_manifest(folder: Path, images: Images) -> Path:
    """Write JPEG files, a manifest with two images a subject, and ``site.toml``."""
    folder.mkdir(parents=True)
    rows = [["path", "label", "subject_id"]]
    for label, shades in images.items():
        for number, pixels in enumerate(shades):
            name = f"{label.replace(' ', '-')}-{number:03}.jpg"
            Image.fromarray(pixels).save(folder / name, quality=95)
            rows.append([name, label, f"{label}-{number // 2}"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "site.toml").write_text(
        '[task]\nname = "handwriting"\nmodality = "photograph"\n[data]\nmanifest = "labels.csv"\n'
    )
    return folder


def write_npz(folder: Path, images: Images) -> Path:
    """Write one npz file with MedMNIST's keys; labels are the classes' numbers."""
    folder.mkdir(parents=True)
    pixels = np.concatenate(list(images.values()))
    labels = np.repeat(np.arange(len(images)), [len(shades) for shades in images.values()])
    parts = np.arange(len(labels)) % 5  # 3/5 training, 1/5 validation, 1/5 test
    arrays = {}
    for part, chosen in {"train": parts < 3, "val": parts == 3, "test": parts == 4}.items():
        arrays |= {f"{part}_images": pixels[chosen], f"{part}_labels": labels[chosen, None]}
    np.savez(folder / "site.npz", **arrays)
    (folder / "site.toml").write_text('[data]\nnpz = "site.npz"\n')
    return folder


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good sites, two of digits and two of photographs, in all three forms of a folder."""
    root = tmp_path_factory.mktemp("families")
    write_subfolders(root / "digits-a", digits((3, 8), 18))
    write_manifest(root / "digits-b", digits((3, 8), 16, first=40))
    write_npz(root / "photos-a", patches(18, seed=1))
    write_subfolders(root / "photos-b", patches(16, seed=2))
    return root
