"""One federation on this machine: a folder of site folders in, a finished run folder out."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from fl_server.decisions import grouping_measure
from fl_server.engine import app_files, check_engine, simulate
from fl_server.pool_after import check_pool, located
from fl_server.runfolder import RUN_FILES
from fl_server.scoring import require_scorable
from fl_server.settings import RunSettings
from fl_server.tracking import check_tracking
from protocol.errors import ConfigError, DataError
from protocol.files import atomic_write
from protocol.spec import load_spec
from strategies.flower import strategy_maker
from strategies.grouping import GroupingOptions

LAST = "log/checkpoint.dsse.json"
_PAIR = re.compile(r"""([\w-]+)=('[^']*'|"[^"]*"|\S+)""")


def run_simulation(
    sites_dir: Path,
    out: Path,
    run_config: str = "",
    *,
    port: int = 0,
    verbose: bool = False,
    overwrite: bool = False,
    asked: Mapping[str, Any] | None = None,
) -> Path:
    """Run the app over every site folder below `sites_dir` and write the report.

    Parameters
    ----------
    sites_dir : Path
        Folder of site folders.
    out : Path
        Run folder; created, and refused if it holds an earlier run unless `overwrite`.
    run_config : str
        Overrides of the app's settings, ``key=value`` separated by blanks.
    port, verbose
        See `fl_server.engine.simulate`.
    overwrite : bool
        Replace an earlier run in `out`.
    asked : mapping, optional
        Settings that a command stands for; `run_config` goes before them.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    ConfigError, DataError
        Before anything is started, if a setting or the folder cannot be used.
    FedprintError
        If the run did not complete.
    """
    overrides = _given(run_config, asked)
    settings = check_settings(overrides)
    folders = site_folders(sites_dir)
    if len(folders) < 2:
        raise DataError(
            f"{sites_dir} holds {len(folders)} site folders: a federation needs at least two, "
            "each a folder with class subfolders or a site.toml"
        )
    if not any(_may_be_site(folder) for folder in folders):
        raise DataError(
            f"no folder in {sites_dir} has class subfolders or a site.toml: if {sites_dir} is a "
            "site itself, give the folder that it lies in"
        )
    check_pool(settings)
    port = check_engine(port)  # an earlier run is not given up for one that cannot start
    prepare_run_folder(out, overwrite)
    values = {
        "min-sites": len(folders),
        **overrides,
        "sites-dir": str(sites_dir.resolve()),
        "out": str(out.resolve()),
        "pool": settings.pool,
        **({"spec": settings.spec} if "spec" in overrides else {}),
    }
    try:
        simulate(len(folders), values, port=port, verbose=verbose, show=typer.echo)
    except BaseException:
        if not (out / LAST).exists():
            clear_run_folder(out)
        raise
    typer.echo(f"report: {out / 'report.html'}")
    return out / "report.html"


def check_before(run_config: str, asked: Mapping[str, Any]) -> None:
    """Find what is wrong with the settings or the pool, for who has work to do before the run.

    Raises
    ------
    ConfigError, PoolBusy, DataError
        As `run_simulation` would, later.
    """
    check_pool(check_settings(_given(run_config, asked)))


def _given(run_config: str, asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings that were given; `run_config` goes before those of the command."""
    return {**(asked or {}), **parse_run_config(run_config)}


def site_folders(sites_dir: Path) -> list[Path]:
    """Return the folders below `sites_dir`, by name, as the simulated sites deal them out."""
    if not sites_dir.is_dir():
        raise DataError(f"{sites_dir} is not a folder: give the folder that holds the site folders")
    return sorted(p for p in sites_dir.iterdir() if p.is_dir() and not p.name.startswith("."))


def _may_be_site(folder: Path) -> bool:
    """Tell whether there is a description or a visible subfolder."""
    return any(
        path.name == "site.toml" or (path.is_dir() and not path.name.startswith("."))
        for path in folder.iterdir()
    )


def prepare_run_folder(out: Path, overwrite: bool) -> None:
    """Make the run folder and see that it can be written; clear an earlier run if allowed.

    Raises
    ------
    ConfigError
        If it cannot be written, or holds an earlier run and `overwrite` is not set.
    """
    held = [name for name in RUN_FILES if (out / name).exists()]
    if held and not overwrite:
        raise ConfigError(
            f"{out} holds an earlier run ({held[0]}): choose another --out or add --overwrite"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(out / ".fedprint-probe", b"")
        (out / ".fedprint-probe").unlink()
    except OSError as error:
        raise ConfigError(
            f"cannot write to {out}: {error.strerror}; choose another --out"
        ) from error
    for name in held:
        _remove(out / name)


def clear_run_folder(out: Path) -> None:
    """Remove what an unfinished run wrote, and the folder if nothing else is in it."""
    for name in RUN_FILES:
        _remove(out / name)
    with suppress(OSError):  # a demo's sites, or files of the user's
        out.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def parse_run_config(text: str) -> dict[str, Any]:
    """Read ``key=value`` pairs as ``flwr run --run-config`` does; the last of a key counts.

    Raises
    ------
    ConfigError
        If anything in the text is not such a pair.
    """
    values: dict[str, Any] = {}
    rest = _PAIR.sub("", text).strip()
    if rest:
        raise ConfigError(f'run-config {rest!r} is not key=value; quote strings: spec="lite0-100"')
    for key, value in _PAIR.findall(text):
        try:
            values |= tomllib.loads(f"{key} = {value}")
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f'run-config {key}={value}: not a TOML value; quote strings: {key}="{value}"'
            ) from error
    return values


def check_settings(overrides: dict[str, Any]) -> RunSettings:
    """Find a wrong setting before any process is started.

    Raises
    ------
    ConfigError
        Naming the key, and what it may be.
    """
    known = tomllib.loads((app_files() / "pyproject.toml").read_text())["tool"]["flwr"]["app"][
        "config"
    ]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        raise ConfigError(
            f"unknown run-config {unknown[0]}: known are {', '.join(sorted(known))}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    settings = RunSettings.from_run_config({**known, **overrides})
    load_spec(settings.spec).require_ready()
    grouping_measure(settings.measure, settings.groups)
    require_scorable(settings)
    strategy_maker(settings.strategy)
    check_tracking(settings)
    GroupingOptions(settings.min_group_size, settings.max_group_size or None)
    # the engine works in a folder of its own
    spec = str(Path(settings.spec).resolve()) if Path(settings.spec).is_file() else settings.spec
    return settings.model_copy(update={"pool": located(settings.pool, Path.cwd()), "spec": spec})
