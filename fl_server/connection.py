"""What Flower's own command ``flwr`` says of a SuperLink: its nodes, its runs, their logs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl_server.engine import absolute, flower_environment
from protocol.errors import FedprintError

NAME = "fedprint"
"""Name of the connection in the folder's ``config.toml``."""

ASK_SECONDS = 60.0


class Unreachable(FedprintError):
    """The SuperLink does not answer, or answers no."""


@dataclass(frozen=True)
class Node:
    """A SuperNode as the SuperLink knows it.

    Attributes
    ----------
    node_id : str
        Flower's id, the same for as long as the node's key is.
    status : str
        ``registered`` (was never connected), ``online``, ``offline`` or ``unregistered``.
    changed : str
        When it came online or went offline, as Flower writes it; empty if never.
    """

    node_id: str
    status: str
    changed: str


@dataclass(frozen=True)
class Connection:
    """One SuperLink, as the ``FLWR_HOME`` of a coordinator names it.

    Attributes
    ----------
    home : Path
        Folder with Flower's ``config.toml``, which holds the connection ``fedprint``.
    extra : mapping
        Variables for the environment of Flower's commands.
    """

    home: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every command of Flower's that goes through this connection."""
        return flower_environment(self.home) | dict(self.extra)

    def nodes(self) -> list[Node]:
        """Return the registered SuperNodes.

        Raises
        ------
        Unreachable
            If the SuperLink does not answer.
        """
        listed = self._ask("supernode", "ls", NAME)["nodes"]
        return [
            Node(
                str(node["node-id"]),
                str(node["status"]),
                _time(node["online-at"] if node["status"] == "online" else node["offline-at"]),
            )
            for node in listed
        ]

    def register(self, public_key: Path, name: str) -> str:
        """Let a node with this public key (OpenSSH form) connect; return its id."""
        return str(self._ask("supernode", "register", public_key, NAME, "--name", name)["node-id"])

    def unregister(self, node_id: str) -> None:
        """Let a node connect no more."""
        self._ask("supernode", "unregister", node_id, NAME)

    def submit(self, app: Path, run_config: Mapping[str, str | int | float | bool]) -> str:
        """Submit a run and return its id at once."""
        return str(self._ask("run", app, NAME, *config_options(run_config))["run-id"])

    def run_status(self, run_id: str) -> str:
        """Return Flower's word on a run, such as ``running`` or ``finished:completed``."""
        return str(self._ask("ls", NAME, "--run-id", run_id)["runs"][0]["status"])

    def stop(self, run_id: str) -> None:
        """End a run."""
        self._ask("stop", run_id, NAME)

    def _ask(self, *words: object) -> Any:
        command = ["flwr", *map(str, words), "--format", "json"]
        try:
            done = subprocess.run(
                absolute(command, self.environment),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=ASK_SECONDS,
                check=False,
            )
            answer = json.loads(done.stdout)
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"the SuperLink did not answer in {ASK_SECONDS:.0f} s") from error
        except ValueError as error:
            said = " ".join((done.stdout + done.stderr).split())
            raise Unreachable(f"flwr {words[0]} answered: {said[-300:]}") from error
        if not answer.get("success"):
            said = _reason(str(answer.get("error-message", "")))
            raise Unreachable(said or f"flwr {words[0]} failed without a reason")
        return answer


def config_options(run_config: Mapping[str, str | int | float | bool]) -> list[str]:
    """Return the options that give a run its settings."""
    pairs = " ".join(f"{key}={json.dumps(value)}" for key, value in run_config.items())
    return ["--run-config", pairs] if pairs else []


def _reason(message: str) -> str:
    """Return what went wrong: Flower repeats its progress lines before it, and adds a link."""
    lines = message.strip().rpartition("\n\n")[2].splitlines()
    said = " ".join(line for line in lines if not line.startswith("For more information"))
    return said.rstrip(".")  # it becomes part of a longer line


def _time(text: str) -> str:
    return "" if text == "N/A" else text.replace(" ", "T").replace("Z", "+00:00")
