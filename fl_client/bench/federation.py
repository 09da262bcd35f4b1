"""ClientApp of ``fedprint bench federation``: fedprint's own, and a bare query of Flower beside it.

Every virtual site has a key in its folder, as a site of a deployment has, so that what it released
in one run of the engine is kept for the next.
"""

from __future__ import annotations

import os

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from fl_client import client_app
from fl_client.data_digest import known_digest
from fl_client.making import Made
from fl_client.node import site_folder
from fl_client.plugin import add_fingerprinting, site_gate
from protocol.fingerprint import counts_to_bytes
from protocol.keys import user_key
from protocol.records import from_release_request

FAMILIES = 8
"""Different tasks among the virtual sites."""


def with_own_key(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Give the node the key that lies in its site's folder."""
    path = site_folder(context) / ".fedprint" / "key.pem"
    if not path.exists():
        user_key(path)
    context.node_config["key"] = str(path)
    return call_next(message, context)


app = add_fingerprinting(ClientApp(mods=[with_own_key]), keep_features=True)
app.query("checkpoint")(client_app.checkpoint)


@app.query("prepare")
def prepare(message: Message, context: Context) -> Message:
    """Keep a release of made-up counts, as if the site's images had been counted before."""
    request = from_release_request(message.content)
    gate, spec = site_gate(context, keep_features=True), request.spec
    number, images = int(context.node_config["partition-id"]), len(gate.site.images)
    counts = make_counts(number, images, spec.width, spec.bins)
    made = Made(
        counts_to_bytes(counts), known_digest(gate.site), gate.maker.offer(spec, request.terms)
    )
    gate.keep(spec, gate.sign(spec, made), made)
    return Message(RecordDict(), reply_to=message)


@app.query("bare")
def bare(message: Message, _context: Context) -> Message:
    """Return as many random bytes as asked."""
    size = message.content.config_records["bare"]["reply"]
    assert isinstance(size, int)
    record = ConfigRecord({"bytes": os.urandom(size)})
    return Message(RecordDict({"bare": record}), reply_to=message)


def make_counts(number: int, images: int, width: int, bins: int) -> NDArray[np.int64]:
    """Return the counts of a virtual site, int64 [m, b]; every eighth one is of the same task."""
    task, own = np.random.default_rng(number % FAMILIES), np.random.default_rng([1, number])
    centre, scale = task.uniform(0.1, 0.9, width), task.uniform(0.05, 0.15, width)
    values = own.normal(centre, scale, (images, width)) * bins  # [n, m]
    home = np.clip(values, 0, bins - 1).astype(np.intp) + np.arange(width) * bins
    return np.bincount(home.ravel(), minlength=width * bins).reshape(width, bins)
