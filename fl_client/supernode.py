"""Starting the site's Flower SuperNode, with everything set that a hospital wants set."""

from __future__ import annotations

import errno
import functools
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import typer

from fl_client.child import Ended, run_child
from fl_client.coordinator_probe import probe
from fl_client.policy import load_policy
from fl_client.site_keys import needs_passphrase, open_signer
from fl_client.site_lock import note_holder, only_one
from fl_client.site_settings import SiteSettings
from protocol.cli import INTERRUPTED
from protocol.errors import ConfigError, SiteError
from protocol.keys import PASSPHRASE, load_private_key

SUPERNODE = "flower-supernode"

SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
    "HF_HUB_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
"""Environment of the SuperNode: nothing is fetched from anywhere, nothing told to anybody."""

_NOT_ENROLLED = "[code: 2004]"  # how the SuperLink refuses a node whose key it does not know
_CONNECTED = "SuperNode ID:"
_MARK = "connected-before"

RETURN_SECONDS, RETRY_SECONDS = 120.0, 10.0
"""A SuperNode that was killed is connected still, as its SuperLink sees it, for about a minute. The
one that takes its place is refused like a stranger until then, so it tries again for so long."""


def node_config(settings: SiteSettings) -> str:
    """Return the node-config that tells fedprint's ClientApp where everything of the site is.

    It names the recipient, too: the SuperNode keeps to it, whatever ``site.toml`` says later.

    Raises
    ------
    ConfigError
        If a path cannot be written in Flower's form, or the authority's certificate not be read.
    """
    values = {"site": settings.folder, "key": settings.signing_key}
    if settings.public_key is not None:
        values["public-key"] = settings.public_key
    values |= {"policy": settings.policy, "state": settings.state, "device": settings.device}
    values["recipient"] = settings.recipient
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in values.items())


def _quoted(value: str) -> str:
    """Quote as TOML: Flower ends a value at the next quote of its kind, escaped or not."""
    if value.isprintable():
        if not set(value) & {'"', "\\"}:
            return f'"{value}"'
        if "'" not in value:
            return f"'{value}'"
    raise ConfigError(
        f"{value!r} cannot be told to Flower: use one without quotes or odd characters"
    )


def supernode_command(settings: SiteSettings, port: int) -> list[str]:
    """Return the command line of the SuperNode with this local port."""
    return [
        SUPERNODE,
        *("--superlink", settings.superlink),
        *("--root-certificates", str(settings.certificates)),
        *("--auth-supernode-private-key", str(settings.key)),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--node-config", node_config(settings)),
    ]


def supernode_environment(settings: SiteSettings) -> dict[str, str]:
    """Return the environment of the SuperNode: ours, offline, our own programs first."""
    environment = os.environ | SETTINGS | {"FLWR_HOME": str(settings.state / "flwr")}
    programs = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join((programs, os.environ.get("PATH", os.defpath)))
    if not needs_passphrase(settings.signing_key):
        environment.pop(PASSPHRASE, None)
    return environment


def shown_command(settings: SiteSettings) -> str:
    """Return what `start_site` runs, as a line for a shell."""
    words = SETTINGS | {"FLWR_HOME": str(settings.state / "flwr")}
    command = supernode_command(settings, settings.port or free_port())
    return shlex.join(["env", *(f"{name}={value}" for name, value in words.items()), *command])


