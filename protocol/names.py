"""Names and other texts that come from elsewhere: into file names, tables, logs and terminals."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from protocol.errors import DataError

_PATTERN = r"^\w[\w .'()+@-]{0,99}$"
_BYTES = 200  # file systems allow 255 for a name with its endings
_TAKEN = ".binding"  # <site>.binding.dsse.json lies beside <site>.dsse.json


def check_site_name(name: str) -> str:
    """Return the name when a site can be called so.

    Raises
    ------
    DataError
        When the name could not safely be a file name.
    """
    if not re.fullmatch(_PATTERN, name) or len(name.encode()) > _BYTES:
        raise DataError(
            f"site name {name!r} is not usable: take up to 100 letters, digits, spaces and _ . - "
            "' ( ) + @, starting with a letter or digit (--name)"
        )
    if name.lower().endswith(_TAKEN):
        raise DataError(f"site name {name!r} is not usable: it must not end in {_TAKEN} (--name)")
    return name


def printable(text: str, limit: int = 2000) -> str:
    """Return a text in one line, without signs that would steer a terminal, and not too long."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def slug(*parts: str) -> str:
    """Return texts from elsewhere as one file name that differs wherever they do."""
    shown = "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", part)[:60].strip("-") for part in parts)
    return f"{shown}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:8]}"


def _checked(name: str) -> str:
    try:
        return check_site_name(name)
    except DataError as error:
        raise ValueError(str(error)) from None


SiteName = Annotated[str, AfterValidator(_checked)]
"""A site's name as a pydantic field."""

Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest as 64 lower-case hexadecimal digits."""
