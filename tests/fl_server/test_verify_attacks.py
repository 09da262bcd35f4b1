"""`fedprint verify` against who holds the coordinator's key, and what sites keep against it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_server.report import page_of
from fl_server.runlog import RunLog
from fl_server.runstate import own_signer
from fl_server.verify_evidence import Evidence, Finding
from fl_server.verify_run import verify_run
from protocol.cli import main
from protocol.files import atomic_json, canonical_json
from protocol.keys import generate_key, key_id, public_pem, signer_pem
from protocol.ledger_lines import parse_ledger
from protocol.log import ENTRIES
from protocol.trust import open_store, sign_store
from tests.fl_server.audited import RUN, audited_run, closed_again, copy_of, entries_of, findings
from tests.fl_server.joining import MEMBERS, federation, write_run
from tests.fl_server.test_reopen import take_in


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked")
    audited_run(folder)
    return folder


@pytest.fixture(scope="module")
def states(root: Path) -> list[Path]:
    return [root / name for name in MEMBERS]


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    return copy_of(root / "run", tmp_path / "run")


def edited(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Return what changes a JSON file of a run folder."""

    def edit(run: Path) -> None:
        content = json.loads((run / name).read_bytes())
        change(content)
        atomic_json(run / name, content)

    return edit


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return what changes a text of a run folder."""

    def edit(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return edit


def rewritten(run: Path, change: Callable[[list[dict[str, Any]]], object]) -> Path:
    """Rewrite the log's entries but the closing one, and close and sign it anew."""
    entries = entries_of(run)[:-1]
    change(entries)
    RunLog(map(canonical_json, entries)).close(RUN, run, own_signer(run))
    return run


def regroup(content: Any) -> None:
    """Change who is with whom, whatever groups the noise has left."""
    first, *others = content["groups"]
    if others:
        first["sites"].append(others[-1]["sites"].pop())
    else:
        content["groups"].append({"name": "group-2", "sites": [first["sites"].pop()]})


ATTACKS = {
    "distance": ("distances.csv", replaced("distances.csv", "site-0-1,0.", "site-0-1,1.")),
    "stability": (
        "groups.json",
        edited("groups.json", lambda c: c["sites"]["site-0-0"].update(stability=0.123)),
    ),
    "reason": (
        "groups.json",
        edited("groups.json", lambda c: c["sites"]["site-0-0"].update(reason="Why not?")),
    ),
    "members": ("groups.json", edited("groups.json", regroup)),
    "partner": (
        "recommendations.json",
        edited("recommendations.json", lambda c: c["sites"]["site-0-0"]["co-training"].reverse()),
    ),
    "epsilon": (
        "ledger.json",
        edited("ledger.json", lambda c: c["sites"]["site-1-0"].update(epsilon=1.0)),
    ),
    "total": ("ledger.json", edited("ledger.json", lambda c: c["total"].update(rho=0.1))),
    "images": ("run.json", edited("run.json", lambda c: c["sites"][0].update(images=999))),
    "task": ("run.json", edited("run.json", lambda c: c["sites"][0].update(task="other"))),
    "site": ("run.json", edited("run.json", lambda c: c["sites"].pop())),
    "asked": ("run.json", edited("run.json", lambda c: c["settings"].update(epsilon=99.0))),
    "bounds": (
        "groups.json",
        edited("run.json", lambda c: c["settings"].update(max_group_size=1)),
    ),
    "measure": (
        "distances.csv",
        edited("run.json", lambda c: c["settings"].update(measure="bkld-small-target")),
    ),
    "left out": (
        "run.json",
        edited("run.json", lambda c: c["left_out"].append({"site": "x", "reason": "no-reply"})),
    ),
    "report": ("report.html", replaced("report.html", "5 sites with", "6 sites with")),
}


@pytest.mark.parametrize(("where", "change"), ATTACKS.values(), ids=ATTACKS.keys())
def test_a_figure_that_the_coordinator_changed_and_signed_is_found(
    copied: Path, states: list[Path], where: str, change: Callable[[Path], None]
) -> None:
    own = own_signer(copied)
    assert where in {f.where for f in findings(closed_again(copied, change), own, states)}


def test_rewritten_entries_are_found_by_what_sites_keep(copied: Path, states: list[Path]) -> None:
    def later(entries: list[dict[str, Any]]) -> None:
        (request,) = (e for e in entries if e["kind"] == "request" and e["site"] == "site-0-0")
        entries.remove(request)
        entries.insert(1, request)

    own = own_signer(copied)
    rewritten(copied, later)
    assert findings(copied, own) == []  # whole, and signed: nobody else could tell
    found = findings(copied, own, states[:1])
    assert [f.where for f in found] == ["log", "log"]
    assert "does not begin with the 17 entries that " in found[0].what
    assert found[0].what.endswith("00000017.dsse.json vouches for: rewritten")


