"""ServerApp of ``fedprint bench federation``: exchanges and bare query rounds, each timed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fl_server.asking import ask, content_of
from fl_server.job import exchange_as, group_as, run
from fl_server.runstate import run_state
from fl_server.settings import RunSettings
from protocol.fingerprint import pack
from protocol.records import RECORD, release_request
from protocol.spec import load_spec
from protocol.statement import new_nonce

SOME = 16
"""Releases whose size stands for that of all: packing them again is no part of an exchange."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Take the steps that the run-config names, and write down how long each took."""
    settings = RunSettings.from_run_config(context.run_config)
    steps = _Steps(grid, settings, int(context.run_config["reply-bytes"]))
    named: dict[str, Callable[[], object]] = {
        "prepare": steps.prepare,
        "bare": steps.bare,
        "exchange": steps.exchange,
        "run": steps.run,
    }
    taken = []
    for name in str(context.run_config["steps"]).split(","):
        started = time.perf_counter()
        named[name]()
        taken.append([name, time.perf_counter() - started])
    said = {"steps": taken, "request_bytes": steps.request_bytes, "reply_bytes": steps.reply_bytes}
    Path(settings.out, "steps.json").write_text(json.dumps(said))


class _Steps:
    """What is timed, on one grid.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    settings : RunSettings
        Of the exchange; every one has a folder of its own below ``out``.
    reply_bytes : int
        Size of a bare reply; 0 until an exchange has shown it.
    """

    def __init__(self, grid: Grid, settings: RunSettings, reply_bytes: int) -> None:
        self._grid, self._settings, self.reply_bytes = grid, settings, reply_bytes
        spec = load_spec(settings.spec)
        self._request = release_request("prepare", new_nonce(), spec, settings.terms)
        self.request_bytes = sum(len(str(v)) for v in self._request.config_records[RECORD].values())
        self._runs = 0

    def prepare(self) -> None:
        """Let every virtual site keep a release."""
        nodes = list(self._grid.get_node_ids())
        wanted = [(node, self._request) for node in nodes]
        replies = ask(self._grid, wanted, "query.prepare", self._settings.timeout)
        for node in nodes:
            content_of(replies.get(node))  # raises what went wrong

    def bare(self) -> None:
        """Send as many bytes to every node as an exchange does, and wait for as many of each."""
        messages = [
            Message(self._bare(), dst_node_id=node, message_type="query.bare")
            for node in self._grid.get_node_ids()
        ]
        replies = list(self._grid.send_and_receive(messages, timeout=self._settings.timeout))
        sizes = {len(reply.content.config_records["bare"]["bytes"]) for reply in replies}  # type: ignore[arg-type]
        assert (len(replies), sizes) == (len(messages), {self.reply_bytes}), "Flower lost replies"

    def exchange(self) -> None:
        """Exchange fingerprints, and write distances and groups, as a run does."""
        settings = self._next_settings()
        with run_state(Path(settings.out), settings, Path(settings.out).name) as state:
            exchange = exchange_as(self._grid, settings, state)
            group_as(state.folder, exchange, settings)
        some = list(exchange.releases.values())[:SOME]
        sizes = [len(pack(r.payload)) + len(r.envelope) + len(r.binding) for r in some]
        self.reply_bytes = sum(sizes) // len(sizes)

    def run(self) -> None:
        """Do all that a run in mode ``exchange`` does: the report and the closed log, too."""
        settings = self._next_settings()
        run(self._grid, settings, Path(settings.out).name)

    def _bare(self) -> RecordDict:
        content = os.urandom(self.request_bytes)
        return RecordDict({"bare": ConfigRecord({"bytes": content, "reply": self.reply_bytes})})

    def _next_settings(self) -> RunSettings:
        self._runs += 1
        return self._settings.model_copy(
            update={"out": str(Path(self._settings.out, f"exchange-{self._runs}"))}
        )
