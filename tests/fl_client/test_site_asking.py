"""``fedprint site init`` at a real terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures_readers import write_nifti
from fixtures_sites import write_classes, write_manifest
from fixtures_tls import Authority

from fl_client.site import read_site
from protocol.cli import main
from protocol.enrolment import Invitation, write_invitation
from protocol.keys import generate_key, public_pem


def answer(folder: Path, *answers: str) -> tuple[int, str]:
    """Run the command on a pseudo-terminal, and type the answers."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "protocol.cli", "site", "init", str(folder)]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, "".join(f"{text}\n" for text in answers).encode())
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
        code = process.wait(timeout=60)
    os.close(ours)
    return code, shown.decode().replace("\r\n", "\n")


def test_a_folder_of_volumes_without_a_coordinator(tmp_path: Path) -> None:
    volume = np.zeros((4, 5, 6), np.uint8)
    for name in ("ill/1.nii.gz", "well/2.nii"):
        write_nifti(tmp_path / "images" / name, volume)
    code, shown = answer(
        tmp_path / "site",
        str(tmp_path / "nowhere"),
        str(tmp_path / "images"),
        "",
        "coronal",
        "2",
        "white matter lesions",
        "MRI",
        "brain",
        "brain, lesion",
        "ordinal",
        "well, ill",
        "",
    )
    assert code == 0, shown
    assert "nowhere does not exist or is no folder" in shown
    assert f"fedprint site check {tmp_path}/site --data" in shown
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["site.toml"]
    site = read_site(tmp_path / "site")
    assert (site.card.name, site.card.modality) == ("white matter lesions", "MRI")
    assert site.card.keywords == ["brain", "lesion"]
    assert site.card.order == ["well", "ill"]
    assert [item.held.place for item in site.images] == ["coronal 1", "coronal 3"] * 2
    with pytest.raises(SystemExit) as ended:
        main(["site", "check", str(tmp_path / "site"), "--data"])
    assert ended.value.code == 0
    code, shown = answer(tmp_path / "site", str(tmp_path / "images"), *[""] * 10)
    assert code == 1
    assert "site.toml is there already: edit it, or choose another folder" in shown


def test_a_manifest_with_a_coordinator(tmp_path: Path) -> None:
    write_manifest(tmp_path / "images", ["0.png,a,p", "1.png,b,q"])
    (tmp_path / "images" / "site.toml").unlink()
    Authority(tmp_path / "tls")
    invitation = Invitation(
        name="ring",
        address="ring.example:9092",
        certificates=(tmp_path / "tls" / "ca.crt").read_text(),
        coordinators=[public_pem(generate_key())],
    )
    write_invitation(tmp_path / "invitation.json", invitation)
    code, shown = answer(
        tmp_path / "site",
        str(tmp_path / "images"),
        "",  # manifest, because there is a table
        "",  # the one that is there
        *["", "", "", ""],
        "",  # one class an image
        str(tmp_path / "invitation.json"),
    )
    assert code == 0, shown
    assert (tmp_path / "site" / "keys" / "node").is_file()
    site = read_site(tmp_path / "site")
    assert (site.name, len(site.images), site.patients) == ("site", 2, 2)
    assert 'manifest = "labels.csv"' in (tmp_path / "site" / "site.toml").read_text()


def test_nobody_is_asked_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "images", {"a": 1})
    with pytest.raises(SystemExit) as ended:
        main(["site", "init", str(tmp_path / "site")])
    assert ended.value.code == 1
    assert "give --data FOLDER: only on a terminal is it asked for" in capsys.readouterr().err
