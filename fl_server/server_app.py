"""The coordinator's ServerApp: exchange, decisions, training arms, run folder."""

from __future__ import annotations

import logging
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_server.arms import ArmOutcome, arm_groups, run_arm
from fl_server.decisions import Decision, decide
from fl_server.exchange import Exchange, exchange_fingerprints
from fl_server.outcomes import metrics_file, recommendations_file
from fl_server.report import write_report
from fl_server.runfolder import RUN_FILES, distances_csv, write_exchange, write_log
from fl_server.settings import RunSettings
from protocol.errors import FedprintError
from protocol.files import atomic_json, atomic_write
from protocol.runfiles import LeftOut, RunFile, SiteEntry, SpecEntry
from protocol.spec import load_spec

app = ServerApp()
log = logging.getLogger("fedprint")

PACKAGES = ("fedprint", "flwr", "torch", "timm", "pytorch-lightning", "numpy", "scipy")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the main job on whatever grid Flower gives: simulation or deployment."""
    _log_to_stderr()
    try:
        settings = RunSettings.from_run_config(context.run_config)
        run(grid, settings, str(context.run_id))
    except FedprintError as error:
        print(f"fedprint: error: {error}", file=sys.stderr, flush=True)
        raise


def run(grid: Grid, settings: RunSettings, name: str) -> Path:
    """Exchange, decide, train the arms, and write the run folder.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    settings : RunSettings
        What was asked.
    name : str
        Unique name of the run.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    FedprintError
        If fewer than ``min_sites`` sites pass verification.
    """
    started = datetime.now(UTC)
    out = Path(settings.out)
    held = [entry for entry in RUN_FILES if (out / entry).exists()]
    if held:
        raise FedprintError(f"{out} holds an earlier run ({held[0]}): choose another out")
    exchange = _exchange(grid, settings, name)
    write_exchange(out, exchange)
    decision = _decide(out, exchange, settings)
    outcomes: dict[str, ArmOutcome] = {}
    groups = [group.sites for group in decision.groups.groups]
    for arm in settings.arms:
        who = arm_groups(arm, groups, decision.names, settings.seed)
        log.info("training: %s (%d groups)", arm, len(who))
        outcomes[arm] = run_arm(arm, who, grid, exchange, settings, outcomes.get("alone"))
        _tell_arm(arm, outcomes[arm])
    if outcomes:
        atomic_json(out / "metrics.json", metrics_file(outcomes, decision.names))
    seconds = exchange.seconds | {f"train {arm}": o.seconds for arm, o in outcomes.items()}
    atomic_json(out / "run.json", _run_file(exchange, settings, seconds, started, grid))
    write_report(out)
    write_log(out, exchange)
    log.info("run folder: %s", out)
    return out


def _exchange(grid: Grid, settings: RunSettings, name: str) -> Exchange:
    spec = load_spec(settings.spec)
    log.info("exchanging fingerprints under spec %s", spec.name)
    exchange = exchange_fingerprints(
        grid, spec, name, min_sites=settings.min_sites, timeout=settings.timeout
    )
    for gone in exchange.left_out:
        log.info("left out: %s (%s) %s", gone.site, gone.reason, gone.message)
    verified = len(exchange.releases)
    log.info("%d signed fingerprints verified, %d left out", verified, len(exchange.left_out))
    if verified < 2:
        first = exchange.left_out[0] if exchange.left_out else LeftOut(site="nobody", reason="")
        raise FedprintError(
            f"{verified} sites passed verification, at least 2 are needed; "
            f"first problem: {first.site}: {first.message or first.reason}"
        )
    return exchange


def _decide(out: Path, exchange: Exchange, settings: RunSettings) -> Decision:
    decision = decide(
        exchange.fingerprints,
        exchange.spec,
        measure=settings.measure,
        min_size=settings.min_group_size,
        max_size=settings.max_group_size,
        partners=settings.partners,
    )
    atomic_write(out / "distances.csv", distances_csv(decision.names, decision.distances))
    atomic_json(out / "groups.json", decision.groups)
    atomic_json(out / "recommendations.json", recommendations_file(decision))
    for group in decision.groups.groups:
        log.info("%s: %s", group.name, ", ".join(group.sites))
    return decision


def _tell_arm(arm: str, outcome: ArmOutcome) -> None:
    values = [s["test_balanced_accuracy"] for s in outcome.scores.values()]
    if values:
        log.info(
            "%s: mean balanced accuracy %.3f on test data of %d sites, %.0f s",
            *(arm, sum(values) / len(values), len(values), outcome.seconds),
        )
    for site, why in outcome.lost.items():
        log.info("lost in training (%s): %s: %s", arm, site, why)


def _run_file(
    exchange: Exchange,
    settings: RunSettings,
    seconds: dict[str, float],
    started: datetime,
    grid: Grid,
) -> RunFile:
    simulated = type(grid).__name__ == "InMemoryGrid"
    return RunFile(
        run=exchange.run,
        mode="simulation" if simulated else "deployment",
        spec=SpecEntry(name=exchange.spec.name, digest=exchange.spec.digest),
        sites=[
            SiteEntry(
                site=site,
                task=release.verified.card.name,
                images=release.verified.fingerprint.n_images,
            )
            for site, release in exchange.releases.items()
        ],
        left_out=exchange.left_out,
        seed=settings.seed,
        versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        started=started,
        ended=datetime.now(UTC),
        seconds={phase: round(value, 2) for phase, value in seconds.items()},
        settings=settings.model_dump(mode="json"),
    )


def _log_to_stderr() -> None:
    """Mark our lines, so that ``fedprint simulate`` can tell them from Flower's."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("fedprint | %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
