"""Messages to a site's ClientApp as a coordinator sends them, and a log that it may show."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl_client import client_app
from protocol.envelope import sign
from protocol.files import sha256_hex
from protocol.keys import generate_key, public_pem, signer
from protocol.log import CHECKPOINT_TYPE, Log
from protocol.orders import Order
from protocol.records import CheckpointMessage, from_reply, release_request, to_checkpoint
from protocol.sharing import Arrays
from protocol.spec import Spec

AUTOMATIC = 'specs = ["*"]\nmin_images = 2\nautomatic = true\nrelease = "plain"\n'


def ask(
    folder: Path,
    kind: str,
    config: dict[str, object] | None,
    arrays: Arrays | None = None,
    *,
    content: RecordDict | None = None,
    policy_text: str = AUTOMATIC,
    **own: str,
) -> RecordDict:
    """Ask the site and return its answer."""
    content = content or RecordDict()
    if config is not None:
        content["config"] = ConfigRecord(config)  # type: ignore[arg-type]
    if arrays is not None:
        content["arrays"] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    message = Message(content, dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "m1"
    policy = folder.parent / "policy.toml"
    policy.write_text(policy_text)
    own = {"site": str(folder), "policy": str(policy), "device": "cpu"} | own
    context = Context(1, 1, {**own}, RecordDict(), {})
    reply = client_app.app(message, context)
    assert reply.metadata.reply_to_message_id == "m1"
    if reply.has_error():
        raise Failed(reply.error.code, str(reply.error.reason))
    return reply.content


class Failed(Exception):
    """Flower's error in place of an answer: its code and what it tells the coordinator."""


def config_for(spec: Spec, **changes: object) -> dict[str, object]:
    """Return the config record of an order."""
    values = {
        "run": "run-1",
        "arm": "grouped",
        "spec": spec,
        "recipe": "adapter",
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.1,
        "seed": 0,
    }
    return Order.model_validate({**values, **changes}).to_config()


class Coordinator:
    """A coordinator of one run that a site has released its fingerprint to.

    Parameters
    ----------
    folder : Path
        The site.
    spec : Spec
        Of the fingerprint.
    run : str
        Name of the run.
    shows : bool
        Whether it shows the site its log.
    """

    def __init__(self, folder: Path, spec: Spec, run: str = "run-1", shows: bool = True) -> None:
        self.folder, self.spec, self.run, self.key = folder, spec, run, generate_key()
        request = release_request(run, "n" * 64, spec)
        self.release = sha256_hex(
            from_reply(ask(folder, "query.fingerprint", None, content=request)).payload
        )
        if shows:
            ask(folder, "query.checkpoint", None, content=self._shown())

    @property
    def pem(self) -> str:
        """Its public key."""
        return public_pem(self.key)

    def _shown(self) -> RecordDict:
        log = Log(self.run)
        log.append("release", site=self.folder.name, payload=self.release)
        return to_checkpoint(
            CheckpointMessage(
                run=self.run,
                coordinator=self.pem,
                checkpoint=sign(log.checkpoint(), signer(self.key), CHECKPOINT_TYPE),
                entry=log.lines[0],
                index=0,
                inclusion=log.inclusion(0),
            )
        )
