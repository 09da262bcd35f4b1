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

_to_reply, _site_gate = plugin.to_reply, plugin.site_gate
_state = ""


def _noting(*parts: object) -> RecordDict:
    """Note which modules a kept release needs, so that the bare query can load the same."""
    record = _to_reply(*parts)  # type: ignore[arg-type]
    Path(_state, "modules.json").write_text(json.dumps(sorted(sys.modules)))
    return record


plugin.to_reply = _noting  # type: ignore[assignment]


def _remembering(context: Context, *args, **kwargs):  # type: ignore[no-untyped-def]
    """Remember where this site's state folder is."""
    global _state
    _state = str(context.node_config["state"])
    return _site_gate(context, *args, **kwargs)


plugin.site_gate = _remembering


@app.query("bare")
def bare(message: Message, context: Context) -> Message:
    """Return as many random bytes as asked; Flower stores equal chunks once, so never zeros."""
    note = Path(str(context.node_config["state"]), "modules.json")
    for name in json.loads(note.read_text()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    size = int(message.content.config_records["bare"]["reply"])  # type: ignore[arg-type]
    content = RecordDict({"bare": ConfigRecord({"bytes": os.urandom(size)})})
    return Message(content, reply_to=message)


__all__ = ["app"]
