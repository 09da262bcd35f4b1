"""ClientApp of `deployment_exchange.py`: fedprint's own, and a bare query beside it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fl_client import plugin
from fl_client.client_app import app

_answer = plugin.site_gate


def _site_gate(*args, **kwargs):  # type: ignore[no-untyped-def]
    """Note which modules a cached release needs, so that the bare query can load the same."""
    gate = _answer(*args, **kwargs)
    answer = gate.answer

    def answered(request):  # type: ignore[no-untyped-def]
        result = answer(request)
        note = Path(str(args[0].node_config["state"])) / "modules.json"
        note.write_text(json.dumps(sorted(sys.modules)))
        return result

    gate.answer = answered
    return gate


plugin.site_gate = _site_gate


@app.query("bare")
def bare(message: Message, context: Context) -> Message:
    """Return as many random bytes as asked; Flower stores equal chunks once, so never zeros."""
    note = Path(str(context.node_config["state"])) / "modules.json"
    for name in json.loads(note.read_text()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    size = int(message.content.config_records["bare"]["reply"])  # type: ignore[arg-type]
    content = RecordDict({"bare": ConfigRecord({"bytes": os.urandom(size)})})
    return Message(content, reply_to=message)


__all__ = ["app"]
