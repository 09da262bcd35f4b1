"""Checks of the report: it must be the page that the run folder's files give."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
from PIL import Image

from fl_server.report import page_of
from fl_server.verify_evidence import Broken, Evidence, Finding, strange_files
from fl_server.verify_results import writer

REPORT = "report.html"
_PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def check_report(evidence: Evidence) -> Iterator[Finding]:
    """Make the report again, and compare line by line; pictures are compared as pixels."""
    if strange := next(strange_files(evidence.run), None):  # what it is made of is opened below
        raise Broken(*strange)
    for path in [*evidence.run.glob("*.*"), *evidence.run.glob("fingerprints/*")]:
        evidence.read(path.relative_to(evidence.run).as_posix())
    found = evidence.read(REPORT).decode(errors="replace")
    wanted, written_by = page_of(evidence.run), writer(evidence)
    lines = zip_longest(_PICTURE.sub("", found).splitlines(), _PICTURE.sub("", wanted).splitlines())
    for number, (said, right) in enumerate(lines, 1):
        if said != right:
            yield Finding(
                REPORT, f"line {number} is not what the run's files give: {_cut(said)}{written_by}"
            )
            return
    if not _same_pictures(_PICTURE.findall(found), _PICTURE.findall(wanted)):
        yield Finding(REPORT, f"a picture is not what the run's files give{written_by}")


def _same_pictures(found: list[str], wanted: list[str]) -> bool:
    """Compare pixels: how well PNG compresses them is a matter of the library."""
    return len(found) == len(wanted) and all(
        a == b or np.array_equal(_pixels(a), _pixels(b)) for a, b in zip(found, wanted, strict=True)
    )


def _pixels(data: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def _cut(line: str | None) -> str:
    return "it is missing" if line is None else f"{line.strip():.80}"
