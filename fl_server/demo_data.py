"""Site folders of real images for the demonstration, exactly as hospitals would have them."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_server.demo_tasks import TASKS, Pixels, Pool
from protocol.files import atomic_write

SPLITS = {"train": 0.4, "val": 0.2, "test": 0.4}
"""Share of a site's images in each split: few to train on, enough to measure."""

_TISSUE = ("grey", "white", "other")
_PLANE = ("sagittal", "coronal", "axial")
_TEXTURE = ("brick", "grass", "gravel")
_FIELD = ("corn no-till", "grass trees", "soybean min-till", "woods")
_PASTURE = ("grass pasture", "hay windrowed")
_FARM = ("corn min-till", "soybean clean", "buildings")


@dataclass(frozen=True)
class SitePlan:
    """What one demo site holds.

    Attributes
    ----------
    name : str
        Name of the site and of its folder.
    task : str
        Task on the site's card. Sites of one task mean the same classes by the same names.
    data : str
        Key of `fl_server.demo_tasks.TASKS`; two tasks may come from one data set.
    classes : tuple of str
        Classes that the site holds, in equal parts.
    images : int
        Number of images.
    shares_weights : bool
        Whether weights that were trained on them may be handed on.
    """

    name: str
    task: str
    data: str
    classes: tuple[str, ...]
    images: int
    shares_weights: bool = True


def _same(name: str, task: str, classes: tuple[str, ...], *sizes: int) -> list[SitePlan]:
    """Plan sites of one task that hold the same classes."""
    return [
        SitePlan(f"{name}-{number}", task, task, classes, size)
        for number, size in enumerate(sizes, start=1)
    ]


SITES: tuple[SitePlan, ...] = (
    *_same("brain", "brain tissue", _TISSUE, 240, 120, 60),
    *_same("plane", "slice plane", _PLANE, 150, 75),
    # Overlapping label sets: six of ten digits a site, neighbours share four.
    SitePlan("digits-1", "handwritten digits", "handwritten digits", tuple("012345"), 600),
    SitePlan("digits-2", "handwritten digits", "handwritten digits", tuple("234567"), 240),
    SitePlan("digits-3", "handwritten digits", "handwritten digits", tuple("456789"), 150),
    SitePlan("digits-4", "handwritten digits", "handwritten digits", tuple("678901"), 120),
    *_same("texture", "textures", _TEXTURE, 120, 60, 30),
    *_same("land", "land cover", _FIELD, 200, 120, 80),
    # Disjoint label sets of one data set: nobody else holds any of these classes.
    SitePlan("pasture", "pasture survey", "land cover", _PASTURE, 100),
    SitePlan("farm", "farm survey", "land cover", _FARM, 120, shares_weights=False),
)
"""The sites of the demonstration, unequal in size."""

PRIVATE_SITES: tuple[SitePlan, ...] = (
    *_same("digits", "handwritten digits", tuple("01234"), 200, 120),
    *_same("texture", "textures", _TEXTURE, 260, 240),
)
"""Sites with patients enough for private releases: of each patient one image is counted."""

_CARDS: dict[str, dict[str, object]] = {
    "brain tissue": {"modality": "MRI", "anatomy": "brain", "keywords": ["T1", "tissue"]},
    "slice plane": {"modality": "MRI", "anatomy": "brain", "keywords": ["T1", "orientation"]},
    "handwritten digits": {"modality": "scan", "anatomy": "", "keywords": ["handwriting"]},
    "textures": {"modality": "photograph", "anatomy": "", "keywords": ["surface"]},
    "land cover": {"modality": "hyperspectral", "anatomy": "", "keywords": ["remote sensing"]},
}

_PROPERTIES: dict[str, tuple[str, str, str, str, str]] = {
    "brain tissue": ("medical", "grey", "texture", "tissue", "low"),
    "slice plane": ("medical", "grey", "object", "orientation", "medium"),
    "handwritten digits": ("natural", "grey", "object", "character", "low"),
    "textures": ("natural", "grey", "texture", "surface", "medium"),
    "land cover": ("natural", "colour", "texture", "vegetation", "medium"),
}
"""Origin, colour, what tells classes apart, kind and diversity."""


