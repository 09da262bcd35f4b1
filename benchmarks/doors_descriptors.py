"""The doors through which descriptors come in, see `benchmarks.doors`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from benchmarks.doors import IMAGES, NOW, Door, fields, make_spec, record, sign_as_is
from protocol import keys, noised_moments, statement
from protocol.descriptor_files import Sizes, from_bytes, to_bytes
from protocol.descriptor_records import (
    DescriptorsReply,
    DescriptorsRequest,
    Sent,
    descriptors_request,
    from_descriptors,
    from_descriptors_request,
    to_descriptors,
)
from protocol.descriptor_statement import (
    DescriptorRelease,
    descriptor_statement,
    largest,
    verify_descriptor,
)
from protocol.descriptors import KINDS, ClassMoments, Descriptor, Features, Fisher, Kind, Moments
from protocol.envelope import open_envelope, sign
from protocol.fingerprint import Fingerprint, counts_to_bytes
from protocol.privacy import terms_for
from protocol.taskcard import ClassCard, TaskCard
from protocol.verify import VerifiedRelease

SPEC = make_spec(False)
CARD = TaskCard(name="tissue", classes=[ClassCard(name="a"), ClassCard(name="b")])


def descriptor_doors() -> dict[str, Door]:
    """Return request, reply, statements and files of every kind, plain and with noise."""
    signer = keys.signer(keys.generate_key())
    release = _release(signer)
    files = {kind: to_bytes(made) for kind, made in _made().items()}
    envelopes = {kind: _signed(kind, data, release, signer) for kind, data in files.items()}
    found: dict[str, Door] = {}
    for kind, data in files.items():
        found |= _file_doors(kind, data, envelopes[kind], release, signer)
    sent = {kind: Sent(files[kind], envelopes[kind]) for kind in KINDS[:3]}
    reply = DescriptorsReply(sent, {"features": ("features-stay", "they stay")})
    limits = {kind: largest(kind, SPEC, release) for kind in KINDS}
    request = descriptors_request(DescriptorsRequest("run-1", SPEC, KINDS))

    def read(values: Mapping[str, Any]) -> object:
        return from_descriptors(record(values), limits)

    return {
        **found,
        "descriptors request": Door(
            fields(request), lambda values: from_descriptors_request(record(values))
        ),
        "descriptors reply": Door(fields(to_descriptors(reply)), read),
    }


def _file_doors(
    kind: Kind, data: bytes, envelope: bytes, release: VerifiedRelease, signer: keys.Signer
) -> dict[str, Door]:
    def verify(payload: bytes, envelope: bytes) -> object:
        return verify_descriptor(
            payload, envelope, kind, release, SPEC, lambda _: signer.public_key, NOW
        )

    content = open_envelope(envelope, lambda _: signer.public_key)[0]
    doors = {
        f"{kind} envelope": Door(envelope, lambda spoilt: verify(data, spoilt)),
        f"signed {kind} statement": Door(
            content, lambda spoilt: verify(data, sign_as_is(spoilt, signer))
        ),
        f"signed {kind} file": Door(
            data, lambda spoilt: from_bytes(spoilt, kind, Sizes(SPEC.width, 2, IMAGES))
        ),
    }
    if kind == "moments":
        noised = noised_moments.to_bytes(np.arange(noised_moments.entries(SPEC.width)))
        doors |= {
            "signed noised file": Door(
                noised, lambda spoilt: verify(spoilt, _signed(kind, spoilt, release, signer, True))
            )
        }
    return doors


def _made() -> dict[Kind, Descriptor]:
    features = np.random.default_rng(0).normal(size=(IMAGES, SPEC.width))
    halves = np.array([IMAGES // 2, IMAGES - IMAGES // 2])
    ones = np.ones((2, SPEC.width))
    return {
        "moments": Moments(features.mean(axis=0), np.cov(features, rowvar=False), IMAGES),
        "class-moments": ClassMoments(halves, ones, ones),
        "fisher": Fisher(np.ones(4)),
        "features": Features(features.astype(np.float32), np.arange(IMAGES) % 2),
    }


def _signed(
    kind: Kind, data: bytes, release: VerifiedRelease, signer: keys.Signer, private: bool = False
) -> bytes:
    sensitivity = noised_moments.sensitivity(SPEC.width)
    noise = terms_for(sensitivity, epsilon=2.0, delta=1e-5) if private else statement.Privacy()
    said = DescriptorRelease(
        site="north",
        spec_digest=SPEC.digest,
        spec_name=SPEC.name,
        kind=kind,
        images=IMAGES,
        fingerprint=release.statement.subject[0].digest.sha256,
        contribution_cap=int(private),
        privacy=noise,
        policy_digest="b" * 64,
        issued=NOW,
        expires=NOW + timedelta(days=300),
    )
    return sign(descriptor_statement(data, said), signer)


def _release(signer: keys.Signer) -> VerifiedRelease:
    counts = np.full((SPEC.width, SPEC.bins), IMAGES // SPEC.bins)
    payload = counts_to_bytes(counts)
    said = statement.Release(
        site="north",
        spec_digest=SPEC.digest,
        spec_name=SPEC.name,
        images=IMAGES,
        policy_digest="b" * 64,
        task_card=CARD,
        issued=NOW,
        expires=NOW + timedelta(days=300),
    )
    whole = statement.release_statement(payload, said)
    fingerprint = Fingerprint("north", counts, SPEC.digest, IMAGES)
    return VerifiedRelease(fingerprint, CARD, whole, signer.public_key.keyid)
