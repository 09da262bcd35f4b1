"""A finished run goes into the pool that it was advised by."""

from __future__ import annotations

import logging
from pathlib import Path

from fl_server.settings import RunSettings
from protocol.keys import Signer

log = logging.getLogger("fedprint")


def add_to_pool(settings: RunSettings, out: Path, signer: Signer) -> None:
    """Add a closed run to its pool; a failure is a warning that names the command that mends it.

    Parameters
    ----------
    settings : RunSettings
        Names the pool; without one nothing happens.
    out : Path
        The run folder, closed.
    signer : Signer
        The coordinator's key.
    """
