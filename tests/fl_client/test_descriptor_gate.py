"""The gate for descriptors: what goes is signed and recorded, and everything else stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from fixtures_asking import AUTOMATIC, ask
from fixtures_sites import projected, write_classes
from flwr.supercore.task_identity import TaskIdentity
from typer.testing import CliRunner

from fl_client import client_app
from fl_client.commands import register
from fl_client.describe import describe
from fl_client.descriptor_making import describe_plain
from fl_client.history import History
from fl_client.policy import Policy
from fl_client.requests import Requests
from fl_client.site import read_site
from fl_client.spec_commands import spec_json
from protocol.descriptor_records import (
    DescriptorsReply,
    DescriptorsRequest,
    descriptors_request,
    from_descriptors,
)
from protocol.descriptor_statement import largest, verify_descriptor
from protocol.descriptors import ClassMoments, Descriptor, Features, Fisher, Kind, Moments
from protocol.envelope import own_key
from protocol.errors import ConfigError, PolicyError
from protocol.keys import generate_key, save_private_key
from protocol.privacy import AskedTerms
from protocol.records import from_reply, release_request
from protocol.spec import Spec
from protocol.statement import utc_now
from protocol.verify import VerifiedRelease, verify_local

NEEDED: tuple[Kind, ...] = ("moments", "class-moments", "fisher")
PERMITTING = AUTOMATIC + 'descriptors = ["moments", "class-moments", "fisher", "features"]\n'


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    """Make this process a node of Flower's, which may write messages."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    yield
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_private_key(tmp_path / "key.pem", generate_key())
    return write_classes(tmp_path / "north", {"a": 5, "b": 4})


def fingerprinted(folder: Path, spec: Spec, policy: str = PERMITTING) -> VerifiedRelease:
    """Let the site release its fingerprint, and return that."""
    request = release_request("run-1", "n" * 64, spec)
    key = str(folder.parent / "key.pem")
    answer = ask(folder, "query.fingerprint", None, content=request, policy_text=policy, key=key)
    reply, prints = from_reply(answer), folder.parent / "prints"
    prints.mkdir(exist_ok=True)
    (prints / "north.safetensors").write_bytes(reply.payload)
    (prints / "north.dsse.json").write_bytes(reply.release)
    return verify_local(prints, "north", spec)


def asked(
    folder: Path,
    spec: Spec,
    *kinds: Kind,
    policy: str = PERMITTING,
    terms: AskedTerms | None = None,
) -> DescriptorsReply:
    """Return what the site answers to a request for descriptors."""
    request = descriptors_request(DescriptorsRequest("run-1", spec, kinds, terms or AskedTerms()))
    key = str(folder.parent / "key.pem")
    content = ask(folder, "query.descriptors", None, content=request, policy_text=policy, key=key)
    return from_descriptors(content, dict.fromkeys(kinds, 10_000_000))


def verified(
    reply: DescriptorsReply, kind: Kind, release: VerifiedRelease, spec: Spec
) -> Descriptor:
    sent = reply.sent[kind]
    assert len(sent.payload) <= largest(kind, spec, release)
    key = own_key(sent.envelope)
    assert key.keyid == release.key_id
    found = verify_descriptor(
        sent.payload, sent.envelope, kind, release, spec, lambda _: key, utc_now()
    )
    return found.descriptor


def test_what_the_policy_permits_goes_signed_and_recorded(folder: Path, spec: Spec) -> None:
    release = fingerprinted(folder, spec)
    reply = asked(folder, spec, *NEEDED)
    assert reply.refused == {}
    moments, classes, fisher = (verified(reply, kind, release, spec) for kind in NEEDED)
    assert isinstance(moments, Moments)
    assert isinstance(classes, ClassMoments)
    assert isinstance(fisher, Fisher)
    site = read_site(folder)
    features = describe(site, spec, "features", "cpu")
    assert isinstance(features, Features)
    wanted = np.cov(features.values.astype(float), rowvar=False)
    np.testing.assert_allclose(moments.covariance, wanted, atol=1e-6)
    assert classes.counts.tolist() == [5, 4]
    np.testing.assert_allclose(
        classes.means[1], features.values[site.labels == 1].mean(axis=0), atol=1e-6
    )
    assert fisher.values.max() > 0
    left = [e for e in History(site.state).read() if e.decision == "descriptor"]
    assert [(e.run, e.arm, e.bytes) for e in left] == [
        ("run-1", kind, len(reply.sent[kind].payload)) for kind in NEEDED
    ]


