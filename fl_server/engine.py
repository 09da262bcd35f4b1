"""Run the app on Flower's simulation engine and leave no process behind.

Everything goes through Flower's own commands (``flower-superlink``, ``flwr run``), each in an
environment of its own, so that a user's Flower settings and running SuperLinks are not touched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from fl_server.processes import end_family, handling
from protocol.errors import ConfigError, FedprintError

PACKAGES = ("fl_server", "fl_client", "strategies", "protocol")
ERROR_MARK = "fedprint: error: "
START_SECONDS = 60.0
TERMINATED = 143  # 128 + SIGTERM, as shells have it

# Nothing is looked up or sent outside: a hospital's machine may have no way out.
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def simulate(
    sites: int,
    run_config: Mapping[str, str | int | float | bool],
    *,
    app: Path | None = None,
    port: int = 0,
    verbose: bool = False,
    show: Callable[[str], None] = print,
) -> None:
    """Run a Flower app once with ``sites`` simulated SuperNodes and wait for its end.

    Parameters
    ----------
    sites : int
        Number of SuperNodes, one for each site folder.
    run_config : mapping
        Overrides of ``[tool.flwr.app.config]``.
    app : Path or None
        Folder of the app, with its ``pyproject.toml``; by default fedprint's own.
    port : int
        TCP port of the SuperLink on 127.0.0.1; 0 takes a free one.
    verbose : bool
        Show every line of Flower's log, not only fedprint's own.
    show : callable
        Receives one line of progress at a time.

    Raises
    ------
    ConfigError
        If the simulation engine is not installed or the port is in use.
    FedprintError
        If the run did not complete; carries the run's own error line where there is one.
    """
    port = check_engine(port)
    stop = {signal.SIGTERM: lambda *_: sys.exit(TERMINATED)}  # as Ctrl-C: end all, then go
    with handling(stop), tempfile.TemporaryDirectory(prefix="fedprint-") as scratch:
        home = Path(scratch)
        _write_connection(home, port)
        app = app or assemble_app(home / "fedprint")
        environment = flower_environment(home)
        with _superlink(home, port, environment):
            _run(app, sites, run_config, environment, verbose, show)


def check_engine(port: int = 0) -> int:
    """See that Flower's engine is installed and the port free; return the port, chosen if 0.

    Raises
    ------
    ConfigError
        If either is not so.
    """
    if find_spec("ray") is None or find_spec("psutil") is None:
        raise ConfigError(
            "Flower's simulation engine is not installed: run `pip install 'fedprint[sim]'`"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} on 127.0.0.1 cannot be used ({error}): "
                "choose another with --port, or 0 for any free one"
            ) from error
        return int(probe.getsockname()[1])


def _write_connection(home: Path, port: int) -> None:
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "fedprint"\n\n'
        f'[superlink.fedprint]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )


def app_files() -> Path:
    """Return the folder that holds the app's ``pyproject.toml``, in a checkout or a wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package / "app", package.parent):
        if (folder / "pyproject.toml").is_file() and (folder / "LICENSE").is_file():
            return folder
    raise FedprintError("the app's pyproject.toml is missing: reinstall fedprint")


def assemble_app(target: Path) -> Path:
    """Copy the installed packages beside their ``pyproject.toml``: what ``flwr run`` bundles."""
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        shutil.copytree(
            root / package,
            target / package,
            ignore=shutil.ignore_patterns("__pycache__", "app", "templates"),
        )
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(app_files() / name, target / name)
    return target


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment of Flower's commands: ours, offline, with a FLWR_HOME of their own."""
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        **OFFLINE,
        "FLWR_HOME": str(home),
        "PATH": os.pathsep.join((binaries, os.environ.get("PATH", os.defpath))),
        "PYTHONUNBUFFERED": "1",
    }
    # Ray warns at length about both; a simulation has nothing to gain from either.
    environment.setdefault("RAY_DEDUP_LOGS", "1")
    environment.setdefault("PYTHONWARNINGS", "ignore")
    return environment


@contextmanager
def _superlink(home: Path, port: int, environment: Mapping[str, str]) -> Iterator[None]:
    """Keep a SuperLink in simulation mode alive; end its whole session afterwards."""
    log = home / "superlink.log"
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--log-file", str(log)]
    process = subprocess.Popen(
        absolute(command, environment),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_health(process, port, log)
        yield
    finally:
        end_family(process)


def absolute(command: list[str], environment: Mapping[str, str]) -> list[str]:
    """Find a command of Flower's on the environment's PATH, which has our own binaries first."""
    found = shutil.which(command[0], path=environment["PATH"])
    if found is None:
        raise ConfigError(f"{command[0]} is not on the PATH: run `pip install flwr`")
    return [found, *command[1:]]


def _await_health(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = log.read_text().splitlines()[-1:] if log.exists() else []
            raise FedprintError(f"Flower's SuperLink did not start: {''.join(tail) or 'no log'}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise FedprintError(f"Flower's SuperLink did not answer within {START_SECONDS:.0f} s")


def _run(
    app: Path,
    sites: int,
    run_config: Mapping[str, str | int | float | bool],
    environment: Mapping[str, str],
    verbose: bool,
    show: Callable[[str], None],
) -> None:
    """Submit the run, relay its log, and raise unless Flower says that it completed."""
    command = ["flwr", "run", str(app), "fedprint", "--stream"]
    command += ["--federation-config", f"num-supernodes={sites} client-resources-num-cpus=1"]
    command += ["--run-config", " ".join(f"{k}={json.dumps(v)}" for k, v in run_config.items())]
    process = subprocess.Popen(
        absolute(command, environment),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        problem, tail = _relay(process, verbose, show)
    finally:
        end_family(process)
    if problem:
        raise FedprintError(problem)
    status = _status(environment)
    if status != "finished:completed":
        detail = f" ({tail[-1]})" if tail else ""
        raise FedprintError(
            f"the Flower run ended as {status}{detail}: run again with --verbose to see its log"
        )


def _relay(
    process: subprocess.Popen[str], verbose: bool, show: Callable[[str], None]
) -> tuple[str, list[str]]:
    problem, tail = "", [""]
    assert process.stdout is not None
    for raw in process.stdout:
        line = raw.rstrip()
        words = line.strip(" │╭╮╰╯─")  # Flower draws a box around what it refuses
        tail = [*tail, words][-5:] if words else tail
        if ERROR_MARK in line:
            problem = problem or line.partition(ERROR_MARK)[2]
        elif "fedprint | " in line:
            show(line.partition("fedprint | ")[2])
        elif verbose:
            show(line)
    process.wait()
    return problem, tail


def _status(environment: Mapping[str, str]) -> str:
    """Return Flower's word on the run: ``flwr run --stream`` exits 0 even when it failed."""
    command = ["flwr", "ls", "fedprint", "--format", "json"]
    listed = subprocess.run(
        absolute(command, environment),
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        runs = json.loads(listed.stdout)["runs"]
        return str(runs[0]["status"])
    except (ValueError, KeyError, IndexError):
        return f"unknown (flwr {version('flwr')} answered: {listed.stdout.strip()[:200]})"
