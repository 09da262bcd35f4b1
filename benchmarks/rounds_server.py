"""ServerApp of `training_rounds.py`: arms of rounds and the same training without, in turns."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_client import rounds_lightning
from fl_server import asking
from fl_server.arms import run_arm
from fl_server.exchange import Exchange, exchange_fingerprints
from fl_server.journal import Journal
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from protocol.spec import load_spec
from strategies import narrow_grid

app = ServerApp()

WANTED = "FEDPRINT_ROUNDS_WANTED"
"""Environment variable: how many turns, and of how many rounds an arm each, as JSON."""

_waited = [0.0]


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Time everything and write the seconds down."""
    wanted = json.loads(os.environ[WANTED])
    settings = RunSettings.from_run_config(context.run_config)
    out, spec = Path(settings.out), load_spec(settings.spec)
    exchange = exchange_fingerprints(grid, spec, f"{context.run_id}", min_sites=settings.min_sites)
    assert len(exchange.releases) == settings.min_sites, exchange.left_out
    sites = sorted(exchange.releases)
    folders = [Path(str(context.run_config["sites-dir"])) / site for site in sites]
    for module in (narrow_grid, asking):
        module.receive = _waiting(module.receive)  # type: ignore[attr-defined]
    alone = run_arm("alone", [[s] for s in sites], grid, exchange, settings)
    arms = []
    with _pool(wanted["processes"]) as pool:
        for turn in range(wanted["turns"] + 1):  # the first is cold, and stands by itself
            for rounds in wanted["rounds"]:
                asked = settings.model_copy(update={"rounds": rounds})
                journal = Journal(out / "journal" / f"{turn}-{rounds}")
                arms.append(_arm(grid, exchange, asked, alone, journal) | {"turn": turn})
                how = (settings.spec, settings.recipe, rounds, settings.local_epochs)
                jobs = [(f, *how, settings.batch_size) for f in folders]
                started = time.perf_counter()
                for job in [pool.submit(rounds_lightning.train, *job) for job in jobs]:
                    job.result()
                arms[-1]["lightning"] = time.perf_counter() - started
                told = f"{arms[-1]['seconds']:.2f} s, Lightning {arms[-1]['lightning']:.2f} s"
                print(f"fedprint | turn {turn}, {rounds} rounds: {told}", flush=True)
    (out / "arms.json").write_text(json.dumps(arms))


def _arm(
    grid: Grid, exchange: Exchange, settings: RunSettings, alone: ArmOutcome, journal: Journal
) -> dict[str, float]:
    _waited[0] = 0.0
    began, started = time.time(), time.perf_counter()
    groups = [sorted(exchange.releases)]
    outcome = run_arm("together", groups, grid, exchange, settings, alone, journal=journal)
    seconds = time.perf_counter() - started
    assert not outcome.lost, outcome.lost
    return {
        "rounds": settings.rounds,
        "began": began,
        "ended": time.time(),
        "seconds": seconds,
        "server": seconds - _waited[0],
    }


def _waiting(receive: Callable[..., object]) -> Callable[..., object]:
    """Add up the seconds that the group's grid waits for replies."""

    def waiting(*args: object, **kwargs: object) -> object:
        started = time.perf_counter()
        try:
            return receive(*args, **kwargs)
        finally:
            _waited[0] += time.perf_counter() - started

    return waiting


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Keep as many processes as the engine has, which share its cores but run in turns with it."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield pool