def write_demo_sites(out: Path, seed: int = 0, sites: Sequence[SitePlan] = SITES) -> list[Path]:
    """Write the demonstration's site folders.

    Every folder holds PNG images, ``labels.csv`` (path, label, subject_id, split) and
    ``site.toml``. No subject is in two splits, nor at two sites. The same seed writes the same
    bytes; other seeds draw other images.

    Parameters
    ----------
    out : Path
        Folder to write into; made when missing.
    seed : int
        Seed of every draw.
    sites : sequence of SitePlan
        What to write.

    Returns
    -------
    list of Path
        The site folders, in the order of `sites`.

    Raises
    ------
    FedprintError
        A package that ships the images is missing.
    """
    folders: dict[str, Path] = {}
    for index, (data, draw) in enumerate(TASKS.items()):
        plans = [plan for plan in sites if plan.data == data]
        if not plans:
            continue
        rng = np.random.default_rng([seed, index])
        pool = draw(rng)
        for plan, rows in zip(plans, deal(pool, plans, rng), strict=True):
            folders[plan.name] = _write_site(out / plan.name, plan, pool, rows)
    return [folders[plan.name] for plan in sites]


Rows = dict[str, NDArray[np.int64]]  # indices into a pool, by split


def deal(pool: Pool, plans: list[SitePlan], rng: np.random.Generator) -> list[Rows]:
    """Deal a pool's subjects out to sites and splits, then take the images each one wants.

    Each subject goes to the site and split that it brings nearest to what it wants, relative to
    what it wants in all, so that small ones are served as well as large ones.

    Parameters
    ----------
    pool : Pool
        Candidates of one data set.
    plans : list of SitePlan
        Sites that draw from it.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    list of dict
        Per site: indices into the pool by split.
    """
    names = sorted(set(pool.labels))
    label = np.array([names.index(name) for name in pool.labels])  # [n]
    subjects, subject = np.unique(np.array(pool.subjects), return_inverse=True)  # [n]
    cells = [(plan, split) for plan in plans for split in SPLITS]
    wanted = np.array([_quota(plan, split, names) for plan, split in cells])  # [cells, classes]
    total = wanted.sum(1, keepdims=True)  # [cells, 1]
    taken: list[list[int]] = [[] for _ in cells]
    for chosen in rng.permutation(len(subjects)):
        images = np.flatnonzero(subject == chosen)
        has = np.bincount(label[images], minlength=len(names))  # [classes]
        gain = (np.minimum(has, wanted) / total).sum(1)  # [cells]
        cell = int(gain.argmax())
        for kind in np.flatnonzero(np.minimum(has, wanted[cell])):
            rows = images[label[images] == kind][: wanted[cell, kind]]
            taken[cell] += rows.tolist()
            wanted[cell, kind] -= len(rows)
    rows_of = {key: np.sort(np.array(rows)) for key, rows in zip(cells, taken, strict=True)}
    return [{split: rows_of[plan, split] for split in SPLITS} for plan in plans]


def _quota(plan: SitePlan, split: str, names: list[str]) -> NDArray[np.int64]:
    """Return how many images of each class one split of a site wants, ``[classes]``."""
    count = round(plan.images * SPLITS[split])
    held = [names.index(name) for name in plan.classes]
    quota = np.zeros(len(names), dtype=np.int64)
    quota[held] = count // len(held)
    quota[held[: count % len(held)]] += 1
    return quota


def _write_site(folder: Path, plan: SitePlan, pool: Pool, rows: Rows) -> Path:
    """Write one site folder; without its site.toml, which comes last, it is none yet."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "site.toml").unlink(missing_ok=True)
    lines: list[tuple[str, str, str, str]] = []
    for split, chosen in rows.items():
        for row in chosen.tolist():
            path = f"images/{len(lines):04d}.png"
            (folder / path).write_bytes(_png(pool.images[row]))
            lines.append((path, pool.labels[row], pool.subjects[row], split))
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([("path", "label", "subject_id", "split"), *lines])
    atomic_write(folder / "labels.csv", table.getvalue())
    card = {"name": plan.task, **_CARDS[plan.data], "objective": "classification"}
    card["shares_weights"] = plan.shares_weights
    task = "".join(f"{key} = {json.dumps(value)}\n" for key, value in card.items())
    names = ("origin", "colour", "shows", "kind", "diversity")
    known = zip(names, _PROPERTIES[plan.data], strict=True)
    task += "\n[task.properties]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in known)
    atomic_write(folder / "site.toml", f'[task]\n{task}\n[data]\nmanifest = "labels.csv"\n')
    return folder


def _png(image: Pixels) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(data, format="PNG")
    return data.getvalue()
