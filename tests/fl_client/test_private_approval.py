"""A person and a private release: what was looked at is what leaves, and it is paid for once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from fixtures_sites import write_classes
from typer.testing import CliRunner

from fl_client import gate_commands
from fl_client.approval import open_desk
from fl_client.ledger import DRAWS, Ledger
from fl_client.privacy_words import best_guess
from protocol.errors import DataError, PolicyError
from protocol.files import sha256_hex
from protocol.keys import generate_node_key, save_node_key
from protocol.privacy import AskedTerms, rho_of
from protocol.records import ReleaseRequest
from protocol.spec import Spec

APP = typer.Typer()
gate_commands.add(APP)

SITE = """
[site]
name = "north"
superlink = "coordinator.example:9092"
state = "state"
[data]
folder = "images"
"""
POLICY = 'name = "bones"\nspecs = ["*"]\nmin_images = 2\nbudget_epsilon = 3.0\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "srv"
    write_classes(made / "images", {"a": 3, "b": 2})
    (made / "site.toml").write_text(SITE)
    (made / "policy.toml").write_text(POLICY)
    (made / "ca.crt").write_text("the certificate of the coordinator's authority\n")
    save_node_key(made / "keys" / "node", generate_node_key())
    return made


def run(*words: object) -> str:
    result = CliRunner().invoke(APP, [str(word) for word in words])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def ask(folder: Path, spec: Spec, epsilon: float = 2.0) -> bytes:
    terms = AskedTerms(mode="private", epsilon=epsilon)
    return open_desk(folder, "cpu").gate.answer(ReleaseRequest("run", "n" * 64, spec, terms))[0]


def waits(folder: Path, spec: Spec, epsilon: float = 2.0) -> str:
    with pytest.raises(PolicyError) as caught:
        ask(folder, spec, epsilon)
    return caught.value.reason


def drawn(folder: Path) -> int:
    return len(Ledger(folder / "state").check())


def test_what_was_previewed_is_what_leaves(folder: Path, spec: Spec, tmp_path: Path) -> None:
    assert waits(folder, spec) == "awaiting-approval"
    assert drawn(folder) == 0, "waiting costs nothing"
    shown = run("preview", folder, "--device", "cpu", "--json", tmp_path / "preview.json")
    found = json.loads((tmp_path / "preview.json").read_text())
    assert (found["privacy"]["mode"], found["privacy"]["epsilon"]) == ("private", 2.0)
    assert (found["images"], found["contribution_cap"]) == (5, 1)
    (line,) = Ledger(folder / "state").check()
    share = 100 * rho_of(2.0, 1e-5) / rho_of(3.0, 1e-5)
    for words in (
        f"private: noise is added to every count, {line.sigma:.3g} images up or down as a rule",
        "tests whether this image is among these, is right at most 60 times in 100",
        f"(epsilon 2 at delta 1e-05, rho {line.rho:.3g})",
        f"have spent {share:.0f} % of its privacy budget (epsilon 2 of at most 3)",
        "yes (policy: training); the model's updates carry no noise",
    ):
        assert words in shown
    again = run("preview", folder, "--device", "cpu")
    assert found["payload"]["sha256"] in again, "looking twice shows the same"
    assert waits(folder, spec) == "awaiting-approval"
    assert found["payload"]["sha256"] in run("approve", folder, "--yes")
    payload = ask(folder, spec)
    assert sha256_hex(payload) == found["payload"]["sha256"]
    assert ask(folder, spec, 3.0) == payload
    assert drawn(folder) == 1


def test_more_noise_waits_again(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    run("approve", folder, "--yes", "--device", "cpu")
    payload = ask(folder, spec)
    assert waits(folder, spec, 1.0) == "awaiting-approval"
    assert drawn(folder) == 1
    run("approve", folder, "--yes", "--device", "cpu")
    assert ask(folder, spec, 1.0) != payload
    assert drawn(folder) == 2


def test_the_terms_of_the_last_request_count(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    run("preview", folder, "--device", "cpu")
    waits(folder, spec, 1.0)
    with pytest.raises(DataError, match="changed since the preview: look at it again"):
        run("approve", folder, "--yes")
    (kept,) = (folder / "state" / DRAWS).glob("*/*.safetensors")
    waits(folder, spec)
    kept.unlink()
    with pytest.raises(DataError, match="changed since the preview: look at it again"):
        run("approve", folder, "--yes")


def test_denied_bytes_stay_paid_for(folder: Path, spec: Spec) -> None:
    waits(folder, spec)
    run("preview", folder, "--device", "cpu")
    run("deny", folder)
    assert waits(folder, spec) == "denied"
    run("approve", folder, "--spec", "tiny", "--yes", "--device", "cpu")
    ask(folder, spec)
    assert drawn(folder) == 1


def test_no_preview_beyond_the_budget(folder: Path, spec: Spec) -> None:
    (folder / "policy.toml").write_text(POLICY.replace("3.0", "1.0"))
    assert waits(folder, spec, 2.0) == "budget-exhausted", "nobody could approve it"
    with pytest.raises(PolicyError, match="the privacy budget is used up"):
        run("preview", folder, "--spec", "lite0-private")
    assert waits(folder, spec, 1.0) == "awaiting-approval"


def test_the_best_guess_is_that_of_a_gaussian() -> None:
    from scipy.stats import norm

    for rho in (0.0, 0.05, 0.125, 2.0):
        assert best_guess(rho) == pytest.approx(norm.cdf((2 * rho) ** 0.5 / 2))
