"""Signing keys: Ed25519 or NIST elliptic curves, in files or in a hardware module or key service.

securesystemslib signs and verifies; its own ``file2:`` scheme reads neither OpenSSH files nor
encrypted PEM, so the files are read here, with `cryptography`. Keys that never lie in a file go
through securesystemslib's URI schemes.
"""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
)

# named again, so that the other files of this room need not know where these live
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Key  # type: ignore[attr-defined]
from securesystemslib.signer import CryptoSigner as CryptoSigner  # type: ignore[attr-defined]
from securesystemslib.signer import Signer as Signer  # type: ignore[attr-defined]
from securesystemslib.signer import SSlibKey as SSlibKey  # type: ignore[attr-defined]

from protocol.errors import ConfigError
from protocol.files import atomic_write, create_once

SigningKey: TypeAlias = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PASSPHRASE = "FEDPRINT_KEY_PASSPHRASE"
"""Environment variable with the passphrase of an encrypted key file, or the PIN of a module."""

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_KINDS = "fedprint signs with Ed25519 or the NIST curves P-256, P-384 and P-521"


def generate_key() -> Ed25519PrivateKey:
    """Return a fresh Ed25519 private key."""
    return Ed25519PrivateKey.generate()


def generate_node_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh NIST P-384 key: the kind with which Flower authenticates SuperNodes."""
    return ec.generate_private_key(ec.SECP384R1())


def environment_passphrase() -> str | None:
    """Return the passphrase that `PASSPHRASE` names; an empty one is none."""
    return os.environ.get(PASSPHRASE) or None


def load_signer(
    where: Path | str,
    passphrase: bytes | str | None = None,
    public_pem: str | None = None,
) -> Signer:
    """Return the signer of a key, wherever the key lives.

    Parameters
    ----------
    where : Path or str
        A private key file, or a URI of one of securesystemslib's schemes, such as
        ``hsm:2?label=TOKEN``, ``awskms:KEY``, ``gcpkms:KEY`` or ``azurekms:KEY``.
    passphrase : bytes or str or None
        Of an encrypted file; the PIN of a hardware module.
    public_pem : str or None
        The public half. A URI needs it; for a file it is compared.

    Raises
    ------
    ConfigError
        When the key cannot be had, or is not the one of `public_pem`.
    """
    if is_uri(where):
        return _uri_signer(str(where), passphrase, public_pem)
    found = signer(load_private_key(where, passphrase))
    if public_pem is not None and found.public_key.keyid != key_id(public_pem):
        raise ConfigError(
            f"key file {where} is not the private half of the public key that was named "
            f"({key_id(public_pem)[:12]}): name the key file that belongs to it"
        )
    return found


def is_uri(where: Path | str) -> bool:
    """Say whether this names a key by a URI of securesystemslib, and not a key file."""
    scheme, colon, _ = str(where).partition(":")
    return isinstance(where, str) and bool(colon) and scheme in SIGNER_FOR_URI_SCHEME


def _uri_signer(uri: str, passphrase: bytes | str | None, public_pem: str | None) -> Signer:
    scheme = uri.partition(":")[0]
    if public_pem is None:
        raise ConfigError(f"key {uri} needs its public half: export it as PEM and name the file")
    secret = passphrase.decode() if isinstance(passphrase, bytes) else passphrase

    def tell(name: str) -> str:
        if secret is None:
            raise ConfigError(f"key {uri} asks for its {name}: set {PASSPHRASE}")
        return secret

    try:
        return Signer.from_priv_key_uri(uri, public_key(public_pem), tell)
    except ConfigError:
        raise
    except Exception as error:  # each backend raises what its own library raises
        raise ConfigError(
            f"key {uri} cannot be used ({type(error).__name__}: {error}): see that the packages, "
            f"settings and rights that securesystemslib's {scheme} backend needs are there"
        ) from error


def load_private_key(path: Path | str, passphrase: bytes | str | None = None) -> SigningKey:
    """Read a private key file in PEM or OpenSSH form.

    Parameters
    ----------
    path : Path or str
        For example the key that authenticates a SuperNode.
    passphrase : bytes or str or None
        For an encrypted file.

    Raises
    ------
    ConfigError
        When the file is missing, is no key, is encrypted with another passphrase, or holds a key
        of an unsupported kind.
    """
    secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be read: {error.strerror}") from error
    openssh = data.lstrip().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    load = load_ssh_private_key if openssh else load_pem_private_key
    try:
        return _supported(load(data, secret))
    except UnsupportedAlgorithm as error:
        raise ConfigError(
            f"key file {path} needs a package that is missing (for encrypted OpenSSH keys: "
            f"pip install bcrypt): {error}"
        ) from error
    except (TypeError, ValueError) as error:
        # OpenSSH files only have a checksum by which a wrong passphrase shows; of PEM files one
        # wrong passphrase in 256 gives well padded rubbish
        rubbish = secret is not None and b"ENCRYPTED" in data
        said = str(error).lower()
        if rubbish or any(word in said for word in ("password", "decrypt", "checksum")):
            raise ConfigError(
                f"key file {path} cannot be opened with this passphrase: give the right one "
                f"in {PASSPHRASE}, or none when it is not encrypted"
            ) from error
        raise ConfigError(
            f"key file {path} is not a private key in PEM or OpenSSH form; {_KINDS}"
        ) from error


def save_private_key(
    path: Path | str, key: PrivateKeyTypes, passphrase: bytes | str | None = None
) -> None:
    """Write a key as PKCS#8 PEM that only its owner can read (0600), atomically.

    Parameters
    ----------
    path : Path or str
        The key file.
    key : private key
        Of `cryptography`.
    passphrase : bytes or str or None
        Encrypts the file.
    """
    atomic_write(path, _private_pem(key, passphrase), mode=0o600)


def save_node_key(path: Path | str, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a SuperNode's key in OpenSSH form (0600), and its public half beside it (``.pub``).

    Never encrypted: Flower reads no encrypted key.
    """
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    atomic_write(path, pem, mode=0o600)
    atomic_write(f"{path}.pub", openssh_public(public_pem(key)) + "\n")


