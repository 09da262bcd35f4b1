"""``fedprint site check``: everything that a site needs, looked at once, all faults collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_client.check_images import IMAGE_CHECKS
from fl_client.check_labels import LABEL_CHECKS
from fl_client.check_machine import MACHINE_CHECKS
from fl_client.check_masks import check_masks
from fl_client.check_setup import SETUP_CHECKS
from fl_client.finding import DataVisit, Finding, Visit, failed, ok
from fl_client.site_settings import load_site_settings
from protocol.errors import FedprintError

V = TypeVar("V", bound=DataVisit)

DATA_CHECKS = (*IMAGE_CHECKS, *LABEL_CHECKS, check_masks)

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def examine(folder: Path, images: int = 50) -> list[Finding]:
    """Look at a site's folder and its machine.

    Parameters
    ----------
    folder : Path
        The site's folder.
    images : int
        How many images to decode as a sample.

    Returns
    -------
    list of Finding
        In the order of the checks. Without readable settings there is only one.
    """
    try:
        settings = load_site_settings(folder)
    except FedprintError as error:
        return [failed("settings", str(error), "correct site.toml", "bad-settings")]
    visit = Visit(settings, images)
    found = f"site {settings.name}, coordinator {settings.superlink}, data in {settings.data}"
    findings = [ok("settings", found)]
    for check in (*SETUP_CHECKS, *DATA_CHECKS, *MACHINE_CHECKS):
        findings += _done(check, visit)
    return findings


def examine_data(folder: Path, images: int = 50) -> list[Finding]:
    """Look at the data of a folder, which need be no deployment's; see `examine`."""
    visit = DataVisit(folder, images)
    return [found for check in DATA_CHECKS for found in _done(check, visit)]


def _done(check: Callable[[V], Iterator[Finding]], visit: V) -> Iterator[Finding]:
    """Do one check; what it stumbles over is a finding, and the next checks go on."""
    try:
        yield from check(visit)
    except (FedprintError, OSError) as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        found = " ".join(str(error).split())
        yield failed(name, found, "mend this and check again", getattr(error, "reason", "error"))


def summary(findings: list[Finding]) -> dict[str, Any]:
    """Return what ``--json`` writes: whether nothing failed, and every finding."""
    return {
        "ok": all(finding.state != "failed" for finding in findings),
        "checks": [finding.__dict__ for finding in findings],
    }


def show(findings: list[Finding], tell: Callable[[Table], None] | None = None) -> None:
    """Show findings as a table, and what to do about those that are not ok."""
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        state = f"[{_COLOURS[finding.state]}]{finding.state}[/]"
        cells = (escape(finding.found), escape(finding.mend))
        table.add_row(escape(finding.name), state, *cells)
    (tell or Console().print)(table)
