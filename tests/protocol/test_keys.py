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
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Key, Signature, Signer, SSlibKey

from protocol import keys
from protocol.envelope import open_envelope, sign
from protocol.errors import ConfigError
from protocol.keys import (
    CryptoSigner,
    generate_key,
    generate_node_key,
    key_id,
    key_pem,
    load_private_key,
    load_signer,
    openssh_public,
    public_key,
    public_pem,
    save_node_key,
    save_private_key,
    signer,
    signer_pem,
    user_key,
)
from protocol.taskcard import TaskCard

from .conftest import make_case

FORMS = [PrivateFormat.PKCS8, PrivateFormat.OpenSSH]


ENCRYPTED = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBDf+1Anq4mU0SOoFrl+
DcRpAgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQkwJmUqB3YVumHRSX
NSMNAQRAuhmG4j682jwKzRV+ycoB8muu94eITs7jEYiSZU7EjKncLgDQ4++Yf4e+
FHCkKdhbyHKAqnfUgPH9d43vcLhcVA==
-----END ENCRYPTED PRIVATE KEY-----
"""


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


def test_a_wrong_passphrase_that_decrypts_to_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(ENCRYPTED)  # no key of anybody; with "wrong 114" even its padding is right
    load_private_key(path, "open sesame")
    with pytest.raises(ConfigError, match=r"key\.pem cannot be opened with this passphrase"):
        load_private_key(path, "wrong 114")


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


def test_a_key_saved_under_a_passphrase(any_key: PrivateKeyTypes, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    save_private_key(path, any_key, "open sesame")
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert signer_pem(load_signer(path, "open sesame")) == public_pem(any_key)
    with pytest.raises(ConfigError, match="give the right one in FEDPRINT_KEY_PASSPHRASE, or none"):
        load_signer(path)
    save_private_key(path, any_key, "")
    assert signer_pem(load_signer(str(path))) == public_pem(any_key)


def test_a_node_key_is_in_the_form_of_openssh(tmp_path: Path) -> None:
    key = generate_node_key()
    save_node_key(tmp_path / "node", key)
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o600
    assert (tmp_path / "node").read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    line = (tmp_path / "node.pub").read_text()
    assert line == openssh_public(public_pem(key)) + "\n"
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert signer_pem(load_signer(tmp_path / "node")) == public_pem(key)


def test_a_file_must_hold_the_key_that_is_named(tmp_path: Path) -> None:
    mine, other = generate_key(), generate_key()
    save_private_key(tmp_path / "key", mine)
    assert load_signer(tmp_path / "key", public_pem=public_pem(mine))
    with pytest.raises(ConfigError, match="is not the private half of the public key"):
        load_signer(tmp_path / "key", public_pem=public_pem(other))


class Token(Signer):
    """A backend for a key that never leaves its token, as securesystemslib asks for it."""

    keys: dict[str, PrivateKeyTypes] = {}  # noqa: RUF012
    plugged_in = True

    def __init__(self, inner: CryptoSigner) -> None:
        self._inner = inner

    @property
    def public_key(self) -> Key:
        return self._inner.public_key

    @classmethod
    def from_priv_key_uri(cls, uri: str, public: Key, secrets_handler: object = None) -> Token:
        assert callable(secrets_handler)
        if secrets_handler("pin") != "1234":
            raise PermissionError("wrong PIN")
        return cls(CryptoSigner(cls.keys[uri.partition(":")[2]], public))

    def sign(self, payload: bytes) -> Signature:
        if not self.plugged_in:
            raise OSError("no token in the slot")
        return self._inner.sign(payload)


@pytest.fixture
def token(any_key: PrivateKeyTypes, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "token", Token)
    monkeypatch.setitem(Token.keys, "9c", any_key)
    return "token:9c"


def test_a_key_in_a_token_signs(token: str, any_key: PrivateKeyTypes) -> None:
    pem = public_pem(any_key)
    found = load_signer(token, b"1234", pem)
    assert signer_pem(found) == pem
    data = sign(TaskCard(name="tissue"), found)
    assert open_envelope(data, lambda _: public_key(pem))[1] == key_id(pem)


def test_a_token_that_will_not(
    token: str, any_key: PrivateKeyTypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = public_pem(any_key)
    with pytest.raises(ConfigError, match=r"token:9c needs its public half: export it as PEM"):
        load_signer(token, "1234")
    with pytest.raises(ConfigError, match=r"token:9c asks for its pin: set FEDPRINT_KEY_PASSPH"):
        load_signer(token, None, pem)
    with pytest.raises(ConfigError, match=r"cannot be used \(PermissionError: wrong PIN\): see"):
        load_signer(token, "0000", pem)
    found = load_signer(token, "1234", pem)
    monkeypatch.setattr(Token, "plugged_in", False)
    with pytest.raises(ConfigError, match=r"cannot sign \(OSError: no token in the slot\)"):
        sign(TaskCard(name="tissue"), found)


@pytest.mark.parametrize("uri", ["hsm:2?label=x", "awskms:alias/x", "gcpkms:x", "azurekms:x"])
def test_the_shipped_schemes_are_uris(uri: str) -> None:
    assert keys.is_uri(uri)
    assert not keys.is_uri(Path(uri))
    with pytest.raises(ConfigError, match=f"key {uri[:3]}.* needs its public half"):
        load_signer(uri)


def test_a_backend_without_its_packages_says_so() -> None:
    if find_spec("boto3") is not None:
        pytest.skip("boto3 is installed")
    pem = public_pem(generate_node_key())
    with pytest.raises(ConfigError, match=r"\(UnsupportedLibraryError: .*awskms backend needs"):
        load_signer("awskms:alias/fedprint", None, pem)


def test_a_path_with_a_colon_is_a_file(tmp_path: Path) -> None:
    save_private_key(tmp_path / "odd:name", generate_key())
    assert load_signer(str(tmp_path / "odd:name"))
