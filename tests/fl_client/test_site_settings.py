from __future__ import annotations

from pathlib import Path

import pytest

from fl_client.site_settings import load_site_settings, parse_address
from protocol.errors import ConfigError

MINIMAL = '[site]\nsuperlink = "host:9092"\n'


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "site.toml").write_text(text)
    return folder


def fails(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_site_settings(write(folder, text))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "SITE")


def test_what_is_not_said_has_the_places_of_init(tmp_path: Path) -> None:
    folder = write(tmp_path / "north", MINIMAL)
    settings = load_site_settings(folder)
    assert settings.name == "north"
    assert settings.superlink == "host:9092"
    assert settings.data == settings.folder == folder
    assert settings.certificates == folder / "ca.crt"
    assert settings.key == settings.signing_key == folder / "keys" / "node"
    assert settings.policy == folder / "policy.toml"
    assert settings.state == folder / ".fedprint"
    assert settings.enrolment == folder / "north.enrol.json"
    assert (settings.device, settings.port, settings.public_pem) == ("", 0, None)


def test_paths_are_absolute_or_relative_to_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
[site]
name = "South-West"
superlink = "[::1]:9092"
certificates = "/etc/ca.crt"
key = "~/node"
signing-key = "keys/signing.pem"
policy = "../policy.toml"
state = "/var/lib/fedprint"
device = "cuda:1"
port = 9100
[data]
folder = "/data/images"
"""
    monkeypatch.setenv("HOME", "/home/someone")
    write(tmp_path / "s", text)
    monkeypatch.chdir(tmp_path)
    settings = load_site_settings("s")
    assert settings.name == "South-West"
    assert settings.certificates == Path("/etc/ca.crt")
    assert settings.key == Path("/home/someone/node")
    assert settings.signing_key == tmp_path / "s" / "keys" / "signing.pem"
    assert settings.policy == tmp_path / "s" / ".." / "policy.toml"
    assert settings.state == Path("/var/lib/fedprint")
    assert settings.data == Path("/data/images")
    assert (settings.device, settings.port) == ("cuda:1", 9100)


def test_a_key_named_by_uri(tmp_path: Path) -> None:
    text = MINIMAL + 'signing-key = "hsm:2?label=x"\n'
    assert fails(tmp_path, text) == (
        "SITE/site.toml: [site] names no public-key for hsm:2?label=x: add its PEM file"
    )
    settings = load_site_settings(write(tmp_path, text + 'public-key = "hsm.pub.pem"\n'))
    assert settings.signing_key == "hsm:2?label=x"
    with pytest.raises(ConfigError, match=r"public key .*hsm\.pub\.pem cannot be read"):
        _ = settings.public_pem
    (tmp_path / "hsm.pub.pem").write_text("PEM")
    assert settings.public_pem == "PEM"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "SITE/site.toml: [site] names no superlink: add the coordinator's HOST:PORT"),
        (
            '[site]\nsuperlink = "https://h:1"\n',
            "SITE/site.toml: site.superlink 'https://h:1' is no address: write HOST:PORT, without",
        ),
        ("[site]\nport = 70000\n", "SITE/site.toml: site.port: Input should be less than or equal"),
        ("[site]\nname = '../x'\n", "SITE/site.toml: site.name: site name '../x' is not usable"),
        (
            "[site]\nsigning_key = 'x'\n",
            "SITE/site.toml: unknown key 'site.signing_key'; [site] takes name, superlink, "
            "certificates, key, signing-key, public-key, policy, state, device and port",
        ),
        (
            "[sight]\n",
            "SITE/site.toml: unknown key 'sight'; the file has the tables [site], [task], "
            "[data] and [tracking]",
        ),
        ("[site\n", "SITE/site.toml is not readable TOML"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    assert fails(tmp_path, text).startswith(message)


def test_a_folder_without_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_site_settings(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no site.toml: make it with `fedprint site init`"
    )


@pytest.mark.parametrize(
    "address", ["", "h", "h:", "h:0", "h:65536", "h:1x", ":1", "a b:1", "h/:1"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address: write HOST:PORT"):
        parse_address(address, "--superlink")


def test_addresses() -> None:
    assert parse_address("h.example:9092", "x") == ("h.example", 9092)
    assert parse_address("[::1]:1", "x") == ("::1", 1)
