"""Bad input to the commands: one line that says what to do, exit code 1, nothing half-written."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.fl_server.bad import Outcome, Run, corrupt_image
from tests.fl_server.running import Command


def test_simulate_wants_a_folder_of_two_sites(run: Run, sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    missing = run("simulate", tmp_path / "nowhere", "--out", out)
    assert missing.error == (
        f"{tmp_path / 'nowhere'} is not a folder: give the folder that holds the site folders"
    )
    needs = "a federation needs at least two, each a folder with class subfolders or a site.toml"
    (tmp_path / "empty").mkdir()
    assert run("simulate", tmp_path / "empty", "--out", out).error == (
        f"{tmp_path / 'empty'} holds 0 site folders: {needs}"
    )
    (tmp_path / "one" / "class-a").mkdir(parents=True)
    (tmp_path / "one" / "class-b").mkdir()
    assert run("simulate", tmp_path / "one", "--out", out).error == (
        f"no folder in {tmp_path / 'one'} has class subfolders or a site.toml: if "
        f"{tmp_path / 'one'} is a site itself, give the folder that it lies in"
    )
    shutil.rmtree(sites / "south")
    outcome = run("simulate", sites, "--out", out)
    assert outcome.error == f"{sites} holds 1 site folders: {needs}"
    assert outcome.code == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(("distances", "--out"), ("distances", "--json"), ("groups", "--out")),
        *(("groups", "--json"), ("report", "--out"), ("verify", "--json")),
    ],
)
def test_a_folder_is_no_file_to_write(run: Run, tmp_path: Path, command: str, option: str) -> None:
    outcome = run(command, tmp_path / "run", option, tmp_path)
    assert outcome.error == f"{option} {tmp_path} is a folder: name the file to write"
    assert outcome.code == 1


@pytest.mark.parametrize(
    ("run_config", "message"),
    [
        ("round=5", "unknown run-config round: known are arms, await-approval, batch-size"),
        ("rounds", "run-config 'rounds' is not key=value; quote strings: spec=\"lite0-100\""),
        ("spec=lite0-100", 'run-config spec=lite0-100: not a TOML value; quote strings: spec="'),
        ("rounds=0", "run-config rounds=0: Input should be greater than or equal to 1"),
        ("rounds=1.5", "run-config rounds=1.5: Input should be a valid integer"),
        ('recipe="magic"', "run-config recipe='magic': Input should be 'adapter' or 'fine-tune'"),
        ('arms="alone,apart"', "run-config arms="),
        ("timeout=nan", "run-config timeout=nan: "),
        ("timeout=inf", "run-config timeout=inf: "),
        ("learning-rate=nan", "run-config learning-rate=nan: "),
        ('spec="lite9"', "unknown spec 'lite9'"),
        ('spec="resnet34-100"', "spec resnet34-100 is a recipe"),
        ('strategy="fedmagic"', "unknown strategy 'fedmagic': take one of bulyan, "),
        ('strategy="no.such:thing"', "strategy 'no.such:thing' cannot be imported: "),
        ('measure="cosinus"', "unknown measure 'cosinus'"),
        ("min-group-size=3 max-group-size=2", "maximum group size 2 is below the minimum 3"),
        ('device="abacus"', "run-config device='abacus': "),
    ],
)
def test_wrong_settings_are_found_before_anything_starts(
    run: Run,
    sites: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_config: str,
    message: str,
) -> None:
    monkeypatch.setattr("fl_server.simulation.simulate", lambda *_, **__: pytest.fail("started"))
    outcome = run("simulate", sites, "--out", tmp_path / "run", "--run-config", run_config)
    assert outcome.error.startswith(message)
    assert outcome.code == 1
    assert not (tmp_path / "run").exists()


def test_a_setting_of_nearly_that_name_is_named(run: Run, sites: Path, tmp_path: Path) -> None:
    outcome = run("simulate", sites, "--out", tmp_path / "run", "--run-config", "round=5")
    assert outcome.error.endswith("; did you mean rounds?")


def test_earlier_run_is_kept(run: Run, sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("{}")
    assert run("simulate", sites, "--out", out).error == (
        f"{out} holds an earlier run (run.json): choose another --out or add --overwrite"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = run("simulate", sites, "--out", out, "--overwrite", "--port", port)
    assert outcome.error == (
        f"port {port} on 127.0.0.1 cannot be used ([Errno 98] Address already in use): "
        "choose another with --port, or 0 for any free one"
    )
    assert (out / "run.json").read_text() == "{}"


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_port_that_is_none(run: Run, sites: Path, tmp_path: Path, port: str) -> None:
    outcome = run("simulate", sites, "--out", tmp_path / "run", "--port", port)
    assert "port" in outcome.error
    assert not (tmp_path / "run").exists()


def test_output_that_cannot_be_written(run: Run, sites: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    assert run("simulate", sites, "--out", out).error == (
        f"cannot write to {out}: Not a directory; choose another --out"
    )
    assert run("simulate", sites, "--out", tmp_path / "file").error == (
        f"cannot write to {tmp_path / 'file'}: File exists; choose another --out"
    )
    assert run("fingerprint", sites / "north", "--out", out).error == (
        f"output folder {out} cannot be written (Not a directory): choose another --out"
    )
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output(run: Run, sites: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in run("simulate", sites, "--out", tmp_path / "run").error


@pytest.mark.parametrize("arguments", [("simulate",), ("nonsense",), ("groups", ".", "--wrong")])
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert outcome.error.endswith("(see --help)")
    assert outcome.code == 2


@pytest.mark.parametrize("command", ["distances", "groups", "report"])
def test_folder_that_is_no_run(run: Run, sites: Path, tmp_path: Path, command: str) -> None:
    for folder in (tmp_path / "nowhere", sites):
        outcome = run(command, folder)
        assert str(folder) in outcome.error
        assert outcome.code == 1
    assert sorted(path.name for path in sites.iterdir()) == ["north", "south"]


@pytest.mark.parametrize("command", ["distances", "groups"])
def test_folder_with_a_spec_and_nothing_else(run: Run, tmp_path: Path, command: str) -> None:
    assert run("spec", "show", "lite0-100", "--json", tmp_path / "spec.json").code == 0
    said = f"{tmp_path} holds no fingerprints: make some with fedprint fingerprint"
    assert run(command, tmp_path).error == said


def test_foreign_files_under_our_names(run: Run, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("[1, 2")
    for command in ("distances", "groups", "report"):
        assert run(command, tmp_path).code == 1
    assert run("spec", "show", "lite0-100", "--json", tmp_path / "spec.json").code == 0
    (tmp_path / "north.safetensors").write_bytes(b"\xff" * 40)
    assert "north" in run("groups", tmp_path).error
    (tmp_path / "run.json").write_text("[]")
    assert str(tmp_path) in run("report", tmp_path).error


def test_unknown_measure(run: Run, tmp_path: Path) -> None:
    assert run("distances", tmp_path, "--measure", "cosinus").error.startswith(
        "unknown measure 'cosinus'"
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for arguments in (["--debug", "groups", tmp_path], ["groups", tmp_path, "--debug"]):
        command = Command(*arguments)
        _, errors = command.process.communicate(timeout=60)
        assert command.process.returncode == 1
        assert errors.startswith("Traceback")
        assert "ConfigError" in errors


@pytest.mark.engine
def test_sites_that_all_fail(tmp_path: Path, sites: Path) -> None:
    for name in ("north", "south"):
        corrupt_image(sites / name)
    command = Command("simulate", sites, "--out", tmp_path / "run")
    _, errors = command.process.communicate(timeout=200)
    assert Outcome(command.process.returncode, "", errors).error.startswith(
        "0 sites passed verification, at least 2 are needed; first problem: north: image "
    )
    assert command.process.returncode == 1
    assert command.gone() == []
    assert not (tmp_path / "run").exists()
