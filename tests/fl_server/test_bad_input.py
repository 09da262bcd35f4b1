"""Bad input to the commands: one line that says what to do, exit code 1, nothing half-written."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protocol import cli
from tests.fl_server.running import Command

LINE = "fedprint: error: "


@dataclass
class Outcome:
    """What a command ended with."""

    code: object
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line, without its mark."""
        assert self.err.startswith(LINE)
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err + self.out
        return self.err.removeprefix(LINE).rstrip("\n")


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line."""

    def run_command(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(caught.value.code, said.out, said.err)

    return run_command


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """Write two site folders that would do."""
    root = tmp_path / "sites"
    for name in ("north", "south"):
        for label in ("a", "b"):
            write_image(root / name / label / "0.png")
    return root


def write_image(path: Path) -> None:
    """Write a small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(path)


def write_manifest(site: Path, *rows: str) -> Path:
    """Write a site with two images and these rows of its manifest."""
    for name in ("0.png", "1.png"):
        write_image(site / name)
    (site / "site.toml").write_text('[data]\nmanifest = "labels.csv"\n')
    (site / "labels.csv").write_text("\n".join(["path,label,subject_id", *rows]) + "\n")
    return site


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
    shutil.rmtree(sites / "south")
    outcome = run("simulate", sites, "--out", out)
    assert outcome.error == f"{sites} holds 1 site folders: {needs}"
    assert outcome.code == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("run_config", "message"),
    [
        ("round=5", "unknown run-config round: known are arms, batch-size, device"),
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


def corrupt_image(site: Path) -> None:
    """Spoil an image."""
    (site / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")


def truncated_image(site: Path) -> None:
    """Cut an image off."""
    path = site / "a" / "0.png"
    path.write_bytes(path.read_bytes()[:-60])


def no_images(site: Path) -> None:
    """Leave nothing but a text."""
    shutil.rmtree(site)
    site.mkdir()
    (site / "notes.txt").write_text("to be scanned")


def binary_table(site: Path) -> None:
    """Write a manifest that is no text."""
    (write_manifest(site) / "labels.csv").write_bytes(bytes(range(256)))


def table_folder(site: Path) -> None:
    """Put a folder where the manifest should be."""
    (write_manifest(site) / "labels.csv").unlink()
    (site / "labels.csv").mkdir()


def label_without_image(site: Path) -> None:
    """List an image that is not there."""
    write_manifest(site, "0.png,a,p1", "gone.png,b,p2")


def nan_label(site: Path) -> None:
    """Leave a label to pandas."""
    write_manifest(site, "0.png,NaN,p1", "1.png,b,p2")


def nan_labels_of_arrays(site: Path) -> None:
    """Write an npz file whose labels are NaN."""
    labels = np.array([0.0, np.nan])
    np.savez(site / "site.npz", train_images=np.zeros((2, 8, 8), np.uint8), train_labels=labels)
    (site / "site.toml").write_text('[data]\nnpz = "site.npz"\n')


def no_toml(site: Path) -> None:
    """Write a site.toml that is none."""
    (site / "site.toml").write_text("[data\n")


def one_image(site: Path) -> None:
    """Leave one image only."""
    shutil.rmtree(site / "b")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (corrupt_image, "image {site}/a/0.png cannot be read ("),
        (truncated_image, "image {site}/a/0.png cannot be read ("),
        (no_images, "site folder {site} holds no images: expected {site}/<class>/<image> ("),
        (binary_table, "manifest {site}/labels.csv cannot be read ("),
        (table_folder, "manifest {site}/labels.csv does not exist: "),
        (label_without_image, "{site}/labels.csv, line 3: image gone.png does not exist: "),
        (nan_label, "{site}/labels.csv, line 2: label is NaN: fill it in"),
        (nan_labels_of_arrays, "npz file {site}/site.npz: train_labels holds NaN or fractions"),
        (no_toml, "{site}/site.toml is not readable TOML ("),
        (one_image, "local commands: site north has 1 images, at least 2 are needed"),
    ],
)
def test_site_that_cannot_be_fingerprinted(
    run: Run, sites: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(sites / "north")
    outcome = run("fingerprint", sites / "north", "--out", tmp_path / "prints")
    assert outcome.error.startswith(message.format(site=sites / "north"))
    assert outcome.code == 1
    assert not list((tmp_path / "prints").glob("*"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lite9", "unknown spec 'lite9'"),
        ("resnet34-100", "spec resnet34-100 is a recipe"),
    ],
)
def test_spec_that_cannot_be_used(
    run: Run, sites: Path, tmp_path: Path, spec: str, message: str
) -> None:
    out = tmp_path / "prints"
    outcome = run("fingerprint", sites / "north", "--spec", spec, "--out", out)
    assert outcome.error.startswith(message)
    assert not out.exists()


def test_weights_that_are_missing(run: Run, sites: Path, tmp_path: Path) -> None:
    spec = tmp_path / "mine.json"
    assert run("spec", "show", "lite0-100", "--json", spec).code == 0
    values = json.loads(spec.read_text())
    values["weights"]["source"] = "file:/nowhere/weights.pth"
    spec.write_text(json.dumps(values))
    outcome = run("fingerprint", sites / "north", "--spec", spec, "--out", tmp_path / "prints")
    assert "/nowhere/weights.pth" in outcome.error
    assert outcome.code == 1
    assert not list((tmp_path / "prints").glob("*"))


def test_two_specs_in_one_folder(run: Run, sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "prints"
    assert run("spec", "show", "lite0-1000", "--json", out / "spec.json").code == 0
    before = (out / "spec.json").read_bytes()
    outcome = run("fingerprint", sites / "north", "--out", out)
    assert outcome.error.startswith("specs lite0-1000 and lite0-100 differ in name (")
    assert [path.name for path in out.iterdir()] == ["spec.json"]
    assert (out / "spec.json").read_bytes() == before


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
    assert run(command, tmp_path).error == f"{tmp_path} holds no fingerprints (*.safetensors)"


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
        assert "DataError" in errors


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


def test_table_with_windows_signs(run: Run, sites: Path, tmp_path: Path) -> None:
    site = write_manifest(sites / "west")
    with (site / "labels.csv").open("w", encoding="latin-1", newline="") as file:
        rows = [["path", "label", "subject_id"], ["0.png", "Drüse", "p1"], ["1.png", "b", "p2"]]
        csv.writer(file).writerows(rows)
    outcome = run("fingerprint", site, "--out", tmp_path / "prints")
    assert outcome.error.startswith(f"manifest {site / 'labels.csv'} cannot be read ('utf-8' codec")
    assert outcome.error.endswith("save it as CSV in UTF-8")