def test_entries_that_were_taken_away_are_found(copied: Path, states: list[Path]) -> None:
    rewritten(copied, lambda entries: entries.__delitem__(slice(17, None)))
    found = findings(copied, own_signer(copied), states[:1])
    assert Finding("log", "has 18 entries, a site was shown 23: entries were taken away") in found


def test_a_release_that_the_coordinator_forged_is_found(
    copied: Path, states: list[Path], tmp_path: Path
) -> None:
    """Another run's folder, under this run's name and key: all of it whole, but not what was."""
    other, own = audited_run(tmp_path / "other"), own_signer(copied)
    store = open_store((other / "trust.dsse.json").read_bytes(), signer_pem(own_signer(other)))

    def as_ours(run: Path) -> None:
        (run / "trust.dsse.json").write_bytes(sign_store(store, own))
        (run / "coordinator.pub.pem").write_text(signer_pem(own))

    closed_again(other, as_ours, own, keep=22)
    assert findings(other, own) == []
    found = findings(other, own, states[2:3])
    assert any("vouches for: rewritten" in f.what for f in found)
    assert any("no release of the run names a line of it" in f.what for f in found)


def test_releases_of_keys_that_nobody_enrolled_are_found(copied: Path) -> None:
    own, foreign = own_signer(copied), public_pem(generate_key())
    store = open_store((copied / "trust.dsse.json").read_bytes(), signer_pem(own))
    (entry,) = store.entries_of("site-0-0")
    gone = store.model_copy(update={"entries": [e for e in store.entries if e is not entry]})

    def change(run: Path) -> None:
        (run / "trust.dsse.json").write_bytes(sign_store(gone.enrol("site-0-0", foreign), own))

    found = findings(closed_again(copied, change), own)
    short, other = entry.key_id[:12], key_id(foreign)[:12]
    assert (
        Finding("trust.dsse.json", f"holds key {other} of site-0-0, which the log lacks") in found
    )
    assert (
        Finding("fingerprints/site-0-0", f"is signed with {short}, no key of site-0-0 in the run")
        in found
    )


def test_a_key_revoked_before_its_release_is_found_and_one_after_it_is_not(copied: Path) -> None:
    own = own_signer(copied)
    store = open_store((copied / "trust.dsse.json").read_bytes(), signer_pem(own))
    (entry,) = store.entries_of("site-0-0")
    said = {"kind": "key", "site": "site-0-0", "key": entry.key_id, "status": "revoked"}
    said["time"] = entries_of(copied)[-1]["time"]
    revoked = sign_store(store.revoke(entry.key_id), own)
    (copied / "trust.dsse.json").write_bytes(revoked)
    rewritten(copied, lambda entries: entries.append(said))
    assert [f for f in findings(copied, own) if f.where != "report.html"] == []
    rewritten(copied, lambda entries: entries.insert(1, said))
    wanted = Finding("fingerprints/site-0-0", f"key {entry.key_id[:12]} had been revoked")
    assert wanted in findings(copied, own)


def test_an_answer_to_a_request_that_was_never_sent_is_found(copied: Path) -> None:
    def other_nonce(entries: list[dict[str, Any]]) -> None:
        (request,) = (e for e in entries if e["kind"] == "request" and e["site"] == "site-0-0")
        request["nonce"] = "0" * 64

    assert findings(rewritten(copied, other_nonce)) == [
        Finding(
            "fingerprints/site-0-0.binding.dsse.json", "answers no request that the log tells of"
        )
    ]


def test_the_ledgers_of_sites_are_checked(
    copied: Path, root: Path, states: list[Path], tmp_path: Path
) -> None:
    state = tmp_path / "site-0-0"
    copy_of(root / "site-0-0", state)
    ledger = state / "ledger.jsonl"
    content = ledger.read_bytes()
    for at in range(0, len(content), 41):
        ledger.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert {f.where for f in findings(copied, None, [state])} == {str(ledger)}
    (line,) = parse_ledger(content)
    cheaper = line.model_copy(update={"rho": line.rho / 2, "total_rho": line.rho / 2})
    ledger.write_bytes(cheaper.sealed().to_bytes() + b"\n")
    assert {f.where for f in findings(copied, None, [state])} == {str(ledger)}
    ledger.unlink()
    assert [f.where for f in findings(copied, None, [state])] == [str(ledger)]
    (tmp_path / "nobody").mkdir()
    assert findings(copied, None, [tmp_path / "nobody"]) == [
        Finding(str(tmp_path / "nobody"), "holds nothing of this run: give a member's state folder")
    ]


