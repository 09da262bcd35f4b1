"""What a person at the site does: preview, approve, deny, look back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from fixtures_sites import tiny_spec, write_classes
from typer.testing import CliRunner, Result

from fl_client import gate_commands
from fl_client.approval import Desk, open_desk
from fl_client.preview import PLAIN
from fl_client.releases import Releases
from protocol.cli import main
from protocol.errors import ConfigError, DataError, FedprintError, PolicyError
from protocol.files import sha256_hex
from protocol.fingerprint import pack
from protocol.keys import generate_node_key, load_signer, save_node_key
from protocol.records import ReleaseRequest
from protocol.spec import Spec, load_spec

APP = typer.Typer()
gate_commands.add(APP)

SITE = """
[site]
name = "north"
superlink = "coordinator.example:9092"
state = "state"
[task]
name = "bones <b>of</b> the hand"
modality = "X-ray"
keywords = ["hand"]
codes = { b = "12345" }
[data]
folder = "images"
"""
PLAIN_POLICY = 'name = "bones"\nspecs = ["*"]\nmin_images = 2\nrelease = "plain"\n'
AUTHORITY = "the certificate of the coordinator's authority\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "srv"
    write_classes(made / "images", {"a": 3, "b": 2})
    (made / "site.toml").write_text(SITE)
    (made / "policy.toml").write_text(PLAIN_POLICY)
    (made / "ca.crt").write_text(AUTHORITY)
    save_node_key(made / "keys" / "node", generate_node_key())
    return made


def run(*words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(APP, [str(word) for word in words], input=answer)


def succeeds(*words: object, answer: str | None = None) -> str:
    result = run(*words, answer=answer)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def fails(kind: type[FedprintError], *words: object) -> str:
    result = run(*words)
    assert isinstance(result.exception, kind), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def ask(folder: Path, spec: Spec, name: str = "run-1") -> tuple[bytes, bytes, bytes]:
    """Ask as the coordinator does."""
    return open_desk(folder, "cpu").gate.answer(ReleaseRequest(name, "n" * 64, spec))


def waits(folder: Path, spec: Spec, name: str = "run-1") -> str:
    with pytest.raises(PolicyError) as caught:
        ask(folder, spec, name)
    return caught.value.reason


class Page(HTMLParser):
    """Collects tags, sources and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_from_request_to_release(folder: Path, spec: Spec, tmp_path: Path) -> None:
    assert waits(folder, spec) == "awaiting-approval"
    shown = succeeds("preview", folder, "--device", "cpu", "--json", tmp_path / "preview.json")
    found = json.loads((tmp_path / "preview.json").read_text())
    signer = load_signer(folder / "keys" / "node")
    assert found["key_id"] == signer.public_key.keyid
    assert (found["images"], found["patients"], found["site"]) == (5, None, "north")
    assert found["spec"]["digest"] == spec.digest
    assert found["spec"]["shipped"] is False
    assert found["receiver"]["superlink"] == "coordinator.example:9092"
    assert found["receiver"]["authority"] == sha256_hex(AUTHORITY.encode())
    assert found["policy"]["training"] is True
    assert found["policy"]["plans"] is True
    assert found["policy"]["scores"] is False
    assert found["task_card"]["shares_weights"] is False
    assert (found["request"]["run"], found["request"]["times"]) == ("run-1", 1)
    assert found["task_card"]["classes"] == [
        {"name": "a", "code": None},
        {"name": "b", "code": "12345"},
    ]
    for words in (
        "coordinator.example:9092, and everybody who can read the coordinator's run folder",
        "A plain histogram is not anonymous",
        "512 features x 10 bins",
        found["payload"]["sha256"],
        found["policy"]["digest"],
        found["receiver"]["authority"],
        "approving this also lets the site train with its group: yes (policy: training)",
        "with training it tries other architectures, augmentation and starting weights for its "
        "group, and trains as a plan of its coordinator says: yes (policy: plans)",
        "with training it tells how well models of other sites fit its images: no (policy: scores)",
        "weights trained on these images stay with the run and its group (site.toml: "
        "shares_weights = false)",
        f"to let it go: fedprint site approve {folder}",
    ):
        assert words in shown
    assert waits(folder, spec) == "awaiting-approval", "a preview approves nothing"

    approved = succeeds("approve", folder, "--device", "cpu", answer="y\n")
    assert found["payload"]["sha256"] in approved
    payload, envelope, _ = ask(folder, spec, "run-2")
    assert len(payload) == found["payload"]["bytes"]
    assert len(pack(payload)) == found["payload"]["packed"]
    assert ask(folder, spec, "run-3")[:2] == (payload, envelope)
    assert not list((folder / "state" / "requests").iterdir())
    listed = succeeds("history", folder, "--json", tmp_path / "history.json", "--last", 3)
    entries = json.loads((tmp_path / "history.json").read_text())["entries"]
    assert [(e["run"], e["decision"]) for e in entries] == [
        ("run-1", "approved"),
        ("run-2", "released"),
        ("run-3", "released-again"),
    ]
    assert [e["bytes"] for e in entries] == [0, len(payload), len(payload)]
    assert {e["sha256"] for e in entries} == {found["payload"]["sha256"]}
    assert "released-again" in listed


