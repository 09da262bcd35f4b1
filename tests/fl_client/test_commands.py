from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from fixtures_readers import write_nifti
from fixtures_sites import tiny_spec, write_classes
from typer.testing import CliRunner, Result

import fl_client.fingerprint_folder as fingerprint_folder
from fl_client.commands import register
from fl_client.spec_commands import spec_json
from protocol.errors import ConfigError, DataError, FedprintError, SpecMismatch
from protocol.keys import generate_key, save_private_key
from protocol.privacy import rho_of
from protocol.spec import Spec, load_spec, parse_spec
from protocol.verify import read_fingerprints

APP = typer.Typer()
register(APP)


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def spec_file(spec: Spec, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(spec_json(spec))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(APP, [str(word) for word in words])


def fails(kind: type[FedprintError], *words: object) -> str:
    result = run(*words)
    assert result.exit_code != 0
    assert isinstance(result.exception, kind), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_fingerprint(tmp_path: Path, spec_file: Path, own_configuration: Path) -> None:
    out, report = tmp_path / "prints", tmp_path / "report.json"
    options = ("--spec", spec_file, "--out", out, "--device", "cpu")
    north = write_classes(tmp_path / "north", {"a": 3, "b": 2})
    south = write_classes(tmp_path / "x", {"a": 4}, seed=50)
    result = run("fingerprint", north, *options, "--json", report)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("north: 5 images, spec tiny, ")
    assert re.search(r"^(the network|decoding) was the limit \(\d+ images/s; ", result.stdout, re.M)
    stages = json.loads(report.read_text())["stages"]
    assert stages.keys() == {"rates", "shares", "workers", "cores", "device"}
    key = tmp_path / "key.pem"
    save_private_key(key, generate_key())
    assert run("fingerprint", south, *options, "--name", "south", "--key", key).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "north.dsse.json",
        "north.safetensors",
        "south.dsse.json",
        "south.safetensors",
        "spec.json",
    ]
    _, releases = read_fingerprints(out)
    assert [(r.fingerprint.site, r.fingerprint.n_images) for r in releases] == [
        ("north", 5),
        ("south", 4),
    ]
    assert releases[0].key_id != releases[1].key_id
    written = json.loads(report.read_text())
    assert (written["site"], written["key_id"]) == ("north", releases[0].key_id)
    assert (own_configuration / "fedprint" / "key.pem").stat().st_mode & 0o777 == 0o600
    before = (out / "north.safetensors").read_bytes()
    assert run("fingerprint", north, *options, "--workers", 3).exit_code == 0
    assert (out / "north.safetensors").read_bytes() == before


def test_a_folder_of_sites_is_told_from_one_of_classes(tmp_path: Path, spec_file: Path) -> None:
    folder = tmp_path / "hospitals"
    write_classes(folder, {f"{site}/{label}": 2 for site in ("north", "south") for label in "ab"})
    options = ("--spec", spec_file, "--out", tmp_path / "prints", "--device", "cpu")
    (folder / "README.txt").write_text("no folder")
    said = run("fingerprint", folder, *options).output
    assert "north and south were taken for classes, and hold the same subfolders: if they " in said
    assert said.count(f"fingerprint each, as {folder / 'north'}") == 1
    for name, parts in {
        "x": ("a/test", "a/train", "b/test", "b/train"),
        "y": ("a/p1", "b/p2"),
    }.items():
        classes = write_classes(tmp_path / name, dict.fromkeys(parts, 2))
        assert "taken for classes" not in run("fingerprint", classes, *options).output


def test_a_private_fingerprint_is_drawn_once(tmp_path: Path, spec_file: Path) -> None:
    out, report = tmp_path / "prints", tmp_path / "report.json"
    north = write_classes(tmp_path / "north", {"a": 12, "b": 12})
    words = ("fingerprint", north, "--spec", spec_file, "--out", out, "--device", "cpu")
    options = ("--private", "--json", report)
    result = run(*words, *options)
    assert result.exit_code == 0, result.output
    written = json.loads(report.read_text())
    sigma = written["privacy"]["sigma"]
    share = 100 * rho_of(2.0, 1e-5) / rho_of(8.0, 1e-5)
    assert result.stdout.startswith(
        "north: 24 images counted, spec tiny, private: epsilon 2 at delta 1e-05, noise of "
        f"{sigma:.3g} counts, {share:.0f} % of the budget is spent, "
    )
    _, (release,) = read_fingerprints(out)
    assert release.statement.predicate.privacy.model_dump() == written["privacy"]
    assert release.fingerprint.sigma == sigma
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(*words, *options, "--epsilon", 3).exit_code == 0
    assert (out / "north.safetensors").read_bytes() == files["north.safetensors"]
    assert run(*words, *options).exit_code == 0
    again = {path.name: path.read_bytes() for path in out.iterdir()}
    assert again["north.safetensors"] == files["north.safetensors"]
    ledger = north / ".fedprint" / "ledger.jsonl"
    assert len(ledger.read_text().splitlines()) == 1
    assert "the privacy budget is used up" in fails(
        FedprintError, *words, "--private", "--epsilon", 1, "--budget", 2
    )
    state = tmp_path / "state"
    assert run(*words, "--private", "--epsilon", 1, "--budget", 2, "--state", state).exit_code == 0
    assert len((state / "ledger.jsonl").read_text().splitlines()) == 1


