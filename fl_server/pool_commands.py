"""``fedprint pool``: what worked on which task, kept, shown and exchanged.

Heavy imports happen inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_server.tables import show_table
from protocol.files import atomic_json
from protocol.options import Panel, file_to_write

if TYPE_CHECKING:
    from fl_server.pool.store import Tally

Where = Annotated[
    str,
    typer.Argument(help="The pool: a SQLite file, or postgresql://USER@HOST/NAME.", metavar="POOL"),
]
JsonOut = Annotated[
    Path | None,
    typer.Option("--json", callback=file_to_write, help="Also write it as JSON here."),
]
KeyFile = Annotated[
    str,
    typer.Option(
        "--key", help="Signing key: a file, or a URI such as hsm:... or awskms:...; else your own."
    ),
]
PublicKey = Annotated[
    Path | None, typer.Option("--public-key", help="PEM file: the public half of a key by URI.")
]


def register(app: typer.Typer) -> None:
    """Add ``fedprint pool`` to the command line."""
    app.add_typer(pool_app(), name="pool", rich_help_panel=Panel.KNOWLEDGE)


def pool_app() -> typer.Typer:
    """Return the sub-application ``pool``."""
    from fl_server.pool_query import query, recommend

    pool = typer.Typer(no_args_is_help=True, help="Keep what worked on which task, and share it.")
    pool.command(epilog="Example: fedprint pool add pool.db runs/first")(add)
    pool.command("list", epilog="Example: fedprint pool list pool.db")(list_)
    pool.command(epilog="Example: fedprint pool show pool.db 3fa9c1")(show)
    pool.command(epilog="Example: fedprint pool query pool.db 3fa9c1 --top 5")(query)
    pool.command(epilog="Example: fedprint pool recommend pool.db 3fa9c1 --shots 1")(recommend)
    pool.command(epilog="Example: fedprint pool export pool.db to-share.jsonl --key key.pem")(
        export
    )
    pool.command(
        "import", epilog="Example: fedprint pool import pool.db to-share.jsonl --trust theirs.pem"
    )(import_)
    pool.command(epilog="Example: fedprint pool merge pool.db postgresql://fl@db/pool")(merge)
    pool.command(epilog="Example: fedprint pool withdraw pool.db 3fa9c1")(withdraw)
    return pool


def add(
    pool: Where,
    source: Annotated[
        Path,
        typer.Argument(
            help="A finished run folder; a release, NAME.dsse.json with its files beside it; or "
            "experiments, one as JSON a line of a .jsonl file.",
            metavar="RUN|RELEASE|EXPERIMENTS",
        ),
    ],
    coordinator: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="The coordinator's public key, not from the run folder."),
    ] = None,
    key: KeyFile = "",
    public_key: PublicKey = None,
    json_out: JsonOut = None,
) -> None:
    """Add the tasks of a run, and what its trainings came to; all of it verified first.

    Experiments of a file are signed with your key: they are your word.
    """
    from fl_server.api import add_to_pool

    done = add_to_pool(pool, source, key=key, public_key=public_key, coordinator=coordinator)
    _show_tally(pool, done, json_out)


def list_(pool: Where, json_out: JsonOut = None) -> None:
    """List the tasks of a pool."""
    from fl_server.pool import views
    from fl_server.pool.session import open_pool

    with open_pool(pool) as opened, opened.reading() as session:
        tasks, gone = views.list_tasks(session), views.list_withdrawals(session)
    if json_out is not None:
        atomic_json(json_out, {"tasks": tasks, "withdrawals": gone})
    show_table(
        f"tasks: {len(tasks)}" + (f", withdrawn: {len(gone)}" if gone else ""),
        ["id", "site", "task", "images", "spec", "release", "experiments"],
        [
            [
                task["id"][:12],
                task["site"],
                task["name"],
                str(task["images"]),
                task["spec"],
                ("private" if task["private"] else "plain")
                + ("" if task["vouched"] else ", not enrolled"),
                f"{task['experiments_as_target']} on it, {task['experiments_as_source']} from it",
            ]
            for task in tasks
        ],
    )


def show(
    pool: Where,
    identity: Annotated[
        str, typer.Argument(help="First digits of a task's or experiment's id.", metavar="ID")
    ],
    json_out: JsonOut = None,
) -> None:
    """Show a task with all that was tried on it, or one experiment."""
    from fl_server.pool import views
    from fl_server.pool.session import open_pool
    from fl_server.pool.texts import facts, outcome_row

    with open_pool(pool) as opened, opened.reading() as session:
        found = views.show(session, identity)
    if json_out is not None:
        atomic_json(json_out, found)
    for name, value in facts(found):
        typer.echo(f"{name:12} {value}")
    if found.get("experiments"):
        head = ["scenario", "from", "on", "knowledge", "metric", "baseline", "performance"]
        rows = [outcome_row(each, found["id"]) for each in found["experiments"]]
        show_table("experiments", head, rows)


def export(
    pool: Where,
    file: Annotated[Path, typer.Argument(help="File to write.", metavar="FILE")],
    key: KeyFile = "",
    public_key: PublicKey = None,
    json_out: JsonOut = None,
) -> None:
    """Write the whole pool to one signed file."""
    from fl_server.pool.export import export_pool
    from fl_server.pool.session import open_pool
    from fl_server.pool.texts import counted
    from fl_server.pool_keys import signer_of

    signer = signer_of(key, public_key)
    with open_pool(pool) as opened:
        counts = export_pool(opened, file, signer)
    if json_out is not None:
        atomic_json(json_out, {"records": counts, "key": signer.public_key.keyid})
    typer.echo(f"{file}: {counted(counts)}; signed with key {signer.public_key.keyid}")


def import_(
    pool: Where,
    file: Annotated[Path, typer.Argument(help="What was exported.", metavar="FILE")],
    trust: Annotated[
        list[Path] | None,
        typer.Option(metavar="PEM", help="Public key of an exporter you trust; repeatable."),
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Verify an exported file and add what the pool lacks; all of it or nothing."""
    from fl_server.pool.importing import import_pool
    from fl_server.pool.session import open_pool
    from fl_server.pool_keys import pem_of

    trusted = [pem for path in trust or [] if (pem := pem_of(path))]
    with open_pool(pool, create=True) as opened:
        done = import_pool(opened, file, trusted)
    _show_tally(pool, done, json_out)


