"""The script that checks a run folder without fedprint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from protocol.files import atomic_write
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, public_pem, signer
from protocol.trust import TrustStore, sign_store

from .conftest import BINS, FEATURES, make_case, make_counts

SCRIPT = Path(__file__).parents[2] / "docs" / "check_run.py"


def write_run(run: Path, site_key: PrivateKeyTypes, coordinator: PrivateKeyTypes) -> None:
    case = make_case(site_key)
    atomic_write(run / "coordinator.pub.pem", public_pem(coordinator))
    atomic_write(run / "trust.dsse.json", sign_store(case.store, signer(coordinator)))
    atomic_write(run / "fingerprints" / "north.safetensors", case.payload)
    atomic_write(run / "fingerprints" / "north.dsse.json", case.release)


def check(run: Path) -> subprocess.CompletedProcess[str]:
    # isolated mode: the checkout is not on the path, so nothing of ours can be imported
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT), str(run)], capture_output=True, text=True, check=False
    )


def test_it_is_short_and_imports_nothing_of_ours() -> None:
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 30
    assert "protocol" not in text
    assert "fl_server" not in text


def test_a_run_in_order(any_key: PrivateKeyTypes, tmp_path: Path) -> None:
    write_run(tmp_path, any_key, any_key)
    done = check(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"north: signed and whole, ({FEATURES}, {BINS})\n"


@pytest.mark.parametrize("fault", ["payload", "store", "signer"])
def test_a_run_not_in_order(tmp_path: Path, fault: str) -> None:
    key = generate_key()
    write_run(tmp_path, key, key)
    if fault == "payload":
        other = counts_to_bytes(make_counts(seed=4))
        atomic_write(tmp_path / "fingerprints" / "north.safetensors", other)
    elif fault == "store":
        atomic_write(
            tmp_path / "trust.dsse.json", sign_store(TrustStore.empty(), signer(generate_key()))
        )
    else:
        stranger = make_case(generate_key())
        atomic_write(tmp_path / "fingerprints" / "north.dsse.json", stranger.release)
    assert check(tmp_path).returncode != 0
