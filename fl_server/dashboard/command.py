"""The command ``fedprint server dashboard``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import socket

PORT = 8470
SHORTEST = 16
"""Letters that a token must have at least: it is tried over the network."""
RUNS = Path("runs")


def add(server: typer.Typer) -> None:
    """Add the command to the sub-application ``server``."""
    server.command(epilog="Example: fedprint server dashboard runs --pool runs/pool.db")(dashboard)


def dashboard(
    runs: Annotated[
        Path | None,
        typer.Argument(
            help="A run folder, or a folder of runs; without it and --pool: runs.",
            metavar="[RUN|FOLDER]",
        ),
    ] = None,
    pool: Annotated[
        str, typer.Option(help="Knowledge pool to show: a SQLite file or a URL.", metavar="POOL")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = PORT,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Further host name under which browsers ask for it; repeatable."),
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Demand a token on this machine, too.")
    ] = False,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the token; else it is made anew.")
    ] = None,
) -> None:
    """Show runs and a pool in a browser: how far, who with whom, why, and what came of it.

    It only reads, and listens on this machine alone unless --host says
    otherwise: then a token is demanded, which is in the address it prints.
    """
    import uvicorn

    from fl_server.dashboard.app import make_app
    from fl_server.dashboard.guard import is_loopback
    from fl_server.dashboard.sources import Sources

    sources = Sources(runs if runs or pool else RUNS, pool)
    demanded = token or token_file is not None or not is_loopback(host)
    secret = _token(token_file) if demanded else ""
    sources.check()
    with _listening(host, port) as listener:
        app = make_app(sources, [*_names(host), *(name or [])], secret)
        shown = "" if token_file else secret  # a token that is in a file already is not told
        typer.echo(f"dashboard: {_address(host, listener.getsockname()[1], shown)}")
        if token_file is not None:
            typer.echo(f"its token is that of {token_file}")
        if not secret:
            typer.echo("everybody on this machine can read it: --token demands one")
        typer.echo("stop it with Ctrl-C")
        config = uvicorn.Config(
            app,
            access_log=False,  # it would hold the token
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
        with suppress(KeyboardInterrupt):  # the way to stop it is no error
            uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens: nothing is printed before the address is ours."""
    import os
    import socket

    from protocol.errors import ConfigError

    try:
        family, _, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place[:2], family=family)
    except socket.gaierror as error:
        raise ConfigError(
            f"cannot listen on {host}: {error.strerror}; choose another --host"
        ) from None
    except OSError as error:
        hint = "choose another --port, or --port 0" if port else "choose another --host"
        why = os.strerror(error.errno or 0)  # the error's own words repeat the address
        raise ConfigError(f"cannot listen on {host}:{port}: {why}; {hint}") from None


def _token(path: Path | None) -> str:
    """Return the token that a file holds, or a random one."""
    import secrets

    from protocol.errors import ConfigError

    if path is None:
        return secrets.token_urlsafe(32)
    try:
        with path.open(encoding="utf-8") as file:
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read: give a text file that holds a token") from None
    if len(token) < SHORTEST or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(
            f"{path} must hold one word of {SHORTEST} or more ASCII letters, digits and signs: "
            f"openssl rand -hex 32 > {path}"
        )
    return token


def _names(host: str) -> list[str]:
    """Return the host names under which a browser may ask for what is bound to a host."""
    import socket

    from fl_server.dashboard.guard import is_loopback

    if is_loopback(host):
        return ["localhost"]
    return ["localhost", host, socket.gethostname(), socket.getfqdn()]


def _address(host: str, port: int, token: str) -> str:
    import socket
    from urllib.parse import quote

    shown = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")
