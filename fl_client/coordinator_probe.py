"""Knocking at the coordinator's door: TCP, TLS with the authority at hand, its clock.

Flower tries a connection again for ever, whatever is wrong with it. This looks once and names
what is wrong by a stable reason code.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from fl_client.site_settings import parse_address
from protocol.errors import SiteError
from protocol.tls import trusting

TIMEOUT = 5.0
SECONDS_A_DAY = 86400

# OpenSSL's X509_V_ERR_*; what is not listed here is about the chain of issuers
_NOT_YET_VALID, _EXPIRED, _HOSTNAME, _ADDRESS = 9, 10, 62, 64


@dataclass(frozen=True)
class Answer:
    """What the coordinator's door told.

    Attributes
    ----------
    expires : datetime
        When its certificate does.
    skew : float or None
        Seconds that its clock is ahead of ours, to about a second; None when it told no time.
    """

    expires: datetime
    skew: float | None

    @property
    def days_left(self) -> int:
        """Whole days until the certificate expires."""
        return int((self.expires - datetime.now(UTC)).total_seconds() // SECONDS_A_DAY)


def probe(superlink: str, certificates: Path, timeout: float = TIMEOUT) -> Answer:
    """Connect to the coordinator once.

    Parameters
    ----------
    superlink : str
        Its ``HOST:PORT``.
    certificates : Path
        The authority's certificate.
    timeout : float
        Seconds to wait at each step.

    Raises
    ------
    SiteError
        With reason ``unreachable``, ``certificate-expired``, ``certificate-not-yet-valid``,
        ``certificate-name``, ``wrong-ca``, ``no-tls`` or ``bad-ca-file``.
    ConfigError
        If the address has another form.
    """
    host, port = parse_address(superlink, "coordinator")
    context = _context(certificates)
    try:
        with (
            socket.create_connection((host, port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert() or {}
            return Answer(_expiry(certificate), _skew(secured, host))
    except ssl.SSLCertVerificationError as error:
        raise _refused(error, superlink, host, certificates) from error
    except ssl.SSLError as error:
        raise SiteError(
            f"{superlink} does not speak TLS as it should ({error.reason or error}): correct the "
            "port, or ask the coordinator whether TLS is on",
            "no-tls",
        ) from error
    except OSError as error:
        raise SiteError(
            f"{superlink} cannot be reached ({error.strerror or error}): see whether the "
            "coordinator is up, and whether a firewall lets this machine out to that port",
            "unreachable",
        ) from error


def _context(certificates: Path) -> ssl.SSLContext:
    try:
        return trusting(certificates)
    except (ssl.SSLError, OSError) as error:
        raise SiteError(
            f"certificate {certificates} cannot be used ({error.strerror or error}): ask the "
            "coordinator for ca.crt again",
            "bad-ca-file",
        ) from error


def _refused(
    error: ssl.SSLCertVerificationError, superlink: str, host: str, certificates: Path
) -> SiteError:
    code, told = error.verify_code, error.verify_message
    if code == _EXPIRED:
        return SiteError(
            f"the certificate of {superlink}, or its authority's, has expired: ask the "
            "coordinator to renew it, and for ca.crt if that is new too",
            "certificate-expired",
        )
    if code == _NOT_YET_VALID:
        return SiteError(
            f"the certificate of {superlink} is not valid yet: see whether this machine's clock "
            "is right",
            "certificate-not-yet-valid",
        )
    if code in (_HOSTNAME, _ADDRESS):
        return SiteError(
            f"the certificate of {superlink} is not made out to {host}: correct superlink in "
            "site.toml, or ask the coordinator for a certificate with that name (--san)",
            "certificate-name",
        )
    return SiteError(
        f"the certificate of {superlink} does not come from the authority in {certificates} "
        f"({told}): ask the coordinator for its ca.crt, and compare it by telephone, for somebody "
        "may stand in between",
        "wrong-ca",
    )


def _expiry(certificate: Mapping[str, object]) -> datetime:
    seconds = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return datetime.fromtimestamp(seconds, UTC)


def _skew(secured: ssl.SSLSocket, host: str) -> float | None:
    """Compare clocks by the Date of an answer; an answer without one tells nothing."""
    try:
        asked = time.time()
        secured.sendall(
            f"HEAD /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        response = http.client.HTTPResponse(secured, method="HEAD")
        response.begin()
        date = response.getheader("Date")
        answered = time.time()
        if date is None:
            return None
        told = parsedate_to_datetime(date).timestamp() + 0.5  # whole seconds, cut off
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return told - (asked + answered) / 2
