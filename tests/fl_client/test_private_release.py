"""A private release: paid for, drawn once, never less private than the site's policy says."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fixtures_sites import tiny_spec, write_classes, write_manifest

from fl_client import draws as drawing
from fl_client import extract as extraction
from fl_client.contribution import counted_images
from fl_client.draws import Draws
from fl_client.extract import extract
from fl_client.gate import Gate
from fl_client.history import History
from fl_client.ledger import DRAWS, NAME, Ledger, spent_by
from fl_client.policy import Policy, local_policy
from fl_client.release import sign_release
from fl_client.releases import Releases
from fl_client.site import read_site
from protocol.errors import PolicyError
from protocol.fingerprint import counts_from_bytes
from protocol.keys import Signer, generate_key, signer, signer_pem
from protocol.privacy import AskedTerms, check_terms, epsilon_of, rho_of
from protocol.records import ReleaseRequest
from protocol.spec import Sampling, Spec
from protocol.statement import Privacy, utc_now
from protocol.trust import TrustStore
from protocol.verify import VerifiedRelease, verify_release

PLAIN = AskedTerms()
PRIVATE = Policy(specs=["*"], min_images=2, automatic=True, epsilon=4.0, budget_epsilon=20.0)
ROWS = [
    f"p{patient}-{image}.png,a,p{patient}" for patient in range(1, 5) for image in range(patient)
]


def asked(epsilon: float, delta: float = 1e-5) -> AskedTerms:
    return AskedTerms(mode="private", epsilon=epsilon, delta=delta)


@cache
def own_key() -> Signer:
    return signer(generate_key())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "north", {"a": 3, "b": 2})


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "north", ROWS)


def gate_of(folder: Path, policy: Policy = PRIVATE, **options: object) -> Gate:
    return Gate(read_site(folder), policy, own_key, device="cpu", **options)  # type: ignore[arg-type]


def ask(
    folder: Path, spec: Spec, terms: AskedTerms = PLAIN, policy: Policy = PRIVATE, **options: object
) -> VerifiedRelease:
    """Ask as the coordinator does, and verify as it does."""
    request = ReleaseRequest("run-1", "n" * 64, spec, terms)
    payload, release, binding = gate_of(folder, policy, **options).answer(request)
    return verify_release(
        site="north",
        payload=payload,
        release=release,
        binding=binding,
        store=TrustStore.empty().enrol_all({"north": signer_pem(own_key())}),
        spec=spec,
        run="run-1",
        nonce="n" * 64,
        now=utc_now(),
    )


def refused(folder: Path, spec: Spec, terms: AskedTerms = PLAIN, policy: Policy = PRIVATE) -> str:
    with pytest.raises(PolicyError) as caught:
        ask(folder, spec, terms, policy)
    assert "\n" not in str(caught.value)
    last = list(History(folder / ".fedprint").read())[-1]
    assert last.reason == caught.value.reason, "what is refused is written down"
    return caught.value.reason


def privacy(release: VerifiedRelease) -> Privacy:
    return release.statement.predicate.privacy


def same_bytes(one: VerifiedRelease, other: VerifiedRelease) -> bool:
    return one.statement.subject == other.statement.subject


def spent(folder: Path) -> float:
    return spent_by(Ledger(folder / ".fedprint").check())


def test_drawn_once_and_sent_again(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(folder, spec, asked(2.0))
    monkeypatch.setattr(extraction, "extract", lambda *_a, **_k: pytest.fail("computed again"))
    monkeypatch.setattr(drawing, "noised", lambda *_a: pytest.fail("drawn again"))
    again = ask(folder, spec, asked(2.0))
    assert again.statement == first.statement
    (line,) = Ledger(folder / ".fedprint").check()
    stated = privacy(first)
    assert (stated.rho, stated.sigma, stated.epsilon) == (line.rho, line.sigma, 2.0)
    assert (stated.spent_rho, stated.ledger) == (line.total_rho, line.digest)
    assert stated.budget_rho == rho_of(20.0, 1e-5)
    assert line.run == "run-1"
    assert line.rho == rho_of(2.0, 1e-5)
    check_terms(stated, spec.width, 1)
    said = first.statement.predicate
    assert (said.images, said.patients, said.contribution_cap) == (5, None, 1)
    assert first.fingerprint.sigma == line.sigma
    left = [
        (e.decision, e.privacy and e.privacy.mode) for e in History(folder / ".fedprint").read()
    ]
    assert left == [("released", "private"), ("released-again", "private")]


def test_the_noise_is_added_to_the_exact_counts(folder: Path, spec: Spec) -> None:
    payload = gate_of(folder).release(spec, asked(2.0)).payload
    exact = extract(read_site(folder).images, spec, device="cpu").counts
    noise = counts_from_bytes(payload).astype(float) - exact
    (line,) = Ledger(folder / ".fedprint").read()
    n = noise.size  # 5,120 draws: mean and deviation within five standard errors
    assert abs(noise.mean()) < 5 * line.sigma / n**0.5
    assert noise.std() == pytest.approx(line.sigma, rel=5 / (2 * n) ** 0.5)


def test_the_stricter_of_both_wins(folder: Path, spec: Spec) -> None:
    plain_asked = privacy(ask(folder, spec))
    assert (plain_asked.mode, plain_asked.epsilon) == ("private", 4.0)
    less_noise = privacy(ask(folder, spec, asked(50.0)))
    assert less_noise == plain_asked
    more_noise = privacy(ask(folder, spec, asked(1.0)))
    assert more_noise.epsilon == 1.0
    assert len(Ledger(folder / ".fedprint").check()) == 2
    permits = PRIVATE.model_copy(update={"release": "plain"})
    assert privacy(ask(folder, spec, PLAIN, permits)) == Privacy()
    assert privacy(ask(folder, spec, asked(1.0), permits)).epsilon == 1.0, "not the kept plain one"
    assert len(Ledger(folder / ".fedprint").check()) == 2


def test_only_stricter_terms_spend_anew(folder: Path, spec: Spec) -> None:
    two, one = ask(folder, spec, asked(2.0)), ask(folder, spec, asked(1.0))
    assert not same_bytes(two, one)
    assert spent(folder) == rho_of(2.0, 1e-5) + rho_of(1.0, 1e-5)
    assert privacy(one).spent_rho == spent(folder)
    for epsilon, kept in ((3.0, two), (2.0, two), (1.5, one), (1.0, one)):
        laxer = ask(folder, spec, asked(epsilon))
        assert same_bytes(laxer, kept)
        assert privacy(laxer).epsilon == privacy(kept).epsilon
        assert privacy(laxer).spent_rho == spent(folder), "the ledger as of the signature"
    elsewhere = ask(folder, spec, asked(2.5, 1e-6))
    assert same_bytes(elsewhere, two)
    assert privacy(elsewhere).epsilon == epsilon_of(rho_of(2.0, 1e-5), 1e-6)
    assert privacy(elsewhere).delta == 1e-6
    assert len(Ledger(folder / ".fedprint").check()) == 2


def test_what_is_around_the_noise_is_signed_anew(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(folder, spec, asked(2.0))
    monkeypatch.setattr(drawing, "noised", lambda *_a: pytest.fail("drawn again"))
    (folder / "site.toml").write_text('[task]\nmodality = "MRI"\n')
    stricter = PRIVATE.model_copy(update={"min_images": 3})
    again = ask(folder, spec, asked(2.0), stricter)
    assert same_bytes(again, first)
    assert again.card.modality == "MRI"
    assert again.statement.predicate.policy_digest == stricter.digest
    Releases(folder / ".fedprint").drop(spec)
    assert same_bytes(ask(folder, spec, asked(2.0)), first)
    (folder / "a" / "000.png").rename(folder / "b" / "renamed.png")
    assert same_bytes(ask(folder, spec, asked(2.0)), first), "the same images by other names"
    assert len(Ledger(folder / ".fedprint").check()) == 1


def test_other_images_spend_anew(folder: Path, spec: Spec) -> None:
    first = ask(folder, spec, asked(2.0))
    shutil.copy(folder / "a" / "001.png", folder / "b" / "001.png")
    assert not same_bytes(ask(folder, spec, asked(2.0)), first)
    assert len(Ledger(folder / ".fedprint").check()) == 2


def test_a_ledger_that_was_wound_back_is_told_by_the_history(folder: Path, spec: Spec) -> None:
    ask(folder, spec, asked(2.0))
    state = folder / ".fedprint"
    (state / NAME).unlink()
    for name in (DRAWS, "releases"):
        shutil.rmtree(state / name)
    with pytest.raises(PolicyError) as caught:
        ask(folder, spec, asked(2.0))
    assert caught.value.reason == "ledger-damaged"
    assert str(caught.value) == (
        "the site's privacy ledger is damaged (it lacks 1 of the draws that the files beside it "
        "name): nothing private leaves until it is restored from a backup; only a last line that "
        "a crash cut off may be deleted"
    )


def test_a_budget_that_was_lowered_takes_nothing_back(folder: Path, spec: Spec) -> None:
    first = ask(folder, spec, asked(2.0))
    lowered = PRIVATE.model_copy(update={"budget_epsilon": 1.0})
    again = ask(folder, spec, asked(2.0), lowered)  # a coordinator verifies it
    assert same_bytes(first, again)
    stated = privacy(again)
    assert stated.budget_rho == stated.spent_rho == privacy(first).spent_rho
    assert refused(folder, spec, asked(1.9), lowered) == "budget-exhausted"


def test_the_budget_is_hard(folder: Path, spec: Spec) -> None:
    once = PRIVATE.model_copy(update={"budget_epsilon": 2.5})
    first = ask(folder, spec, asked(2.0), once)
    assert refused(folder, spec, asked(1.9), once) == "budget-exhausted"
    assert same_bytes(ask(folder, spec, asked(2.0), once), first), "what went before still goes"
    shutil.copy(folder / "a" / "001.png", folder / "b" / "001.png")
    assert refused(folder, spec, asked(2.0), once) == "budget-exhausted"
    assert len(Ledger(folder / ".fedprint").check()) == 1


def test_a_crash_after_paying_gives_nothing_for_free(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "noised", lambda *_a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ask(folder, spec, asked(2.0))
    assert len(Ledger(folder / ".fedprint").check()) == 1
    ask(folder, spec, asked(2.0))
    assert len(Ledger(folder / ".fedprint").check()) == 2
    (kept,) = (folder / ".fedprint" / DRAWS).glob("*/*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    ask(folder, spec, asked(2.0))
    assert len(Ledger(folder / ".fedprint").check()) == 3, "damaged bytes are no draw"


def test_what_is_kept_and_cannot_be_read_is_not_drawn_anew(folder: Path, spec: Spec) -> None:
    ask(folder, spec, asked(2.0))
    (kept,) = (folder / ".fedprint" / DRAWS).glob("*/*.safetensors")
    kept.unlink()
    kept.mkdir()
    with pytest.raises(PolicyError) as caught:
        ask(folder, spec, asked(2.0))
    assert caught.value.reason == "ledger-damaged"
    assert str(caught.value) == (
        "a noised fingerprint that is kept cannot be read (Is a directory): restore it"
    )
    assert len(Ledger(folder / ".fedprint").check()) == 1


def test_who_asks_at_the_same_time_pays_once(folder: Path, spec: Spec) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: ask(folder, spec, asked(2.0)), range(3)))
    assert all(same_bytes(one, found[0]) for one in found)
    assert len(Ledger(folder / ".fedprint").check()) == 1


@pytest.mark.parametrize("kind", ["missing", "cut", "changed"])
def test_a_damaged_ledger_refuses_everything_private(folder: Path, spec: Spec, kind: str) -> None:
    ask(folder, spec, asked(2.0))
    ledger = folder / ".fedprint" / NAME
    whole = ledger.read_bytes()
    if kind == "missing":
        ledger.unlink()
    else:
        ledger.write_bytes(whole[:-5] if kind == "cut" else whole.replace(b"run-1", b"run-2"))
    assert refused(folder, spec, asked(2.0)) == "ledger-damaged", "even what went before"
    assert refused(folder, spec, asked(1.0)) == "ledger-damaged"
    ledger.write_bytes(whole)
    ask(folder, spec, asked(2.0))


def test_nothing_private_where_nothing_is_kept(folder: Path, spec: Spec) -> None:
    for policy, terms in ((PRIVATE, PLAIN), (local_policy(), asked(2.0))):
        with pytest.raises(PolicyError) as caught:
            ask(folder, spec, terms, policy, keeps=False)
        assert caught.value.reason == "not-recorded"
        assert str(caught.value) == (
            f"{policy.name}: a private release is written into a ledger first, and site north "
            "keeps nothing: name a state folder"
        )
    (folder / ".fedprint").write_text("a file where a folder must be")
    with pytest.raises(PolicyError) as caught:
        ask(folder, spec, asked(2.0))
    assert caught.value.reason == "not-recorded"


def test_a_ledger_that_cannot_be_written_releases_nothing(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fl_client.ledger.append_line", full)
        patch.setattr(drawing, "noised", lambda *_a: pytest.fail("drawn without paying"))
        assert refused(folder, spec, asked(2.0)) == "not-recorded"
    assert Ledger(folder / ".fedprint").check() == []


def test_no_way_to_a_plain_release(folder: Path, spec: Spec) -> None:
    permits = local_policy()
    ask(folder, spec, PLAIN, permits)  # kept from before
    assert privacy(ask(folder, spec)).mode == "private"
    gate = gate_of(folder)
    counts = extract(gate.site.images, spec, device="cpu").counts
    payload = b"" if counts is None else counts.tobytes()
    for approved in (False, True):
        with pytest.raises(PolicyError) as caught:
            sign_release(gate.site, payload, spec, own_key(), PRIVATE, approved=approved)
        assert caught.value.reason == "plain-not-allowed"
    made = gate_of(folder, permits).maker.make(spec, PLAIN)
    with pytest.raises(PolicyError, match="a fingerprint without noise may not leave"):
        gate.sign(spec, made, approved=True)


def test_drawing_repeatedly_is_no_private_release(folder: Path, tmp_path: Path) -> None:
    sampling = Sampling(rule="with-replacement", draws=20, flip=True, crop="random")
    spec = tiny_spec(tmp_path, sampling=sampling)
    assert refused(folder, spec) == "draws-repeat"
    assert privacy(ask(folder, spec, PLAIN, local_policy())).mode == "plain"


@pytest.mark.parametrize("keeps_features", [False, True])
@pytest.mark.parametrize("cap", [1, 2, 9])
def test_of_each_patient_so_many_images(
    patients: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch, keeps_features: bool, cap: int
) -> None:
    monkeypatch.setattr(drawing, "noised", lambda counts, _sigma: np.asarray(counts))
    policy = PRIVATE.model_copy(update={"contribution_cap": cap})
    kept = gate_of(patients, policy, keeps_features=keeps_features).release(spec, PLAIN)
    site = read_site(patients)
    chosen = counted_images(site, cap)
    exact = extract(chosen, spec, device="cpu").counts
    assert np.array_equal(counts_from_bytes(kept.payload), exact)
    said = kept.terms
    assert (said.images, said.patients, said.contribution_cap) == (len(chosen), 4, cap)
    (line,) = Ledger(site.state).check()
    assert line.sigma == pytest.approx(cap * (2 * spec.width) ** 0.5 / (2 * line.rho) ** 0.5)
    cached = list((site.state / "features").glob("*.safetensors"))
    assert len(cached) == keeps_features, "training still has the features of all images"


def test_the_policy_counts_what_is_counted(patients: Path, spec: Spec) -> None:
    for changes, reason in (
        ({"min_images": 5}, "too-few-images"),
        ({"images_per_bin": 1}, "too-many-bins"),
        ({"min_patients": 5}, "too-few-patients"),
    ):
        assert refused(patients, spec, PLAIN, PRIVATE.model_copy(update=changes)) == reason
    with pytest.raises(PolicyError) as caught:
        ask(patients, spec, PLAIN, PRIVATE.model_copy(update={"min_images": 5}))
    assert str(caught.value) == "site policy: site north counts 4 images, at least 5 are needed"
    ask(patients, spec, PLAIN, PRIVATE.model_copy(update={"min_images": 4}))


def test_another_cap_is_another_draw(patients: Path, spec: Spec) -> None:
    one = ask(patients, spec)
    two = ask(patients, spec, PLAIN, PRIVATE.model_copy(update={"contribution_cap": 2}))
    assert not same_bytes(one, two)
    lines = Ledger(patients / ".fedprint").check()
    assert [line.cap for line in lines] == [1, 2]
    site = read_site(patients)
    found = Draws(site.state).find(
        lines[0].privacy, spec=spec, data=lines[0].data, cap=lines[0].cap
    )
    assert found is not None
    assert found.line == lines[0]


def test_training_under_a_private_policy(folder: Path, spec: Spec) -> None:
    gate_of(folder).admit(spec, "run-1", "alone")
    waits = PRIVATE.model_copy(update={"automatic": False})
    with pytest.raises(PolicyError, match="must approve spec tiny first"):
        gate_of(folder, waits).admit(spec, "run-1", "grouped")
    assert spent(folder) == 0
