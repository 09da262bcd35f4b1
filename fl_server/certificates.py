"""TLS for the SuperLink: a small certificate authority of its own, or the house's certificates.

Sites trust the authority's certificate ``ca.crt``, which the invitation carries. Whatever the
certificates come from, they are tried out before they are used, see `fl_server.handshake`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import ConfigError
from protocol.files import atomic_write
from protocol.keys import PASSPHRASE, generate_node_key, save_private_key
from protocol.statement import utc_now

CA_CERT, CA_KEY, CERT, KEY = "ca.crt", "ca.key", "server.crt", "server.key"
CA_VALIDITY = timedelta(days=3650)
LOCAL = ("localhost", "127.0.0.1", "::1")
"""The SuperLink's own processes reach it under one of these, so its certificate names them too."""
ISSUERS = (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, Ed25519PrivateKey)
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True)
class Authority:
    """A certificate and the key to sign others with."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes


def make_authority(name: str, validity: timedelta = CA_VALIDITY) -> Authority:
    """Make a certificate authority that can do nothing but issue certificates of servers.

    Parameters
    ----------
    name : str
        Whose authority; becomes part of its common name.
    validity : timedelta
        From today on.
    """
    key = generate_node_key()
    subject = _name(f"{name} fedprint authority")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key, validity)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )
    return Authority(certificate, key)


def load_authority(certificate: Path, key: Path, passphrase: str | None = None) -> Authority:
    """Read an authority from its files.

    Parameters
    ----------
    certificate, key : Path
        In PEM form; the key may be RSA, as many houses' are.
    passphrase : str or None
        Of an encrypted key.

    Raises
    ------
    ConfigError
        When they cannot be used or do not belong together.
    """
    found = read_certificate(certificate)
    try:
        secret = load_pem_private_key(key.read_bytes(), (passphrase or "").encode() or None)
    except OSError as error:
        raise ConfigError(f"key {key} cannot be read: {error.strerror}") from error
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{key} is no private key in PEM form, or its passphrase is not the one in {PASSPHRASE}"
        ) from error
    if found.public_key() != secret.public_key():
        raise ConfigError(f"{key} is not the key of {certificate}: give two that belong together")
    if not isinstance(secret, ISSUERS):
        raise ConfigError(f"{key} is of a kind that cannot issue certificates: give another")
    return Authority(found, secret)


def issue(
    tls: Path, authority: Authority, hosts: Iterable[str], validity: timedelta
) -> x509.Certificate:
    """Write a new key and certificate of the server, and the authority's certificate.

    Parameters
    ----------
    tls : Path
        Folder for ``server.crt``, ``server.key`` and ``ca.crt``.
    authority : Authority
        Who issues.
    hosts : iterable of str
        Names and addresses under which the server is dialled; the first is its common name.
    validity : timedelta
        From today on, but no longer than the authority's own.
    """
    names = list(dict.fromkeys([*hosts, *LOCAL]))
    key, parent = generate_node_key(), authority.certificate
    left = parent.not_valid_after_utc - utc_now()
    if left <= timedelta(0):
        raise ConfigError("the certificate authority has expired: make a new one, or give another")
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        _builder(_name(names[0]), parent.subject, key, min(validity, left))
        .add_extension(_parent_of(authority), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .sign(authority.key, _digest(authority.key))
    )
    save_private_key(tls / KEY, key)
    atomic_write(tls / CERT, _pem(certificate))
    atomic_write(tls / CA_CERT, _pem(parent))
    return certificate


def read_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file.

    Raises
    ------
    ConfigError
        When it cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        raise ConfigError(f"certificate {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no certificate in PEM form") from error


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses that a certificate is for."""
    with suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = names.get_values_for_type(x509.IPAddress)
        return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]
    return []


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    validity: timedelta,
) -> x509.CertificateBuilder:
    now = utc_now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # sites' clocks may be behind
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _parent_of(authority: Authority) -> x509.AuthorityKeyIdentifier:
    """Return the identifier by which the authority calls itself, however it made it."""
    known = authority.certificate.extensions
    with suppress(x509.ExtensionNotFound):
        own = known.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())


def _digest(key: CertificateIssuerPrivateKeyTypes) -> hashes.SHA384 | None:
    return None if isinstance(key, Ed25519PrivateKey) else hashes.SHA384()


def _usage(**wanted: bool) -> x509.KeyUsage:
    return x509.KeyUsage(**dict.fromkeys(_USAGES, False) | wanted)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _alternatives(hosts: Iterable[str]) -> list[x509.GeneralName]:
    return [_alternative(host) for host in hosts]


def _alternative(host: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"{host!r} is no name or address for a certificate: {error}") from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
