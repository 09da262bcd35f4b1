"""What a site keeps on its disk, and the guard."""

from __future__ import annotations

import math
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fl_client.models import RunModels, gains
from fl_client.site import Site
from protocol.errors import DataError
from protocol.taskcard import TaskCard


def site_at(state: Path) -> Site:
    """Return a site without images."""
    return Site("north", state.parent, TaskCard(name="t"), [], state, False)


def scores(accuracy: float, loss: float, auroc: float = math.nan) -> dict[str, float]:
    """Return scores on validation data."""
    return {"val_balanced_accuracy": accuracy, "val_loss": loss, "val_auroc": auroc}


@pytest.mark.parametrize(
    ("alone", "together", "expected"),
    [
        (scores(0.5, 1.0), scores(0.6, 9.0), True),
        (scores(0.6, 9.0), scores(0.5, 1.0), False),
        (scores(0.5, 1.0), scores(0.5, 0.9), True),
        (scores(0.5, 0.9), scores(0.5, 1.0), False),
        (scores(0.5, 1.0), scores(0.5, 1.0), False),
        (scores(0.5, 1.0), scores(0.5 + 1e-12, 0.9), True),
        (scores(0.5 + 1e-12, 1.0), scores(0.5, 1.1), False),
        (scores(math.nan, 1.0), scores(0.9, 0.1), False),
        (scores(0.5, 1.0), scores(math.nan, 0.1), False),
        (scores(0.5, math.nan), scores(0.5, 0.1), False),
        (scores(0.5, 0.1), scores(0.5, math.nan), False),
        (scores(0.0, 1.0), scores(0.0, 0.5), True),
        (scores(0.9, 1.0, 0.5), scores(0.1, 9.0, 0.6), True),
        (scores(0.1, 9.0, 0.6), scores(0.9, 1.0, 0.5), False),
        (scores(0.1, 9.0, 0.6), scores(0.9, 8.0, 0.6), True),
        (scores(0.5, 1.0, 0.6), scores(0.6, 9.0), True),
        (scores(0.5, 1.0), scores(0.4, 0.1, 0.9), False),
    ],
)
def test_the_guard(alone: dict[str, float], together: dict[str, float], expected: bool) -> None:
    assert gains(alone, together) is expected


def test_arrays_and_scores_come_back_and_only_the_site_can_read_them(tmp_path: Path) -> None:
    models = RunModels(site_at(tmp_path / "state"), "run", "arm")
    assert models.load("model") == {}
    assert models.load_scores() is None
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    models.save("model", {"body.weight": turned})
    models.save_scores({"val_loss": math.nan, "val_balanced_accuracy": 0.25})
    np.testing.assert_array_equal(models.load("model")["body.weight"], turned)
    back = models.load_scores()
    assert back is not None
    assert math.isnan(back["val_loss"])
    assert back["val_balanced_accuracy"] == 0.25
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_nothing_to_keep_is_kept(tmp_path: Path) -> None:
    models = RunModels(site_at(tmp_path), "run", "arm")
    models.save("private", {})
    assert models.load("private") == {}


def test_a_round_begins_with_the_private_rows_of_the_one_before(tmp_path: Path) -> None:
    models = RunModels(site_at(tmp_path), "run", "arm")
    assert models.load_private(0) == models.load_private(3) == {}
    for server_round in (1, 2, 10):  # a site need not be in every round
        models.save_private(server_round, {"head.a": np.full(1, server_round, np.float32)})
    assert models.load_private(1) == {}
    begins = {r: float(models.load_private(r)["head.a"][0]) for r in (2, 3, 9, 10, 11, 0)}
    assert begins == {2: 1, 3: 2, 9: 2, 10: 2, 11: 10, 0: 10}


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from fl_client.models import RunModels
from fl_client.site import Site
from protocol.taskcard import TaskCard

state = Path(sys.argv[1])
models = RunModels(Site("north", state.parent, TaskCard(name="t"), [], state, False), "run", "arm")
rename = os.replace

def replace(*paths):
    if sys.argv[2] == "after":
        rename(*paths)
    os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace
models.save_private(2, {"head.a": np.full(1, 2, np.float32)})
"""


@pytest.mark.parametrize(("moment", "third"), [("before", 1), ("after", 2)])
def test_a_site_killed_while_it_writes_begins_the_round_again_with_the_same_rows(
    tmp_path: Path, moment: str, third: int
) -> None:
    models = RunModels(site_at(tmp_path), "run", "arm")
    models.save_private(1, {"head.a": np.full(1, 1, np.float32)})
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(tmp_path), moment]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert float(models.load_private(2)["head.a"][0]) == 1
    assert float(models.load_private(3)["head.a"][0]) == third
    models.save_private(2, {"head.a": np.full(1, 2, np.float32)})
    assert float(models.load_private(3)["head.a"][0]) == 2


def test_runs_and_arms_are_kept_apart_and_cannot_name_other_folders(tmp_path: Path) -> None:
    site = site_at(tmp_path / "state")
    names = [("r", "a"), ("r", "b"), ("s", "a"), ("../../..", "/etc"), ("r\na", "")]
    folders = {RunModels(site, run, arm).folder for run, arm in names}
    assert len(folders) == len(names)
    assert all(folder.parent == tmp_path / "state" / "models" for folder in folders)


def test_a_state_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    models = RunModels(site_at(tmp_path / "state"), "run", "arm")
    with pytest.raises(DataError, match=r"^cannot write to .*; name another --state$") as caught:
        models.save("model", {"a": np.zeros(1, np.float32)})
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"^cannot write to "):
        models.save_scores({})


@pytest.mark.parametrize("name", ["model.safetensors", "scores.json"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    models = RunModels(site_at(tmp_path), "run", "arm")
    models.save("model", {"a": np.zeros(1, np.float32)})
    models.save_scores({"val_loss": 1.0})
    (models.folder / name).write_bytes(b"{half")
    with pytest.raises(DataError, match=rf"{name} is damaged \(.*\): delete it and run again$"):
        models.load("model") if name.startswith("model") else models.load_scores()
