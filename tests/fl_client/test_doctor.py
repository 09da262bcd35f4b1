from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from fixtures_deployed import deployed
from fixtures_readers import write_dicom, write_nifti
from fixtures_sites import picture, write_classes, write_manifest
from fixtures_tls import Authority, serving
from PIL import Image

from fl_client import check_labels, check_setup
from fl_client.check_images import IMAGE_CHECKS
from fl_client.check_labels import LABEL_CHECKS
from fl_client.check_machine import check_coordinator, check_device, check_flower, clock
from fl_client.check_setup import SETUP_CHECKS
from fl_client.coordinator_probe import probe
from fl_client.doctor import examine, examine_data, summary
from fl_client.finding import Check, Finding, Visit
from fl_client.site_settings import SiteSettings, load_site_settings
from protocol.cli import main
from protocol.errors import SiteError
from protocol.keys import PASSPHRASE, generate_node_key, save_node_key, save_private_key
from protocol.spec import load_spec


@pytest.fixture
def north(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteSettings:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    return deployed(tmp_path / "north")


def look(settings: SiteSettings, *checks: Check, images: int = 50) -> dict[str, Finding]:
    """Return what is not ok, by reason code."""
    visit = Visit(load_site_settings(settings.folder), images)
    findings = [finding for check in checks for finding in check(visit)]
    assert all(f.mend and f.reason for f in findings if f.state != "ok")
    return {f.reason: f for f in findings if f.state != "ok"}


# the coordinator


def reason_of(superlink: str, certificates: Path) -> str:
    with pytest.raises(SiteError) as caught:
        probe(superlink, certificates, timeout=2)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_the_right_coordinator(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serving(*authority.issue("good", days=100)) as superlink:
        answer = probe(superlink, authority.certificate)
    assert answer.days_left == 99
    assert answer.expires - datetime.now(UTC) < timedelta(days=100)
    assert answer.skew is not None
    assert abs(answer.skew) < 2


def test_every_fault_at_the_door_has_its_reason(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b", "another")
    same_name = Authority(tmp_path / "c")
    with serving(*authority.issue("old", days=-1)) as superlink:
        assert reason_of(superlink, authority.certificate) == "certificate-expired"
    with serving(*authority.issue("early", days=9, ago=-3)) as superlink:
        assert reason_of(superlink, authority.certificate) == "certificate-not-yet-valid"
    with serving(*authority.issue("elsewhere", address="10.0.0.1")) as superlink:
        assert reason_of(superlink, authority.certificate) == "certificate-name"
    with serving(*other.issue("foreign")) as superlink:
        assert reason_of(superlink, authority.certificate) == "wrong-ca"
        assert reason_of(superlink, same_name.certificate) == "wrong-ca"
        assert reason_of(superlink, tmp_path / "gone.crt") == "bad-ca-file"
    with serving(*same_name.issue("twin")) as superlink:
        assert reason_of(superlink, authority.certificate) == "wrong-ca"
    assert reason_of(superlink, authority.certificate) == "unreachable"
    assert reason_of("no.such.host.invalid:1", authority.certificate) == "unreachable"


def test_a_server_without_tls(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        superlink = f"127.0.0.1:{server.getsockname()[1]}"
        plain = "import socket,sys; s=socket.socket(fileno=int(sys.argv[1])); c,_=s.accept(); "
        plain += "c.recv(1); c.sendall(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n'); c.recv(9999)"
        number = server.fileno()
        with subprocess.Popen([sys.executable, "-c", plain, str(number)], pass_fds=[number]):
            assert reason_of(superlink, Authority(tmp_path).certificate) == "no-tls"


def test_findings_about_the_coordinator(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    with serving(*authority.issue("soon", days=12), ahead=-60) as superlink:
        settings = deployed(tmp_path / "north", superlink)
        found = look(settings, check_coordinator)
    assert set(found) == {"certificate-expires-soon", "clock-skew"}
    assert "valid for 11 days" in found["certificate-expires-soon"].found
    assert found["clock-skew"].found.endswith(
        "s ahead of the coordinator's: Flower refuses the node"
    )
    found = look(settings, check_coordinator)
    assert found["unreachable"].state == "failed"
    assert found["unreachable"].mend.startswith("see whether the coordinator is up")


@pytest.mark.parametrize(
    ("skew", "state"),
    [(0.4, "ok"), (-1.5, "ok"), (-4, "warning"), (-6, "failed"), (200, "warning"), (400, "failed")],
)
def test_how_far_clocks_may_differ(skew: float, state: str) -> None:
    assert clock(skew).state == state


# what init made


def test_a_fresh_site_is_well(north: SiteSettings) -> None:
    assert look(north, *SETUP_CHECKS, *IMAGE_CHECKS, *LABEL_CHECKS, check_flower) == {}


def test_faults_of_keys(north: SiteSettings) -> None:
    north.key.chmod(0o640)
    found = look(north, *SETUP_CHECKS)["key-not-private"]
    assert (found.found, found.mend) == (
        f"{north.key} can be read by others (640)",
        f"chmod 600 {north.key}",
    )
    save_node_key(north.key, generate_node_key())
    assert set(look(north, *SETUP_CHECKS)) == {"other-keys"}
    save_private_key(north.key, generate_node_key())
    assert "in OpenSSH form" in look(north, *SETUP_CHECKS)["bad-key"].found
    north.key.unlink()
    north.enrolment.unlink()
    found_all = look(north, *SETUP_CHECKS)
    assert set(found_all) == {"bad-key", "enrolment-missing"}
    assert found_all["bad-key"].found == (
        f"key file {north.key} cannot be read: No such file or directory"
    )


def test_a_changed_enrolment(north: SiteSettings) -> None:
    envelope = json.loads(north.enrolment.read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b'"north"', b'"south"')
    envelope["payload"] = base64.b64encode(payload).decode()
    north.enrolment.write_text(json.dumps(envelope))
    found = look(north, check_setup.check_enrolment)
    assert [finding.state for finding in found.values()] == ["failed"]


def test_the_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "secret")
    settings = deployed(tmp_path / "north")
    assert look(settings, *SETUP_CHECKS) == {}
    monkeypatch.setenv(PASSPHRASE, "wrong")
    assert set(look(settings, *SETUP_CHECKS)) == {"bad-key"}
    monkeypatch.delenv(PASSPHRASE)
    assert look(settings, *SETUP_CHECKS)["passphrase-missing"].found == (
        f"{settings.signing_key} is encrypted, and {PASSPHRASE} is not set"
    )


def test_faults_of_the_policy(north: SiteSettings) -> None:
    text = north.policy.read_text()
    north.policy.write_text(text.replace("min_images = 20", "min_images = 50"))
    assert look(north, *SETUP_CHECKS)["too-few-images"].found == (
        "the site has 24 images, its policy asks for 50"
    )
    north.policy.write_text(text.replace("images_per_bin = 2", "images_per_bin = 10"))
    bins = load_spec("lite0-private").bins
    assert look(north, *SETUP_CHECKS)["too-many-bins"].found == (
        f"the site has 24 images, its policy asks for {10 * bins} for the {bins} bins of "
        "lite0-private"
    )
    north.policy.write_text("specs = []")
    assert set(look(north, *SETUP_CHECKS)) == {"nothing-permitted"}
    north.policy.write_text("spec = 1")
    assert set(look(north, *SETUP_CHECKS)) == {"bad-policy"}


def test_a_policy_names_specs_that_there_are(north: SiteSettings) -> None:
    text = north.policy.read_text()
    north.policy.write_text(text.replace('"lite0-private"', '"lite0_100"'))
    found = look(north, *SETUP_CHECKS)["unknown-spec"]
    assert (found.state, found.mend) == ("failed", "take one of these or a digest")
    assert found.found.startswith("policy.toml names spec 'lite0_100', which is none of lite0-100")
    for good in ("*", "0" * 64):
        north.policy.write_text(text.replace("lite0-private", good))
        assert look(north, *SETUP_CHECKS) == {}


def test_a_policy_in_words(north: SiteSettings) -> None:
    findings = {f.name: f.found for f in check_setup.check_policy(Visit(north, 0))}
    assert findings == {
        "policy": "lets fingerprints of lite0-private go after a person approved, from 20 images "
        "and 1 patients on, up to 1000 bins, with noise (epsilon 2 at delta 1e-05 each, 8 in all), "
        "and takes part in training, trials and plans",
        "ledger": "0 % of the privacy budget is spent",
    }
    north.policy.write_text('specs = ["*"]\nautomatic = true\nrelease = "plain"\n')
    policy, _ = check_setup.check_policy(Visit(north, 0))
    assert policy.found == (
        "lets fingerprints of any spec go without asking, from 10 images and 1 patients on, with "
        "noise where the coordinator asks for it, else plain, and takes part in training, trials "
        "and plans"
    )
    north.policy.write_text('specs = ["*"]\nplans = false\nscores = true\n')
    policy, _ = check_setup.check_policy(Visit(north, 0))
    assert policy.found.endswith(", and takes part in training and scores of others' models")
    north.policy.write_text('specs = ["*"]\nplans = false\n')
    policy, _ = check_setup.check_policy(Visit(north, 0))
    assert policy.found.endswith(", and takes part in training")


def test_the_ledger(north: SiteSettings) -> None:
    text = north.policy.read_text()
    north.policy.write_text(text.replace("budget_epsilon = 8.0", "budget_epsilon = 1.0"))
    found = look(north, *SETUP_CHECKS)["budget-exhausted"]
    assert (found.state, found.name) == ("warning", "ledger")
    assert found.found.endswith("too little is left for another draw of epsilon 2")
    (north.state / "ledger.jsonl").write_text("{}\n")
    found = look(north, *SETUP_CHECKS)["ledger-damaged"]
    assert (found.state, found.mend) == ("failed", "restore the state folder")


def test_faults_of_the_state_folder(north: SiteSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    north.state.chmod(0o755)
    assert set(look(north, *SETUP_CHECKS)) == {"state-not-private"}
    for free, reason in ((10**9, "little-disk"), (10**8, "disk-full")):
        usage = shutil._ntuple_diskusage(10**12, 0, free)  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert set(look(north, *SETUP_CHECKS)) == {reason}
    shutil.rmtree(north.state)
    north.state.write_text("a file")
    assert set(look(north, *SETUP_CHECKS)) == {"state-not-writable", "ledger-damaged"}


# images and labels


def test_images_that_cannot_be_read(north: SiteSettings) -> None:
    (north.data / "grey" / "000.png").write_text("no image")
    Image.new("F", (4, 4)).save(north.data / "grey" / "float.tif")
    cut = north.data / "white" / "001.png"
    Image.fromarray(picture(3, 300, 300)).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    found = look(north, *IMAGE_CHECKS)["unreadable-images"]  # the last one: of the sample
    assert found.name == "sample"
    assert found.found.startswith("1 of 25 cannot be read: white/001.png (")
    found = look(north, *IMAGE_CHECKS, images=0)["unreadable-images"]
    assert found.found == (
        "2 of 25 cannot be read: grey/000.png (UnidentifiedImageError), grey/float.tif "
        "(has 32-bit pixels without a known range)"
    )


def test_a_site_that_cannot_be_read_is_one_finding(north: SiteSettings) -> None:
    Image.fromarray(picture(3)).save(north.data / "loose.png")
    found = look(north, *IMAGE_CHECKS, *LABEL_CHECKS)
    assert set(found) == {"bad-data"}
    assert "loose.png lies in no class subfolder" in found["bad-data"].found


def test_classes(north: SiteSettings) -> None:
    small = north.data / "black"
    small.mkdir()
    shutil.move(north.data / "grey" / "000.png", small / "0.png")
    assert look(north, *LABEL_CHECKS)["small-class"].found == (
        "fewer than 5 images of black (black: 1, grey: 11, white: 12)"
    )
    shutil.move(small, north.data / "Grey")
    assert look(north, *LABEL_CHECKS)["same-class"].found == "several classes mean 'grey'"
    shutil.rmtree(north.data / "Grey")
    shutil.rmtree(north.data / "white")
    assert set(look(north, *LABEL_CHECKS)) == {"one-class"}


def test_images_that_are_there_twice(north: SiteSettings) -> None:
    shutil.copy(north.data / "grey" / "000.png", north.data / "grey" / "again.png")
    found = look(north, *LABEL_CHECKS)
    assert set(found) == {"duplicate-images"}
    assert found["duplicate-images"].found == (
        "one image is there twice where training and test data may share them: "
        "grey/000.png = grey/again.png"
    )
    shutil.copy(north.data / "grey" / "001.png", north.data / "white" / "again.png")
    assert set(look(north, *LABEL_CHECKS)) == {"duplicate-images", "duplicate-labels"}


def test_images_that_are_there_twice_in_two_formats(north: SiteSettings) -> None:
    shown = Image.open(north.data / "grey" / "000.png")
    shown.save(north.data / "white" / "same.bmp")
    found = look(north, *LABEL_CHECKS)
    assert found["duplicate-labels"].found.endswith("grey/000.png = white/same.bmp")


def test_extreme_sizes(north: SiteSettings) -> None:
    for name, size in {"tiny": (15, 40), "long": (100, 401), "huge": (4097, 2000)}.items():
        Image.new("L", size).save(north.data / "grey" / f"{name}.png")
    found = look(north, *IMAGE_CHECKS)["extreme-size"]
    assert (found.state, found.found) == (
        "warning",
        "1 are smaller than 16 pixels: grey/tiny.png (15 x 40); 1 are larger than 4096 pixels: "
        "grey/huge.png (4097 x 2000); 1 are more than 4 times as long as wide: grey/long.png "
        "(100 x 401)",
    )


def test_dicom_with_burnt_in_text_and_torn_patients(north: SiteSettings, tmp_path: Path) -> None:
    pixels = np.arange(400, dtype=np.uint8).reshape(20, 20)
    for number in range(3):
        write_dicom(north.data / "grey" / f"{number}.dcm", pixels + number, PatientID="Meyer^Anna")
    write_dicom(north.data / "grey" / "text.dcm", pixels, BurnedInAnnotation="YES")
    write_dicom(north.data / "grey" / "cut.dcm", pixels)
    cut = north.data / "grey" / "cut.dcm"
    cut.write_bytes(cut.read_bytes()[:200])
    found = look(north, *IMAGE_CHECKS, *LABEL_CHECKS)
    assert set(found) == {"unreadable-images", "burnt-in"}
    assert found["unreadable-images"].found == (
        "1 of 29 cannot be read: grey/cut.dcm (cannot be read as DICOM (AttributeError))"
    )
    assert found["unreadable-images"].mend == "replace it or remove it from the site"
    assert found["burnt-in"].found == ("1 of 29 have text burnt into their pixels: grey/text.dcm")
    rows = [f"grey/{n}.dcm,{'ab'[n % 2]},s{n},{part}" for n, part in enumerate(["train", "test"])]
    table = "\n".join(["path,label,subject_id,split", *rows])
    (north.data / "labels.csv").write_text(table)
    text = (north.folder / "site.toml").read_text()
    text = text.replace('# manifest = "labels.csv"', 'manifest = "labels.csv"')
    (north.folder / "site.toml").write_text(text)
    torn = look(north, *LABEL_CHECKS)["patients-torn"]
    assert (torn.state, torn.found) == (
        "failed",
        "1 of 1 patients have images under several subjects or splits, as their PatientID says: "
        "grey/0.dcm",
    )
    assert "Meyer" not in "".join(finding.found for finding in examine_data(north.folder))


def test_volumes_that_need_a_window(north: SiteSettings) -> None:
    volume = np.arange(8000, dtype=np.int16).reshape(20, 20, 20)
    write_nifti(north.data / "grey" / "scan.nii", volume)
    found = look(north, *IMAGE_CHECKS)
    assert set(found) == {"needs-window"}
    assert found["needs-window"].found == (
        "20 of 44 hold values in scanner units, which a spec's window shows"
    )


def test_data_without_a_deployment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_classes(tmp_path / "s", {"a": 6, "b": 6})
    for spoiled, code in ((False, 0), (True, 1)):
        if spoiled:
            (tmp_path / "s" / "a" / "000.png").write_text("no image")
        with pytest.raises(SystemExit) as ended:
            main(["site", "check", str(tmp_path / "s"), "--data"])
        assert ended.value.code == code
    shown = " ".join(capsys.readouterr().out.split())
    assert "30 x 24 pixels" in shown
    assert "1 of 12 cannot be read: a/000.png" in shown


def manifest_site(root: Path, rows: list[str]) -> SiteSettings:
    write_manifest(root / "north-data", rows, "path,label,subject_id,split")
    return deployed(root / "north")


def test_how_the_splits_came_about(tmp_path: Path, north: SiteSettings) -> None:
    rows = [f"{n}.png,{'ab'[n % 2]},p{n}," for n in range(12)]
    with_subjects = manifest_site(tmp_path / "subjects", rows)
    for settings, how in ((north, "(dealt out)"), (with_subjects, "(dealt out by subject)")):
        (found,) = check_labels.check_splits(Visit(settings, 0))
        assert found.found.endswith(how)


def test_splits(tmp_path: Path) -> None:
    rows = [f"{n}.png,{'ab'[n % 2]},p{n},train" for n in range(12)]
    settings = manifest_site(tmp_path, rows)
    assert look(settings, *LABEL_CHECKS)["empty-split"].found == (
        "train 8, val 4, test 0 (as the site says)"
    )
    shutil.copy(settings.data / "0.png", settings.data / "2.png")
    assert "duplicate-images" not in look(settings, *LABEL_CHECKS)  # both in train
    table = settings.data / "labels.csv"
    table.write_text(table.read_text().replace("p2,train", "p2,test"))
    found = look(settings, *LABEL_CHECKS)
    assert set(found) == {"duplicate-images"}
    table.write_text(table.read_text().replace("p4,train", "p2,train"))
    assert "subject p2 is in both" in look(settings, *IMAGE_CHECKS)["bad-data"].found
    table.write_text("\n".join(["path,label,subject_id,split", *rows]).replace(",train", ",test"))
    assert set(look(settings, *LABEL_CHECKS)) == {"no-training-images"}


# the machine


def test_the_device(north: SiteSettings) -> None:
    path = north.folder / "site.toml"
    path.write_text(path.read_text().replace('device = ""', 'device = "cpu"'))
    found = look(north, check_device)["cpu-only"]
    assert found.state == "warning"
    assert found.mend.startswith("fine without a GPU")
    path.write_text(path.read_text().replace('device = "cpu"', 'device = "abacus"'))
    assert look(north, check_device)["no-device"].found.startswith("unknown device 'abacus'")


def test_without_flower(north: SiteSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    assert look(north, check_flower)["flower-missing"].state == "failed"


# the command


def test_the_command_collects_all_and_ends_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    authority = Authority(tmp_path / "authority")

    def check() -> int:
        with pytest.raises(SystemExit) as ended:
            main(["site", "check", str(settings.folder), "--json", str(tmp_path / "c.json")])
        return int(ended.value.code or 0)

    with serving(*authority.issue("good")) as superlink:
        settings = deployed(tmp_path / "north", superlink)
        assert check() == 0
        written = json.loads((tmp_path / "c.json").read_text())
        assert written["ok"] is True
        names = [finding["name"] for finding in written["checks"]]
        assert {"settings", "coordinator", "clock", "splits"} <= set(names)
        assert "weights of lite0-private" in names
    settings.key.chmod(0o644)
    (settings.data / "grey" / "000.png").write_text("no image")
    assert check() == 1
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["ok"] is False
    reasons = {f["reason"] for f in written["checks"] if f["state"] == "failed"}
    assert reasons == {"key-not-private", "unreadable-images", "unreachable"}
    assert "chmod 600" in capsys.readouterr().out


def test_settings_that_cannot_be_used_are_the_only_finding(tmp_path: Path) -> None:
    findings = examine(tmp_path)
    assert [(f.name, f.state, f.reason) for f in findings] == [
        ("settings", "failed", "bad-settings")
    ]
    assert summary(findings)["ok"] is False


def test_torch_is_not_imported_for_help_and_settings() -> None:
    script = "import sys, fl_client.doctor, fl_client.site_commands; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
