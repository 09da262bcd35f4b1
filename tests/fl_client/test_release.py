from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures_sites import write_classes

from fl_client.policy import Policy, gate, load_policy, local_policy
from fl_client.release import make_binding, make_release, sign_release
from fl_client.site import Site, read_site
from protocol.errors import ConfigError, PolicyError
from protocol.fingerprint import counts_from_bytes, counts_to_bytes
from protocol.keys import generate_key, signer, signer_pem
from protocol.spec import Spec, load_spec
from protocol.statement import utc_now
from protocol.trust import TrustStore
from protocol.verify import verify_release


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return read_site(write_classes(tmp_path / "north", {"a": 3, "b": 2}))


def test_a_release_verifies(site: Site, spec: Spec) -> None:
    counts = np.zeros((spec.features, spec.bins), np.int64)
    counts[:, 2] = 5
    key = signer(generate_key())
    payload, release = make_release(site, counts, spec, key, local_policy())
    binding = make_binding(site.name, release, "run-1", "n" * 64, key)
    verified = verify_release(
        site="north",
        payload=payload,
        release=release,
        binding=binding,
        store=TrustStore.empty().enrol_all({"north": signer_pem(key)}),
        spec=spec,
        run="run-1",
        nonce="n" * 64,
        now=utc_now(),
    )
    assert np.array_equal(verified.fingerprint.counts, counts)
    assert counts_from_bytes(payload).dtype == np.uint8
    predicate = verified.statement.predicate
    assert (predicate.images, predicate.patients, predicate.privacy.mode) == (5, None, "plain")
    assert predicate.policy_digest == local_policy().digest
    assert [c.name for c in verified.card.classes] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"specs": []}, "spec-not-allowed", "spec tiny is not allowed: add it to specs"),
        ({"specs": ["other"]}, "spec-not-allowed", "spec tiny is not allowed: add it to specs"),
        ({"max_bins": 4}, "too-many-bins", "spec tiny has 10 bins, at most 4 are allowed"),
        (
            {"images_per_bin": 1},
            "too-many-bins",
            "spec tiny has 10 bins, at least 1 images a bin are needed, and site north has 5$",
        ),
        (
            {"release": "private"},
            "plain-not-allowed",
            'a fingerprint without noise may not leave: release = "plain" would permit it$',
        ),
        ({"min_images": 6}, "too-few-images", "site north has 5 images, at least 6 are needed"),
        ({"min_patients": 6}, "too-few-patients", "site north has 5 patients, at least 6"),
        (
            {"min_class_patients": 3},
            "small-class",
            "a class of site north has fewer than 3 patients, and its name would leave with the "
            "task card: leave the class out$",
        ),
        (
            {"automatic": False},
            "awaiting-approval",
            "a person at site north must approve spec tiny first",
        ),
    ],
)
def test_the_gate_refuses(
    site: Site, spec: Spec, changes: dict[str, object], reason: str, message: str
) -> None:
    allowed = {
        "specs": [spec.digest],
        "min_images": 5,
        "automatic": True,
        "release": "plain",
    }
    gate(Policy.model_validate(allowed), spec, site)
    policy = Policy.model_validate({**allowed, **changes})
    with pytest.raises(PolicyError, match=f"^site policy: {message}") as caught:
        gate(policy, spec, site)
    assert caught.value.reason == reason
    with pytest.raises(PolicyError):
        make_release(site, np.zeros((1, 1), int), spec, signer(generate_key()), policy)


def test_the_gate_fails_closed(site: Site, spec: Spec) -> None:
    with pytest.raises(PolicyError):
        gate(Policy(), spec, site)
    recipe = spec.model_copy(update={"lower": None, "upper": None, "edges_sha256": None})
    with pytest.raises(PolicyError, match="has no bin edges"):
        gate(local_policy(), recipe, site)
    by_digest = Policy(specs=[spec.digest], min_images=1, approved=[spec.digest], release="plain")
    gate(by_digest, spec, site)


def test_what_is_forbidden_stays_so_whoever_approved_it(site: Site, spec: Spec) -> None:
    policy = Policy(specs=[spec.digest], min_images=5, release="plain")
    assert policy.waits(spec)
    gate(policy, spec, site, approved=True)
    counts = np.full((spec.features, spec.bins), 1)
    payload = counts_to_bytes(counts)
    sign_release(site, payload, spec, signer(generate_key()), policy, approved=True)
    for changes, reason in (({"min_images": 6}, "too-few-images"), ({"specs": []}, "spec-not-a")):
        with pytest.raises(PolicyError) as caught:
            gate(policy.model_copy(update=changes), spec, site, approved=True)
        assert caught.value.reason.startswith(reason)
    with pytest.raises(PolicyError) as caught:
        gate(policy.model_copy(update={"min_images": 6}), spec, site)
    assert caught.value.reason == "too-few-images", "approval is asked for last"


def test_a_name_in_a_policy_means_the_shipped_spec_of_that_name(site: Site) -> None:
    shipped = load_spec("lite0-100")
    policy = Policy(specs=["lite0-100"], min_images=1, automatic=True, release="plain")
    gate(policy, shipped, site)
    weights = shipped.weights.model_copy(update={"source": "file:/etc/passwd"})
    for changes in ({"weights": weights}, {"bins": 1_000_000}):
        with pytest.raises(PolicyError) as caught:
            gate(policy, shipped.model_copy(update=changes), site)
        assert caught.value.reason == "spec-not-allowed"


def test_policy_files(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('specs = ["lite0-100"]\nmin_images = 50\nautomatic = true\n')
    policy = load_policy(path)
    assert policy.min_images == 50
    assert policy.digest != local_policy().digest
    path.write_text(f"contribution_cap = {10**23}\n")
    with pytest.raises(
        ConfigError, match=r"contribution_cap: Input should be less than or equal to 1000000$"
    ):
        load_policy(path)
    path.write_text("min_imags = 50\n")
    with pytest.raises(
        ConfigError,
        match=r"policy\.toml: unknown field min_imags: the fields are name, specs, min_images",
    ):
        load_policy(path)
    for field in ("plans", "training", "automatic"):
        for value in ('"yes"', '"true"', "1", '"maybe"'):
            path.write_text(f"{field} = {value}\n")
            with pytest.raises(
                ConfigError,
                match=rf"policy\.toml: {field} is neither true nor false: write one of them, with",
            ):
                load_policy(path)
        path.write_text(f"{field} = false\n")
        assert getattr(load_policy(path), field) is False
    path.write_text("specs = [")
    with pytest.raises(ConfigError, match=r"policy\.toml is not TOML"):
        load_policy(path)
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file.*nothing is released"):
        load_policy(tmp_path / "none.toml")
