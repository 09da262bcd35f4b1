"""What a site keeps of a run on its own disk: private head rows, its models, their scores.

Flower's ``Context.state`` is lost when a SuperNode restarts; these files are not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from fl_client.site import Site
from protocol.errors import DataError
from protocol.files import atomic_write
from protocol.model_card import CARD
from protocol.sharing import Arrays

Scores = dict[str, float]
DECISIVE = ("val_auroc", "val_balanced_accuracy")
"""What the guard compares models by: the first of these that is defined for both."""
T = TypeVar("T")


class RunModels:
    """Models of one site in one run and arm.

    Parameters
    ----------
    site : Site
        The files lie in its state folder.
    run, arm : str
        Which run and arm; hashed into the folder's name, because they come from elsewhere.
    """

    def __init__(self, site: Site, run: str, arm: str) -> None:
        name = hashlib.sha256(f"{run}\n{arm}".encode()).hexdigest()[:24]
        self.folder = site.state / "models" / name

    def save(self, name: str, arrays: Arrays) -> None:
        """Write arrays, readable by the site alone."""
        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        self._write(f"{name}.safetensors", safetensors.numpy.save(contiguous))

    def load(self, name: str) -> Arrays:
        """Return arrays saved before, none where there are none."""
        path = self.folder / f"{name}.safetensors"
        return _parsed(path, safetensors.numpy.load) or {}

    def save_private(self, server_round: int, rows: Arrays) -> None:
        """Write the private head rows that a round ended with."""
        self.save(f"private-{server_round}", rows)

    def load_private(self, server_round: int) -> Arrays:
        """Return the private head rows that a round begins with, of the last one for round 0.

        Those of the round before it, because a round that lost a site is redone: none in round 1.
        """
        rounds = [int(p.stem.split("-")[1]) for p in self.folder.glob("private-*.safetensors")]
        last = max((r for r in rounds if not server_round or r < server_round), default=0)
        return self.load(f"private-{last}")

    def save_scores(self, scores: Scores) -> None:
        """Write what the model of this arm scored."""
        self._write("scores.json", json.dumps(scores).encode())

    def load_scores(self) -> Scores | None:
        """Return what the model of this arm scored, None if it was never scored."""
        return _parsed(self.folder / "scores.json", json.loads)

    def save_card(self, text: str) -> None:
        """Write what the model of this arm is, for people."""
        self._write(CARD, text.encode())

    def load_card(self) -> str:
        """Return what the model of this arm is, empty where nobody said."""
        path = self.folder / CARD
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(self.folder / name, data, mode=0o600)
        except OSError as error:
            raise DataError(
                f"cannot write to {self.folder}: {error.strerror}; name another --state"
            ) from error


def _parsed(path: Path, parse: Callable[[bytes], dict[str, T]]) -> dict[str, T] | None:
    """Return what a file holds, None if there is none."""
    try:
        return parse(path.read_bytes()) if path.is_file() else None
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it and run again") from error


def gains(alone: Scores, together: Scores) -> bool:
    """Tell whether training together gained on the site's own validation data.

    Compared by AUROC, which has more steps on a dozen images than balanced accuracy has, by this
    where AUROC is undefined, and where both models are equal by the loss. A site without
    validation data keeps its local model.

    Parameters
    ----------
    alone, together : dict
        Scores with ``val_auroc``, ``val_balanced_accuracy`` and ``val_loss``.
    """
    pairs = [(alone[name], together[name]) for name in DECISIVE]
    known = [pair for pair in pairs if not any(math.isnan(value) for value in pair)]
    if not known:
        return False
    before, after = known[0]
    if not math.isclose(before, after, abs_tol=1e-9):
        return after > before
    return together["val_loss"] < alone["val_loss"]
