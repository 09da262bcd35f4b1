"""ClientApp of `training_rounds.py`: fedprint's own, noting where each message's time goes."""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_client import client_app

NOTES = "FEDPRINT_ROUNDS"
"""Environment variable: the folder that every process writes its notes into."""

_spent: dict[str, float] = {}
_busy: list[str] = []


def _time(owner: Any, name: str, part: str) -> None:
    """Have a function add its seconds to a part, unless it runs within another part."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def timed(*args: object, **kwargs: object) -> object:
        if _busy:
            return function(*args, **kwargs)
        _busy.append(part)
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            _busy.pop()
            _spent[part] = _spent.get(part, 0.0) + time.perf_counter() - started

    setattr(owner, name, timed)


@functools.cache
def _instrument() -> None:
    """Time the parts of the client's work; imports what training needs, once a process."""
    from fl_client import learner

    _time(client_app, "_order", "read the order")
    _time(client_app, "_learner", "gate and data")
    _time(client_app, "_arrays", "serialise")
    _time(client_app, "array_record", "serialise")
    _time(learner.Learner, "_model", "build the model")
    _time(learner, "fit", "train")
    _time(learner, "evaluate", "evaluate")
    for name in ("save", "save_private", "save_scores", "load_private"):
        _time(learner.RunModels, name, "files")


class NotingApp(ClientApp):
    """Fedprint's app, with a note after every message of a training."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as fedprint does."""
        kind = message.metadata.message_type
        if kind.split(".")[0] == "query":
            return client_app.app(message, context)
        began, started = time.time(), time.perf_counter()
        _instrument()
        imported = time.perf_counter()
        _spent.clear()
        reply = client_app.app(message, context)
        ended = time.perf_counter()
        note = {"kind": kind, "began": began, "seconds": ended - started}
        note["parts"] = {"imports": imported - started, **_spent}
        with Path(os.environ[NOTES], f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(note) + "\n")
        return reply


app = NotingApp()
