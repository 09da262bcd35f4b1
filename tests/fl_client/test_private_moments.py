"""Moments that leave a site with noise: paid for, drawn once, and never without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from fixtures_asking import ask
from fixtures_sites import projected, write_classes
from flwr.supercore.task_identity import TaskIdentity
from typer.testing import CliRunner

from fl_client.commands import register
from fl_client.describe import counted_features, describe
from fl_client.history import History
from fl_client.ledger import Ledger
from fl_client.site import read_site
from fl_client.spec_commands import spec_json
from protocol.descriptor_records import (
    DescriptorsReply,
    DescriptorsRequest,
    descriptors_request,
    from_descriptors,
)
from protocol.descriptor_statement import VerifiedDescriptor, largest, verify_descriptor
from protocol.descriptors import Moments
from protocol.envelope import own_key
from protocol.keys import generate_key, save_private_key
from protocol.ledger_lines import check_arithmetic
from protocol.noised_moments import sensitivity
from protocol.privacy import AskedTerms, rho_for
from protocol.records import from_reply, release_request
from protocol.spec import Spec
from protocol.verify import VerifiedRelease, verify_local

PRIVATE = 'specs = ["*"]\nmin_images = 2\nautomatic = true\ndescriptors = ["moments"]\n'
TERMS = AskedTerms(mode="private", epsilon=1.5)


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    """Make this process a node of Flower's, which may write messages."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    yield
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = None


@pytest.fixture(scope="module")
def narrow(spec: Spec) -> Spec:
    """Return a spec of four directions, as a private one has few."""
    return projected(spec)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_private_key(tmp_path / "key.pem", generate_key())
    return write_classes(tmp_path / "north", {"a": 15, "b": 14})


def fingerprinted(folder: Path, spec: Spec, policy: str = PRIVATE) -> VerifiedRelease:
    request = release_request("run-1", "n" * 64, spec, TERMS)
    key, prints = str(folder.parent / "key.pem"), folder.parent / "prints"
    answer = ask(folder, "query.fingerprint", None, content=request, policy_text=policy, key=key)
    reply = from_reply(answer)
    prints.mkdir(exist_ok=True)
    (prints / "north.safetensors").write_bytes(reply.payload)
    (prints / "north.dsse.json").write_bytes(reply.release)
    return verify_local(prints, "north", spec)


def asked(folder: Path, spec: Spec, policy: str = PRIVATE) -> DescriptorsReply:
    request = descriptors_request(DescriptorsRequest("run-1", spec, ("moments",), TERMS))
    key = str(folder.parent / "key.pem")
    answer = ask(folder, "query.descriptors", None, content=request, policy_text=policy, key=key)
    return from_descriptors(answer, {"moments": 10**7})


def opened(reply: DescriptorsReply, release: VerifiedRelease, spec: Spec) -> VerifiedDescriptor:
    sent = reply.sent["moments"]
    assert len(sent.payload) <= largest("moments", spec, release)
    key = own_key(sent.envelope)
    return verify_descriptor(*sent, "moments", release, spec, lambda _: key)


def test_moments_leave_with_noise_that_the_ledger_pays_for(folder: Path, narrow: Spec) -> None:
    release = fingerprinted(folder, narrow)
    found = opened(asked(folder, narrow), release, narrow)
    site = read_site(folder)
    lines = Ledger(site.state).check()
    assert [line.kind for line in lines] == ["", "moments"]
    check_arithmetic(lines)
    paid, privacy = lines[1], found.release.privacy
    assert paid.rho == pytest.approx(rho_for(paid.sigma, sensitivity(4)), rel=1e-4)
    assert (privacy.rho, privacy.sigma, privacy.epsilon) == (paid.rho, paid.sigma, 1.5)
    assert (privacy.spent_rho, privacy.ledger) == (paid.total_rho, paid.digest)
    assert privacy.spent_rho == pytest.approx(lines[0].rho + lines[1].rho)
    assert (found.release.images, found.release.contribution_cap) == (29, 1)
    left = [e for e in History(site.state).read() if e.decision == "descriptor"]
    assert [(e.arm, e.images, e.privacy) for e in left] == [("moments", 29, privacy)]


def test_noised_moments_are_near_the_exact_ones_as_far_as_noise_permits(
    folder: Path, narrow: Spec
) -> None:
    release = fingerprinted(folder, narrow)
    found = opened(asked(folder, narrow), release, narrow)
    assert isinstance(found.descriptor, Moments)
    exact = describe(read_site(folder), narrow, "features", "cpu").values  # type: ignore[union-attr]
    clipped = np.clip(exact, narrow.lower_array, narrow.upper_array)
    assert found.release.privacy.sigma is not None
    half = (narrow.upper_array - narrow.lower_array) / 2
    scatter = half * found.release.privacy.sigma / (29 * 256**2)
    off = np.abs(found.descriptor.mean - clipped.mean(axis=0))
    assert bool((off < 6 * scatter + half / 256).all())
    assert off.max() > 0


def test_asking_again_is_answered_alike_and_costs_nothing(folder: Path, narrow: Spec) -> None:
    fingerprinted(folder, narrow)
    first, second = (asked(folder, narrow).sent["moments"] for _ in range(2))
    assert first.payload == second.payload
    assert len(Ledger(read_site(folder).state).read()) == 2


def test_spent_budget_refuses_before_any_noise(folder: Path, narrow: Spec) -> None:
    policy = PRIVATE + "budget_epsilon = 1.6\n"
    fingerprinted(folder, narrow, policy)
    reply = asked(folder, narrow, policy)
    assert reply.refused["moments"][0] == "budget-exhausted"
    assert len(Ledger(read_site(folder).state).read()) == 1


def test_lost_line_stops_everything_private(folder: Path, narrow: Spec) -> None:
    fingerprinted(folder, narrow)
    asked(folder, narrow)
    path = read_site(folder).state / "ledger.jsonl"
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n")
    assert asked(folder, narrow).refused["moments"][0] == "ledger-damaged"


def test_counted_features_are_projected(narrow: Spec) -> None:
    assert counted_features(np.ones((3, 512), np.float32), narrow).shape == (3, 4)


def test_command_releases_noised_moments_beside_a_private_fingerprint(
    folder: Path, narrow: Spec
) -> None:
    app, out = typer.Typer(), folder.parent / "out"
    register(app)
    (folder.parent / "narrow.json").write_text(spec_json(narrow))
    words = (
        *("fingerprint", folder, "--spec", folder.parent / "narrow.json", "--out", out),
        *("--key", folder.parent / "key.pem", "--private", "--also", "moments", "--device", "cpu"),
    )
    path, seen = out / "descriptors" / "north.moments.safetensors", []
    for _ in range(2):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        seen.append(path.read_bytes())
    assert seen[0] == seen[1]
    assert [line.kind for line in Ledger(folder / ".fedprint").check()] == ["", "moments"]
    envelope = path.with_name("north.moments.dsse.json").read_bytes()
    key, release = own_key(envelope), verify_local(out, "north", narrow)
    found = verify_descriptor(seen[0], envelope, "moments", release, narrow, lambda _: key)
    assert found.release.privacy.mode == "private"