def test_a_run_that_was_trained_and_joined_is_verified(tmp_path: Path) -> None:
    made = federation()
    folder = write_run(tmp_path / "run", made)
    assert findings(folder, made.exchange.signer) == []
    for path in (folder / "metrics.json", *(folder / "models").glob("*.safetensors")):
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        name = path.relative_to(folder).as_posix()
        assert Finding(name, "was changed") in findings(folder, made.exchange.signer)
        path.write_bytes(content)
    take_in(made, folder, "site-1-2", "site-2-1")
    take_in(made, folder, "site-0-2")
    assert findings(folder, made.exchange.signer) == []
    change = edited("groups.json", lambda c: c["sites"]["site-0-2"].update(margin=0.5))
    change(folder)
    lines = (folder / "log" / ENTRIES).read_bytes().splitlines()
    RunLog(lines).close(made.exchange.run, folder, made.exchange.signer)
    wanted = Finding("groups.json", "site-0-2 was not placed where its counts put it")
    assert wanted in findings(folder, made.exchange.signer)


def test_a_run_of_before_the_ledger_is_verified_with_a_note(tmp_path: Path) -> None:
    made = federation()
    folder = write_run(tmp_path / "run", made)
    (folder / "ledger.json").unlink()
    for card in (folder / "models").glob("*/*"):
        card.unlink()
    edited("run.json", lambda c: c.update(versions={"fedprint": "0.1"}))(folder)
    (folder / "report.html").write_text(page_of(folder))
    kinds = ("spec", "enrolment", "release", "left out", "groups")
    entries = [e for e in entries_of(folder) if e["kind"] in kinds]
    for entry in entries:
        entry.pop("binding", None)
    log = RunLog(map(canonical_json, entries))
    log.close(made.exchange.run, folder, made.exchange.signer)
    outcome = verify_run(Evidence(folder, signer_pem(made.exchange.signer)))
    assert outcome.findings == []
    assert outcome.notes == ["no ledger.json: the run is older than it, its releases are plain"]


def test_what_another_version_decided_is_computed_again_and_says_so(copied: Path) -> None:
    edited("run.json", lambda c: c["versions"].update(fedprint="0.1"))(copied)
    edited("groups.json", lambda c: c["sites"][MEMBERS[0]].update(margin=0.5))(copied)
    lines = (copied / "log" / ENTRIES).read_bytes().splitlines()
    RunLog(lines).close(RUN, copied, own_signer(copied))
    found = [f.what for f in findings(copied) if f.where == "groups.json" and "margin" in f.what]
    assert len(found) == 1
    assert re.search(r" \(fedprint 0\.1 wrote it, this is [\w.]+\)$", found[0])


def say(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Type ``fedprint verify``; return exit code and what it prints."""
    with pytest.raises(SystemExit) as caught:
        main(["verify", *map(str, arguments)])
    return int(caught.value.code or 0), *capsys.readouterr()


def test_the_command_says_what_it_found(
    copied: Path, states: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pem, out = copied / "coordinator.pub.pem", tmp_path / "out.json"
    code, said, _ = say(capsys, copied, "--json", out)
    assert (code, json.loads(out.read_text())["verified"]) == (0, True)
    assert f"{copied}: verified: 5 releases (5 private, 0 plain), 23 log entries, 24 file" in said
    assert "integrity only: checked against the key that the run brings along" in said
    code, said, _ = say(capsys, copied, "--coordinator", pem, "--state", states[0])
    assert code == 0
    assert "the coordinator's key is the one that you gave" in said
    (copied / "groups.json").write_text("{}")
    (copied / "spec.json").unlink()
    code, said, _ = say(capsys, copied, "--json", out)
    found = json.loads(out.read_text())
    assert (code, found["verified"], found["run"]) == (1, False, RUN)
    assert said.splitlines()[:2] == ["groups.json: was changed", "spec.json: is missing"]
    assert found["findings"][0] == {"where": "groups.json", "what": "was changed"}
    assert "every file against the closing entry" in found["checks"]


def test_the_command_refuses_what_is_no_run_in_one_line(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pem").write_bytes(b"\xff")
    for arguments, wanted in (
        ((tmp_path,), "is no run folder: give one, such as runs/demo"),
        ((tmp_path / "none",), "is no run folder"),
        ((copied, "--coordinator", tmp_path / "pem"), "is no public key"),
        ((copied, "--coordinator", copied / "run.json"), "public key"),
        ((copied, "--state", tmp_path / "none"), "is no folder: give a site's state folder"),
    ):
        code, _, error = say(capsys, *arguments)
        assert (code, error.count("\n")) == (1, 1)
        assert wanted in error


def test_what_could_not_be_checked_is_not_called_checked(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = copied / "log" / ENTRIES
    lines = entries.read_bytes().splitlines(keepends=True)
    entries.write_bytes(b"".join(lines[:2] + lines[3:]))
    code, printed, _ = say(capsys, copied)
    assert code == 1
    checked, unfinished = printed.split("\nchecked: ")[1].split("\nNOT checked to the end: ")
    assert "ledger.json" in unfinished
    assert "ledger.json" not in checked