def test_descriptors_are_of_what_the_spec_counts(folder: Path, spec: Spec) -> None:
    narrow = projected(spec)
    release = fingerprinted(folder, narrow)
    moments = verified(asked(folder, narrow, "moments"), "moments", release, narrow)
    assert isinstance(moments, Moments)
    assert moments.covariance.shape == (4, 4)


def test_asking_again_tells_nothing_new(folder: Path, spec: Spec) -> None:
    fingerprinted(folder, spec)
    first, second = (asked(folder, spec, *NEEDED) for _ in range(2))
    assert {k: s.payload for k, s in first.sent.items()} == {
        k: s.payload for k, s in second.sent.items()
    }


REFUSED = [
    ("features", PERMITTING, None, "features-stay", "raw features never leave a site: compare"),
    (
        "moments",
        AUTOMATIC,
        None,
        "descriptors-not-allowed",
        'moments of site north may not leave: descriptors = ["moments"] would permit it',
    ),
    (
        "fisher",
        PERMITTING,
        AskedTerms(mode="private"),
        "no-noise",
        "fisher of site north stay, for they have no noise and its fingerprints have",
    ),
    (
        "class-moments",
        PERMITTING.replace("plain", "private"),
        None,
        "no-noise",
        "class-moments of site north stay, for they have no noise",
    ),
    (
        "moments",
        PERMITTING.replace("automatic = true\n", ""),
        None,
        "not-previewed",
        "moments of site north stay, for a person looks at all that leaves",
    ),
    (
        "moments",
        PERMITTING.replace("min_images = 2", "min_images = 10"),
        None,
        "too-few-images",
        "site north has 9 images, at least 10 are needed",
    ),
    (
        "class-moments",
        PERMITTING + "min_class_patients = 5\n",
        None,
        "small-class",
        "a class of site north has fewer than 5 patients",
    ),
]


@pytest.mark.parametrize(("kind", "policy", "terms", "reason", "text"), REFUSED)
def test_what_the_policy_does_not_permit_stays(
    folder: Path,
    spec: Spec,
    kind: Kind,
    policy: str,
    terms: AskedTerms | None,
    reason: str,
    text: str,
) -> None:
    fingerprinted(folder, spec)
    reply = asked(folder, spec, kind, policy=policy, terms=terms)
    assert reply.sent == {}
    assert reply.refused[kind][0] == reason
    assert text in reply.refused[kind][1]
    last = [*History(read_site(folder).state).read()][-1]
    assert (last.decision, last.arm, last.reason) == ("refused", kind, reason)


@pytest.mark.parametrize("patients", [1, 2])
def test_class_of_two_patients_keeps_its_moments(tmp_path: Path, spec: Spec, patients: int) -> None:
    save_private_key(tmp_path / "key.pem", generate_key())
    folder = write_classes(tmp_path / "north", {"a": 9 - patients, "b": patients})
    fingerprinted(folder, spec)
    reply = asked(folder, spec, "class-moments", "moments")
    assert list(reply.sent) == ["moments"]
    assert reply.refused["class-moments"] == (
        "small-class",
        "site policy: class-moments of site north stay, for mean and variance of one or two "
        "patients tell each one's features: leave classes of fewer than 3 out",
    )


