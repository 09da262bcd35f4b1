"""A command line to run in this process, and site folders to spoil."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LINE = "fedprint: error: "


@dataclass
class Outcome:
    """What a command ended with."""

    code: object
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line, without its mark."""
        assert self.err.startswith(LINE)
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err + self.out
        return self.err.removeprefix(LINE).rstrip("\n")


Run = Callable[..., Outcome]


def write_image(path: Path) -> None:
    """Write a small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(path)


def write_manifest(site: Path, *rows: str) -> Path:
    """Write a site with two images and these rows of its manifest."""
    for name in ("0.png", "1.png"):
        write_image(site / name)
    (site / "site.toml").write_text('[data]\nmanifest = "labels.csv"\n')
    (site / "labels.csv").write_text("\n".join(["path,label,subject_id", *rows]) + "\n")
    return site


def corrupt_image(site: Path) -> None:
    """Spoil an image."""
    (site / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
