"""Pictures that somebody drew: emoji, letters, writing systems, figures and grounds of a game."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.pool_photos import Labelled

LETTERS = "AEGHKMQRSWXZ"
SCRIPTS = {  # first and last code point of sixteen writing systems
    "Latin": (0x41, 0x24F),
    "Greek": (0x391, 0x3CE),
    "Cyrillic": (0x410, 0x4FF),
    "Armenian": (0x531, 0x587),
    "Hebrew": (0x5D0, 0x5EA),
    "Arabic": (0x621, 0x6D3),
    "Devanagari": (0x904, 0x939),
    "Bengali": (0x985, 0x9B9),
    "Tamil": (0xB85, 0xBB9),
    "Sinhala": (0xD85, 0xDC6),
    "Thai": (0xE01, 0xE2E),
    "Myanmar": (0x1000, 0x102A),
    "Georgian": (0x10A0, 0x10FF),
    "Ethiopic": (0x1200, 0x135A),
    "Cherokee": (0x13A0, 0x13F4),
    "Khmer": (0x1780, 0x17B3),
}
RACES = [
    *("dwarves", "drakes", "elves-wood", "human-loyalists", "human-magi", "human-outlaws"),
    *("monsters", "nagas", "orcs", "saurians", "undead", "undead-skeletal"),
]
TERRAINS = [
    *("bridge", "castle", "cave", "flat", "forest", "grass"),
    *("interior", "mountains", "unwalkable", "village", "walls", "water"),
]


def emoji(packages: Path, rng: np.random.Generator) -> Labelled:
    """Emoji by category, without flags (npm emoji-datasource-google)."""
    listing = next(packages.rglob("emoji.json"))
    kinds: dict[str, list[Path]] = {}
    for entry in json.loads(listing.read_text()):
        path = listing.parent / "img" / "google" / "64" / entry["image"]
        if entry["category"] not in ("Component", "Flags") and path.exists():
            kinds.setdefault(entry["category"], []).append(path)
    for kind, paths in kinds.items():
        for i in rng.permutation(len(paths))[:250]:
            yield kind, on_white(Image.open(paths[i]))


def on_white(picture: Image.Image) -> NDArray[np.uint8]:
    """Put a picture with a transparent ground on white."""
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    ground.alpha_composite(picture)
    return np.asarray(ground.convert("RGB"))


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8] | None:
    left, top, right, bottom = font.getbbox(character)
    if right - left < 8 or bottom - top < 8:
        return None  # no more than a mark
    picture = Image.new("L", (64, 64), 255)
    place = (32 - (left + right) / 2, 32 - (top + bottom) / 2)
    ImageDraw.Draw(picture).text(place, character, font=font, fill=0)
    return np.asarray(picture)


def _fonts(packages: Path) -> Iterator[tuple[Path, set[int]]]:
    from fontTools.ttLib import TTFont, TTLibError

    for path in sorted(packages.rglob("*.[ot]tf")):
        if "games" in path.parts:
            continue  # links to other packages' fonts
        try:
            yield path, set(TTFont(path, lazy=True).getBestCmap() or ())
        except (TTLibError, AssertionError):
            continue  # a font that fontTools cannot read


def letters(packages: Path, rng: np.random.Generator) -> Labelled:
    """Twelve capitals in some hundred fonts (Debian)."""
    for path, known in _fonts(packages):
        if "noto" in str(path) or "math" in path.name.lower() or not {*map(ord, LETTERS)} <= known:
            continue
        font = ImageFont.truetype(path, 44)
        yield from ((c, g) for c in LETTERS if (g := _glyph(font, c)) is not None)


def scripts(packages: Path, rng: np.random.Generator) -> Labelled:
    """Characters of sixteen writing systems (Debian fonts-noto-core)."""
    noto = [(path, known) for path, known in _fonts(packages) if path.name.startswith("Noto")]
    for script, (first, last) in SCRIPTS.items():
        middle = "" if script in ("Latin", "Greek", "Cyrillic") else script
        stems = tuple(f"Noto{cut}{middle}-" for cut in ("Sans", "Serif", "Naskh"))
        pictures = []
        for path, known in noto:
            if path.name.startswith(stems):
                font = ImageFont.truetype(path, 40)
                wanted = (chr(c) for c in range(first, last + 1) if c in known and chr(c).isalpha())
                pictures += [g for c in wanted if (g := _glyph(font, c)) is not None]
        for i in rng.permutation(len(pictures))[:240]:
            yield script, pictures[i]


def _wesnoth(packages: Path, part: str, kinds: list[str], rng: np.random.Generator) -> Labelled:
    folder = next(packages.rglob(f"core/images/{part}"))
    for kind in kinds:
        paths, seen = sorted((folder / kind).rglob("*.png")), set[bytes]()
        for i in rng.permutation(len(paths)):
            picture = Image.open(paths[i]).convert("RGBA")
            alpha = picture.getchannel("A")
            if min(picture.size) < 40 or np.asarray(alpha).mean() < 20 or len(seen) == 300:
                continue
            small = on_white(picture.crop(alpha.getbbox())) if alpha.getbbox() else None
            if small is not None and small.tobytes() not in seen:
                seen.add(small.tobytes())
                yield kind, np.asarray(Image.fromarray(small).resize((72, 72)))


def sprites(packages: Path, rng: np.random.Generator) -> Labelled:
    """Figures of twelve peoples (Debian wesnoth-1.16-data)."""
    return _wesnoth(packages, "units", RACES, rng)


def terrain(packages: Path, rng: np.random.Generator) -> Labelled:
    """Twelve kinds of ground (Debian wesnoth-1.16-data)."""
    return _wesnoth(packages, "terrain", TERRAINS, rng)