def merge(
    pool: Where,
    other: Annotated[str, typer.Argument(help="Another pool of yours.", metavar="OTHER")],
    json_out: JsonOut = None,
) -> None:
    """Add what another pool of yours has, withdrawals included; OTHER stays as it is."""
    from fl_server.pool.merge import merge_pool
    from fl_server.pool.session import open_pool

    with open_pool(other) as source, open_pool(pool, create=True) as opened:
        done = merge_pool(opened, source)
    _show_tally(pool, done, json_out)


def withdraw(
    pool: Where,
    task: Annotated[str, typer.Argument(help="First digits of its id.", metavar="TASK")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, although it is final.")] = False,
    json_out: JsonOut = None,
) -> None:
    """Remove a task for good: its release, and every experiment in which it has a part."""
    from fl_server.pool import views
    from fl_server.pool.session import open_pool
    from fl_server.pool.withdraw import withdraw as take_out
    from protocol.errors import ConfigError

    with open_pool(pool) as opened:
        with opened.reading() as session:
            found = views.show(session, task)
        if found["kind"] == "experiment":
            raise ConfigError(f"{task} is an experiment: it goes when one of its tasks does")
        if found["kind"] == "task" and not yes:
            _agree(found["site"], found["name"], len(found["experiments"]))
        done = take_out(opened, found.get("id", found.get("task", "")))
    _show_tally(pool, done, json_out)


def _agree(site: str, name: str, count: int) -> None:
    """Ask a person; nobody there to answer is a no."""
    from protocol.errors import ConfigError

    try:
        agreed = typer.confirm(f"Withdraw {name} of {site} with {count} experiments for ever?")
    except typer.Abort:
        agreed = False
    if not agreed:
        raise ConfigError("nothing was withdrawn: it is final: say yes, or give --yes")


def _show_tally(pool: str, done: Tally, json_out: Path | None) -> None:
    from fl_server.pool.texts import counted, shown_name

    if json_out is not None:
        atomic_json(json_out, done.to_json())
    typer.echo(f"{shown_name(pool)}: {counted(done.counts)}")
    for note in done.notes:
        typer.echo(f"note: {note}")
