"""Small real deployments for tests, which also see that nothing is left running."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fl_server.deployment import Deployment
from fl_server.engine import assemble_app
from tests.fl_server.running import MARK, gone

EXCHANGE: Mapping[str, str | int | float | bool] = {"arms": "", "timeout": 120.0}
"""Settings of a run that exchanges fingerprints and trains nothing."""

TRAIN: Mapping[str, str | int | float | bool] = {
    "arms": "alone,grouped",
    "rounds": 1,
    "local-epochs": 1,
    "timeout": 120.0,
}
"""Settings of the shortest run that trains."""


@contextmanager
def deployed(
    folder: Path, *, app: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Deployment]:
    """Yield a deployment without sites; afterwards nothing of it may run any more.

    Parameters
    ----------
    folder : Path
        Where everything is written.
    app : Path or None
        App folder to submit instead of fedprint's own, see `faulty_app`.
    environment : mapping or None
        More variables for every process.
    """
    mark = uuid.uuid4().hex
    marked = {MARK: mark, "OMP_NUM_THREADS": "1", **(environment or {})}
    with Deployment(folder, app=app, environment=marked) as deployment:
        yield deployment
    assert gone(mark) == []


def faulty_app(folder: Path, code: str) -> Path:
    """Return fedprint's app with code at the end of its ClientApp's module.

    All sites run it; a fault of one site asks for ``context.node_config["site"]``.
    """
    app = assemble_app(folder)
    module = app / "fl_client" / "client_app.py"
    module.write_text(f"{module.read_text()}\n\n{code}\n")
    return app


def read_json(folder: Path, name: str) -> Any:
    """Return a JSON file of a run folder."""
    return json.loads((folder / name).read_text())


def events(folder: Path, event: str) -> list[dict[str, Any]]:
    """Return the events of a kind that a run has recorded so far."""
    path = folder / "state" / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == event]
