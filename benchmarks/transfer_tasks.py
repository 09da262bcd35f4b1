"""Small real tasks to measure transfer between, written as the folders of sites that hold them.

Nineteen tasks of twelve data sets, each with its own images, classes and split. Where one data set
gives two tasks, these are *siblings*: the classes are dealt out between them, so that no class and
no image is in both. Splits never cut through a subject (slab of slices, tile of a picture, fonts
that lie side by side); where a picture is its own subject, near copies may be in two splits.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pool_drawings import emoji, letters, sprites, terrain
from benchmarks.pool_photos import LOBES, Labelled, animals, eight_bit, solar
from fl_server import demo_tasks
from fl_server.demo_tasks import Pool
from protocol.files import atomic_write

Draw = Callable[[Path, np.random.Generator], Pool]

SHARES = {"train": 0.4, "val": 0.1, "test": 0.5}
"""Of the subjects; of what falls to a split, `VAL` and `TEST` images at most are kept."""
VAL, TEST = 24, 240


@dataclass(frozen=True)
class TaskPlan:
    """One task.

    Attributes
    ----------
    name : str
        Of the task, its site and its folder.
    data : str
        Key of `DRAWN`; tasks of one data set are siblings.
    classes : tuple of str
        Which of the data set's classes it has.
    train : int
        Images to train on, the same number of each class as far as there are.
    card : dict
        What its task card says besides.
    """

    name: str
    data: str
    classes: tuple[str, ...]
    train: int
    card: dict[str, object] = field(default_factory=dict)


def brain_regions(packages: Path, rng: np.random.Generator) -> Pool:
    """Six groups of AAL regions, T1 patches of the Colin27 head, slab by slab of axial slices."""
    import nibabel

    def volume(name: str) -> np.ndarray:
        found = nibabel.load(next(packages.rglob(name)))
        return np.asarray(found.dataobj, dtype=np.float64)  # type: ignore[attr-defined]

    head, atlas = volume("ch2.nii.gz"), volume("aal.nii.gz")
    head = eight_bit(head, np.percentile(head, 99.5))
    pool, half = Pool([], [], []), 24
    for first in range(20, head.shape[2] - 20, 4):  # one slice is left out between two slabs
        for number, (low, high) in enumerate(LOBES):
            slab = atlas[half:-half, half:-half, first : first + 3]
            places = np.argwhere((slab >= low) & (slab < high))
            for x, y, z in rng.permutation(places)[:8]:
                patch = head[x : x + 2 * half, y : y + 2 * half, first + z]
                _add(pool, patch, f"lobe {number}", f"slab-{first:03d}")
    return pool


def pictures(
    draw: Callable[[Path, np.random.Generator], Labelled],
    prefix: str,
    packages: Path,
    rng: np.random.Generator,
    *,
    together: int = 1,
) -> Pool:
    """Pool pictures; so many that follow one another are one subject."""
    pool = Pool([], [], [])
    for number, (kind, pixels) in enumerate(draw(packages, rng)):
        _add(pool, np.asarray(pixels), f"{prefix}{kind}", f"subject-{number // together:04d}")
    return pool


def _add(pool: Pool, pixels: np.ndarray, label: str, subject: str) -> None:
    pool.images.append(pixels)
    pool.labels.append(label)
    pool.subjects.append(subject)


DRAWN: dict[str, Draw] = {
    "brain tissue": lambda _, rng: demo_tasks.brain_tissue(rng),
    "slice plane": lambda _, rng: demo_tasks.slice_plane(rng),
    "brain regions": brain_regions,
    "textures": lambda _, rng: demo_tasks.textures(rng),
    "land cover": lambda _, rng: demo_tasks.land_cover(rng),
    "digits": lambda _, rng: demo_tasks.handwritten_digits(rng),
    "animals": partial(pictures, animals, "animal "),
    "solar cells": partial(pictures, solar, ""),
    "emoji": partial(pictures, emoji, ""),
    "letters": partial(pictures, letters, "", together=12 * 8),  # twelve letters, eight fonts
    "sprites": partial(pictures, sprites, ""),
    "terrain": partial(pictures, terrain, "ground "),
}


def _card(
    modality: str, anatomy: str, keywords: Sequence[str], *properties: str
) -> dict[str, object]:
    names = ("origin", "colour", "shows", "kind", "diversity")
    return {
        "modality": modality,
        "anatomy": anatomy,
        "keywords": list(keywords),
        "properties": dict(zip(names, properties, strict=True)),
    }


_T1 = ("medical", "grey")
_DRAWN = ("natural", "colour")
_GREY = ("natural", "grey")
CARDS: dict[str, dict[str, object]] = {
    "brain tissue": _card("MRI", "brain", ["T1", "tissue"], *_T1, "texture", "tissue", "low"),
    "slice plane": _card("MRI", "brain", ["T1", "orientation"], *_T1, "object", "view", "low"),
    "brain regions": _card("MRI", "brain", ["T1", "region"], *_T1, "texture", "tissue", "low"),
    "textures": _card("photograph", "", ["surface"], *_GREY, "texture", "material", "low"),
    "land cover": _card(
        *("hyperspectral", "", ["remote sensing"]),
        *("natural", "colour", "texture", "ground", "low"),
    ),
    "digits": _card("scan", "", ["handwriting"], *_GREY, "object", "character", "medium"),
    "animals": _card("drawing", "", ["silhouette"], *_GREY, "object", "animal", "medium"),
    "solar cells": _card(
        *("photograph", "", ["electroluminescence"], *_GREY, "texture", "defect", "low"),
    ),
    "emoji": _card("drawing", "", ["icon"], *_DRAWN, "object", "icon", "high"),
    "letters": _card("drawing", "", ["fonts"], *_GREY, "object", "character", "medium"),
    "sprites": _card("drawing", "", ["game"], *_DRAWN, "object", "figure", "high"),
    "terrain": _card("drawing", "", ["game"], *_DRAWN, "texture", "ground", "high"),
}


def _plan(name: str, data: str, train: int, *classes: str) -> TaskPlan:
    return TaskPlan(name, data, classes, train, CARDS[data])


PLANS: tuple[TaskPlan, ...] = (
    _plan("tissue", "brain tissue", 100, "grey", "white", "other"),
    _plan("planes", "slice plane", 60, "sagittal", "coronal", "axial"),
    _plan("regions", "brain regions", 160, *(f"lobe {n}" for n in range(6))),
    _plan("textures", "textures", 60, "brick", "grass", "gravel"),
    _plan("crops", "land cover", 100, "corn no-till", "grass trees", "soybean min-till", "woods"),
    _plan(
        *("pasture", "land cover", 60, "grass pasture", "hay windrowed"),
        *("corn min-till", "soybean clean", "buildings"),
    ),
    _plan("digits-low", "digits", 160, *"01234"),
    _plan("digits-high", "digits", 60, *"56789"),
    _plan("animals-a", "animals", 160, *(f"animal {n}" for n in range(5))),
    _plan("animals-b", "animals", 100, *(f"animal {n}" for n in range(5, 10))),
    _plan("solar-mono", "solar cells", 100, *(f"mono {n}" for n in range(4))),
    _plan("solar-poly", "solar cells", 160, *(f"poly {n}" for n in range(4))),
    _plan(
        *("emoji", "emoji", 160, "Activities", "Animals & Nature", "Food & Drink", "Objects"),
        *("People & Body", "Smileys & Emotion", "Symbols", "Travel & Places"),
    ),
    _plan("letters-a", "letters", 160, *"AEGHKM"),
    _plan("letters-q", "letters", 60, *"QRSWXZ"),
    _plan(
        *("sprites-people", "sprites", 160, "dwarves", "elves-wood", "human-loyalists"),
        *("human-magi", "human-outlaws", "orcs"),
    ),
    _plan(
        *("sprites-beasts", "sprites", 100, "drakes", "monsters", "nagas"),
        *("saurians", "undead", "undead-skeletal"),
    ),
    _plan(
        *("terrain-wild", "terrain", 100),
        *(f"ground {kind}" for kind in ("cave", "flat", "forest", "grass", "mountains", "water")),
    ),
    _plan(
        *("terrain-built", "terrain", 60),
        *(f"ground {kind}" for kind in ("bridge", "castle", "interior", "unwalkable")),
        *(f"ground {kind}" for kind in ("village", "walls")),
    ),
)
"""All tasks; 60 to 160 images to train on, as sites differ in size."""


def siblings() -> dict[str, str]:
    """Return the data set of each task."""
    return {plan.name: plan.data for plan in PLANS}


def write_tasks(out: Path, packages: Path, seed: int = 0) -> list[Path]:
    """Write one site folder a task, those that are not there; return all of them.

    Parameters
    ----------
    out : Path
        Folder to write into.
    packages : Path
        Folder of unpacked packages, see benchmarks/pool_images.py.
    seed : int
        Of the draws and the splits.
    """

    @cache
    def pool_of(data: str) -> Pool:
        return DRAWN[data](packages, np.random.default_rng([seed, list(DRAWN).index(data)]))

    for index, plan in enumerate(PLANS):
        if not (out / plan.name / "site.toml").exists():
            pool = pool_of(plan.data)
            rows = deal(pool, plan, np.random.default_rng([seed, 1000 + index]))
            _write(out / plan.name, plan, pool, rows)
    return [out / plan.name for plan in PLANS]


def deal(pool: Pool, plan: TaskPlan, rng: np.random.Generator) -> dict[str, list[int]]:
    """Deal a pool's subjects to the splits by `SHARES`; return which images each split takes."""
    subjects, subject = np.unique(pool.subjects, return_inverse=True)  # [s], [n]
    ends = np.cumsum(list(SHARES.values()))
    place = (rng.permutation(len(subjects)) + 0.5) / len(subjects)  # [s]
    split = np.searchsorted(ends, place)[subject]  # [n]
    label, taken = np.array(pool.labels), dict[str, list[int]]()
    for number, (name, most) in enumerate(zip(SHARES, (plan.train, VAL, TEST), strict=True)):
        taken[name] = []
        for kind in plan.classes:
            images = np.flatnonzero((split == number) & (label == kind))
            taken[name] += rng.permutation(images)[: most // len(plan.classes)].tolist()
    return taken


def _write(folder: Path, plan: TaskPlan, pool: Pool, rows: dict[str, list[int]]) -> None:
    """Write one site folder; without its site.toml, which comes last, it is none yet."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines: list[tuple[str, str, str, str]] = []
    for split, chosen in rows.items():
        for row in chosen:
            path = f"images/{len(lines):04d}.png"
            pixels = np.ascontiguousarray(pool.images[row], dtype=np.uint8)
            Image.fromarray(pixels).convert("RGB").save(folder / path)
            lines.append((path, pool.labels[row], pool.subjects[row], split))
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([("path", "label", "subject_id", "split"), *lines])
    atomic_write(folder / "labels.csv", table.getvalue())
    atomic_write(folder / "site.toml", _site_file(plan))


def _site_file(plan: TaskPlan) -> str:
    card = {"name": plan.data, **plan.card, "shares_weights": True}
    properties = card.pop("properties")
    assert isinstance(properties, dict)
    lines = ["[task]", *_lines(card), "", "[task.properties]", *_lines(properties)]
    return "\n".join([*lines, "", "[data]", 'manifest = "labels.csv"', ""])


def _lines(values: dict[str, object]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]
