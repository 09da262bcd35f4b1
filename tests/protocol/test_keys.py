"""Key files of every form, and what is said about the unusable ones."""

from __future__ import annotations

import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from securesystemslib.signer import SSlibKey

from protocol.errors import ConfigError
from protocol.keys import (
    generate_key,
    key_id,
    key_pem,
    load_private_key,
    public_key,
    public_pem,
    save_private_key,
    signer,
    user_key,
)

from .conftest import make_case

FORMS = [PrivateFormat.PKCS8, PrivateFormat.OpenSSH]


@pytest.mark.parametrize("form", FORMS)
def test_files_of_both_forms(any_key: PrivateKeyTypes, form: PrivateFormat, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(any_key.private_bytes(Encoding.PEM, form, NoEncryption()))
    loaded = load_private_key(path)
    assert public_pem(loaded) == public_pem(any_key)
    assert make_case(loaded).verify().key_id == key_id(public_pem(any_key))


def test_the_key_that_authenticates_a_supernode(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", "site0"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert make_case(load_private_key(tmp_path / "site0")).verify().enrolled


def test_encrypted_pem(any_key: PrivateKeyTypes, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    secret = BestAvailableEncryption(b"open sesame")
    path.write_bytes(any_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    assert public_pem(load_private_key(path, "open sesame")) == public_pem(any_key)
    for wrong in (None, "sesame"):
        with pytest.raises(ConfigError, match=r"key\.pem cannot be opened with this passphrase"):
            load_private_key(path, wrong)


def test_encrypted_openssh(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "sesame", "-f", "k", "-a", "1"]
    subprocess.run(command, cwd=tmp_path, check=True)
    if find_spec("bcrypt") is None:
        with pytest.raises(ConfigError, match="pip install bcrypt"):
            load_private_key(tmp_path / "k", "sesame")
        return
    load_private_key(tmp_path / "k", b"sesame")
    for wrong in (None, "wrong"):
        with pytest.raises(ConfigError, match="cannot be opened with this passphrase"):
            load_private_key(tmp_path / "k", wrong)


def test_a_saved_key_is_for_its_owner_only(any_key: PrivateKeyTypes, tmp_path: Path) -> None:
    save_private_key(tmp_path / "deep" / "key.pem", any_key)
    assert stat.S_IMODE((tmp_path / "deep" / "key.pem").stat().st_mode) == 0o600
    assert public_pem(load_private_key(tmp_path / "deep" / "key.pem")) == public_pem(any_key)


def test_the_user_key_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: public_pem(user_key()), range(8)))
    assert len(set(keys)) == 1
    assert stat.S_IMODE((tmp_path / "fedprint" / "key.pem").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "fedprint").iterdir()] == ["key.pem"]


def test_key_ids_are_those_of_securesystemslib(any_key: PrivateKeyTypes) -> None:
    pem = public_pem(any_key)
    assert key_id(pem) == SSlibKey.from_crypto(any_key.public_key()).keyid
    assert key_pem(public_key(pem)) == pem
    assert signer(any_key).public_key.keyid == key_id(pem)


def test_unusable_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_private_key(tmp_path / "none")
    path = tmp_path / "key"
    path.write_bytes(b"hello")
    with pytest.raises(ConfigError, match="is not a private key in PEM or OpenSSH form"):
        load_private_key(path)
    save_private_key(path, rsa.generate_private_key(65537, 2048))
    with pytest.raises(ConfigError, match=r"RSAPrivateKey\); fedprint signs with Ed25519"):
        load_private_key(path)
    save_private_key(path, ec.generate_private_key(ec.SECP256K1()))
    with pytest.raises(ConfigError, match="this key cannot be used"):
        load_private_key(path)
    with pytest.raises(ConfigError, match="not a public key in PEM form"):
        public_key("hello")
    with pytest.raises(ConfigError, match="unsupported kind rsa"):
        public_key(public_pem(rsa.generate_private_key(65537, 2048)))
    assert public_pem(generate_key()) != public_pem(generate_key())
