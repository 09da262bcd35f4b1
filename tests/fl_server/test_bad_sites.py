"""Sites that cannot be fingerprinted: one line that says why, nothing half-written."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fl_server.bad import Run, corrupt_image, write_manifest


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
        (
            nan_labels_of_arrays,
            "npz file {site}/site.npz: train_labels holds NaN, infinity or",
        ),
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


def test_table_with_windows_signs(run: Run, sites: Path, tmp_path: Path) -> None:
    site = write_manifest(sites / "west")
    with (site / "labels.csv").open("w", encoding="latin-1", newline="") as file:
        rows = [["path", "label", "subject_id"], ["0.png", "Drüse", "p1"], ["1.png", "b", "p2"]]
        csv.writer(file).writerows(rows)
    outcome = run("fingerprint", site, "--out", tmp_path / "prints")
    assert outcome.error.startswith(f"manifest {site / 'labels.csv'} cannot be read ('utf-8' codec")
    assert outcome.error.endswith("save it as CSV in UTF-8")
