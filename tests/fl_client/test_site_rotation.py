from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_deployed import deployed

from fl_client.site_lock import only_one
from fl_client.site_rotation import finish_rotation, rotation_file, start_rotation
from fl_client.site_settings import SiteSettings, load_site_settings
from protocol.cli import main
from protocol.enrolment import open_enrolment
from protocol.errors import ConfigError, SiteError
from protocol.keys import (
    PASSPHRASE,
    generate_key,
    key_id,
    load_private_key,
    public_pem,
    save_private_key,
)


def node_id(settings: SiteSettings) -> str:
    return key_id(public_pem(load_private_key(settings.key)))


@pytest.fixture
def north(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteSettings:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    return deployed(tmp_path / "north")


def test_the_old_keys_hold_until_the_switch(north: SiteSettings) -> None:
    old = node_id(north)
    made = start_rotation(north)
    assert node_id(north) == old
    assert made == open_enrolment(rotation_file(north).read_bytes())
    assert (made.replaces, made.site) == (old, "north")
    assert made.key_id == made.node_key_id != old
    kept = finish_rotation(north)
    assert node_id(north) == made.key_id
    assert kept == north.folder / "keys" / f"old-{old[:12]}"
    assert key_id(public_pem(load_private_key(kept / "node"))) == old
    assert (kept / "node").stat().st_mode & 0o777 == 0o600
    assert {p.name for p in north.key.parent.iterdir()} == {"node", "node.pub", kept.name}
    assert open_enrolment(north.enrolment.read_bytes()) == made
    assert not rotation_file(north).exists()


def test_one_rotation_at_a_time(north: SiteSettings) -> None:
    with pytest.raises(ConfigError, match=r"no rotation is under way in .*keys: begin with"):
        finish_rotation(north)
    start_rotation(north)
    with pytest.raises(ConfigError, match=r"a rotation is under way .*: finish it with --finish"):
        start_rotation(north)


@pytest.mark.parametrize("text", ["", "[1]", '{"old": "../../x"}', '{"old": 3}', "\udcff"])
def test_a_damaged_plan_is_named(north: SiteSettings, text: str) -> None:
    made = start_rotation(north)
    plan = north.folder / "keys" / "next" / "rotation.json"
    plan.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        finish_rotation(north)
    assert str(caught.value).startswith(f"{plan} is not in order: ")
    assert str(caught.value).endswith(
        f": restore it, or delete {plan.parent} and begin again with `fedprint site rotate`"
    )
    assert "\n" not in str(caught.value)
    assert node_id(north) == made.replaces, "nothing was switched"


def test_not_while_the_site_runs(north: SiteSettings) -> None:
    made = start_rotation(north)
    with only_one(north), pytest.raises(SiteError, match="site north is running already"):
        finish_rotation(north)
    assert node_id(north) == made.replaces


def test_a_switch_that_was_cut_short_is_completed(
    north: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = start_rotation(north)
    with monkeypatch.context() as patch:
        patch.setattr("fl_client.site_rotation._name_signing_key", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finish_rotation(north)
    kept = finish_rotation(north)
    assert node_id(north) == made.key_id
    assert key_id(public_pem(load_private_key(kept / "node"))) == made.replaces


def test_a_separate_key_rotates_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "secret")
    settings = deployed(tmp_path / "north")
    made = start_rotation(settings)
    assert made.key_id != made.node_key_id
    kept = finish_rotation(settings)
    signing = load_private_key(settings.folder / "keys" / "signing.pem", "secret")
    assert key_id(public_pem(signing)) == made.key_id
    assert key_id(public_pem(load_private_key(kept / "signing.pem", "secret"))) == made.replaces


def test_to_a_separate_key(north: SiteSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "secret")
    before = (north.folder / "site.toml").read_text()
    start_rotation(north)
    finish_rotation(north)
    settings = load_site_settings(north.folder)
    assert settings.signing_key == north.folder / "keys" / "signing.pem"
    after = (north.folder / "site.toml").read_text()
    changed = [
        new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new
    ]
    assert len(changed) == 1
    assert changed[0].startswith('signing-key = "keys/signing.pem"')
    assert changed[0].endswith("# signs what leaves: a file, or a URI such as hsm:...")


def test_a_key_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    keys = [generate_key(), generate_key()]
    for number, key in enumerate(keys):
        save_private_key(tmp_path / f"{number}.pem", key)
    settings = deployed(tmp_path / "north", signing_key=str(tmp_path / "0.pem"))
    with pytest.raises(ConfigError, match="fedprint did not make the signing key"):
        start_rotation(settings)
    with pytest.raises(ConfigError, match="a rotation needs a new signing key: make one"):
        start_rotation(settings, str(tmp_path / "0.pem"))
    assert not (settings.folder / "keys" / "next").exists()
    made = start_rotation(settings, str(tmp_path / "1.pem"))
    assert (made.replaces, made.key_id) == tuple(key_id(public_pem(key)) for key in keys)
    finish_rotation(settings)
    assert load_site_settings(settings.folder).signing_key == tmp_path / "1.pem"


def test_the_command(north: SiteSettings, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--finish"]):
        with pytest.raises(SystemExit) as ended:
            main(["site", "rotate", str(north.folder), *options])
        assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"hand {north.folder}/north.rotation.json to the coordinator" in shown
    assert f"node and signing key  {node_id(north)}" in shown
    assert "site north has switched to its new keys" in shown