def test_the_page_shows_everything_and_refers_to_nothing(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    page_file = folder.parent / "page.html"
    succeeds("preview", folder, "--device", "cpu", "--html", page_file)
    page = Page(page_file.read_text())
    assert "script" not in page.tags
    assert page.tags.count("svg") == 6
    assert page.tags.count("rect") == 60
    assert [source[:22] for source in page.sources] == ["data:image/png;base64,"]
    assert "bones <b>of</b> the hand" in page.words, "what the card says is text, never markup"
    assert PLAIN in page.words
    assert "lets the site train with its group: yes (policy: training)" in page.words
    assert sha256_hex(AUTHORITY.encode()) in page.words
    assert page_file.stat().st_mode & 0o777 == 0o600
    succeeds("preview", folder, "--device", "cpu")
    (kept,) = (folder / "state" / "requests").glob("*/preview.html")
    assert kept.read_text().startswith("<!DOCTYPE html>")


def test_an_approval_covers_what_was_previewed_and_nothing_else(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    succeeds("preview", folder, "--device", "cpu")
    shutil.copy(folder / "images/a/001.png", folder / "images/b/001.png")
    message = fails(DataError, "approve", folder, "--yes")
    assert message == (
        "the images, card, policy or coordinator of site north changed since the preview: look at "
        "it again with fedprint site preview"
    )
    succeeds("preview", folder, "--device", "cpu")
    (payload,) = (folder / "state" / "requests").glob("*/preview.safetensors")
    whole = payload.read_bytes()
    payload.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "changed since the preview" in fails(DataError, "approve", folder, "--yes")
    payload.write_bytes(whole)
    succeeds("approve", folder, "--yes")
    assert ask(folder, spec)[0] == whole
    (folder / "images/a/002.png").unlink()
    assert waits(folder, spec) == "awaiting-approval", "other data wait again"
    other = tiny_spec(Path(spec.weights.source[5:]).parent, bins=20)
    assert waits(folder, other) == "awaiting-approval", "another spec waits too"


def test_a_changed_card_or_policy_waits_again(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    succeeds("approve", folder, "--yes", "--device", "cpu")
    ask(folder, spec)
    (folder / "site.toml").write_text(SITE.replace("X-ray", "MRI"))
    assert waits(folder, spec) == "awaiting-approval"
    (folder / "site.toml").write_text(SITE)
    ask(folder, spec)
    with (folder / "policy.toml").open("a") as file:
        file.write("min_patients = 2\n")
    assert waits(folder, spec) == "awaiting-approval"


MOVED = SITE.replace("coordinator.example", "elsewhere.example")


def set_up(folder: Path, *, text: str = SITE, authority: str = AUTHORITY) -> None:
    (folder / "site.toml").write_text(text)
    (folder / "ca.crt").write_text(authority)


@pytest.mark.parametrize("change", [{"text": MOVED}, {"authority": "another"}])
def test_an_approval_is_for_the_recipient_that_was_shown(
    folder: Path, spec: Spec, change: dict[str, str]
) -> None:
    waits(folder, spec)
    succeeds("preview", folder, "--device", "cpu")
    set_up(folder, **change)
    assert "coordinator of site north changed" in fails(DataError, "approve", folder, "--yes")
    set_up(folder)
    succeeds("approve", folder, "--yes")
    released = ask(folder, spec)
    open_desk(folder, "cpu").gate.admit(spec, "run-1", "alone")
    set_up(folder, **change)
    assert waits(folder, spec) == "awaiting-approval"
    with pytest.raises(PolicyError, match="a person at site north must approve spec tiny first"):
        open_desk(folder, "cpu").gate.admit(spec, "run-1", "alone")
    set_up(folder)
    assert ask(folder, spec)[:2] == released[:2], "what was approved holds where it was meant to go"


def test_what_goes_by_itself_goes_to_whom_the_site_connects(folder: Path, spec: Spec) -> None:
    (folder / "policy.toml").write_text(PLAIN_POLICY + "automatic = true\n")
    first = ask(folder, spec)
    (folder / "site.toml").write_text(MOVED)
    (folder / "ca.crt").unlink()
    assert ask(folder, spec)[:2] == first[:2]


def test_what_changes_while_a_person_reads_is_not_approved(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(folder, spec)
    succeeds("preview", folder, "--device", "cpu")
    (shown,) = (folder / "state" / "requests").glob("*/preview.safetensors")
    payload, image = shown.read_bytes(), folder / "images/b/001.png"

    def agreed(*_: object) -> bool:
        shutil.copy(folder / "images/a/001.png", image)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(typer, "confirm", agreed)
        assert "changed since the preview" in fails(DataError, "approve", folder)
    assert not Releases(folder / "state").folder(spec).exists()
    assert waits(folder, spec) == "awaiting-approval"

    def added(*_: object) -> bool:
        shutil.copy(folder / "images/a/001.png", folder / "images/b/002.png")
        return True

    succeeds("preview", folder, "--device", "cpu")
    assert shown.read_bytes() != payload
    monkeypatch.setattr(typer, "confirm", added)
    succeeds("approve", folder)
    kept = Releases(folder / "state").folder(spec) / "north.safetensors"
    assert sha256_hex(kept.read_bytes()) == open_history(folder)[-1]["sha256"]
    assert waits(folder, spec) == "awaiting-approval", "nobody has looked at the new image"


def open_history(folder: Path) -> list[dict[str, str]]:
    lines = (folder / "state" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_preview_says_where_no_training_follows(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    with (folder / "policy.toml").open("a") as file:
        file.write("training = false\n")
    shown = succeeds("preview", folder, "--device", "cpu")
    assert "lets the site train with its group: no (policy: training)" in shown
    assert "as a plan of its coordinator says: no (policy: plans)" in shown


def test_the_preview_says_what_becomes_of_weights(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    text = (folder / "site.toml").read_text()
    (folder / "site.toml").write_text(text.replace("[data]", "shares_weights = true\n[data]"))
    with (folder / "policy.toml").open("a") as file:
        file.write("plans = false\n")
    shown = succeeds("preview", folder, "--device", "cpu")
    assert "as a plan of its coordinator says: no (policy: plans)" in shown
    assert (
        "weights trained on these images may be handed on to other groups and later runs, where "
        "all sites that trained them agree, and to sites that score them (site.toml: "
        "shares_weights = true)"
    ) in shown


def test_two_previews_at_once_are_no_approval(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    desk: Desk = open_desk(folder, "cpu")
    request = desk.find(None)
    payload = desk.previewed(request)
    with pytest.raises(DataError, match="another preview was made meanwhile"):
        desk.approve(request, payload + b" ")
    desk.approve(request, payload)


def test_saying_no_changes_nothing(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    result = run("approve", folder, "--device", "cpu", answer="n\n")
    assert result.exit_code == 1
    assert result.stdout.endswith("not approved: it still waits\n")
    assert waits(folder, spec) == "awaiting-approval"


def test_nobody_there_to_answer_approves_nothing(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    message = "nothing was approved: answer y, or give --yes"
    assert fails(ConfigError, "approve", folder, "--device", "cpu") == message
    assert waits(folder, spec) == "awaiting-approval"


def test_history_fits_the_terminal(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(folder, spec, "a-run-with-quite-a-name/2026-11-21T10:04:11")
    monkeypatch.setenv("COLUMNS", "80")
    first, second = succeeds("history", folder).splitlines()
    assert first[19:] == "  awaiting-approval  tiny"
    assert second == "  run a-run-with-quite-a-name/2026-11-21T10:04:11"
    monkeypatch.setenv("COLUMNS", "200")
    shown = succeeds("history", folder)
    assert "images" in shown
    assert "a-run-with-quite-a-name/2026-11-21T10:04:11 " in shown


def test_denied_until_approved(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    assert f"denied: spec tiny, digest {spec.digest}" in succeeds("deny", folder)
    assert waits(folder, spec, "run-2") == "denied"
    for command in ("preview", "approve", "deny"):
        assert fails(ConfigError, command, folder) == (
            "the request for tiny was denied; to let it go after all: "
            f"fedprint site approve {folder} --spec tiny"
        )
    succeeds("approve", folder, "--spec", "tiny", "--yes", "--device", "cpu")
    ask(folder, spec)
    (kept,) = (folder / "state" / "releases").glob("*/spec.json")
    succeeds("deny", folder, "--spec", kept)
    assert waits(folder, spec) == "denied"
    assert not Releases(folder / "state").folder(spec).exists(), "what was let go is withdrawn"
    history = (folder / "state" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision"] for line in history] == [
        "awaiting-approval",
        "denied",
        "refused",
        "approved",
        "released",
        "denied",
        "refused",
    ]


def test_which_request_is_meant(folder: Path, spec: Spec) -> None:
    assert fails(ConfigError, "approve", folder, "--yes") == (
        "no request waits at site north: name a spec with --spec to look at its fingerprint "
        "before anybody asks"
    )
    assert "unknown spec 'none'" in fails(ConfigError, "preview", folder, "--spec", "none")
    other = tiny_spec(Path(spec.weights.source[5:]).parent, bins=20)
    for asked in (spec, other):
        waits(folder, asked)
    for words in ((), ("--spec", "tiny")):
        message = fails(ConfigError, "preview", folder, *words)
        assert message.startswith("several requests are there: tiny (")
        assert message.endswith("): name the digest with --spec")
    shown = succeeds("preview", folder, "--spec", other.digest[:12], "--device", "cpu")
    assert f"approve {folder} --spec {other.digest[:12]}" in shown
    desk = open_desk(folder)
    assert desk.find("lite0-100").spec == load_spec("lite0-100")
    assert desk.find("lite0-100").times == 0


def test_what_the_policy_forbids_cannot_be_approved(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    (folder / "policy.toml").write_text('name = "bones"\nspecs = ["lite0-100"]\n')
    for command in (("preview",), ("approve", "--yes")):
        message = fails(PolicyError, command[0], folder, *command[1:])
        assert message == "bones: spec tiny is not allowed: add it to specs to allow it"


def test_folders_that_are_no_site(tmp_path: Path) -> None:
    for command in ("preview", "approve", "deny", "history"):
        assert "no site.toml" in fails(ConfigError, command, tmp_path)


def test_names_from_outside_play_no_tricks(folder: Path, spec: Spec) -> None:
    waits(folder, spec.model_copy(update={"name": "\x1b[2Jlite0-100"}), "[red]run")
    page = folder.parent / "page.html"
    for words in (("preview", "--device", "cpu", "--html", page), ("approve", "--yes")):
        assert "\x1b" not in succeeds(words[0], folder, *words[1:])
    assert "\x1b" not in page.read_text()
    assert "[red]run" in succeeds("history", folder)
    for name in ("\x1b[2J", "\x1b[3J"):
        waits(folder, spec.model_copy(update={"name": name}), "\x1b[2Jrun")
    assert "\x1b" not in fails(ConfigError, "preview", folder)
    assert "\x1b" not in succeeds(
        "deny", folder, "--spec", open_desk(folder).requests.all()[0].spec.digest
    )
    assert "\x1b" not in succeeds("history", folder)


def test_errors_play_no_tricks_either(
    folder: Path, spec: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    waits(folder, spec.model_copy(update={"name": "\x1b[2Jtiny\u202e"}))
    (folder / "policy.toml").write_text('name = "bones"\n')
    with pytest.raises(SystemExit):
        main(["site", "preview", str(folder)])
    assert capsys.readouterr().err == (
        "fedprint: error: bones: spec ?[2Jtiny? is not allowed: add it to specs to allow it\n"
    )


def test_help_is_quick_and_has_examples() -> None:
    for command in ("preview", "approve", "deny", "history"):
        assert f"Example: fedprint site {command} " in run(command, "--help").stdout
    code = (
        "import sys, fl_client.gate_commands;"
        "print({'torch', 'timm', 'flwr', 'PIL', 'jinja2'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
