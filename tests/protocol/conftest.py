"""A site, its keys and a correct exchange, which each test then spoils in one way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from numpy.typing import NDArray

from protocol.envelope import sign
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, public_pem, signer
from protocol.projection import Projection
from protocol.spec import Spec, edges_digest, parse_spec
from protocol.statement import Binding, Release, binding_statement, release_statement
from protocol.taskcard import TaskCard
from protocol.trust import TrustStore
from protocol.verify import VerifiedRelease, verify_release

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
IMAGES, FEATURES, BINS = 40, 6, 5


def make_spec(**changes: Any) -> Spec:
    """Return a small ready spec."""
    lower, upper = np.linspace(-1, 0, FEATURES), np.linspace(1, 2, FEATURES)
    values: dict[str, Any] = {
        "name": "tiny",
        "backbone": "resnet10t",
        "weights": {"source": "file:weights.pth", "sha256": "a" * 64},
        "preprocess": {"resize": 32, "crop": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
        "features": FEATURES,
        "bins": BINS,
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "edges_sha256": edges_digest(lower, upper),
    }
    return parse_spec({**values, **changes})


def projected_spec(components: int = 3, **changes: Any) -> Spec:
    """Return a small ready spec that counts few directions in the features."""
    matrix = np.random.default_rng(components).normal(size=(components, FEATURES))
    lower, upper = np.full(components, -2.0), np.full(components, 2.0)
    values: dict[str, Any] = {
        "projection": Projection.of(matrix).model_dump(),
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "edges_sha256": edges_digest(lower, upper),
    }
    return make_spec(**{**values, **changes})


def make_counts(total: int = IMAGES, seed: int = 0) -> NDArray[np.int64]:
    """Return counts [m, b] whose rows add up to `total`."""
    return np.random.default_rng(seed).multinomial(total, np.full(BINS, 1 / BINS), size=FEATURES)


@dataclass(frozen=True)
class Case:
    """All that a site sends and the coordinator expects; `replace` spoils one thing."""

    key: PrivateKeyTypes
    store: TrustStore
    spec: Spec
    payload: bytes
    release: bytes
    binding: bytes | None
    site: str = "north"
    run: str = "run-1"
    nonce: str = "nonce-1"
    now: datetime = NOW

    def verify(self, **limits: int) -> VerifiedRelease:
        """Verify as the coordinator would."""
        return verify_release(
            site=self.site,
            payload=self.payload,
            release=self.release,
            binding=self.binding,
            store=self.store,
            spec=self.spec,
            run=self.run,
            nonce=self.nonce,
            now=self.now,
            **limits,
        )

    def signed(
        self, payload: bytes, key: PrivateKeyTypes | None = None, bound: Any = (), **release: Any
    ) -> Case:
        """Return the case with this payload properly signed, under changed statement fields."""
        key = key or self.key
        values: dict[str, Any] = {
            "site": self.site,
            "spec_digest": self.spec.digest,
            "spec_name": self.spec.name,
            "images": IMAGES,
            "policy_digest": "b" * 64,
            "task_card": TaskCard(name="tissue"),
            "issued": NOW - timedelta(days=1),
            "expires": NOW + timedelta(days=30),
        }
        envelope = sign(release_statement(payload, Release(**{**values, **release})), signer(key))
        binding: dict[str, Any] = {
            "site": self.site,
            "run": self.run,
            "nonce": self.nonce,
            "issued": NOW - timedelta(seconds=5),
            "expires": NOW + timedelta(minutes=10),
            **dict(bound),
        }
        session = sign(binding_statement(envelope, Binding(**binding)), signer(key))
        return replace(self, payload=payload, release=envelope, binding=session)


def make_case(key: PrivateKeyTypes) -> Case:
    """Return a correct exchange under this key."""
    store = TrustStore.empty().enrol(
        "north",
        public_pem(key),
        not_before=NOW - timedelta(days=10),
        not_after=NOW + timedelta(days=10),
    )
    case = Case(key, store, make_spec(), b"", b"", None)
    return case.signed(counts_to_bytes(make_counts()))


@pytest.fixture(params=["ed25519", "p256", "p384", "p521"])
def any_key(request: pytest.FixtureRequest) -> PrivateKeyTypes:
    """Return a fresh key of each supported kind."""
    curves = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
    if request.param == "ed25519":
        return generate_key()
    return ec.generate_private_key(curves[request.param]())


@pytest.fixture
def case() -> Case:
    """Return a correct exchange."""
    return make_case(generate_key())


@pytest.fixture
def tiny_spec() -> Spec:
    """Return a small ready spec."""
    return make_spec()
