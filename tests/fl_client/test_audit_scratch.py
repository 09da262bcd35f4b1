"""The audit's fresh states: below the site's own, for its owner only, and gone at any end."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fl_client.audit_scratch import SCRATCH, fresh_state

WAITS = """
import signal, sys, time
from pathlib import Path
from fl_client.audit_scratch import fresh_state
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
with fresh_state(Path(sys.argv[1])) as state:
    print(state, flush=True)
    time.sleep(180)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a.safetensors").write_bytes(b"exact")
    (tmp_path / "ledger.jsonl").write_bytes(b"spent")
    return tmp_path


def left(state: Path) -> list[str]:
    return [path.name for path in (state / SCRATCH).iterdir()]


def test_it_knows_features_and_no_past(state: Path) -> None:
    with fresh_state(state) as fresh:
        assert fresh.parent == state / "audit" / "scratch"
        assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
        assert (fresh / "features" / "a.safetensors").read_bytes() == b"exact"
        assert not (fresh / "ledger.jsonl").exists()
    assert left(state) == ["gate.lock"]
    assert (state / "features" / "a.safetensors").read_bytes() == b"exact"


def test_a_disk_without_links_gets_copies(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    with fresh_state(state) as fresh:
        assert (fresh / "features" / "a.safetensors").read_bytes() == b"exact"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_nothing_stays_of_an_audit_that_is_ended(state: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    assert (Path(child.stdout.readline().strip()) / "features").is_dir()
    child.send_signal(number)
    assert child.wait(60) == (-number if number == signal.SIGINT else 128 + number)
    assert left(state) == ["gate.lock"]


def test_what_a_killed_audit_left_goes_when_the_next_starts(state: Path) -> None:
    (state / SCRATCH / "old" / "features").mkdir(parents=True)
    handlers = signal.getsignal(signal.SIGTERM)
    with fresh_state(state) as fresh:
        assert sorted(left(state)) == sorted(["gate.lock", fresh.name])
    assert signal.getsignal(signal.SIGTERM) == handlers
