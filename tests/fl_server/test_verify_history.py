"""`fedprint verify` against a coordinator that changes its mind: settings, groups, members."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_server.closing import report_again
from fl_server.runlog import RunLog
from fl_server.runstate import own_signer
from fl_server.settings import FREE, IF_ASKED, OF_PLANS, RunSettings
from fl_server.verify_evidence import Evidence, Finding
from fl_server.verify_run import Outcome, verify_run
from protocol.envelope import sign
from protocol.files import canonical_json, sha256_hex
from protocol.keys import signer_pem
from protocol.log import CHECKPOINT_TYPE, ENTRIES
from tests.fl_server.audited import RUN, audited_run, closed_again, copy_of, entries_of, findings
from tests.fl_server.joining import MEMBERS, federation, write_run
from tests.fl_server.test_reopen import take_in
from tests.fl_server.test_verify_attacks import edited, replaced, rewritten

OTHER = {
    "groups": "data",
    "suspects": "leave-out",
    "measure": "bkld-small-target",
    "strategy": "fedprox",
    "recipe": "fine-tune",
    "rounds": 11,
    "local_epochs": 5,
    "batch_size": 8,
    "learning_rate": 0.5,
    "proximal_mu": 0.1,
    "seed": 1,
    "min_group_size": 2,
    "max_group_size": 1,
    "partners": 2,
    "release": "plain",
    "epsilon": 99.0,
    "delta": 1e-6,
    "arms": ["alone"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    audited_run(folder)
    return folder


@pytest.fixture(scope="module")
def states(root: Path) -> list[Path]:
    return [root / name for name in MEMBERS]


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    return copy_of(root / "run", tmp_path / "run")


def outcome(run: Path, states: list[Path]) -> Outcome:
    return verify_run(Evidence(run, signer_pem(own_signer(run)), states))


def added(run: Path, *entries: dict[str, Any]) -> Path:
    """Go on with a log that was closed, and close it again."""
    lines = (run / "log" / ENTRIES).read_bytes().splitlines()
    time = entries_of(run)[-1]["time"]
    more = [canonical_json({"time": time, **entry}) for entry in entries]
    RunLog([*lines, *more]).close(RUN, run, own_signer(run))
    return run


def test_every_setting_but_the_free_ones_is_in_the_first_entry(copied: Path) -> None:
    held = entries_of(copied)[0]["settings"]
    assert set(held) == set(OTHER)
    assert {*held, *FREE, *OF_PLANS, *IF_ASKED, "spec"} == set(RunSettings.model_fields)


@pytest.mark.parametrize(("name", "value"), OTHER.items(), ids=OTHER)
def test_a_setting_that_was_changed_after_the_end_is_found(
    copied: Path, states: list[Path], name: str, value: object
) -> None:
    change = edited("run.json", lambda c: c["settings"].update({name: value}))
    held = entries_of(copied)[0]["settings"][name]
    found = findings(closed_again(copied, change), own_signer(copied), states)
    said = [f.what for f in found if f.where == "run.json"]
    if name == "arms":  # an exchange has none, whatever is said of them
        assert said == []
    else:
        assert f"says that {name} was {value!r}, the log {held!r}" in said


def test_a_first_entry_that_says_less_or_is_said_twice_is_found(copied: Path) -> None:
    spec = entries_of(copied)[0]
    rewritten(copied, lambda entries: entries[0]["settings"].pop("partners"))
    assert findings(copied) == [Finding("log", "does not commit to the setting partners")]
    wanted = Finding("log", "does not say once, in its first entry, what the run was asked for")
    rewritten(copied, lambda entries: entries.__setitem__(slice(0, 1), [spec, spec]))
    assert findings(copied) == [wanted]
    rewritten(copied, lambda entries: entries.__delitem__(slice(0, 2)))
    assert findings(copied) == [wanted]


def test_groups_that_were_made_again_after_the_end_are_found(
    copied: Path, states: list[Path]
) -> None:
    edited("groups.json", lambda c: c["sites"]["site-0-0"].update(reason="Why not?"))(copied)
    sha256 = sha256_hex((copied / "groups.json").read_bytes())
    found = outcome(added(copied, {"kind": "groups", "sha256": sha256}), states)
    assert found.findings[:3] == [
        Finding("log", "entry 24 makes other groups, and none before it says why"),
        Finding("log", "entry 24 makes groups after the end, and nobody joined"),
        Finding("groups.json", "was changed after the run had ended"),
    ]
    assert found.notes[0] == (
        "these sites were shown 23 of the log's 25 entries: for the others only the coordinator "
        "vouches"
    )
    assert found.notes[1].endswith("after: no more entries; changed: groups.json")


def test_groups_must_be_the_last_ones_and_made_again_only_for_a_reason(copied: Path) -> None:
    def again(entries: list[dict[str, Any]]) -> None:
        (groups,) = (e for e in entries if e["kind"] == "groups")
        entries.append({**groups, "sha256": "0" * 64})

    assert findings(rewritten(copied, again)) == [
        Finding("log", "entry 23 makes other groups, and none before it says why"),
        Finding("groups.json", "is not the file that the log names"),
    ]


def test_groups_made_again_because_somebody_went_are_noted(copied: Path) -> None:
    def gone(entries: list[dict[str, Any]]) -> None:
        at, groups = next((n, e) for n, e in enumerate(entries) if e["kind"] == "groups")
        release = next(e for e in entries if e["kind"] == "release")
        guest = {**release, "site": "guest"}
        left = {"kind": "left out", "site": "guest", "reason": "key-revoked", "time": "x"}
        entries[at + 1 : at + 1] = [left, groups]
        entries.insert(at, guest)

    found = outcome(rewritten(copied, gone), [])
    assert found.notes == [
        "groups were made again before the run had ended, after: left out (guest)"
    ]
    assert [f for f in found.findings if f.where == "log"] == []


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (
            {"kind": "left out", "site": "site-0-1", "reason": "no-reply"},
            "entry 24 (left out) is about site-0-1, which took part before",
        ),
        (
            {"kind": "release", "site": "site-0-1"},
            "entry 24 (release) is about site-0-1, which took part before",
        ),
        (
            {"kind": "joined", "site": "site-0-1"},
            "entry 24 (joined) is about site-0-1, which took part before",
        ),
        ({"kind": "release", "site": "guest"}, "entry 24 takes in guest, which never joined"),
    ],
)
def test_members_that_come_or_go_after_the_end_are_found(
    copied: Path, states: list[Path], entry: dict[str, str], what: str
) -> None:
    found = outcome(added(copied, entry), states)
    assert Finding("log", what) in found.findings
    if entry["kind"] != "left out":
        return
    assert found.notes[1].endswith("after: left out (site-0-1); changed: nothing")


def test_who_joins_before_the_end_and_what_follows_the_close_is_found(copied: Path) -> None:
    rewritten(copied, lambda entries: entries.insert(5, {"kind": "joined", "site": "site-0-1"}))
    assert Finding("log", "has site-0-1 join before the run had ended") in findings(copied)
    log = RunLog((copied / "log" / ENTRIES).read_bytes().splitlines()).as_log(RUN)
    log.append("suspicion", site="site-0-1")
    log.write(copied, own_signer(copied))
    assert Finding("log", "goes on after its closing entry") in findings(copied)


def test_results_that_were_changed_after_the_end_are_found_whatever_they_are(
    tmp_path: Path,
) -> None:
    """What is not computed again: the scores, and the models."""
    made = federation()
    folder = write_run(tmp_path / "run", made)
    edited("metrics.json", lambda c: c["sites"]["site-0-0"].update(final=1.0))(folder)
    model = next((folder / "models").glob("*.safetensors"))
    model.write_bytes(model.read_bytes() + b"x")
    lines = (folder / "log" / ENTRIES).read_bytes().splitlines()
    RunLog(lines).close(made.exchange.run, folder, made.exchange.signer)
    found = findings(folder, made.exchange.signer)
    assert Finding("metrics.json", "was changed after the run had ended") in found
    assert Finding(f"models/{model.name}", "was changed after the run had ended") in found


def test_joins_and_another_report_are_noted_and_no_finding(tmp_path: Path) -> None:
    made = federation()
    folder = write_run(tmp_path / "run", made)
    take_in(made, folder, "site-1-2", "site-2-1")
    found = verify_run(Evidence(folder, signer_pem(made.exchange.signer)))
    assert found.findings == []
    (note,) = found.notes
    assert re.match(r"closed again at 20\S+ \(entry \d+\), after: ", note)
    assert "release (site-1-2), joined (site-1-2), release (site-2-1), joined (site-2-1)" in note


def test_another_report_is_noted(copied: Path, states: list[Path]) -> None:
    replaced("report.html", "5 sites with", "6 sites with")(copied)
    closed_again(copied, lambda _: None)
    (copied / "report.html").unlink()
    report_again(copied)
    found = outcome(copied, states)
    assert found.findings == []
    assert [note.partition("after: ")[2] for note in found.notes[1:]] == [
        "no more entries; changed: report.html",
        "no more entries; changed: report.html",
    ]


def test_a_fork_that_a_site_refused_is_found_with_its_state(
    copied: Path, root: Path, tmp_path: Path
) -> None:
    state = copy_of(root / "site-0-0", tmp_path / "site-0-0")
    fork = RunLog((copied / "log" / ENTRIES).read_bytes().splitlines()[:17]).as_log(RUN)
    refused = state / "checkpoints" / RUN / "refused"
    refused.mkdir()
    honest = refused / "00000017-0.dsse.json"
    honest.write_bytes(sign(fork.checkpoint(), own_signer(copied), CHECKPOINT_TYPE))
    assert outcome(copied, [state]).findings == []  # a prefix of the log proves nothing
    fork.lines[3] = b"{}"
    forged = refused / "00000017-1.dsse.json"
    forged.write_bytes(sign(fork.checkpoint(), own_signer(copied), CHECKPOINT_TYPE))
    assert outcome(copied, [state]).findings == [
        Finding("log", f"does not begin with the 17 entries that {forged} vouches for: rewritten")
    ]


@pytest.fixture
def alarm() -> Iterator[None]:
    """End a test that hangs."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize(
    "name",
    [
        *("run.json", "groups.json", "distances.csv", "spec.json", "trust.dsse.json"),
        *("coordinator.pub.pem", "report.html", "metrics.json", f"log/{ENTRIES}"),
        *("fingerprints/site-0-0.safetensors", "fingerprints/site-0-0.dsse.json"),
    ],
)
def test_what_never_ends_is_not_opened(copied: Path, name: str) -> None:
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    found = findings(copied)
    assert Finding(name, "is no plain file") in found
    assert not [f for f in found if "cannot be checked" in f.what]
    (copied / name).unlink()
    with (copied / name).open("wb") as file:
        file.truncate(1 << 38)  # a hole: it takes no room
    found = findings(copied)
    assert any(f.where == name and "limit" in f.what for f in found)
    assert not [f for f in found if "cannot be checked" in f.what]


def test_entries_of_any_shape_are_no_traceback(copied: Path) -> None:
    for odd in (
        {"kind": "groups"},
        {"kind": "joined"},
        {"kind": "joined", "site": [1]},
        {"kind": "close", "files": 7},
        {"kind": "spec", "settings": [], "terms": 7},
    ):
        found = findings(added(copy_of(copied, copied.parent / "odd"), odd))
        assert found, json.dumps(odd)
        assert not [f for f in found if "cannot be checked" in f.what], odd
