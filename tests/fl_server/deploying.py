"""Small real deployments for tests, which also see that nothing is left running."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fl_server.deployment import Deployment
from fl_server.engine import assemble_app
from fl_server.local_site import LocalSite
from tests.fl_server.running import MARK, gone

EXCHANGE: Mapping[str, str | int | float | bool] = {
    "mode": "exchange",
    "release": "plain",
    "timeout": 120.0,
}
"""Settings of a run that exchanges plain fingerprints and trains nothing."""

TRAIN: Mapping[str, str | int | float | bool] = {
    "release": "plain",
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


def add_plain_site(
    deployment: Deployment,
    name: str,
    images: Path,
    *,
    approve_first: bool = False,
    start: bool = True,
) -> LocalSite:
    """Add a site of few images, whose policy lets them go without noise."""
    site = deployment.add_site(name, images, approve_first=approve_first, start=False)
    permit_plain(site.folder)
    if start:
        site.start()
    return site


def permit_plain(folder: Path) -> None:
    """Change a site's policy so that it lets plain fingerprints of few images go."""
    path = folder / "policy.toml"
    text = path.read_text()
    changes = {"specs": '["lite0-100"]', "release": '"plain"', "min_images": 2, "images_per_bin": 0}
    for key, value in changes.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert count == 1, key
    path.write_text(text)


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
