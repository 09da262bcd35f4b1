"""Every place where bytes from outside come in, each with real messages to knock with.

Two kinds of visitors: a stranger on the network changes the bytes of a message, whose signature
then fails; a member with a good key signs whatever it likes. Doors called ``signed ...`` play the
second: what was spoilt is signed properly before it is handed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flwr.app import ConfigRecord, RecordDict
from securesystemslib.dsse import Envelope

from protocol import (
    enrolment,
    keys,
    log,
    merkle,
    orders,
    records,
    statement,
    trust,
)
from protocol.envelope import IN_TOTO, open_envelope, own_key, own_keys, sign
from protocol.errors import BadLog
from protocol.files import canonical_json, sha256_hex
from protocol.fingerprint import counts_from_bytes, counts_to_bytes, pack, unpack
from protocol.ledger_lines import START, LedgerLine, check_arithmetic, parse_ledger
from protocol.privacy import terms
from protocol.projection import Projection
from protocol.spec import Spec, edges_digest, parse_spec
from protocol.taskcard import ClassCard, TaskCard
from protocol.verify import verify_release

NOW = datetime.now(UTC).replace(microsecond=0)
LIMIT = 1 << 20
"""Most bytes of a payload here: small, so that bombs show."""

IMAGES = 40
_MODELS = {"run": "run-1", "nonce": "nonce-1"}


class Door(NamedTuple):
    """One decoder: a whole message, and what reads it."""

    message: bytes | Mapping[str, Any]
    read: Callable[[Any], object]


def doors(folder: Path) -> dict[str, Door]:
    """Return every door by name; each reads its whole message, all but floats without an error.

    Parameters
    ----------
    folder : Path
        Where those that read files find them; best on a disk in memory.
    """
    # made of parts of this file
    from benchmarks.doors_descriptors import descriptor_doors
    from benchmarks.doors_scores import score_doors

    found = [_releases(), _requests(), _trust(), _logs(folder), _ledgers(), _invitations(folder)]
    found += [score_doors(), descriptor_doors()]
    return {name: door for group in found for name, door in group.items()}


def make_spec(projected: bool = True) -> Spec:
    """Return a small ready spec: 6 features counted, or 3 directions of them."""
    width = 3 if projected else 6
    lower, upper = np.linspace(-1, 0, width), np.linspace(1, 2, width)
    return Spec.model_validate(
        {
            "name": "tiny",
            "backbone": "resnet10t",
            "weights": {"source": "file:weights.pth", "sha256": "a" * 64},
            "preprocess": {"resize": 32, "crop": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
            "features": 6,
            "projection": Projection.of(np.eye(3, 6)).model_dump() if projected else None,
            "bins": 5,
            "lower": lower.tolist(),
            "upper": upper.tolist(),
            "edges_sha256": edges_digest(lower, upper),
        }
    )


def record(values: Mapping[str, Any]) -> RecordDict:
    """Return the fields as Flower hands them over."""
    return RecordDict({records.RECORD: ConfigRecord(dict(values))})


def fields(content: RecordDict) -> dict[str, Any]:
    """Return the fields of a message, as `record` takes them."""
    return dict(content[records.RECORD])  # type: ignore[arg-type]


def sign_as_is(payload: bytes, key: keys.Signer, payload_type: str = IN_TOTO) -> bytes:
    """Sign bytes as they are: `protocol.envelope.sign` would only sign a valid statement."""
    whole = Envelope(payload, payload_type, {})
    whole.sign(key)
    return canonical_json(whole.to_dict())


def _releases() -> dict[str, Door]:
    """A site's answer: record, envelopes, statement, tensor."""
    key = keys.generate_key()
    signer, store = (
        keys.signer(key),
        trust.TrustStore.empty().enrol("north", keys.public_pem(key), not_before=NOW),
    )
    result: dict[str, Door] = {}
    for mode, spec in (("plain", make_spec(False)), ("private", make_spec())):
        counts = np.full((spec.width, spec.bins), IMAGES // spec.bins)
        payload = counts_to_bytes(counts)
        privacy = terms(spec.width, epsilon=2.0, delta=1e-5) if mode == "private" else None
        release = statement.Release(
            site="north",
            spec_digest=spec.digest,
            spec_name=spec.name,
            images=IMAGES,
            contribution_cap=1,
            privacy=privacy or statement.Privacy(),
            policy_digest="b" * 64,
            task_card=TaskCard(name="tissue", keywords=["a"], classes=[ClassCard(name="c")]),
            issued=NOW,
            expires=NOW + timedelta(days=300),
        )
        bound = statement.Binding(
            site="north", **_MODELS, issued=NOW, expires=NOW + timedelta(hours=20)
        )
        result |= _release_doors(mode, spec, payload, release, bound, signer, store)
    return result


def _release_doors(
    mode: str,
    spec: Spec,
    payload: bytes,
    release: statement.Release,
    bound: statement.Binding,
    signer: keys.Signer,
    store: trust.TrustStore,
) -> dict[str, Door]:
    envelope = sign(statement.release_statement(payload, release), signer)
    session = sign(statement.binding_statement(envelope, bound), signer)

    def verify(payload: bytes, envelope: bytes, binding: bytes | None = None) -> object:
        return verify_release(
            site="north", payload=payload, release=envelope, binding=binding, store=store,
            spec=spec, **_MODELS, now=NOW, limit=LIMIT,
        )  # fmt: skip

    def reply(fields: Mapping[str, Any]) -> object:
        if records.refusal(record(fields)) is not None:
            return None
        found = records.from_reply(record(fields), LIMIT)
        return verify(found.payload, found.release, found.binding)

    def tensor(data: bytes) -> object:
        return verify(data, sign(statement.release_statement(data, release), signer))

    def values(dtype: str) -> Callable[[bytes], object]:
        def read(data: bytes) -> object:
            found = np.frombuffer(data[: len(data) // 8 * 8], dtype)
            shaped = found.reshape(-1, spec.bins) if found.size % spec.bins == 0 else found
            return tensor(safetensors.numpy.save({"counts": shaped}))

        return read

    plain = counts_from_bytes(payload)
    whole = json.loads(open_envelope(envelope, lambda _: signer.public_key)[0])
    content, binding = canonical_json(whole), open_envelope(session, lambda _: signer.public_key)[0]
    return {
        f"reply ({mode})": Door(
            fields(records.to_reply("north", payload, envelope, session)), reply
        ),
        f"release envelope ({mode})": Door(envelope, lambda data: verify(payload, data)),
        f"binding envelope ({mode})": Door(session, lambda data: verify(payload, envelope, data)),
        f"signed statement ({mode})": Door(
            content, lambda data: verify(payload, sign_as_is(data, signer))
        ),
        f"signed binding ({mode})": Door(
            binding, lambda data: verify(payload, envelope, sign_as_is(data, signer))
        ),
        f"signed tensor ({mode})": Door(payload, tensor),
        f"signed integers ({mode})": Door(plain.astype("<i8").tobytes(), values("<i8")),
        f"signed floats ({mode})": Door(plain.astype("<f8").tobytes(), values("<f8")),
        f"tensor ({mode})": Door(payload, lambda data: counts_from_bytes(data)),
        f"compressed tensor ({mode})": Door(pack(payload), lambda data: unpack(data, LIMIT)),
        f"own keys ({mode})": Door(envelope, lambda data: (own_key(data), own_keys(data))),
    }


def _requests() -> dict[str, Door]:
    """What a site is asked, and the two small answers."""
    spec, pem = make_spec(), keys.public_pem(keys.generate_key())
    asked = records.AskedTerms(mode="private", epsilon=2.0, delta=1e-5)
    order = orders.Order(
        run="run-1", arm="grouped", spec=spec, recipe="adapter", epochs=3, batch_size=16,
        learning_rate=0.01, seed=1, factors={"head.a": 1.5},
    ).to_config()  # fmt: skip
    return {
        "release request": Door(
            fields(records.release_request("run-1", "n", spec, asked)),
            lambda fields: records.from_release_request(record(fields)),
        ),
        "hello": Door(
            fields(records.to_hello("north", pem)),
            lambda fields: records.from_hello(record(fields)),
        ),
        "hello request": Door({"run": "run-1"}, lambda f: records.from_hello_request(record(f))),
        "refusal": Door(
            fields(records.to_refusal("too-few-images", "this site has 30")),
            lambda fields: records.refusal(record(fields)),
        ),
        "order": Door(order, lambda fields: orders.order_from_config(ConfigRecord(dict(fields)))),
        "spec": Door(spec.model_dump_json().encode(), lambda data: parse_spec(data)),
    }


def _trust() -> dict[str, Door]:
    """The trust store and a site's enrolment."""
    coordinator, key, node = (
        keys.signer(make())
        for make in (keys.generate_key, keys.generate_key, keys.generate_node_key)
    )
    pem = keys.signer_pem(coordinator)
    store = trust.TrustStore.empty()
    for site in ("north", "south"):
        store = store.enrol(site, keys.public_pem(keys.generate_key()))
    asked = enrolment.make_enrolment("north", key, node)
    content = canonical_json(enrolment.open_enrolment(asked).model_dump(mode="json"))

    def enrol(data: bytes) -> object:
        whole = Envelope(data, enrolment.ENROLMENT_TYPE, {})
        for each in (key, node):
            whole.sign(each).unrecognized_fields["publicKey"] = keys.signer_pem(each)
        return store.admit(enrolment.open_enrolment(canonical_json(whole.to_dict())))

    signed = trust.sign_store(store, coordinator)
    return {
        "trust store": Door(signed, lambda data: trust.open_store(data, pem)),
        "signed trust store": Door(
            canonical_json(store.model_dump(mode="json")),
            lambda data: trust.open_store(sign_as_is(data, coordinator, trust.STORE_TYPE), pem),
        ),
        "enrolment": Door(asked, lambda data: enrolment.open_enrolment(data)),
        "signed enrolment": Door(content.replace(b'"north"', b'"east"'), enrol),
    }


def _logs(folder: Path) -> dict[str, Door]:
    """The transparency log: its file, its checkpoint, what a site is shown of it."""
    signer = keys.signer(keys.generate_key())
    pem = keys.signer_pem(signer)
    (folder / "log").mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text("{}")
    book = log.Log("run-1")
    for number in range(6):
        book.append("release", site=f"site-{number}", sha256="c" * 64)
    book.close(folder)
    checkpoint = book.write(folder, signer)
    lines = (folder / "log" / log.ENTRIES).read_bytes()
    entries = folder / "log" / log.ENTRIES

    def stranger(data: bytes) -> object:
        entries.write_bytes(data)
        (folder / "log" / log.CHECKPOINT).write_bytes(checkpoint)
        return log.read_log(folder, pem)

    def coordinator(data: bytes) -> object:
        other = log.Log("run-1")
        other.lines = data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n")
        other.write(folder, signer)
        return log.check_files(folder, log.read_log(folder, pem))

    def shown(fields: Mapping[str, Any]) -> object:
        found = records.from_checkpoint(record(fields))
        state = log.open_checkpoint(found.checkpoint, pem)
        leaf, root = merkle.leaf_hash(found.entry), bytes.fromhex(state.root)
        if not merkle.verify_inclusion(leaf, found.index, state.size, found.inclusion, root):
            raise BadLog("the entry is not in the log")
        old = merkle.root_hash(book.leaves[:4])
        if not merkle.verify_consistency(found.earlier, state.size, found.consistency, old, root):
            raise BadLog("the log does not extend the one before")
        return found

    message = records.CheckpointMessage(
        run="run-1", coordinator=pem, checkpoint=checkpoint, entry=book.lines[2], index=2,
        inclusion=book.inclusion(2), earlier=4, consistency=book.consistency(4),
    )  # fmt: skip
    return {
        "log": Door(lines, stranger),
        "signed log": Door(lines, coordinator),
        "checkpoint": Door(checkpoint, lambda data: log.open_checkpoint(data, pem)),
        "signed checkpoint": Door(
            canonical_json(book.checkpoint().model_dump(mode="json")),
            lambda data: log.open_checkpoint(sign_as_is(data, signer, log.CHECKPOINT_TYPE), pem),
        ),
        "checkpoint message": Door(fields(records.to_checkpoint(message)), shown),
    }


def _ledgers() -> dict[str, Door]:
    """A site's privacy ledger: a stranger's changes, and lines with a proper digest."""
    lines: list[LedgerLine] = []
    for number in range(3):
        spent = terms(3, epsilon=2.0, delta=1e-5).model_dump(
            include={"rho", "sigma", "epsilon", "delta"}
        )
        before = lines[-1].digest if lines else START
        total = (lines[-1].total_rho if lines else 0.0) + spent["rho"]
        line = LedgerLine(
            time=NOW, run=f"run-{number}", spec_name="tiny", spec_digest="d" * 64, data="e" * 64,
            width=3, cap=1, **spent, total_rho=total, previous=before, salt="5" * 64,
        )  # fmt: skip
        lines.append(line.sealed())
    whole = json.loads(lines[0].to_bytes())
    first = canonical_json({name: value for name, value in whole.items() if name != "digest"})

    def sealed(data: bytes) -> object:
        line = canonical_json({**json.loads(data), "digest": sha256_hex(data)})
        return check_arithmetic(parse_ledger(line + b"\n"))

    def member(data: bytes) -> object:
        try:
            whole = json.loads(data)
            ready = canonical_json(whole) == data and isinstance(whole, dict)
        except (ValueError, RecursionError):
            ready = False
        return sealed(data) if ready else check_arithmetic(parse_ledger(data + b"\n"))

    return {
        "ledger": Door(
            b"".join(line.to_bytes() + b"\n" for line in lines),
            lambda data: check_arithmetic(parse_ledger(data)),
        ),
        "sealed ledger": Door(first, member),
    }


def _invitations(folder: Path) -> dict[str, Door]:
    pem = keys.public_pem(keys.generate_key())
    whole = enrolment.Invitation(
        name="study", address="host:9092", certificates=_certificate(), coordinators=[pem]
    )
    path = folder / "invitation.json"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return enrolment.load_invitation(path)

    return {"invitation": Door(whole.model_dump_json().encode(), read)}


def _certificate() -> str:
    """Return a self-signed certificate (PEM)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    key = keys.generate_node_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "host")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
