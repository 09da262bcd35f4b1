"""ServerApp of `deployment_exchange.py`: exchanges and bare query rounds in turn, each timed."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fl_server.asking import POLL_SECONDS
from fl_server.coordinator import open_coordinator
from fl_server.exchange import Exchange, exchange_fingerprints
from protocol.fingerprint import pack
from protocol.records import release_request
from protocol.spec import load_spec
from protocol.statement import new_nonce

app = ServerApp()

FLOWER_SLEEP = 3.0  # between two looks for replies, in Flower's send_and_receive


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Time everything and write the seconds down."""
    config = context.run_config
    spec = load_spec(str(config["spec"]))
    coordinator = open_coordinator(str(config["server-dir"]))
    sites, rounds = int(config["min-sites"]), int(config["rounds"])

    def exchange(name: str) -> Exchange:
        done = exchange_fingerprints(grid, spec, name, min_sites=sites, coordinator=coordinator)
        assert len(done.releases) == sites, done.left_out
        return done

    first = exchange(f"{context.run_id}-first")  # the sites extract, sign and keep their releases
    releases = first.releases.values()
    reply = max(len(pack(r.payload)) + len(r.envelope) + len(r.binding) for r in releases)
    record = release_request("x", new_nonce(), spec).config_records["fedprint"]
    request = sum(len(str(value)) for value in record.values())
    nodes = list(first.nodes.values())
    calls = {
        "exchange": lambda number: exchange(f"{context.run_id}-{number}"),
        "bare": lambda _: bare(grid, nodes, request, reply, POLL_SECONDS),
        "stock": lambda _: bare(grid, nodes, request, reply, FLOWER_SLEEP),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    bare(grid, nodes, request, reply, POLL_SECONDS)  # warm: byte code and file caches
    for number in range(rounds):
        for name in random.sample(sorted(calls), len(calls)):
            time.sleep(random.uniform(0, 3))  # SuperNodes look for messages every 3 s
            started = time.perf_counter()
            calls[name](number)
            seconds[name].append(time.perf_counter() - started)
            print(f"fedprint | {name} {number}: {seconds[name][-1]:.2f} s", flush=True)
    result = {"request_bytes": request, "reply_bytes": reply, "seconds": seconds}
    Path(str(config["out"])).write_text(json.dumps(result))


def bare(grid: Grid, nodes: list[int], request: int, reply: int, poll: float) -> None:
    """Send one message a node and wait for all replies, looking every `poll` seconds."""
    messages = [
        Message(
            RecordDict({"bare": ConfigRecord({"bytes": os.urandom(request), "reply": reply})}),
            dst_node_id=node,
            message_type="query.bare",
        )
        for node in nodes
    ]
    waiting = set(grid.push_messages(messages))
    while waiting:
        for answer in grid.pull_messages(list(waiting)):
            assert len(answer.content.config_records["bare"]["bytes"]) == reply  # type: ignore
            waiting.discard(answer.metadata.reply_to_message_id)
        if waiting:
            time.sleep(poll)
