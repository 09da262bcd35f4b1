"""A whole deployment on this machine, out of the commands that its people would type.

A SuperLink with TLS and node authentication and one SuperNode a site, every one a process with a
folder of its own below one folder: ``coordinator/``, ``sites/NAME/``, ``logs/``. It shows the flow
and tests it; the hospitals of a real one type the same commands on machines of their own.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from fl_server.connection import Connection
from fl_server.following import follow
from fl_server.local_site import FEDPRINT, LocalSite
from fl_server.local_superlink import LocalSuperLink
from protocol.errors import FedprintError

HOST = "127.0.0.1"
CONNECT_SECONDS = 60.0
COMMAND_SECONDS = 120.0

RunConfig = Mapping[str, str | int | float | bool]


class Deployment:
    """Sets up a deployment, runs it, and leaves no process behind.

    Parameters
    ----------
    folder : Path
        Where everything is written; made when missing.
    app : Path or None
        App folder to submit instead of the coordinator's own.
    environment : mapping or None
        Variables for every process, on top of this one's.

    Examples
    --------
    >>> with Deployment(Path("try")) as deployment:  # doctest: +SKIP
    ...     deployment.add_site("north", Path("north/images"))
    ...     deployment.add_site("south", Path("south/images"))
    ...     deployment.run({"out": "first", "min-sites": 2})
    """

    def __init__(
        self, folder: Path, *, app: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.coordinator = self.folder / "coordinator"
        self.app = app or self.coordinator / "app"
        self.address = f"{HOST}:{_free_port()}"
        self.connection = Connection(self.coordinator / "flwr", dict(environment or {}))
        self.superlink = LocalSuperLink(
            self.coordinator,
            self.address,
            self.folder / "logs" / "superlink.log",
            self.connection.environment,
        )
        self.sites: dict[str, LocalSite] = {}

    def __enter__(self) -> Self:
        """Make the coordinator's folder and start its SuperLink."""
        with ExitStack() as unless_started:
            unless_started.callback(self.close)
            self.fedprint(
                *("server", "init", self.coordinator),
                *("--address", self.address, "--host", HOST, "--name", "deployment"),
            )
            self.superlink.start()
            unless_started.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process: the sites', then the SuperLink's."""
        with ExitStack() as stack:  # whatever goes wrong with one, the others are stopped as well
            stack.callback(self.superlink.stop)
            for site in self.sites.values():
                stack.callback(site.stop)
            for site in self.sites.values():  # all at once: each takes a few seconds
                site.ask_to_stop()

    def fedprint(self, *arguments: object) -> str:
        """Run a ``fedprint`` command to its end and return what it printed.

        Raises
        ------
        FedprintError
            With the command's own error line.
        """
        done = subprocess.run(
            [*FEDPRINT, *map(str, arguments)],
            env=self.connection.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().removeprefix("fedprint: error: ")
            command = " ".join(map(str, arguments[:2]))
            raise FedprintError(f"fedprint {command}: {said or f'exit code {done.returncode}'}")
        return done.stdout

    def add_site(
        self, name: str, images: Path, *, approve_first: bool = False, start: bool = True
    ) -> LocalSite:
        """Make a site's folder, have it enrolled, and start its SuperNode.

        Parameters
        ----------
        name : str
            Name of the site.
        images : Path
            The site's folder of labelled images, with or without a ``site.toml``.
        approve_first : bool
            Nothing leaves before a person approves it, instead of automatic release.
        start : bool
            Start the SuperNode at once.
        """
        folder = self.folder / "sites" / name
        invitation = self.coordinator / "invitation.json"
        options = ["--name", name, "--invitation", invitation, "--data", images]
        options += [] if approve_first else ["--automatic"]
        self.fedprint("site", "init", folder, *options)
        self.fedprint("server", "enrol", self.coordinator, folder / f"{name}.enrol.json", "--yes")
        return self.adopt_site(name, folder, start=start)

    def adopt_site(self, name: str, folder: Path, *, start: bool = True) -> LocalSite:
        """Take in a site's folder that was made elsewhere, enrolled or not."""
        log = self.folder / "logs" / f"{name}.log"
        site = self.sites[name] = LocalSite(name, folder, log, self.connection.environment)
        if start:
            site.start()
        return site

    def online(self) -> set[str]:
        """Return the sites that the SuperLink sees connected."""
        nodes = json.loads((self.coordinator / "nodes.json").read_text())
        there = {node.node_id for node in self.connection.nodes() if node.status == "online"}
        return {site for site, node in nodes.items() if str(node) in there}

    def await_online(self, names: Iterable[str], timeout: float = CONNECT_SECONDS) -> None:
        """Wait until the SuperLink sees these sites connected.

        Raises
        ------
        FedprintError
            If it does not in time.
        """
        deadline, wanted = time.monotonic() + timeout, set(names)
        while missing := sorted(wanted - self.online()):
            if time.monotonic() > deadline:
                said = self.sites[missing[0]].last_words()
                raise FedprintError(f"{missing[0]} did not connect in {timeout:.0f} s: {said}")
            time.sleep(0.5)

    def submit(self, run_config: RunConfig) -> str:
        """Submit a run, as ``flwr run`` does, and return Flower's id of it at once."""
        settings = {"server-dir": str(self.coordinator), **run_config}
        return self.connection.submit(self.app, settings)

    def run(
        self,
        run_config: RunConfig,
        *,
        show: Callable[[str], None] = print,
        meanwhile: Callable[[], None] = lambda: None,
        timeout: float = 3600.0,
        verbose: bool = False,
    ) -> None:
        """Submit a run and see it to its end; see `fl_server.following.follow`.

        Raises
        ------
        FedprintError
            Unless Flower says that the run completed; carries the run's own error line.
        """
        run_id = self.submit(run_config)
        follow(
            self.connection,
            run_id,
            show=show,
            meanwhile=meanwhile,
            timeout=timeout,
            verbose=verbose,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
