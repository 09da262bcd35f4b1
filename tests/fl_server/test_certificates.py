"""Certificates of the SuperLink, tried out as a site would: by a TLS handshake."""

from __future__ import annotations

import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fl_server import handshake
from fl_server.certificates import (
    CA_CERT,
    CERT,
    KEY,
    Authority,
    hosts_of,
    issue,
    load_authority,
    make_authority,
    read_certificate,
)
from fl_server.handshake import try_out
from protocol.errors import ConfigError
from protocol.keys import generate_node_key, save_private_key
from protocol.statement import utc_now
from protocol.tls import trusting

YEAR = timedelta(days=365)
HOSTS = ["fl.example.org", "10.1.2.3", "2001:db8::7"]


def house_authority(key: CertificateIssuerPrivateKeyTypes) -> Authority:
    """Return an authority as an old house has it: own key identifier, few extensions."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "House CA")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(utc_now() - timedelta(days=1))
        .not_valid_after(utc_now() + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(b"house"), critical=False)
        .sign(key, None if isinstance(key, Ed25519PrivateKey) else SHA256())
    )
    return Authority(made, key)


def test_sites_accept_what_is_issued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(tmp_path, make_authority("north"), HOSTS, YEAR)
    try_out(tmp_path, [*HOSTS, "localhost", "127.0.0.1", "::1"])
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o600

    def strict(authorities: Path) -> ssl.SSLContext:
        context = trusting(authorities)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # other clients' default from 3.13 on
        return context

    monkeypatch.setattr(handshake, "trusting", strict)
    try_out(tmp_path, HOSTS)


def test_sites_refuse_another_name(tmp_path: Path) -> None:
    issue(tmp_path, make_authority("north"), HOSTS, YEAR)
    assert hosts_of(read_certificate(tmp_path / CERT))[:2] == ["fl.example.org", "localhost"]
    with pytest.raises(ConfigError, match=r"refuse the certificate for x\.org: Hostname mismatch"):
        try_out(tmp_path, ["x.org"])
    with pytest.raises(ConfigError, match=r"for 10\.9\.9\.9: .*; its names are fl\.example\.org, "):
        try_out(tmp_path, ["10.9.9.9"])


def test_sites_refuse_another_authority(tmp_path: Path) -> None:
    issue(tmp_path / "a", make_authority("north"), HOSTS, YEAR)
    issue(tmp_path / "b", make_authority("north"), HOSTS, YEAR)
    (tmp_path / "a" / CA_CERT).write_bytes((tmp_path / "b" / CA_CERT).read_bytes())
    with pytest.raises(ConfigError, match="sites would refuse the certificate"):
        try_out(tmp_path / "a", HOSTS)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    issue(tmp_path, make_authority("north"), HOSTS, YEAR)
    save_private_key(tmp_path / KEY, generate_node_key())
    with pytest.raises(ConfigError, match=r"the certificates cannot be used .*its unencrypted key"):
        try_out(tmp_path, HOSTS)
    save_private_key(tmp_path / KEY, generate_node_key(), "secret")
    with pytest.raises(ConfigError, match="the certificates cannot be used"):
        try_out(tmp_path, HOSTS)


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "ec"])
def test_an_authority_of_the_house(kind: str, tmp_path: Path) -> None:
    keys: dict[str, CertificateIssuerPrivateKeyTypes] = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed25519": Ed25519PrivateKey.generate(),
        "ec": generate_node_key(),
    }
    house = house_authority(keys[kind])
    (tmp_path / "ca.pem").write_bytes(house.certificate.public_bytes(Encoding.PEM))
    save_private_key(tmp_path / "ca.key", house.key, "secret")
    loaded = load_authority(tmp_path / "ca.pem", tmp_path / "ca.key", "secret")
    made = issue(tmp_path / "tls", loaded, HOSTS, YEAR)
    try_out(tmp_path / "tls", HOSTS)
    assert made.not_valid_after_utc <= house.certificate.not_valid_after_utc


def test_what_is_no_authority(tmp_path: Path) -> None:
    issue(tmp_path, make_authority("north"), HOSTS, YEAR)
    with pytest.raises(ConfigError, match=r"server\.key is not the key of .*ca\.crt: give two"):
        load_authority(tmp_path / CA_CERT, tmp_path / KEY)
    with pytest.raises(ConfigError, match="none cannot be read: No such file"):
        load_authority(tmp_path / CA_CERT, tmp_path / "none")
    with pytest.raises(ConfigError, match=r"server\.key is no certificate in PEM form"):
        load_authority(tmp_path / KEY, tmp_path / KEY)
    with pytest.raises(ConfigError, match="no private key in PEM form, or its passphrase is not"):
        load_authority(tmp_path / CA_CERT, tmp_path / CERT)
    old = make_authority("north", timedelta(minutes=-5))
    with pytest.raises(ConfigError, match="the certificate authority has expired"):
        issue(tmp_path, old, HOSTS, YEAR)
    with pytest.raises(ConfigError, match=r"'bü\.org' is no name or address for a certificate"):
        issue(tmp_path, make_authority("north"), ["bü.org"], YEAR)