def start_site(settings: SiteSettings, tell: Callable[[str], None] = typer.echo) -> int:
    """Run the SuperNode until it is stopped; return the exit code of the command.

    Parameters
    ----------
    settings : SiteSettings
        The site's.
    tell : callable
        Receives our own lines.

    Raises
    ------
    SiteError
        With reason ``already-running``, ``not-registered``, ``flower-missing``,
        ``supernode-failed``, or one of `fl_client.coordinator_probe.probe`.
    ConfigError
        If a key, the policy or the port cannot be used.
    """
    with only_one(settings) as lock:
        require_usable(settings)
        require_free(settings.port)
        knock(settings, tell)
        environment = supernode_environment(settings)
        program = shutil.which(SUPERNODE, path=environment["PATH"])
        if program is None:
            raise SiteError("flower-supernode is missing: run `pip install flwr`", "flower-missing")
        (settings.state / "flwr").mkdir(mode=0o700, parents=True, exist_ok=True)
        tell(f"fedprint | site {settings.name} starts for {settings.superlink}")
        deadline = time.monotonic() + RETURN_SECONDS
        until = time.strftime("%H:%M", time.localtime(time.time() + RETURN_SECONDS))
        while True:
            ended, refused = _run_once(settings, program, environment, lock)
            returns = refused and (settings.state / _MARK).exists()
            if ended.stopped_by is not None or not returns or time.monotonic() > deadline:
                break
            tell(
                f"fedprint | refused: trying again until {until}, because a SuperLink misses one "
                "that was killed only after a minute; if this site was revoked, ask the coordinator"
            )
            time.sleep(RETRY_SECONDS)
    return _exit_code(settings, ended, not_enrolled=refused)


def _run_once(
    settings: SiteSettings, program: str, environment: dict[str, str], lock: int
) -> tuple[Ended, bool]:
    """Run the SuperNode; return how it ended, and whether the SuperLink refused its key."""
    command = supernode_command(settings, settings.port or free_port())
    refused: list[str] = []

    def see(line: str) -> None:
        if _NOT_ENROLLED in line:
            refused.append(line)
        elif _CONNECTED in line:
            (settings.state / _MARK).touch()

    ended = run_child(
        [program, *command[1:]],
        environment,
        see,
        inherit=[lock],
        started=functools.partial(note_holder, lock),
    )
    return ended, bool(refused)


def _exit_code(settings: SiteSettings, ended: Ended, not_enrolled: bool) -> int:
    if ended.stopped_by is not None:
        return INTERRUPTED if ended.stopped_by == signal.SIGINT else 0
    if not_enrolled:
        raise SiteError(
            f"not-registered: {settings.superlink} does not know the key of site {settings.name}, "
            f"or no longer: hand {settings.enrolment} to the coordinator, who enrols it with "
            "`fedprint server enrol`",
            "not-registered",
        )
    if ended.status == 0:  # so a running SuperNode ends, without a word, when its key is refused
        raise SiteError(
            f"not-registered: the SuperNode ended by itself; if nobody here stopped it, "
            f"{settings.superlink} no longer takes the key of site {settings.name}: ask the "
            "coordinator whether it was revoked",
            "not-registered",
        )
    raise SiteError(
        f"flower-supernode ended with exit code {ended.status}: its lines above say why",
        "supernode-failed",
    )


def require_usable(settings: SiteSettings) -> None:
    """See that keys and policy can be used, before Flower goes on without them.

    Raises
    ------
    ConfigError
        If one cannot.
    """
    load_policy(settings.policy)
    load_private_key(settings.key)
    open_signer(settings.signing_key, settings.public_pem)


def require_free(port: int) -> None:
    """See that a port of this machine can be taken; 0 always can.

    Raises
    ------
    ConfigError
        If somebody listens there already.
    """
    with socket.socket() as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what ended is no hindrance
        try:
            asked.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ConfigError(
                f"port {port} of this machine is in use: set port = 0 in site.toml"
            ) from error


def knock(settings: SiteSettings, tell: Callable[[str], None]) -> None:
    """Look once whether the coordinator can be trusted; it need not be there yet.

    Raises
    ------
    SiteError
        If it is there and not what it must be: Flower would only try again for ever.
    """
    try:
        probe(settings.superlink, settings.certificates)
    except SiteError as error:
        if error.reason != "unreachable":
            raise SiteError(f"{error.reason}: {error}", error.reason) from error
        tell(f"fedprint | {error}; waiting for it")


def free_port() -> int:
    """Return a port on 127.0.0.1 that is free now."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])
