"""Models of a run for others to use: each group's card, and its weights where its sites agreed.

They lie in ``models/<group>/`` beside the files that the run itself goes on with, and are made of
the run folder alone, so that anybody can make them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fl_server.model_card import group_card, trained_groups
from fl_server.models import load_model
from fl_server.report_data import read_run
from protocol.errors import DataError
from protocol.files import atomic_write
from protocol.model_card import CARD, WEIGHTS

MODELS = "models"


def write_models(run: Path, out: Path | None = None) -> list[Path]:
    """Write the cards of a run's models, with their weights where these may be handed on.

    Parameters
    ----------
    run : Path
        Folder of a run.
    out : Path or None
        Where to; by default the run folder's own ``models``.

    Returns
    -------
    list of Path
        The models' folders.

    Raises
    ------
    FedprintError
        If a file of the run is missing or damaged.
    """
    folder = out or run / MODELS
    written: list[Path] = []
    for name, content in model_files(run):
        path = folder / name
        weights = path.with_name(WEIGHTS)
        if weights not in (path, *written):  # those of an earlier run do not go with this card
            weights.unlink(missing_ok=True)
        atomic_write(path, content, mode=0o600 if path == weights else 0o644)
        written.append(path)
    return list(dict.fromkeys(path.parent for path in written))


def model_files(run: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what lies in ``models`` beside the run's own files: name, and content.

    Raises
    ------
    FedprintError
        If a file of the run is missing or damaged.
    """
    if not any((run / MODELS).glob("*.safetensors")):
        return
    data = read_run(run)
    for arm, group in trained_groups(data):
        path = run / MODELS / f"{group.group}.safetensors"
        if not path.is_file():  # all that took part was lost
            continue
        card, weights = group_card(data, arm, group, load_model(path))
        if weights is not None:
            yield f"{group.group}/{WEIGHTS}", weights
        yield f"{group.group}/{CARD}", card.to_markdown().encode()


def require_models(run: Path) -> None:
    """Raise unless a run trained groups.

    Raises
    ------
    DataError
        If there is nothing to write.
    """
    if not any((run / MODELS).glob("*.safetensors")):
        raise DataError(f"{run} holds no model of a group: its arms trained none")