def user_key(path: Path | str | None = None) -> SigningKey:
    """Return the user's own key, made on the first call.

    Parameters
    ----------
    path : Path or str or None
        The key file; by default ``fedprint/key.pem`` in the user's configuration folder.
    """
    target = Path(path) if path is not None else default_key_path()
    if not target.exists():
        with contextlib.suppress(FileExistsError):  # another process was first: take its key
            create_once(target, _private_pem(generate_key()), mode=0o600)
    return load_private_key(target)


def default_key_path() -> Path:
    """Return where `user_key` keeps the key: ``$XDG_CONFIG_HOME/fedprint/key.pem``."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "fedprint" / "key.pem"


def signer(key: PrivateKeyTypes) -> CryptoSigner:
    """Return securesystemslib's signer of a key.

    Raises
    ------
    ConfigError
        When the key is of an unsupported kind.
    """
    return CryptoSigner(_supported(key))


def public_pem(key: PrivateKeyTypes) -> str:
    """Return the public half as PEM text (SubjectPublicKeyInfo)."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def signer_pem(signer: Signer) -> str:
    """Return the public half of a signer's key as PEM text (SubjectPublicKeyInfo)."""
    return key_pem(signer.public_key)


def openssh_public(pem: str) -> str:
    """Return a public key in the one-line form of OpenSSH, which Flower registers."""
    key = load_pem_public_key(key_pem(public_key(pem)).encode())
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@lru_cache(maxsize=4096)
def public_key(pem: str) -> SSlibKey:
    """Read a public key for verification; a text that was read lately is not read again.

    Parameters
    ----------
    pem : str
        PEM text (SubjectPublicKeyInfo) of an Ed25519 or NIST curve key.

    Raises
    ------
    ConfigError
        When it is none.
    """
    try:
        key = SSlibKey.from_crypto(load_pem_public_key(pem.encode()))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"this is not a public key in PEM form; {_KINDS}") from error
    if key.keytype not in ("ed25519", "ecdsa"):
        raise ConfigError(f"public key is of the unsupported kind {key.keytype}; {_KINDS}")
    return key


def key_pem(key: Key) -> str:
    """Return a public key as PEM text, the inverse of `public_key`."""
    if key.keytype != "ed25519":
        return str(key.keyval["public"])  # PEM already
    raw = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
    return raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_id(pem: str) -> str:
    """Return the key id of a public key: a SHA-256 over its kind and value, 64 digits."""
    return public_key(pem).keyid


def _private_pem(key: PrivateKeyTypes, passphrase: bytes | str | None = None) -> bytes:
    secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
    how: KeySerializationEncryption = BestAvailableEncryption(secret) if secret else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def _supported(key: object) -> SigningKey:
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    raise ConfigError(f"this key cannot be used ({type(key).__name__}); {_KINDS}")
