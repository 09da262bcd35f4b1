from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from fixtures_sites import write_classes

from fl_client import data_digest
from fl_client.data_digest import MEMO, known_digest
from fl_client.policy import local_policy
from fl_client.release import sign_release
from fl_client.releases import Kept, Releases
from fl_client.site import ImageItem, Site, read_site
from protocol.errors import DataError
from protocol.fingerprint import counts_to_bytes
from protocol.keys import Signer, generate_key, signer
from protocol.spec import Spec
from protocol.statement import utc_now
from protocol.verify import verify_local


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return read_site(write_classes(tmp_path / "north", {"a": 3, "b": 2}))


@pytest.fixture
def key() -> Signer:
    return signer(generate_key())


def kept(site: Site, spec: Spec, key: Signer) -> Kept | None:
    return Releases(site.state).find(site, spec, local_policy(), key)


def keep(site: Site, spec: Spec, key: Signer) -> tuple[bytes, bytes]:
    counts = np.zeros((spec.features, spec.bins), np.int64)
    counts[:, 2] = 5
    payload = counts_to_bytes(counts)
    envelope = sign_release(site, payload, spec, key, local_policy())
    Releases(site.state).keep(site, spec, payload, envelope, known_digest(site))
    return payload, envelope


def test_a_kept_release_comes_back_as_it_was(site: Site, spec: Spec, key: Signer) -> None:
    assert kept(site, spec, key) is None
    payload, envelope = keep(site, spec, key)
    found = kept(read_site(site.folder), spec, key)
    assert found is not None
    assert (found.payload, found.envelope) == (payload, envelope)
    now = utc_now()
    assert found.holds(now, timedelta(days=364))
    assert not found.holds(now + timedelta(days=366))
    assert not found.holds(now - timedelta(hours=1))
    folder = Releases(site.state).folder(spec)
    assert verify_local(folder, "north").fingerprint.n_images == 5
    assert {p.stat().st_mode & 0o077 for p in folder.glob("*.safetensors")} == {0}


def test_another_spec_policy_key_name_or_card_does_not_fit(
    site: Site, spec: Spec, key: Signer
) -> None:
    keep(site, spec, key)
    store, policy = Releases(site.state), local_policy()
    assert store.find(site, spec, policy, key) is not None
    assert store.find(site, spec, policy, signer(generate_key())) is None
    other = spec.model_copy(update={"bins": 20})
    assert store.find(site, other, policy, key) is None
    assert store.find(site, spec, local_policy(min_images=3), key) is None
    renamed = read_site(site.folder, name="south")
    assert kept(renamed, spec, key) is None
    (site.folder / "site.toml").write_text('[task]\nmodality = "MRI"\n')
    assert kept(read_site(site.folder), spec, key) is None


@pytest.mark.parametrize("name", ["north.safetensors", "north.dsse.json", "kept.json"])
def test_damaged_files_count_as_absent(site: Site, spec: Spec, key: Signer, name: str) -> None:
    keep(site, spec, key)
    path = Releases(site.state).folder(spec) / name
    whole = path.read_bytes()
    changed = whole.replace(b"0", b"1", 1) if name == "kept.json" else whole[:-9] + b"123456789"
    for content in (b"", b"{}", b"[1]", whole[: len(whole) // 2], changed):
        path.write_bytes(content)
        assert kept(site, spec, key) is None
    path.unlink()
    assert kept(site, spec, key) is None
    path.write_bytes(whole)
    assert kept(site, spec, key) is not None


def test_a_changed_image_does_not_fit(site: Site, spec: Spec, key: Signer) -> None:
    keep(site, spec, key)
    image = site.images[0].path
    was, content = image.stat(), image.read_bytes()
    image.write_bytes(content[:-1] + b"x")  # the same size, and the same time of modification
    os.utime(image, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert kept(site, spec, key) is None
    image.write_bytes(content)
    assert kept(site, spec, key) is not None, "the same content again, whatever the times say"


def test_the_digest_is_read_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = known_digest(site)
    assert digest == site.data_digest
    with monkeypatch.context() as patch:
        patch.setattr(ImageItem, "content_digest", lambda _item: pytest.fail("read again"))
        assert known_digest(read_site(site.folder)) == digest
    zeros = b"0" * 64
    for damage in (b"", b"[]", b"[" * 100_000, b'{"stamp": 3}', b'{"digest": "' + zeros + b'"}'):
        (site.state / MEMO).write_bytes(damage)
        assert known_digest(site) == digest
    assert json.loads((site.state / MEMO).read_bytes())["digest"] == digest


def test_nothing_is_remembered_of_images_that_change_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = iter(["one", "two"])
    monkeypatch.setattr(data_digest, "_stamp", lambda _site: next(stamps))
    assert known_digest(site) == site.data_digest
    assert not (site.state / MEMO).exists()


def test_a_missing_image_is_named(site: Site) -> None:
    known_digest(site)
    site.images[2].path.unlink()
    with pytest.raises(DataError, match=r"002\.png cannot be read: No such file"):
        known_digest(site)
