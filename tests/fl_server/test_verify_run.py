"""`fedprint verify`: whole runs pass, and every byte that anybody changes is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_server.runlog import RunLog
from fl_server.runstate import own_signer
from fl_server.verify_evidence import Evidence, Finding
from fl_server.verify_run import scan, verify_run
from protocol.keys import Signer, generate_key, signer, signer_pem
from protocol.log import CHECKPOINT, ENTRIES
from protocol.trust import open_store, sign_store
from tests.fl_server.audited import audited_run, closed_again, copy_of, entries_of, findings
from tests.fl_server.joining import MEMBERS

CLASSES = {
    "counts": "fingerprints/site-0-1.safetensors",
    "statement": "fingerprints/site-1-0.dsse.json",
    "binding": "fingerprints/site-1-1.binding.dsse.json",
    "log entry": f"log/{ENTRIES}",
    "checkpoint": f"log/{CHECKPOINT}",
    "ledger": "ledger.json",
    "trust store": "trust.dsse.json",
    "key": "coordinator.pub.pem",
    "report": "report.html",
    "distances": "distances.csv",
    "groups": "groups.json",
    "recommendations": "recommendations.json",
    "run": "run.json",
    "spec": "spec.json",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    audited_run(folder)
    return folder


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return root / "run"


@pytest.fixture(scope="module")
def states(root: Path) -> list[Path]:
    return [root / name for name in MEMBERS]


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return copy_of(run, tmp_path / "run")


def test_a_whole_run_is_verified(run: Path, states: list[Path]) -> None:
    assert findings(run) == findings(run, own_signer(run), states) == []
    pem = signer_pem(own_signer(run))
    outcome = verify_run(Evidence(run, pem, states))
    assert (outcome.run, outcome.pinned, outcome.notes) == ("run-1", "--coordinator", [])
    assert outcome.facts == ["5 releases (5 private, 0 plain)", "23 log entries", "24 files"]
    assert verify_run(Evidence(run, None, states)).pinned == "--state"
    assert verify_run(Evidence(run)).pinned == ""


def test_all_that_a_run_writes_is_a_class_of_the_matrix(run: Path) -> None:
    kinds = {name for name in CLASSES.values() if "site" not in name}
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    there = {name for name in files if name.split("/")[0] not in ("fingerprints", "state")}
    assert there == kinds


@pytest.mark.parametrize("name", CLASSES.values(), ids=CLASSES.keys())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_changed_byte_is_found(
    run: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "matrix"
    content = (run / name).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1), label="at")
    new = data.draw(
        st.one_of(
            st.integers(1, 255).map(lambda x: bytes([content[at] ^ x])),  # changed
            st.binary(min_size=1, max_size=3).map(lambda x: content[at : at + 1] + x),  # inserted
            st.sampled_from([b" ", b"\n", b"\t"]).map(lambda x: x + content[at : at + 1]),
            st.just(b""),  # taken out
        )
    )
    other = content[:at] + new + content[at + 1 :]
    if other == content:
        return
    if not folder.exists():
        copy_of(run, folder)
    (folder / name).write_bytes(other)
    try:
        assert next(scan(Evidence(folder)), None) is not None
    finally:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", CLASSES.values(), ids=CLASSES.keys())
def test_what_was_changed_is_named(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    middle = len(content) // 2
    (copied / name).write_bytes(
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    )
    named = {finding.where for finding in findings(copied, own_signer(copied))}
    assert named & {name, name.split(".")[0], Path(name).parent.as_posix()}


@pytest.mark.parametrize("name", CLASSES.values(), ids=CLASSES.keys())
def test_what_is_cut_emptied_or_gone_is_found(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    for other in (content[:-1], content + b"\n", content * 2, b""):
        (copied / name).write_bytes(other)
        assert findings(copied), other[:20]
    (copied / name).unlink()
    assert findings(copied)


def test_what_is_added_is_found(copied: Path) -> None:
    (copied / "fingerprints" / "guest.safetensors").write_bytes(b"x")
    (copied / "log" / "entries.old").write_bytes(b"")
    found = findings(copied)
    assert Finding("fingerprints/guest.safetensors", "was added") in found
    assert Finding("log/entries.old", "was added") in found
    (copied / "state" / "events.jsonl").write_bytes(b"nothing depends on it")
    assert [f for f in findings(copied) if "state" in f.where] == []


def test_the_wrapper_of_a_signature_is_checked_byte_by_byte(copied: Path) -> None:
    path = copied / "log" / CHECKPOINT
    content = path.read_bytes()
    for old, new in (
        (b'":"', b'": "'),
        (b'"sig"', b'"x":1,"sig"'),
        (b"END PUBLIC KEY", b"END  KEY"),
    ):
        path.write_bytes(content.replace(old, new, 1))
        assert findings(copied), old


@pytest.mark.parametrize("name", CLASSES.values(), ids=CLASSES.keys())
@pytest.mark.parametrize(
    "garbage",
    [b"[" * 200_000, b"\xff\xfe\x00", b'{"entries": 7, "sites": {"..": 1e999999}}'],
    ids=["deep", "binary", "other"],
)
def test_garbage_gives_findings_and_no_traceback(copied: Path, name: str, garbage: bytes) -> None:
    (copied / name).write_bytes(garbage)
    found = findings(copied)
    assert found
    assert not [f for f in found if "Error:" in f.what and "cannot be checked" in f.what]


@pytest.mark.parametrize(
    "name", sorted({*CLASSES.values()} - {f"log/{CHECKPOINT}", f"log/{ENTRIES}"})
)
def test_garbage_that_the_coordinator_signed_gives_findings_too(copied: Path, name: str) -> None:
    for garbage in (b"[]", b'{"entries": 7}', b"\xff"):
        (copied / name).write_bytes(garbage)
        assert findings(closed_again(copied, lambda _: None)), garbage


def test_links_and_huge_files_are_not_followed(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes((copied / "groups.json").read_bytes())
    (copied / "groups.json").unlink()
    (copied / "groups.json").symlink_to(tmp_path / "elsewhere")
    (copied / "distances.csv").unlink()
    with (copied / "distances.csv").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    found = findings(copied)
    assert Finding("groups.json", "is no plain file") in found
    assert any(f.where == "distances.csv" and "limit" in f.what for f in found)


def test_entries_that_are_none_are_found(copied: Path) -> None:
    for line in (b"[]", b"7", b'{"kind":"release"}', b'{"kind":"close"}', b'{"kind":"enrolment"}'):
        lines = (copied / "log" / ENTRIES).read_bytes().splitlines()
        log = RunLog().as_log("run-1")
        log.lines = [*lines[:-1], line, lines[-1]]
        log.write(copied, own_signer(copied))
        found = findings(copied)
        (copied / "log" / ENTRIES).write_bytes(b"".join(text + b"\n" for text in lines))
        assert found or line == b'{"kind":"close"}'


def test_a_log_under_another_key_is_found_with_the_coordinators(
    copied: Path, states: list[Path]
) -> None:
    own, other = own_signer(copied), signer(generate_key())
    pretend_to_be(copied, other)
    assert findings(copied) == []  # whole in itself: that is all that can be said
    assert [f.where for f in findings(copied, own)][:1] == ["coordinator.pub.pem"]
    shown = [f for f in findings(copied, None, states) if "checkpoints/run-1" in f.where]
    assert len(shown) == 10
    assert shown[0].what.endswith("not the coordinator's")


def pretend_to_be(run: Path, other: Signer) -> None:
    """Sign trust store and log with another key, as who rewrites a whole folder would."""
    store = open_store((run / "trust.dsse.json").read_bytes(), signer_pem(own_signer(run)))

    def change(folder: Path) -> None:
        (folder / "trust.dsse.json").write_bytes(sign_store(store, other))
        (folder / "coordinator.pub.pem").write_text(signer_pem(other))

    closed_again(run, change, other, keep=len(entries_of(run)) - 1)
