"""The coordinator's commands: ``demo``, ``simulate``, ``report`` and so on.

Heavy imports happen inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fl_server import server_commands, verify_commands
from fl_server.measure_commands import Alike
from protocol.errors import ConfigError
from protocol.files import atomic_write
from protocol.options import Panel, file_to_write

RunConfig = Annotated[
    str,
    typer.Option(
        help="Overrides of the app's settings, as for `flwr run`: 'rounds=5 strategy=\"fedprox\"'."
    ),
]
Port = Annotated[int, typer.Option(help="Port of the SuperLink on 127.0.0.1; 0 takes a free one.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Flower's whole log.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run folder if it holds an earlier run.")
]
PoolOption = Annotated[
    str,
    typer.Option(
        help="Knowledge pool that advises the run and takes it in when it is finished: a SQLite "
        "file, made where there is none, or postgresql://USER@HOST/NAME.",
        metavar="POOL",
    ),
]


class Tracker(StrEnum):
    """What may write metrics for people to watch."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


Track = Annotated[
    Tracker | None,
    typer.Option(
        help="Write metrics for people to watch: the run's to OUT/state/tracking, each site's "
        "training curves into the site's own state folder.",
    ),
]
SpecOption = Annotated[
    str,
    typer.Option(
        "--spec", help="Spec of the fingerprints: a name, or a JSON file.", metavar="SPEC"
    ),
]
Groups = Annotated[
    Alike,
    typer.Option(
        "--groups",
        help="What groups have in common: the task, whatever the shares of classes; or the data.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the coordinator's commands to the command line."""
    runs, results = Panel.RUNS, Panel.RESULTS
    app.command(rich_help_panel=runs, epilog="Example: fedprint demo --out runs/demo")(demo)
    app.command(
        rich_help_panel=runs, epilog="Example: fedprint simulate hospitals/ --out runs/first"
    )(simulate)
    app.command(
        rich_help_panel=runs, epilog="Example: fedprint exchange hospitals/ --out runs/exchange"
    )(exchange)
    app.command(
        "deployment-demo",
        rich_help_panel=runs,
        epilog="Example: fedprint deployment-demo --out runs/deployment",
    )(deployment_demo)
    app.command(rich_help_panel=results, epilog="Example: fedprint report runs/demo")(report)
    verify_commands.register(app)
    server_commands.register(app)


def demo(
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Which images the sites draw, and all training.")] = 0,
    pool: PoolOption = "",
    track: Track = None,
    run_config: RunConfig = "",
    port: Port = 0,
    verbose: Verbose = False,
) -> None:
    """Run the main job on bundled real images: site folders, exchange, groups, training, report."""
    from fl_server.demo_data import write_demo_sites
    from fl_server.settings import ARMS
    from fl_server.simulation import check_before, run_simulation

    asked, run_config = (
        {"arms": ",".join(ARMS), **_beside(pool, track)},
        f"seed={seed} {run_config}",
    )
    check_before(run_config, asked)
    from_scratch = out / "sites"
    typer.echo(f"writing the demo's site folders to {from_scratch}")
    folders = write_demo_sites(from_scratch, seed=seed)
    typer.echo(f"{len(folders)} sites, as hospitals would hold them")
    run_simulation(
        *(from_scratch, out, run_config), port=port, verbose=verbose, overwrite=True, asked=asked
    )


def deployment_demo(
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/deployment"),
    seed: Annotated[int, typer.Option(help="Which images the sites draw, and all training.")] = 0,
    run_config: RunConfig = "",
    verbose: Verbose = False,
) -> None:
    """Run the main job over a real deployment on this machine: TLS, authenticated nodes, people.

    A SuperLink and four SuperNodes, each a process with a folder, keys and a release policy of its
    own, set up by the commands that a coordinator and hospitals type.
    """
    from fl_server.deployment_demo import run_deployment_demo

    run_deployment_demo(out, run_config, seed=seed, verbose=verbose, show=typer.echo)


def simulate(
    sites_dir: Annotated[Path, typer.Argument(help="Folder of site folders.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    spec: SpecOption = "",
    pool: PoolOption = "",
    track: Track = None,
    run_config: RunConfig = "",
    port: Port = 0,
    verbose: Verbose = False,
    overwrite: Overwrite = False,
) -> None:
    """Run the main job on any folder of site folders, on Flower's simulation engine."""
    from fl_server.simulation import run_simulation

    asked = {**_beside(pool, track), **_by_spec(spec)}
    run_simulation(
        *(sites_dir, out, run_config), port=port, verbose=verbose, overwrite=overwrite, asked=asked
    )


def _beside(pool: str, track: Tracker | None) -> dict[str, str]:
    return {**({"pool": pool} if pool else {}), **({"track": track.value} if track else {})}


def _by_spec(spec: str) -> dict[str, str]:
    return {"spec": spec} if spec else {}


def exchange(
    sites_dir: Annotated[Path, typer.Argument(help="Folder of site folders.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    spec: SpecOption = "",
    epsilon: Annotated[
        float | None, typer.Option(help="Most that one release may reveal, 2 by default.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="At which epsilon holds, 1e-5 by default.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Ask for fingerprints as counted.")
    ] = False,
    groups: Groups = Alike.TASK,
    run_config: RunConfig = "",
    port: Port = 0,
    verbose: Verbose = False,
    overwrite: Overwrite = False,
) -> None:
    """Exchange fingerprints and group the sites, with noise added at each site and no training."""
    from fl_server.simulation import run_simulation

    terms = {"epsilon": epsilon, "delta": delta}
    given = {name: value for name, value in terms.items() if value is not None}
    if plain and given:
        raise ConfigError("--epsilon and --delta belong to a private release: leave --plain")
    release = "plain" if plain else "private"
    kind = {"mode": "exchange", "release": release, "groups": groups.value}
    asked = {**kind, **given, **_by_spec(spec)}
    run_simulation(
        *(sites_dir, out, run_config), port=port, verbose=verbose, overwrite=overwrite, asked=asked
    )


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=file_to_write, help="HTML to write instead, which leaves the run as it is."
        ),
    ] = None,
) -> None:
    """Write the run folder's report.html, self-contained, and enter it in the run's log."""
    from fl_server.closing import report_again
    from fl_server.report import page_of

    if out is not None:
        atomic_write(out, page_of(run))
    typer.echo(f"report: {out or report_again(run)}")
