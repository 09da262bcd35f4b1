"""Whose certificates a client accepts."""

from __future__ import annotations

import ssl
from pathlib import Path


def trusting(authorities: Path) -> ssl.SSLContext:
    """Return a client's context that accepts servers of some authorities, as Flower's SuperNode.

    `ssl.create_default_context` asks for more from Python 3.13 on: for extensions that the
    certificates of many houses' authorities do not have, and that no SuperNode looks for.

    Parameters
    ----------
    authorities : Path
        Their certificates, in PEM form.

    Raises
    ------
    OSError
        If the file cannot be read, or holds no certificate (`ssl.SSLError`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=authorities)
    return context
