"""The command ``fedprint``: a shell that the other rooms hang their commands into.

Commands come from the entry points of the group ``fedprint.commands``: functions that are given
the `typer.Typer` application. So this room needs to know none of them.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Annotated, NoReturn

import typer
from click.exceptions import Abort, ClickException, NoArgsIsHelpError

from protocol.errors import FedprintError
from protocol.names import printable
from protocol.options import Panel

GROUP = "fedprint.commands"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def build_app() -> typer.Typer:
    """Return the application with the commands of every installed entry point."""
    app = typer.Typer(
        name="fedprint",
        help="Task fingerprints for Flower: find who to train with before training together.",
        epilog="Example: fedprint demo --out runs/demo",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=app.info.help)(_global_options)
    # backwards: the commands of a site come before those that work on what sites released
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name, reverse=True):
        entry.load()(app)
    app.registered_commands.sort(key=lambda command: _place(command.rich_help_panel))
    return app


def _place(panel: object) -> int:
    """Return where a panel of commands stands in the help; those of other packages come last."""
    panels = [*Panel]
    return panels.index(panel) if panel in panels else len(panels)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    Every expected error becomes one line on stderr and exit code 1; ``--debug`` shows the
    traceback instead. Ctrl-C exits with code 130.

    Parameters
    ----------
    arguments : list of str or None
        By default those of the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        # not standalone: click would print a usage error as a box of several lines
        result = build_app()(args=_debug_first(given), prog_name="fedprint", standalone_mode=False)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except ClickException as error:
        _fail(f"{error.format_message()} (see --help)", error.exit_code)
    except (KeyboardInterrupt, Abort):
        _fail("interrupted", INTERRUPTED)
    except (FedprintError, OSError, MemoryError) as error:
        if _debug(given):
            raise
        _fail(_one_line(error), 1)
    if result == INTERRUPTED:
        _fail("interrupted", INTERRUPTED)
    sys.exit(result if isinstance(result, int) else 0)


def _global_options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error instead of one line.")
    ] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            is_eager=True,
            callback=lambda wanted: _show_version() if wanted else None,
        ),
    ] = False,
) -> None:
    """Declare the options that stand before a command; both are dealt with elsewhere."""


def _show_version() -> NoReturn:
    typer.echo(f"fedprint {installed_version()}")
    raise typer.Exit


def installed_version() -> str:
    """Return the version of the installed distribution, or ``unknown`` in a bare checkout."""
    try:
        return version("fedprint")
    except PackageNotFoundError:
        return "unknown"


def _debug(arguments: list[str]) -> bool:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return "--debug" in arguments[:end]


def _debug_first(arguments: list[str]) -> list[str]:
    """Move ``--debug`` to the front, so that it may stand anywhere on the line."""
    if not _debug(arguments):
        return arguments
    rest = list(arguments)
    rest.remove("--debug")
    return ["--debug", *rest]


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        text = f"{where}{error.strerror}"
    elif isinstance(error, MemoryError):
        text = "out of memory: use a smaller --batch-size"
    else:
        text = str(error) or type(error).__name__
    return text


def _fail(message: str, code: int) -> NoReturn:
    print(f"fedprint: error: {printable(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
