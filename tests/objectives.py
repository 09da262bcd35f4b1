"""Sites of one kind of images, handwritten digits, with one class, several labels, or a grade."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

LABELS: dict[str, Callable[[int], bool]] = {
    "even": lambda digit: digit % 2 == 0,
    "loop": lambda digit: digit in (0, 6, 8, 9),
    "over 4": lambda digit: digit > 4,
}
GRADES = ("low", "middle", "high", "highest")
"""Of a digit by its size; no site holds the third."""


def pictures(first: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return digits, enlarged to 32 x 32, with what they are."""
    bunch = load_digits()
    shades = (bunch.images * 15.9).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return shades[first : first + number], bunch.target[first : first + number]


def names_of(digit: int) -> list[str]:
    """Return the labels of a digit; 1 and 3 have none."""
    return [name for name, holds in LABELS.items() if holds(digit)]


def grade_of(digit: int) -> str:
    """Return the grade of a digit."""
    return GRADES[0] if digit < 4 else GRADES[1] if digit < 7 else GRADES[3]


def write_site(folder: Path, task: str, header: str, rows: list[list[str]], first: int) -> Path:
    """Write pictures with a manifest; a row holds what stands between path and subject."""
    folder.mkdir(parents=True)
    shades, _ = pictures(first, len(rows))
    lines = [["path", *header.split(","), "subject_id"]]
    for number, (row, pixels) in enumerate(zip(rows, shades, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
        lines.append([f"{number:03}.png", *row, f"p{number // 2}"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    (folder / "site.toml").write_text(f'{task}\n[data]\nmanifest = "labels.csv"\n')
    return folder


def write_several(folder: Path, first: int, number: int, held: tuple[str, ...] = ()) -> Path:
    """Write a multi-label site that knows all labels, or some."""
    _, digits = pictures(first, number)
    rows = [[";".join(n for n in names_of(d) if n in (held or LABELS))] for d in digits]
    task = '[task]\nname = "properties of digits"\nobjective = "multilabel"'
    return write_site(folder, task, "labels", rows, first)


def write_one(folder: Path, first: int, number: int) -> Path:
    """Write a site of even and odd digits."""
    _, digits = pictures(first, number)
    rows = [["odd" if d % 2 else "even"] for d in digits]
    return write_site(folder, '[task]\nname = "parity"', "label", rows, first)


def write_graded(folder: Path, first: int, number: int) -> Path:
    """Write an ordinal site."""
    _, digits = pictures(first, number)
    order = ", ".join(f'"{grade}"' for grade in GRADES)
    task = f'[task]\nname = "size of digits"\nobjective = "ordinal"\norder = [{order}]'
    return write_site(folder, task, "label", [[grade_of(d)] for d in digits], first)
