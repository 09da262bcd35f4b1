"""A TLS handshake in memory: would a site accept the SuperLink's certificate?"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fl_server.certificates import CA_CERT, CERT, KEY, hosts_of, read_certificate
from protocol.errors import ConfigError
from protocol.tls import trusting


def try_out(tls: Path, hosts: Sequence[str]) -> None:
    """Shake hands with the server's certificate as a site would, in memory, under every host.

    Parameters
    ----------
    tls : Path
        Folder with ``ca.crt``, ``server.crt`` and ``server.key``.
    hosts : sequence of str
        As the server is dialled.

    Raises
    ------
    ConfigError
        When a site would refuse the certificate; says why.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # an empty password: openssl would ask for the passphrase of an encrypted key otherwise
        server.load_cert_chain(tls / CERT, tls / KEY, password="")
        client = trusting(tls / CA_CERT)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the certificates cannot be used ({error}): give a certificate, its unencrypted key "
            "and the certificate of its authority, all in PEM form"
        ) from error
    for host in hosts:
        try:
            _shake_hands(client, server, host)
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(
                f"sites would refuse the certificate for {host}: {error.verify_message}; its "
                f"names are {', '.join(hosts_of(read_certificate(tls / CERT))) or 'none'}"
            ) from error


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server, server_hostname=host)
    called = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (caller, called, caller, called):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