def test_options_of_a_private_fingerprint(tmp_path: Path, spec_file: Path) -> None:
    site, out = write_classes(tmp_path / "north", {"a": 3}), tmp_path / "prints"
    words = ("fingerprint", site, "--spec", spec_file, "--out", out, "--device", "cpu")
    assert fails(ConfigError, *words, "--epsilon", 1) == (
        "epsilon, delta, cap and budget belong to a private fingerprint: give --private, in "
        "Python private=True"
    )
    message = fails(ConfigError, *words, "--private", "--epsilon", 1000)
    assert message == "private release: epsilon: Input should be less than or equal to 100"
    for cap in (0, 1_000_001, 10**23):
        asked = [str(word) for word in (*words, "--private", "--cap", cap)]
        usage = CliRunner().invoke(APP, asked, standalone_mode=False).exception
        assert str(usage) == f"{cap} is not in the range 1<=x<=1000000."
    message = fails(ConfigError, *words, "--private", "--json", tmp_path)
    assert message == f"--json {tmp_path} is a folder: name the file to write"
    assert not (site / ".fedprint").exists(), "nothing was spent"
    (tmp_path / "file").write_text("")
    assert "state folder" in fails(DataError, *words, "--private", "--state", tmp_path / "file")
    assert not list(out.glob("north*"))


def test_another_spec_in_the_same_folder(tmp_path: Path, spec_file: Path, spec: Spec) -> None:
    out = tmp_path / "prints"
    site = write_classes(tmp_path / "north", {"a": 3})
    run("fingerprint", site, "--spec", spec_file, "--out", out, "--device", "cpu")
    other = tmp_path / "other.json"
    other.write_text(spec_json(tiny_spec(Path(spec.weights.source[5:]).parent, bins=20)))
    message = fails(
        SpecMismatch, "fingerprint", site, "--spec", other, "--out", out, "--name", "second"
    )
    assert "differ in bins (10 against 20)" in message
    assert not list(out.glob("second*"))


