"""Runs as the server leaves them, a pool of one of them, and a dashboard over all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fl_server.dashboard.app import make_app
from fl_server.dashboard.sources import Sources
from fl_server.pool import open_pool
from fl_server.pool.add import add, of_run
from protocol.keys import generate_key, signer
from tests.fl_server.advised import sharing_run, written
from tests.fl_server.audited import audited_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a run that trained, and an exchange of private fingerprints."""
    root = tmp_path_factory.mktemp("dashboard") / "runs"
    run = sharing_run()
    written(root / "trained", run)
    audited_run(root / "audited")
    (root / "audited" / "run").rename(root / "private")
    return root


@pytest.fixture(scope="session")
def pool(runs: Path) -> str:
    """Make a pool of the run that trained."""
    where = str(runs.parent / "pool.db")
    with open_pool(where, create=True) as opened:
        add(opened, of_run(runs / "trained", signer(generate_key())))
    return where


@pytest.fixture(scope="session")
def sources(runs: Path, pool: str) -> Sources:
    """Return what the dashboard of these tests shows."""
    return Sources(runs, pool)


@pytest.fixture
def client(sources: Sources) -> TestClient:
    """Return somebody who asks for pages without a browser."""
    return client_of(sources)


def client_of(sources: Sources, token: str = "") -> TestClient:
    """Return somebody who asks a dashboard for pages."""
    app = make_app(sources, token=token)
    return TestClient(app, base_url="http://localhost:8470", follow_redirects=False)