def test_descriptors_go_with_a_released_fingerprint_only(folder: Path, spec: Spec) -> None:
    reply = asked(folder, spec, "moments")
    assert reply.refused["moments"][0] == "no-fingerprint"
    assert "has released no fingerprint by spec tiny" in reply.refused["moments"][1]


def change_an_image(folder: Path, _spec: Spec) -> None:
    first, second = sorted((folder / "a").iterdir())[:2]
    first.write_bytes(second.read_bytes())


def deny(folder: Path, spec: Spec) -> None:
    Requests(folder / ".fedprint").deny(spec)


@pytest.mark.parametrize(
    ("meanwhile", "reason"), [(change_an_image, "no-fingerprint"), (deny, "denied")]
)
def test_what_happens_while_it_is_computed_counts(
    folder: Path,
    spec: Spec,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Path, Spec], None],
    reason: str,
) -> None:
    def slow(*arguments: Any) -> Any:
        made = describe_plain(*arguments)
        meanwhile(folder, spec)
        return made

    fingerprinted(folder, spec)
    monkeypatch.setattr("fl_client.descriptor_gate.describe_plain", slow)
    reply = asked(folder, spec, "moments")
    assert (reply.sent, reply.refused["moments"][0]) == ({}, reason)


def test_one_refusal_costs_one_kind(folder: Path, spec: Spec) -> None:
    policy = AUTOMATIC + 'descriptors = ["fisher"]\n'
    fingerprinted(folder, spec, policy)
    reply = asked(folder, spec, "moments", "fisher", policy=policy)
    assert (list(reply.sent), list(reply.refused)) == (["fisher"], ["moments"])


def test_only_a_simulation_compares_features(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_app, "simulated", lambda: True)
    release = fingerprinted(folder, spec)
    features = verified(asked(folder, spec, "features"), "features", release, spec)
    assert isinstance(features, Features)
    assert features.values.shape == (9, 512)
    np.testing.assert_array_equal(features.labels, read_site(folder).labels)


def test_nothing_leaves_unless_it_is_listed() -> None:
    assert Policy().descriptors == []


APP = typer.Typer()
register(APP)


def command(folder: Path, spec: Spec, *words: object) -> tuple[object, Path]:
    spec_file, out = folder.parent / "tiny.json", folder.parent / "out"
    spec_file.write_text(spec_json(spec))
    options = ("--spec", spec_file, "--out", out, "--key", folder.parent / "key.pem")
    asked = ["fingerprint", folder, *options, "--device", "cpu", *words]
    return CliRunner().invoke(APP, [str(word) for word in asked]).exception, out


def test_command_writes_descriptors_beside_the_fingerprint(folder: Path, spec: Spec) -> None:
    error, out = command(folder, spec, "--also", "fisher,moments")
    assert error is None
    assert sorted(path.name for path in (out / "descriptors").iterdir()) == [
        *("north.fisher.dsse.json", "north.fisher.safetensors"),
        *("north.moments.dsse.json", "north.moments.safetensors"),
    ]
    release = verify_local(out, "north", spec)
    payload, envelope = (
        (out / "descriptors" / f"north.moments.{ending}").read_bytes()
        for ending in ("safetensors", "dsse.json")
    )
    key = own_key(envelope)
    verify_descriptor(payload, envelope, "moments", release, spec, lambda _: key)
    error, _ = command(folder, spec)  # what went with the earlier fingerprint goes
    assert error is None
    assert list((out / "descriptors").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        (
            ("--also", "momemts"),
            ConfigError,
            "--also: there is no descriptor 'momemts': take moments, class-moments, fisher, feat",
        ),
        (("--also", "features"), PolicyError, "local commands: raw features never leave a site"),
    ],
)
def test_command_refuses_before_any_work(
    folder: Path, spec: Spec, words: tuple[str, ...], kind: type[Exception], text: str
) -> None:
    error, out = command(folder, spec, *words)
    assert isinstance(error, kind)
    assert str(error).startswith(text)
    assert not out.exists()
