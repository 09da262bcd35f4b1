"""Tasks of a folder: all that lies there is read and verified, and nothing else is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from fl_server.descriptor_folder import file_name
from fl_server.tasks import tasks_of_folder
from protocol.descriptor_files import to_bytes
from protocol.descriptor_statement import DescriptorRelease, descriptor_statement
from protocol.descriptors import ClassMoments, Descriptor, Features, Fisher, Kind, Moments
from protocol.envelope import sign
from protocol.errors import (
    BadPrivacy,
    BadShape,
    ConfigError,
    DigestMismatch,
    FedprintError,
    MalformedStatement,
    SpecMismatch,
    UnknownKey,
    WrongSite,
)
from protocol.files import atomic_json, sha256_hex
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, signer
from protocol.statement import (
    RELEASE_VALIDITY,
    Privacy,
    Release,
    release_statement,
    utc_now,
)
from protocol.taskcard import ClassCard, TaskCard
from tests.protocol.conftest import IMAGES, make_counts, make_spec

SPEC = make_spec()
CARD = TaskCard(name="tissue", classes=[ClassCard(name="a"), ClassCard(name="b")])


def some(seed: int = 0) -> dict[Kind, Descriptor]:
    """Return one descriptor of each kind, of `IMAGES` images."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(IMAGES, SPEC.width)).astype(np.float32)
    halves = np.array([IMAGES // 2, IMAGES - IMAGES // 2])
    shape = (2, SPEC.width)
    return {
        "moments": Moments(
            features.mean(axis=0).astype(float), np.cov(features, rowvar=False), IMAGES
        ),
        "class-moments": ClassMoments(halves, rng.normal(size=shape), rng.random(shape)),
        "fisher": Fisher(rng.random(7)),
        "features": Features(features, np.arange(IMAGES) % 2),
    }


class Site:
    """A site that writes its files into a folder, as the command ``fingerprint`` does."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.key = folder, name, generate_key()
        self.payload = counts_to_bytes(make_counts())
        now = utc_now()
        release = Release(
            site=name,
            spec_digest=SPEC.digest,
            spec_name=SPEC.name,
            images=IMAGES,
            policy_digest="b" * 64,
            task_card=CARD,
            issued=now,
            expires=now + RELEASE_VALIDITY,
        )
        envelope = sign(release_statement(self.payload, release), signer(self.key))
        (folder / f"{name}.safetensors").write_bytes(self.payload)
        (folder / f"{name}.dsse.json").write_bytes(envelope)

    def describe(
        self,
        kind: Kind,
        descriptor: Descriptor | None = None,
        /,
        *,
        key: PrivateKeyTypes | None = None,
        **changes: object,
    ) -> Path:
        """Write a descriptor of the site; `changes` are those of its statement."""
        payload, now = to_bytes(descriptor or some()[kind]), utc_now()
        values = {
            "site": self.name,
            "spec_digest": SPEC.digest,
            "spec_name": SPEC.name,
            "kind": kind,
            "images": IMAGES,
            "fingerprint": sha256_hex(self.payload),
            "policy_digest": "b" * 64,
            "issued": now,
            "expires": now + RELEASE_VALIDITY,
        }
        release = DescriptorRelease.model_validate(values | changes)
        envelope = sign(descriptor_statement(payload, release), signer(key or self.key))
        inner = self.folder / "descriptors"
        inner.mkdir(exist_ok=True)
        path = inner / file_name(self.name, kind, "safetensors")
        path.write_bytes(payload)
        (inner / file_name(self.name, kind, "dsse.json")).write_bytes(envelope)
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    atomic_json(tmp_path / "spec.json", SPEC)
    return Site(tmp_path, "north")


def refused(site: Site, error: type[FedprintError], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        tasks_of_folder(site.folder)
    assert "\n" not in str(caught.value)


def test_tasks_hold_all_that_was_released(site: Site) -> None:
    Site(site.folder, "south.x").describe("fisher")
    for kind in some():
        site.describe(kind)
    north, south = tasks_of_folder(site.folder)
    assert (north.name, south.name, north.images, north.spec) == ("north", "south.x", IMAGES, SPEC)
    assert north.card == CARD
    assert north.fingerprint is not None
    wanted = some()["moments"]
    assert isinstance(wanted, Moments)
    assert north.moments is not None
    np.testing.assert_allclose(north.moments.covariance, wanted.covariance, atol=1e-5)
    assert north.class_moments is not None
    assert north.features is not None
    assert north.fisher is not None
    assert len(north.fisher.values) == 7
    assert (south.moments, south.class_moments, south.features) == (None, None, None)
    assert south.fisher is not None


def test_run_folder_has_its_fingerprints_one_deeper(site: Site) -> None:
    inner = site.folder / "fingerprints"
    inner.mkdir()
    for path in site.folder.glob("north.*"):
        path.rename(inner / path.name)
    site.describe("moments")
    (task,) = tasks_of_folder(site.folder)
    assert task.moments is not None


def test_folder_without_descriptors_is_as_before(site: Site) -> None:
    (task,) = tasks_of_folder(site.folder)
    assert (task.moments, task.scores) == (None, {})


def test_changed_bytes_are_refused(site: Site) -> None:
    path = site.describe("fisher")
    path.write_bytes(to_bytes(some(1)["fisher"]))
    refused(site, DigestMismatch, "^the fisher of north are not those that were signed$")


def test_another_key_is_refused(site: Site) -> None:
    site.describe("fisher", key=generate_key())
    refused(site, UnknownKey, "^the fisher of north are signed with another key than its release$")


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"fingerprint": "0" * 64}, DigestMismatch, "^the fisher of north go with another finger"),
        ({"site": "south"}, WrongSite, "^the signed site is 'south', expected 'north'$"),
        ({"kind": "moments"}, MalformedStatement, "^north signed moments, expected fisher$"),
        ({"spec_digest": "0" * 64}, SpecMismatch, "^fisher of north are of spec "),
        (
            {"images": IMAGES + 1},
            BadPrivacy,
            rf"^the fisher of north are of {IMAGES + 1} images, it has {IMAGES}$",
        ),
        (
            {"privacy": Privacy(mode="private", rho=1, sigma=1), "contribution_cap": 1},
            BadPrivacy,
            "^the fisher of north state noise, which only moments have$",
        ),
    ],
)
def test_statement_about_something_else_is_refused(
    site: Site, changes: dict[str, object], error: type[FedprintError], text: str
) -> None:
    site.describe("fisher", **changes)
    refused(site, error, text)


def test_fingerprint_is_no_descriptor(site: Site) -> None:
    path = site.describe("fisher").with_name("north.fisher.dsse.json")
    path.write_bytes((site.folder / "north.dsse.json").read_bytes())
    refused(site, MalformedStatement, "^the signed content is no valid DescriptorStatement")


def test_shapes_follow_from_spec_and_card(site: Site) -> None:
    site.describe("class-moments", ClassMoments(np.array([IMAGES]), *np.ones((2, 1, SPEC.width))))
    refused(site, BadShape, r"^counts of the class-moments has shape \(1,\), not 2$")


def test_networks_of_other_sizes_are_not_compared(site: Site) -> None:
    site.describe("fisher")
    Site(site.folder, "south").describe("fisher", Fisher(np.ones(8)))
    refused(site, BadShape, "^fisher of south has 8 filters, that of north 7: they are not of one")


def test_stray_files_are_named(site: Site) -> None:
    path = site.describe("fisher")
    path.unlink()
    refused(site, ConfigError, r"north.fisher.safetensors is missing: make the descriptor again$")
    path.with_name("north.fisher.dsse.json").unlink()
    path.with_name("note.txt").write_text("")
    refused(site, ConfigError, r"note.txt is no file of a descriptor: take it out of ")
    path.with_name("note.txt").unlink()
    path.with_name("east.moments.safetensors").write_text("")
    refused(site, ConfigError, r" holds moments of east, and no fingerprint that they go with: ")


def test_huge_envelope_is_not_read(site: Site) -> None:
    path = site.describe("fisher").with_name("north.fisher.dsse.json")
    path.write_text(json.dumps({"x": "y" * 70_000}))
    refused(site, FedprintError, r"north.fisher.dsse.json has more than the limit of 65536 bytes$")
