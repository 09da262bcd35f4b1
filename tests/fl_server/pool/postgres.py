"""A real PostgreSQL of the tests' own: made in a temporary folder, on a socket in it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROLE = "fedprint"


def binaries() -> Path | None:
    """Return the folder with PostgreSQL's programs, None where it is not installed."""
    found = shutil.which("initdb"), shutil.which("pg_ctl")
    if all(found):
        return Path(str(found[0])).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def other_user() -> str | None:
    """Return whom to run as when these tests run as root, whom PostgreSQL refuses."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def cluster() -> Iterator[str]:
    """Run a cluster; yield the URL of its databases, without a name at the end of the path."""
    programs, user = binaries(), other_user()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="fedprint-pg-"))  # short: a socket's path is limited

    def call(*command: object, check: bool = True) -> None:
        as_user = ["runuser", "-u", user, "--"] if user else []
        whole: Sequence[str] = [*as_user, *map(str, command)]
        done = subprocess.run(
            whole, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr

    try:
        if user:
            shutil.chown(folder, user)
        data, log = folder / "data", folder / "log"
        call(
            *(programs / "initdb", "-D", data, "-U", ROLE, "-A", "trust", "-E", "UTF8"),
            *("--locale=C", "--no-sync"),
        )
        options = f"-c listen_addresses='' -c fsync=off -k {folder}"
        call(programs / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield f"postgresql://{ROLE}@/{{name}}?host={folder}"
        finally:
            call(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop", check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
