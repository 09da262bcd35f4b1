"""The privacy ledger: what is spent is written first, adds up, and cannot be unwritten."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dp_accounting
import pytest
from fixtures_sites import write_classes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fl_client import ledger as ledgers
from fl_client.ledger import DRAWS, NAME, Budget, Ledger, epsilon_at, spent_by
from fl_client.site_commands import site as APP
from protocol.errors import PolicyError
from protocol.files import canonical_json
from protocol.ledger_lines import START
from protocol.privacy import epsilon_of, rho_of, terms
from protocol.spec import Spec
from protocol.statement import utc_now

DATA = "ab" * 32
EIGHT = Budget(rho_of(8.0, 1e-5), 8.0, 1e-5)


def spend(
    state: Path, spec: Spec, epsilon: float = 1.0, budget: Budget = EIGHT, run: str = ""
) -> str:
    privacy = terms(spec.width, epsilon=epsilon, delta=1e-5, cap=2)
    line = Ledger(state).spend(privacy, budget, spec=spec, data=DATA, cap=2, run=run)
    return line.digest


def reason(state: Path) -> str:
    with pytest.raises(PolicyError) as caught:
        Ledger(state).check()
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_what_is_spent_adds_up_as_an_accountant_says(tmp_path: Path, spec: Spec) -> None:
    for epsilon in (0.5, 1.0, 2.0):
        spend(tmp_path, spec, epsilon, run=f"run at {epsilon}")
    lines = Ledger(tmp_path).check()
    accountant = dp_accounting.rdp.RdpAccountant()
    for line in lines:
        accountant.compose(dp_accounting.ZCDpEvent(line.rho))
    assert epsilon_at(spent_by(lines), 1e-5) == pytest.approx(accountant.get_epsilon(1e-5))
    gaussian = dp_accounting.rdp.RdpAccountant()
    for line in lines:  # by the noise itself, not by what was written about it
        ratio = line.sigma / (2 * (2 * spec.width) ** 0.5)
        gaussian.compose(dp_accounting.GaussianDpEvent(ratio))
    assert gaussian.get_epsilon(1e-5) == pytest.approx(epsilon_at(spent_by(lines), 1e-5), rel=1e-4)
    assert lines[0].previous == START
    assert [line.previous for line in lines[1:]] == [line.digest for line in lines[:-1]]
    assert [line.run for line in lines] == ["run at 0.5", "run at 1.0", "run at 2.0"]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_the_digest_that_leaves_tells_nothing_of_the_images(
    tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    monkeypatch.setattr(ledgers, "utc_now", lambda: now)
    digests = [spend(tmp_path / str(number), spec, run="r") for number in range(20)]
    assert len(set(digests)) == 20, "who knows all else of the line cannot compute its digest"
    lines = [Ledger(tmp_path / str(number)).read()[0] for number in range(20)]
    for line in lines:
        assert re.fullmatch("[0-9a-f]{64}", line.salt)
        salted = line.model_copy(update={"salt": lines[0].salt}).sealed()
        assert salted == lines[0], "but for the salt they are the same"
    bare = json.loads(lines[0].to_bytes())
    del bare["salt"]
    (tmp_path / NAME).write_bytes(canonical_json(bare) + b"\n")
    with pytest.raises(PolicyError, match="line 1 cannot be read: salt: Field required"):
        Ledger(tmp_path).read()


def test_the_budget_ends_it(tmp_path: Path, spec: Spec) -> None:
    two = Budget(2 * rho_of(1.0, 1e-5), epsilon_of(2 * rho_of(1.0, 1e-5), 1e-5), 1e-5)
    spend(tmp_path, spec, 1.0, two)
    spend(tmp_path, spec, 1.0, two)
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(PolicyError) as caught:
        spend(tmp_path, spec, 0.02, two)
    assert caught.value.reason == "budget-exhausted"
    rho, total = rho_of(0.02, 1e-5), two.rho
    assert str(caught.value) == (
        f"the privacy budget is used up: this release would spend rho {rho:.4g}, and 0 of "
        f"{total:.4g} is left (epsilon {two.epsilon:.3g} of {two.epsilon:g} at delta 1e-05 is "
        "spent); what was released before can still be asked for"
    )
    assert (tmp_path / NAME).read_bytes() == before
    spend(tmp_path, spec, 1.0, EIGHT)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, spec: Spec) -> Path:
    state = tmp_path_factory.mktemp("three")
    for epsilon in (0.5, 1.0, 2.0):
        spend(state, spec, epsilon, run="run")
    (state / NAME).rename(state / "whole")
    return state


@settings(max_examples=150)
@given(
    kind=st.sampled_from(["change", "delete", "insert", "cut", "drop", "swap"]),
    share=st.floats(0, 1, exclude_max=True),
    byte=st.binary(min_size=1, max_size=1),
    two=st.permutations(range(3)),
)
def test_no_byte_can_be_changed(
    three: Path, kind: str, share: float, byte: bytes, two: list[int]
) -> None:
    whole = (three / "whole").read_bytes()
    place, lines = int(share * len(whole)), whole.splitlines(keepends=True)
    changed = {
        "change": whole[:place] + byte + whole[place + 1 :],
        "delete": whole[:place] + whole[place + 1 :],
        "insert": whole[:place] + byte + whole[place:],
        "cut": whole[:place],
        "drop": b"".join(line for line in lines if line != lines[two[0]]),
        "swap": b"".join(lines[index] for index in two),
    }[kind]
    # lines that lack at the end are missed by what was drawn with them, see below
    assume(changed != whole and not (whole.startswith(changed) and changed[-1:] in (b"", b"\n")))
    (three / NAME).write_bytes(changed)
    assert reason(three) == "ledger-damaged"


def test_a_line_that_was_sealed_anew_must_add_up(tmp_path: Path, spec: Spec) -> None:
    spend(tmp_path, spec)
    (line,) = Ledger(tmp_path).read()
    for changes in ({"rho": line.rho / 2}, {"sigma": line.sigma / 2}, {"epsilon": 0.5}, {"cap": 3}):
        forged = line.model_copy(update=changes)
        forged = forged.model_copy(update={"total_rho": forged.rho}).sealed()
        (tmp_path / NAME).write_bytes(forged.to_bytes() + b"\n")
        assert reason(tmp_path) == "ledger-damaged", changes


def test_what_was_drawn_must_be_in_the_ledger(tmp_path: Path, spec: Spec) -> None:
    digests = [spend(tmp_path, spec), spend(tmp_path, spec)]
    (tmp_path / DRAWS / digests[1]).mkdir(parents=True)
    (tmp_path / DRAWS / ".tmp").mkdir()
    Ledger(tmp_path).check()
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole.splitlines(keepends=True)[0])
    with pytest.raises(PolicyError) as caught:
        Ledger(tmp_path).read()
    assert str(caught.value) == (
        "the site's privacy ledger is damaged (it lacks 1 of the draws that the files beside it "
        "name): nothing private leaves until it is restored from a backup; only a last line that "
        "a crash cut off may be deleted"
    )
    (tmp_path / NAME).unlink()
    assert reason(tmp_path) == "ledger-damaged"
    (tmp_path / DRAWS / digests[1]).rmdir()
    assert Ledger(tmp_path).read() == []
    kept = tmp_path / "releases" / "0123" / "kept.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"line": digests[0]}))
    assert reason(tmp_path) == "ledger-damaged"
    for damage in ("{", "[" * 100_000):  # counts as no release
        kept.write_text(damage)
        Ledger(tmp_path).check()


def test_a_ledger_that_cannot_be_read_refuses(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert reason(tmp_path) == "ledger-damaged"


def test_a_line_is_on_the_disk_before_it_counts(
    tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), fsync(handle)))
    spend(tmp_path, spec)
    assert len(synced) == 2, "the new file, and its name in the folder"
    whole = (tmp_path / NAME).read_bytes()

    def full(handle: int, data: bytes) -> int:
        return write(handle, data[:20])

    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(PolicyError) as caught:
            spend(tmp_path, spec)
    assert caught.value.reason == "not-recorded"
    assert (tmp_path / NAME).read_bytes() == whole, "nothing of the line is left"

    def broken(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(PolicyError, match="Input/output error"):
            spend(tmp_path, spec)
    assert len(Ledger(tmp_path).read()) == 2, "what may have been written counts as spent"


def test_a_crash_while_a_line_is_written(tmp_path: Path, spec: Spec) -> None:
    spend(tmp_path, spec)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole + whole[:40])
    with pytest.raises(PolicyError, match="its last line is cut off"):
        Ledger(tmp_path).read()
    (tmp_path / NAME).write_bytes(whole)
    Ledger(tmp_path).check()


def test_the_command(tmp_path: Path, spec: Spec) -> None:
    folder = write_classes(tmp_path / "north", {"a": 2})
    state, report = folder / ".fedprint", tmp_path / "ledger.json"

    def run() -> tuple[int, str]:
        result = CliRunner().invoke(APP, ["ledger", str(folder), "--json", str(report)])
        return result.exit_code, result.stdout or str(result.exception)

    assert run() == (
        0,
        "0 drawn, rho 0 spent: epsilon 0 at delta 1e-05\n"
        f"no ledger lies in {state}: nothing private was drawn with this state folder\n",
    )
    state.mkdir()
    spend(state, spec, 2.0, run="run-7")
    (folder / "policy.toml").write_text("budget_epsilon = 8.0\n")
    code, shown = run()
    assert code == 0
    rho, left = rho_of(2.0, 1e-5), EIGHT.rho - rho_of(2.0, 1e-5)
    assert f"tiny  rho {rho:.4g}  epsilon 2 at delta 1e-05  noise of" not in shown
    assert f"tiny  rho {rho:.4g}  epsilon 2 at delta 1e-05  noise " in shown
    assert "for run run-7" in shown
    assert shown.endswith(
        f"1 drawn, rho {rho:.4g} spent, {left:.4g} left: epsilon 2 of at most 8 at delta 1e-05\n"
    )
    found = json.loads(report.read_text())
    assert (found["spent_rho"], found["budget_epsilon"]) == (rho, 8.0)
    assert found["lines"][0]["spec_digest"] == spec.digest
    assert not {"data", "salt"} & found["lines"][0].keys(), "a guess at the images cannot be tried"
    assert CliRunner().invoke(APP, ["ledger", str(state)]).exit_code == 0
    (state / NAME).write_bytes((state / NAME).read_bytes()[:-2])
    code, shown = run()
    assert code == 1
    assert "the site's privacy ledger is damaged" in shown
    assert CliRunner().invoke(APP, ["ledger", str(tmp_path / "no")]).exit_code == 1


def test_help_is_quick() -> None:
    code = (
        "import sys, fl_client.ledger_command;"
        "print({'torch', 'dp_accounting', 'opendp', 'scipy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
    assert ledgers.EXHAUSTED == "budget-exhausted"