def test_nothing_half_written(
    tmp_path: Path, spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "prints"
    site = write_classes(tmp_path / "north", {"a": 3})
    (site / "a" / "bad.png").write_bytes(b"no image")
    assert "bad.png cannot be read" in fails(
        DataError, "fingerprint", site, "--spec", spec_file, "--out", out, "--device", "cpu"
    )
    assert list(out.iterdir()) == []
    (site / "a" / "bad.png").unlink()
    write = fingerprint_folder.atomic_write

    def full(path: Path, data: bytes) -> None:
        if path.name.endswith(".dsse.json"):
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(fingerprint_folder, "atomic_write", full)
    result = run("fingerprint", site, "--spec", spec_file, "--out", out, "--device", "cpu")
    assert isinstance(result.exception, OSError)
    assert list(out.iterdir()) == []


def test_bad_input(tmp_path: Path, spec_file: Path) -> None:
    site = write_classes(tmp_path / "north", {"a": 1})
    options = ("--out", tmp_path / "prints", "--device", "cpu")
    assert "local commands: site north has 1 images, at least 2 are needed" in fails(
        FedprintError, "fingerprint", site, "--spec", spec_file, *options
    )
    assert "unknown spec 'nothing'" in fails(
        ConfigError, "fingerprint", site, "--spec", "nothing", *options
    )
    assert "spec resnet34-100 is a recipe without bin edges" in fails(
        ConfigError, "fingerprint", site, "--spec", "resnet34-100", *options
    )
    assert "key file" in fails(
        ConfigError, "fingerprint", site, "--spec", spec_file, *options, "--key", tmp_path / "no"
    )
    assert not (tmp_path / "prints").exists(), "a bad site left an empty folder behind"
    (tmp_path / "file").write_text("")
    usable = write_classes(tmp_path / "south", {"a": 2})
    assert "cannot be written" in fails(
        DataError, "fingerprint", usable, "--spec", spec_file, "--out", tmp_path / "file"
    )
    assert "site name '../x' is not usable" in fails(
        DataError, "fingerprint", site, "--spec", spec_file, *options, "--name", "../x"
    )


def test_spec_commands(tmp_path: Path, spec: Spec) -> None:
    listed = run("spec", "list", "--json", tmp_path / "specs.json")
    assert listed.exit_code == 0
    for name in ("lite0-100", "lite0-1000", "resnet34-100", "resnet34-1000"):
        assert f" {name} " in listed.stdout
    entries = {e["name"]: e for e in json.loads((tmp_path / "specs.json").read_text())["specs"]}
    assert entries["lite0-100"]["digest"] == load_spec("lite0-100").digest
    shown = run("spec", "show", "lite0-100", "--json", tmp_path / "lite.json")
    assert json.loads(shown.stdout)["lower"].startswith("1280 values from ")
    assert load_spec(tmp_path / "lite.json").digest == load_spec("lite0-100").digest
    folder, out = write_classes(tmp_path / "public", {"p": 25}), tmp_path / "new.json"
    words = ["spec", "calibrate", folder, "--backbone", spec.backbone, "--name", "new"]
    words += ["--weights", spec.weights.source, "--bins", 8, "--resize", 36, "--crop", 32]
    words += ["--draws", 40, "--images", "public pictures", "--device", "cpu"]
    result = run(*words, "--out", out)
    assert result.exit_code == 0, result.output
    made = load_spec(out)
    assert made.ready
    assert made.calibration is not None
    assert made.calibration.images == ["public pictures"]
    assert made.sampling.draws == 40
    assert "is a folder: name the file to write" in fails(ConfigError, *words, "--out", tmp_path)


def test_a_spec_with_a_window_reads_volumes(tmp_path: Path, spec: Spec) -> None:
    rng = np.random.default_rng(0)
    scan = rng.normal(40, 200, (24, 24, 24)).astype(np.int16)  # as CT, in Hounsfield units
    write_nifti(tmp_path / "public" / "scan.nii.gz", scan)
    words = ["spec", "calibrate", tmp_path / "public", "--backbone", spec.backbone]
    words += ["--name", "ct", "--weights", spec.weights.source, "--bins", 8, "--resize", 36]
    words += ["--crop", 32, "--device", "cpu", "--out", tmp_path / "ct.json"]
    assert "the spec has no window for them" in fails(DataError, *words)
    result = run(*words, "--window", -160, 240)
    assert result.exit_code == 0, result.output
    made = load_spec(tmp_path / "ct.json")
    assert made.preprocess.window == (-160, 240)
    assert made.calibration is not None
    assert made.calibration.count == 24
    cut = ["--plane", "sagittal", "--slices", 20]
    assert "calibrated on 20 images" in run(*words, "--window", -160, 240, *cut).output
    sagittal = load_spec(tmp_path / "ct.json")
    assert sagittal.lower != made.lower


def test_commands_of_a_projected_spec(tmp_path: Path, spec: Spec) -> None:
    assert re.search(r"lite0-private .* \d+ of 1280 x \d+ ", run("spec", "list").stdout)
    private = load_spec("lite0-private")
    shown = json.loads(run("spec", "show", "lite0-private").stdout)
    assert (shown["width"], shown["features"]) == (private.width, 1280)
    assert shown["projection"]["matrix"] == f"{private.width} directions in 1280 features"
    folder, out = write_classes(tmp_path / "public", {"p": 25}), tmp_path / "new.json"
    words = ["spec", "calibrate", folder, "--backbone", spec.backbone, "--name", "new"]
    words += ["--weights", spec.weights.source, "--bins", 4, "--resize", 36, "--crop", 32]
    words += ["--device", "cpu", "--out", out]
    assert run(*words, "--components", 3).stdout.startswith(
        "new: 3 of 512 features, 4 bins, calibrated on 25 images in "
    )
    assert load_spec(out).width == 3
    assert len(out.read_text().splitlines()) < 20
    assert fails(ConfigError, *words, "--components", 25) == (
        "25 components cannot be had: these images span 24 directions; take fewer, or more images"
    )


def test_spec_json_is_short_and_true(spec: Spec) -> None:
    text = spec_json(spec)
    assert parse_spec(text).digest == spec.digest
    assert len(text.splitlines()) < 20


def test_help_is_quick_and_has_examples() -> None:
    for words in (["fingerprint"], ["spec", "list"], ["spec", "show"], ["spec", "calibrate"]):
        assert "Example: fedprint " in run(*words, "--help").stdout
    code = "import sys, fl_client.commands; print({'torch', 'timm', 'flwr'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
