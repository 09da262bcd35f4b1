"""A finished run's log, closed again: after a site refused it, and after a later report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flwr.serverapp import Grid

from fl_server.amend import amended, settle
from fl_server.coordinator import open_coordinator
from fl_server.exchange import Exchange
from fl_server.progress import Progress
from fl_server.report import REPORT, page_of, write_report
from fl_server.runfolder import CHECKPOINT
from fl_server.runlog import RunLog
from fl_server.runstate import KEY, locked, own_signer
from fl_server.settings import RunSettings
from fl_server.witness import answers_of, enter, refused, show_log
from protocol.errors import BadLog, ConfigError
from protocol.files import atomic_json, atomic_write
from protocol.keys import Signer, signer_pem
from protocol.log import check_files, read_log
from protocol.runfiles import RunFile


def show_closed(
    grid: Grid,
    folder: Path,
    exchange: Exchange,
    nodes: Mapping[str, int],
    settings: RunSettings,
    progress: Progress | None = None,
) -> None:
    """Show sites the log of a run that has ended; one that is refused is closed again over that."""
    if progress is not None:
        progress.phase("checkpoint", list(nodes), settings.exchange_timeout)
    answers = show_log(grid, exchange, nodes, settings.exchange_timeout, progress)
    refusals = {site: answer for site, answer in answers.items() if refused(answer)}
    if not refusals:
        return
    enter(exchange, refusals)
    file = RunFile.model_validate_json((folder / "run.json").read_bytes())
    with amended(folder) as new:
        file = file.model_copy(update={"checkpoints": answers_of(exchange.log)})
        atomic_json(new / "run.json", file)
        write_report(new)
        exchange.log.close(exchange.run, new, exchange.signer)


def report_again(folder: Path) -> Path:
    """Write the report of a run anew; a log that is closed is closed again over another report.

    Raises
    ------
    BadLog
        If anything else is not as it was when the log was closed: it must not be signed.
    ConfigError
        If the key that signed the log is not at hand.
    """
    if not (folder / CHECKPOINT).is_file():
        return write_report(folder)
    with locked(folder):
        settle(folder)
        page = page_of(folder)
        report = folder / REPORT
        if report.is_file() and report.read_text(encoding="utf-8") == page:
            return report
        pem = (folder / "coordinator.pub.pem").read_text(encoding="utf-8")
        log = read_log(folder, pem)
        if differs := [what for what in check_files(folder, log) if not what.startswith(REPORT)]:
            raise BadLog(
                f"{folder} is not as it was when its log was closed ({differs[0]}): take an "
                "unharmed copy, or write the report elsewhere with --out"
            )
        signer = _signer(folder, pem)
        with amended(folder) as new:
            atomic_write(new / REPORT, page)
            RunLog(log.lines).close(log.origin, new, signer)
    return report


def _signer(folder: Path, pem: str) -> Signer:
    """Return the signer of a run's log."""
    named = RunFile.model_validate_json((folder / "run.json").read_bytes()).settings
    server = str(named.get("server_dir", ""))
    if (folder / KEY).is_file():
        signer = own_signer(folder)
    elif server and Path(server).is_dir():
        signer = open_coordinator(server).signer
    else:
        raise ConfigError(
            f"the key that signed the log of {folder} is not here: make the report where the "
            "coordinator's folder is, or elsewhere with --out"
        )
    if signer_pem(signer) != pem:
        raise ConfigError(
            f"the log of {folder} is signed with another key: write the report with --out"
        )
    return signer
