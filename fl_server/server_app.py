"""The coordinator's ServerApp: what was asked, by whose authority, and on which grid."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_server.asking import is_deployment
from fl_server.coordinator import Coordinator, open_coordinator
from fl_server.job import run
from fl_server.late import join_late
from fl_server.pool_after import located
from fl_server.settings import RunSettings
from protocol.errors import ConfigError, FedprintError

app = ServerApp()
log = logging.getLogger("fedprint")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the main job on whatever grid Flower gives: simulation or deployment."""
    _log_to_stderr()
    try:
        settings, coordinator = _authority(RunSettings.from_run_config(context.run_config), grid)
        if settings.mode == "join":
            join_late(grid, settings, coordinator)
        else:
            run(grid, settings, str(context.run_id), coordinator)
    except FedprintError as error:
        print(f"fedprint: error: {error}", file=sys.stderr, flush=True)
        raise


def _authority(settings: RunSettings, grid: Grid) -> tuple[RunSettings, Coordinator | None]:
    """Open the coordinator's folder where there is one; relative `out` and `pool` count from it."""
    if not settings.server_dir:
        if is_deployment(grid):
            raise ConfigError(
                "run-config server-dir is missing: a deployment needs the folder that fedprint "
                "server init made (flwr run ... --run-config DIR/run.toml)"
            )
        return settings, None
    folder = Path(settings.server_dir).expanduser().resolve()
    paths = {
        "server_dir": str(folder),
        "out": str(folder / settings.out),  # an absolute out stays as it is
        "pool": located(settings.pool, folder),
    }
    return settings.model_copy(update=paths), open_coordinator(folder)


def _log_to_stderr() -> None:
    """Mark our lines, so that ``fedprint simulate`` can tell them from Flower's."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("fedprint | %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
