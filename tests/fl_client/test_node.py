"""What a node's configuration says, and what it must say in a deployment."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from fixtures_readers import write_nifti
from fixtures_sites import write_classes
from flwr.app import Context, RecordDict

from fl_client import node
from fl_client.node import (
    current_site,
    list_site_folders,
    node_name,
    site_name,
    site_recipient,
    site_signer,
)
from fl_client.readers.source import Unreadable
from protocol.errors import ConfigError, DataError
from protocol.files import sha256_hex
from protocol.keys import PASSPHRASE, generate_key, public_pem, save_private_key


def context(run_config: dict[str, str] | None = None, **own: str | int) -> Context:
    config = {name.replace("_", "-"): value for name, value in own.items()}
    return Context(1, 7, {**config}, RecordDict(), {**(run_config or {})})


def test_a_key_file_may_be_encrypted_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, plain, locked = generate_key(), tmp_path / "plain.pem", tmp_path / "locked.pem"
    save_private_key(plain, key)
    save_private_key(locked, key, "secret")
    public = tmp_path / "public.pem"
    public.write_text(public_pem(key))
    monkeypatch.setenv(PASSPHRASE, "secret")  # the passphrase of one key must not spoil another
    signers = [
        site_signer(context(key=str(plain))),
        site_signer(context(key=str(locked))),
        site_signer(context(key=str(plain), public_key=str(public))),
    ]
    assert len({signer.public_key.keyid for signer in signers}) == 1
    monkeypatch.setenv(PASSPHRASE, "wrong")
    with pytest.raises(ConfigError, match=r"locked\.pem cannot be opened with this passphrase"):
        site_signer(context(key=str(locked)))
    with pytest.raises(ConfigError, match=r"none\.pem cannot be read"):
        site_signer(context(key=str(tmp_path / "none.pem")))


def test_a_key_in_hardware_needs_its_public_half(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key hsm:2 needs its public half"):
        site_signer(context(key="hsm:2"))
    with pytest.raises(ConfigError, match=r"public key .*none\.pem cannot be read"):
        site_signer(context(key="hsm:2", public_key=str(tmp_path / "none.pem")))


def test_a_simulated_key_lasts_as_long_as_the_context() -> None:
    one, other = context(partition_id=0), context(partition_id=1)
    ids = [site_signer(c).public_key.keyid for c in (one, one, other)]
    assert ids[0] == ids[1] != ids[2]


def test_site_folders_are_listed_once_until_one_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    for _ in range(3):
        assert [path.name for path in list_site_folders(tmp_path)] == ["a", "b"]
    assert listed == [tmp_path]
    (tmp_path / "c").mkdir()
    os.utime(tmp_path, ns=(0, 0))  # a coarse clock must not decide this test
    assert [path.name for path in list_site_folders(tmp_path)] == ["a", "b", "c"]
    assert len(listed) == 2


def test_sites_are_dealt_out_by_name(tmp_path: Path) -> None:
    for name in ("south", "north"):
        write_classes(tmp_path / name, {"a": 1})
    (tmp_path / ".hidden").mkdir()
    run_config = {"sites-dir": str(tmp_path)}
    names = [current_site(context(run_config, partition_id=n)).name for n in (0, 1)]
    assert names == ["north", "south"]
    with pytest.raises(DataError, match="holds 2 site folders, fewer than nodes"):
        current_site(context(run_config, partition_id=2))
    with pytest.raises(ConfigError, match="no site folder: start the SuperNode with"):
        current_site(context())


def test_a_volume_that_is_overwritten_in_place_is_read_again(tmp_path: Path) -> None:
    volume = tmp_path / "north" / "a" / "1.nii"
    write_nifti(volume, np.zeros((4, 6, 8), np.uint8))
    own = context(site=str(tmp_path / "north"))
    site = current_site(own)
    assert len(site.images) == 8
    assert current_site(own) is site
    times = volume.stat()
    write_nifti(volume, np.zeros((4, 8, 6), np.uint8))  # as many bytes, in the same folder
    os.utime(volume, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(current_site(own).images) == 6
    volume.write_bytes(b"damaged")
    assert [type(item.held) for item in current_site(own).images] == [Unreadable]


def test_a_site_is_named_without_listing_its_images(tmp_path: Path) -> None:
    named = tmp_path / "folder"
    named.mkdir()
    own = context(site=str(named))
    assert site_name(own) == "folder"
    (named / "site.toml").write_text('[site]\nname = "north"\n[data]\nnpz = "missing.npz"\n')
    assert site_name(own) == "north"
    with pytest.raises(DataError, match=r"missing\.npz"):
        current_site(own)
    with pytest.raises(DataError, match=r"site folder .* does not exist or is no folder"):
        site_name(context(site=str(tmp_path / "none")))


def test_whom_releases_go_to(tmp_path: Path) -> None:
    own = context(site=str(tmp_path))
    assert site_recipient(context()) == site_recipient(own) == ""
    (tmp_path / "site.toml").write_text('[site]\nsuperlink = "coordinator.example:1"\n')
    with pytest.raises(ConfigError, match=r"certificate .*ca\.crt cannot be read: No such file"):
        site_recipient(own)
    (tmp_path / "ca.crt").write_bytes(b"authority")
    assert site_recipient(own) == f"coordinator.example:1 {sha256_hex(b'authority')}"
    # a SuperNode goes on talking to the coordinator with whom it was started
    assert site_recipient(context(site=str(tmp_path), recipient="as started")) == "as started"


def test_a_node_has_a_name_where_its_site_has_none(tmp_path: Path) -> None:
    assert node_name(context()) == "node 7"
    assert node_name(context(partition_id=3)) == "node 3"
    assert node_name(context(site=str(tmp_path / "srv"))) == "srv"
    (tmp_path / "site.toml").write_text('[site]\nname = "north"\n')
    assert node_name(context(site=str(tmp_path))) == "north"
    (tmp_path / "site.toml").write_text("[")
    assert node_name(context(site=str(tmp_path))) == tmp_path.name
    assert not node.simulated()
