"""What is shipped: Flower's bundle and the wheel hold everything the app and the commands need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from fl_server.engine import assemble_app

ROOT = Path(__file__).parents[2]
PACKAGES = ("fl_server", "fl_client", "strategies", "protocol")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what git holds or would hold, as a clone has it."""
    target = tmp_path_factory.mktemp("clone") / "fedprint"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def build_bundle(app: Path) -> zipfile.ZipFile:
    """Run ``flwr build`` on an app's folder."""
    flwr = Path(sys.executable).parent / "flwr"
    built = subprocess.run(
        [flwr, "build", "--app", app], cwd=app.parent, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (bundle,) = app.parent.glob("*.fab")
    return zipfile.ZipFile(bundle)


def sources(root: Path) -> set[str]:
    """Return the names of all Python files of the four packages and of the shipped specs."""
    found = {p for package in PACKAGES for p in (root / package).rglob("*.py")}
    return {
        p.relative_to(root).as_posix() for p in found | set((root / "protocol/specs").iterdir())
    }


def test_bundle_of_a_clone_is_what_simulate_runs(checkout: Path, tmp_path: Path) -> None:
    with build_bundle(checkout) as bundle:
        names = set(bundle.namelist())
        config = tomllib.loads(bundle.read("pyproject.toml").decode())
    assert config["tool"]["flwr"]["app"]["fab-format-version"] == 1
    assert "protocol/specs/lite0-100.json" in names
    assert sources(checkout) <= names
    with build_bundle(assemble_app(tmp_path / "fedprint")) as assembled:
        assert set(assembled.namelist()) == names


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of a clone."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out]
    built = subprocess.run([*command, checkout], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = out.glob("fedprint-*.whl")
    return wheel


def test_wheel_holds_what_the_commands_need(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        meta = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(meta).decode())
        entries = archive.read(meta.replace("METADATA", "entry_points.txt")).decode()
    assert sources(checkout) <= names
    extra = {"fl_server/templates/report.html", "fl_server/app/pyproject.toml"}
    assert extra | {"fl_server/app/LICENSE"} <= names
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, meta.partition("/")[0]}
    assert {"sim", "demo", "dev"} <= set(metadata.get_all("Provides-Extra") or [])
    assert "fedprint = protocol.cli:main" in entries


def test_installed_wheel_assembles_the_same_app(
    wheel: Path, checkout: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    script = (
        "from pathlib import Path; from fl_server import engine; "
        f"assert {str(tmp_path)!r} in engine.__file__; "
        f"engine.assemble_app(Path({str(tmp_path / 'fedprint')!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, check=True)
    assert sources(tmp_path / "fedprint") == sources(checkout)
    text = (tmp_path / "fedprint" / "pyproject.toml").read_text()
    assert text == (checkout / "pyproject.toml").read_text()
