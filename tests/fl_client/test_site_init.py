from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from fixtures_sites import write_classes, write_manifest
from fixtures_tls import Authority
from hypothesis import given
from hypothesis import strategies as st

from fl_client import site_init
from fl_client.check_machine import check_weights
from fl_client.finding import Visit
from fl_client.policy import Policy, load_policy
from fl_client.site import read_site
from fl_client.site_file import DataTable, SiteFile, SiteTable, TaskTable
from fl_client.site_settings import load_site_settings
from fl_client.site_texts import site_toml
from protocol.cli import main
from protocol.enrolment import Invitation, open_enrolment, write_invitation
from protocol.keys import (
    PASSPHRASE,
    generate_key,
    key_id,
    load_private_key,
    public_pem,
    save_private_key,
)
from protocol.spec import Spec


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    write_classes(tmp_path / "images", {"a": 3, "b": 2})
    Authority(tmp_path / "tls")
    return tmp_path


def init(root: Path, folder: str = "north", *options: str) -> int:
    words = ["site", "init", str(root / folder), "--data", str(root / "images")]
    if "--invitation" not in options:
        words += ["--superlink", "coordinator:9092", "--ca", str(root / "tls" / "ca.crt")]
    with pytest.raises(SystemExit) as ended:
        main([*words, *options])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_site(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(root) == 0
    folder = root / "north"
    names = {path.name for path in folder.iterdir()}
    assert names == {"site.toml", "policy.toml", "ca.crt", "keys", "state", "north.enrol.json"}
    assert (mode(folder / "keys"), mode(folder / "state")) == (0o700, 0o700)
    assert mode(folder / "keys" / "node") == 0o600
    key = load_ssh_private_key((folder / "keys" / "node").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    public = load_ssh_public_key((folder / "keys" / "node.pub").read_bytes())
    assert public.public_numbers() == key.public_key().public_numbers()  # type: ignore[union-attr]
    enrolment = open_enrolment((folder / "north.enrol.json").read_bytes())
    assert enrolment.site == "north"
    assert enrolment.key_id == enrolment.node_key_id == key_id(public_pem(key))
    assert (folder / "ca.crt").read_text() == (root / "tls" / "ca.crt").read_text()
    shown = capsys.readouterr().out
    assert f"node and signing key  {enrolment.key_id}" in shown
    assert f"hand {folder}/north.enrol.json to the coordinator" in shown


def test_what_is_written_is_what_fedprint_reads(root: Path) -> None:
    assert init(root, "north", "--device", "cpu", "--port", "9100", "--name", "St. Mary's") == 0
    settings = load_site_settings(root / "north")
    assert settings.name == "St. Mary's"
    assert settings.superlink == "coordinator:9092"
    assert settings.data == root / "images"
    assert settings.signing_key == settings.key == root / "north" / "keys" / "node"
    assert settings.state == root / "north" / "state"
    assert settings.enrolment.is_file()
    assert (settings.device, settings.port) == ("cpu", 9100)
    site = read_site(root / "north")
    assert (site.name, len(site.images), site.state) == ("St. Mary's", 5, settings.state)


def test_fingerprints_wait_for_a_person_unless_told_otherwise(root: Path) -> None:
    assert init(root) == 0
    assert init(root, "south", "--automatic") == 0
    policy = load_policy(root / "north" / "policy.toml")
    assert policy.plans
    assert not policy.scores
    named = policy.model_copy(update={"name": "x"})
    assert named == Policy(
        name="x",
        specs=["lite0-private"],
        min_images=20,
        min_class_patients=5,
        images_per_bin=10,
        max_bins=1000,
        automatic=False,
        release="private",
        epsilon=2.0,
        delta=1e-5,
        budget_epsilon=8.0,
        contribution_cap=1,
    )
    assert load_policy(root / "south" / "policy.toml").automatic


def test_a_spec_of_ones_own(root: Path, spec: Spec) -> None:
    file = root / "own.json"
    file.write_text(spec.as_json)
    assert init(root, "north", "--spec", str(file)) == 0
    policy = load_policy(root / "north" / "policy.toml")
    assert policy.specs == [spec.digest]
    settings = load_site_settings(root / "north")
    (found,) = check_weights(Visit(settings, 0))
    assert (found.state, found.name) == ("ok", "weights of tiny")
    assert init(root, "south", "--spec", "lite0-100") == 0
    assert load_policy(root / "south" / "policy.toml").specs == ["lite0-100"]
    assert init(root, "west", "--spec", "resnet34-100") != 0  # a recipe
    assert not (root / "west").exists()


def test_every_line_of_the_settings_is_explained(root: Path) -> None:
    assert init(root) == 0
    text = (root / "north" / "site.toml").read_text()
    assert "shares_weights = false                      # may trained weights go to other" in text
    for line in text.split("[task]")[0].splitlines():
        assert not line or line.startswith("[") or "# " in line
    # the examples, taken out of their comments, are good too
    bare = tomllib.loads(re.sub(r"^# ([a-z.-]+ = )", r"\1", text, flags=re.MULTILINE))
    assert SiteFile.model_validate(bare).task.codes == {"lesion": "SCT:52988006"}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(name=TEXT, keywords=st.lists(TEXT), codes=st.dictionaries(TEXT, TEXT), folder=TEXT)
def test_any_text_comes_back(
    name: str, keywords: list[str], codes: dict[str, str], folder: str
) -> None:
    task = TaskTable(name=name, keywords=keywords, codes=codes, objective="multilabel")
    data = DataTable(folder=folder, labels=[name.strip()])
    site = SiteTable.model_validate({"name": "north", "superlink": "host:1"})
    read = SiteFile.model_validate(tomllib.loads(site_toml(site, task, data)))
    assert (read.task, read.data) == (task, data)


def test_a_task_described_beside_the_images_is_taken_over(root: Path) -> None:
    data = write_manifest(root / "described", ["0.png,grey,p", "1.png,white,q"])
    (data / "site.toml").write_text(
        '[task]\nname = "tissue"\nkeywords = ["a \\"b\\"", "c"]\nshares_weights = true\n'
        '[task.codes]\ngrey = "SCT:1"\n'
        '[data]\nmanifest = "labels.csv"\n'
    )
    assert init(root, "north", "--data", str(data)) == 0
    card = read_site(root / "north").card
    assert card.shares_weights
    assert (card.name, card.keywords) == ("tissue", ['a "b"', "c"])
    assert [c.code for c in card.classes] == ["SCT:1", None]


def test_from_an_invitation(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pem = public_pem(generate_key())
    invitation = Invitation(
        name="ring",
        address="ring.example:9092",
        certificates=(root / "tls" / "ca.crt").read_text(),
        coordinators=[pem],
    )
    write_invitation(root / "invitation.json", invitation)
    assert init(root, "north", "--invitation", str(root / "invitation.json")) == 0
    assert load_site_settings(root / "north").superlink == "ring.example:9092"
    kept = (root / "north" / "invitation.json").read_text()
    assert Invitation.model_validate_json(kept) == invitation
    assert f"coordinator  {key_id(pem)}" in capsys.readouterr().out


@pytest.mark.parametrize("options", [(), ("--separate-key",)])
def test_a_passphrase_makes_a_separate_encrypted_key(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setenv(PASSPHRASE, "secret")
    assert init(root, "north", *options) == 0
    path = root / "north" / "keys" / "signing.pem"
    assert mode(path) == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_site_settings(root / "north").signing_key == path
    enrolment = open_enrolment((root / "north" / "north.enrol.json").read_bytes())
    assert enrolment.key_id == key_id(public_pem(load_private_key(path, "secret")))
    assert enrolment.node_key_id == key_id(
        public_pem(load_private_key(root / "north" / "keys" / "node"))
    )


def test_a_key_that_is_there_already(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = generate_key()
    save_private_key(root / "own.pem", key)
    monkeypatch.setenv(PASSPHRASE, "of something else")
    monkeypatch.chdir(root)
    assert init(root, "north", "--signing-key", "own.pem") == 0
    assert load_site_settings(root / "north").signing_key == root / "own.pem"
    enrolment = open_enrolment((root / "north" / "north.enrol.json").read_bytes())
    assert enrolment.key_id == key_id(public_pem(key))
    assert not (root / "north" / "keys" / "signing.pem").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--superlink", "https://x"], "--superlink 'https://x' is no address: write HOST:PORT"),
        (["--data", "/no"], "data folder /no does not exist or is no folder: correct --data"),
        (["--separate-key"], f"a separate signing key needs a passphrase: set {PASSPHRASE}"),
        (
            ["--separate-key", "--signing-key", "x"],
            "--separate-key makes a key, --signing-key names",
        ),
        (["--public-key", "x"], "--public-key belongs to a --signing-key: give both"),
        (["--signing-key", "/no.pem"], "key file /no.pem cannot be read: No such file"),
        (["--signing-key", "hsm:1?label=x"], "key hsm:1?label=x needs its public half"),
        (["--name", "a/b"], "site name 'a/b' is not usable"),
        (["--ca", "/no.crt"], "certificate /no.crt cannot be read: No such file or directory"),
        (["--ca", __file__], f"{__file__} is no certificate in PEM form: ask the coordinator for"),
        (["--superlink", ""], "give either --invitation, or both --superlink and --ca"),
    ],
)
def test_what_cannot_be_used_leaves_nothing_behind(
    root: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert init(root, "north", *options) == 1
    assert capsys.readouterr().err.startswith(f"fedprint: error: {message}")
    assert not (root / "north").exists()


def test_a_site_is_not_made_twice(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(root) == 0
    before = {p: p.read_bytes() for p in (root / "north").rglob("*") if p.is_file()}
    assert init(root) == 1
    assert capsys.readouterr().err == (
        f"fedprint: error: {root}/north is a site's folder already (it holds ca.crt): choose "
        "another, or make new keys with `fedprint site rotate`\n"
    )
    assert before == {p: p.read_bytes() for p in (root / "north").rglob("*") if p.is_file()}


def test_a_failure_leaves_what_was_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "images"  # a site may be made around its images
    before = sorted(folder.rglob("*"))

    def breaks(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(site_init, "make_enrolment", breaks)
        assert init(root, "images") == 1
    assert sorted(folder.rglob("*")) == before
    (folder / "state").write_text("in the way")
    assert init(root, "images") == 1
    (folder / "state").unlink()
    assert sorted(folder.rglob("*")) == before
    assert init(root, "images") == 0
    assert len(read_site(folder).images) == 5
