"""Fingerprinting as a plugin: one line adds it to any Flower ClientApp.

from fl_client.plugin import add_fingerprinting
add_fingerprinting(app)
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fl_client.gate import Gate
from fl_client.history import reason_of
from fl_client.node import (
    FindFolder,
    current_site,
    device_name,
    node_name,
    simulated,
    site_folder,
    site_name,
    site_policy,
    site_recipient,
    site_signer,
)
from protocol.errors import ConfigError, DataError, FedprintError, WeightsError
from protocol.keys import signer_pem
from protocol.names import printable
from protocol.records import from_release_request, to_hello, to_refusal, to_reply

log = logging.getLogger("fedprint")


_INSIDE = {
    DataError: "the site's data cannot be used",
    ConfigError: "the site's settings cannot be used",
    WeightsError: "the site's weights cannot be used",
}
"""Errors whose texts name files of the site, and what is said of them outside."""

Answer = Callable[[Message, Context], RecordDict]
Refuse = Callable[[Message, str, str], Message]


def _refusal(message: Message, reason: str, text: str) -> Message:
    return Message(to_refusal(reason, text), reply_to=message)


def _error(message: Message, reason: str, text: str) -> Message:
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{reason}: {text}")
    return Message(error, reply_to=message)


def add_fingerprinting(
    app: ClientApp, find_folder: FindFolder = site_folder, *, keep_features: bool = False
) -> ClientApp:
    """Let a ClientApp answer fedprint's roll call and release its signed fingerprint.

    Parameters
    ----------
    app : ClientApp
        Any app of the Message API; its own functions stay as they are.
    find_folder : callable
        From Flower's context to the site's folder of labelled images.
    keep_features : bool
        Keep the features in the site's state folder, for co-training that starts from them.
        Otherwise, and unless the node-config names a state folder, nothing is written at the site:
        its folder may be read-only, and an app's own reader finds in it what it always found.

    Returns
    -------
    ClientApp
        The same app, now with ``query.hello`` and ``query.fingerprint``.
    """

    @app.query("hello")
    @answering
    def hello(_message: Message, context: Context) -> RecordDict:
        return to_hello(site_name(context, find_folder), signer_pem(site_signer(context)))

    @app.query("fingerprint")
    @answering
    def fingerprint(message: Message, context: Context) -> RecordDict:
        request = from_release_request(message.content)
        gate = site_gate(context, find_folder, keep_features=keep_features)
        return to_reply(gate.site.name, *gate.answer(request))

    return app


def site_gate(
    context: Context, find_folder: FindFolder = site_folder, *, keep_features: bool
) -> Gate:
    """Return the gate of this node's site, as its own configuration has it."""
    return Gate(
        site=current_site(context, find_folder),
        policy=site_policy(context),
        find_signer=functools.partial(site_signer, context),
        find_recipient=functools.partial(site_recipient, context),
        device=device_name(context),
        keeps_features=keep_features,
        keeps=keep_features or bool(context.node_config.get("state")),
    )


def answering(answer: Answer, refuse: Refuse = _refusal) -> Callable[[Message, Context], Message]:
    """Turn an error into a reply that names its reason, instead of a lost node.

    Flower would send the text of any error that got past here, and with it whatever it names at
    the site; in a simulation, where all is in one place, it may.
    """

    @functools.wraps(answer)
    def wrapped(message: Message, context: Context) -> Message:
        try:
            return Message(answer(message, context), reply_to=message)
        except Exception as error:
            expected = isinstance(error, FedprintError)
            if simulated() and not expected:
                raise
            reason, text = reason_of(error), printable(str(error))
            log.error(
                "fedprint | refused | site=%s run=%s reason=%s | %s",
                *(node_name(context), context.run_id, reason, text),
                exc_info=not expected,
            )
            return refuse(message, reason, outside(error))

    return wrapped


def answering_round(answer: Answer) -> Callable[[Message, Context], Message]:
    """Like `answering`, for what a strategy aggregates: a refusal is an error of Flower's there."""
    return answering(answer, _error)


def outside(error: Exception) -> str:
    """Return what the coordinator may read: file names and subject ids stay at the site.

    In a simulation, where all is in one place, it may read everything.
    """
    if not isinstance(error, FedprintError):
        return "the site failed unexpectedly: the site's own log says why"
    if simulated():
        return str(error)
    for kind, what in _INSIDE.items():
        if isinstance(error, kind):
            return f"{what} as they are: the site's own log says why"
    return str(error)
