"""Room for cached features: what was not used for longest goes, or trials would fill the disk.

Whoever asks for training names architectures, crops and augmentation, and each gives features of
all the site's images. They can be computed again at any time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from protocol.files import atomic_write

MOST = 64
"""Most files that are kept: more than the longest run needs, some 20 shots a scenario."""


def used(path: Path) -> None:
    """Note that a file is still of use."""
    with contextlib.suppress(OSError):  # of a folder that may only be read nothing goes, either
        os.utime(path)


def keep_features(path: Path, data: bytes) -> None:
    """Write a file of features, and delete those that were not used for longest.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    atomic_write(path, data, mode=0o600)
    times = {other: _time(other) for other in path.parent.glob("*.safetensors") if other != path}
    for other in sorted(times, key=lambda each: times[each], reverse=True)[MOST - 1 :]:
        other.unlink(missing_ok=True)


def _time(path: Path) -> int:
    """Return when a file was used last, in nanoseconds; another process may have deleted it."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
