"""The audit: broken mechanisms are caught every time, intact ones never fail."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from fixtures_noise import drawn
from fixtures_sites import tiny_spec, write_classes, write_manifest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from fl_client import audit_membership
from fl_client.audit import Counted, audit, counted_images
from fl_client.audit_mechanism import Counts, SiteMechanism, made_up
from fl_client.audit_membership import population
from fl_client.audit_result import AuditResult, audit_file, kept
from fl_client.audit_words import audit_words, words
from fl_client.commands import register
from fl_client.site import Site, read_site
from fl_client.spec_commands import spec_json
from protocol.errors import AuditFailed, ConfigError, DataError
from protocol.privacy import epsilon_of, noised, sensitivity, sigma_for, terms
from protocol.projection import Projection
from protocol.spec import Calibration, Sampling, Spec
from protocol.statement import Privacy

APP = typer.Typer()
register(APP)
IMAGES, WIDTH, BINS = 40, 2, 5
RHOS = (0.02, 0.05, 0.107, 0.125, 0.5)


@dataclass(frozen=True)
class Intact(SiteMechanism):
    """The site's mechanism, with answers as the gate gives them: drawn once, and sent again."""

    features: NDArray[np.float32] | None = None

    def exact(self) -> Counts:
        assert self.features is not None
        return self.counts(self.features)

    def answers(self, queries: int) -> Counts:
        return np.stack([self.release(self.exact())] * queries)


class NoiseHalved(Intact):
    def release(self, counts: Counts) -> Counts:
        assert self.privacy.sigma
        return drawn(counts, self.privacy.sigma / 2)


class CountedTwice(Intact):
    def counts(self, features: NDArray[np.float32]) -> Counts:
        return super().counts(np.concatenate([features, features[-1:]]))


class NoiseRedrawn(Intact):
    def answers(self, queries: int) -> Counts:
        return np.stack([self.release(self.exact()) for _ in range(queries)])


class GateHalves(Intact):
    """Draws as declared, but the gate lets another release go."""

    def answers(self, queries: int) -> Counts:
        assert self.privacy.sigma
        return np.stack([drawn(self.exact(), self.privacy.sigma / 2)] * queries)


def declared(rho: float, cap: int = 1) -> Privacy:
    return Privacy(
        mode="private",
        rho=rho,
        sigma=sigma_for(rho, sensitivity(WIDTH, cap)),
        neighbours="replace-one",
        epsilon=epsilon_of(rho, 1e-5),
        delta=1e-5,
    )


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """A spec of eight directions of the tiny backbone's features, in five bins."""
    recipe = tiny_spec(tmp_path_factory.mktemp("weights"), bins=BINS)
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(recipe.features, WIDTH)))[0].T
    bare = recipe.model_copy(update={"lower": None, "upper": None, "edges_sha256": None})
    return bare.with_edges(
        np.full(WIDTH, -1.0),
        np.full(WIDTH, 1.0),
        weights_sha256=str(recipe.weights.sha256),
        calibration=Calibration(images=["none"], count=1),
        projection=Projection.of(directions),
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("sites") / "north"
    return read_site(write_classes(folder, {"a": IMAGES // 2, "b": IMAGES // 2}))


@pytest.fixture(scope="module")
def counted(site: Site, spec: Spec) -> Counted:
    rng = np.random.default_rng(1)
    features = rng.normal(scale=0.2, size=(IMAGES, spec.features)).astype(np.float32)
    features[IMAGES // 2 :] += made_up(spec, np.full(WIDTH, BINS - 1))
    return counted_images(site, features, 1)


def attack(
    kind: type[Intact], site: Site, spec: Spec, counted: Counted, rho: float, games: int = 0
) -> AuditResult:
    privacy = declared(rho)
    # measured: the bound is then six or more of its standard deviations above what is declared
    games = games or round(1280 / rho)
    mechanism = kind(site, spec, privacy, 1, features=counted.features)
    return audit(site, spec, mechanism, counted, privacy, games=games)


@pytest.mark.parametrize("kind", [NoiseHalved, CountedTwice, NoiseRedrawn])
def test_a_broken_mechanism_is_caught_every_time(
    kind: type[Intact], site: Site, spec: Spec, counted: Counted, few_others: None, fast_noise: None
) -> None:
    for number in range(20):
        rho = RHOS[2 + number % 3]  # the smaller, the more games are needed
        result = attack(kind, site, spec, counted, rho)
        assert result.limits is not None
        assert result.bounds.mu > result.limits.mu, "the worst case's games alone prove it"
        assert any(text.startswith("mu is at least") for text in result.findings)
        with pytest.raises(AuditFailed, match=r"^audit of north failed: .*: release nothing until"):
            result.require_passed()


def test_an_intact_mechanism_never_fails(
    site: Site, spec: Spec, counted: Counted, few_others: None, fast_noise: None
) -> None:
    for number in range(20):
        result = attack(Intact, site, spec, counted, RHOS[number % len(RHOS)], games=4000)
        assert result.findings == []
        assert result.limits is not None
        assert result.bounds.mu < result.limits.mu
        assert result.bounds.epsilon_gaussian < (result.privacy.epsilon or 0)
        assert abs(result.worst.auc - result.limits.auc) < 0.04
        assert result.realistic.auc < result.limits.auc + 0.03


@pytest.fixture
def fast_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the noise of millions of games from its table; the audits of the command do not."""
    monkeypatch.setattr("fl_client.audit_mechanism.noised", drawn)


@pytest.fixture
def few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what the verdict does not depend on."""
    from fl_client import audit_population

    monkeypatch.setattr(audit_membership, "TARGETS", 5)
    monkeypatch.setattr(audit_membership, "FEWEST", 5)
    monkeypatch.setattr(audit_population, "MOST", 2)
    monkeypatch.setattr(audit_population, "FEWEST", 2)


def test_a_gate_that_adds_less_noise_is_caught(
    site: Site, spec: Spec, counted: Counted, few_others: None, fast_noise: None
) -> None:
    for _ in range(20):
        result = attack(GateHalves, site, spec, counted, 0.125, games=1000)
        assert len(result.findings) == 1
        assert result.findings[0].startswith("the gate's noise is 0.")


def test_a_plain_release_hides_nothing(site: Site, spec: Spec, counted: Counted) -> None:
    mechanism = Intact(site, spec, Privacy(), 0, features=counted.features)
    result = audit(site, spec, mechanism, counted, Privacy(), cap=0, games=2000)
    assert result.worst.auc == 1
    assert result.realistic.auc > 0.55
    assert (result.findings, result.limits, result.asked) == ([], None, None)
    assert result.population.shares_error is not None
    assert result.population.shares_trivial is not None
    assert result.population.shares_error < result.population.shares_trivial / 2
    assert (result.population.rare_auc or 0) > 0.9
    result.require_passed()
    said = " ".join(words(result))
    assert (
        "Nothing was declared, so nothing can be broken: a plain release protects no image" in said
    )


def test_the_paper_form_tells_members_apart(site: Site, tmp_path: Path) -> None:
    wide = tiny_spec(tmp_path, bins=100)
    features = np.random.default_rng(2).uniform(0, 0.5, (IMAGES, 512)).astype(np.float32)
    counted = counted_images(site, features, 0)
    mechanism = Intact(site, wide, Privacy(), 0, features=features)
    result = audit(site, wide, mechanism, counted, Privacy(), cap=0, games=500)
    assert result.realistic.auc > 0.995
    assert result.population.rebuilt_auc > 0.9


def test_games_are_those_of_the_declared_gaussians(
    site: Site, spec: Spec, counted: Counted
) -> None:
    """The canaries' scores are normal with the declared noise, and Delta apart."""
    privacy = declared(0.125)
    mechanism = SiteMechanism(site, spec, privacy, 1)
    rng = np.random.default_rng(3)
    scores = audit_membership.worst_case(mechanism, spec, counted.features, 1, 40_000, 1, rng)
    assert scores.inside.mean() - scores.outside.mean() == pytest.approx(2, abs=0.15)
    assert scores.inside.std() == pytest.approx(privacy.sigma, rel=0.03)


@pytest.mark.parametrize("shape", [(5, 30), (30, 5)])
def test_both_ways_to_solve_agree(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    rows, diagonal, right = rng.normal(size=shape), rng.uniform(1, 2, shape[1]), np.ones(shape[1])
    found = audit_membership._solve(diagonal, rows, right)
    assert (np.diag(diagonal) + rows.T @ rows) @ found == pytest.approx(right)


def test_every_image_is_counted_alone(site: Site, spec: Spec, counted: Counted) -> None:
    mechanism = SiteMechanism(site, spec, Privacy(), 0)
    people = population(mechanism, spec, counted.features, np.arange(IMAGES) // 2, counted.labels)
    assert (people.bins.sum(axis=1) == WIDTH).all()
    whole = mechanism.counts(counted.features).ravel()
    assert (people.bins.sum(axis=0) == whole).all()
    assert people.patients.shape == (IMAGES // 2, WIDTH * BINS)
    assert (people.patients.sum(axis=0) == whole).all()


@pytest.mark.parametrize("projected", [True, False])
def test_made_up_images_fall_where_they_should(
    site: Site, spec: Spec, tmp_path: Path, projected: bool
) -> None:
    made = spec if projected else tiny_spec(tmp_path, bins=7)
    bins = np.random.default_rng(4).integers(0, made.bins, made.width)
    counts = SiteMechanism(site, made, Privacy(), 0).counts(made_up(made, bins)[None])
    assert (counts == np.eye(made.bins, dtype=int)[bins]).all()


def manifest(folder: Path) -> Path:
    rows = [
        f"{patient}-{number}.png,{patient % 2},p{patient}"
        for patient in range(12)
        for number in range(3)
    ]
    return write_manifest(folder, rows)


def test_with_subjects_a_game_is_about_a_patient(
    tmp_path: Path, spec: Spec, few_others: None
) -> None:
    site, cap = read_site(manifest(tmp_path / "clinic")), 2
    features = np.random.default_rng(5).normal(size=(36, spec.features)).astype(np.float32)
    counted = counted_images(site, features, cap)
    assert (np.bincount(counted.units) == cap).all()
    privacy = declared(0.125, cap)
    mechanism = Intact(site, spec, privacy, cap, features=counted.features)
    result = audit(site, spec, mechanism, counted, privacy, cap=cap, games=5_000)
    assert (result.unit, result.images, result.units) == ("patient", 24, 12)
    assert result.findings == []
    assert result.limits is not None
    assert result.worst.auc == pytest.approx(result.limits.auc, abs=0.04)
    everything = counted_images(site, features, 0)  # as if no cap were kept
    broken = audit(site, spec, mechanism, everything, privacy, cap=cap, games=1000)
    assert "3 images of one patient are counted, declared are 2" in broken.findings


def test_what_cannot_be_audited(tmp_path: Path, spec: Spec, site: Site, counted: Counted) -> None:
    small = read_site(write_classes(tmp_path / "small", {"a": 4}))
    with pytest.raises(DataError, match=r"^site small has 4 patients .or images.: an audit needs"):
        counted_images(small, np.zeros((4, spec.features), np.float32), 1)
    drawn = spec.model_copy(update={"sampling": Sampling(rule="with-replacement", draws=100)})
    mechanism = SiteMechanism(site, drawn, Privacy(), 0)
    with pytest.raises(ConfigError, match=r"^spec tiny counts other views than one centre view"):
        audit(site, drawn, mechanism, counted, Privacy(), cap=0)


def run(*parts: object) -> Result:
    return CliRunner().invoke(APP, [str(part) for part in parts])


def test_command_audits_the_real_gate(tmp_path: Path, spec: Spec) -> None:
    folder, file = manifest(tmp_path / "clinic"), tmp_path / "spec.json"
    file.write_text(spec_json(spec))
    report = tmp_path / "audit.json"
    asked = terms(spec.width, epsilon=2.0, delta=1e-5, cap=2)
    assert audit_words(read_site(folder), spec, asked, 2) == [
        f"No audit of this release was run. To measure what it tells, run fedprint audit {folder} "
        f"--state {folder / '.fedprint'} --spec {spec.name} --epsilon 2 --delta 1e-05 --cap 2"
    ]
    result = run("audit", folder, "--spec", file, "--games", 4000, "--cap", 2, "--json", report)
    assert result.exit_code == 0, result.output
    assert "the site gave the same bytes" in result.output
    site = read_site(folder)
    assert not (site.state / "ledger.jsonl").exists(), "an audit spends nothing"
    written = AuditResult.model_validate_json(report.read_bytes())
    assert kept(site.state, spec) == written
    assert (written.asked and written.asked.different) == 1
    assert written.asked is not None
    assert written.asked.noise_least < written.asked.noise < written.asked.noise_most
    assert "In 128 trials from the beginning its noise was " in result.output
    assert [p.name for p in (site.state / "audit" / "scratch").iterdir()] == ["gate.lock"]
    assert written.privacy.epsilon == 2
    said = audit_words(site, spec, asked, 2)
    assert said == words(written)
    assert said[-1].startswith("Passed: in 4,000 games epsilon was proved, with 99.9 % certainty")
    assert all(sentence.isprintable() for sentence in said)
    assert audit_words(site, spec, Privacy())[0].startswith("No audit of this release was run. ")
    stricter = terms(spec.width, epsilon=1.0, delta=1e-5, cap=2)
    assert "a release with other noise. " in audit_words(site, spec, stricter, 2)[0]
    plain = run("audit", folder, "--spec", file, "--plain", "--games", 1000)
    assert plain.exit_code == 0, plain.output
    assert "Nothing was declared, so nothing can be broken" in plain.output
    (folder / "0-0.png").write_bytes((folder / "1-0.png").read_bytes())
    again = audit_words(read_site(folder), spec, asked, 2)
    assert "was of other images than the site holds now" in again[0]
    audit_file(site.state, spec, "private").write_text(json.dumps({"site": 1}))
    assert audit_words(read_site(folder), spec, asked, 2)[0].startswith("No audit")


def test_command_fails_where_the_noise_is_halved(
    tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = manifest(tmp_path / "clinic"), tmp_path / "spec.json"
    file.write_text(spec_json(spec))
    monkeypatch.setattr(
        "fl_client.audit_mechanism.noised", lambda counts, sigma: noised(counts, sigma / 2)
    )
    result = run("audit", folder, "--spec", file, "--games", 20_000)
    assert result.exit_code != 0
    assert isinstance(result.exception, AuditFailed)
    assert "\n" not in str(result.exception)
    assert "FAILED: " in result.output
    asked = terms(spec.width, epsilon=2.0, delta=1e-5)
    assert "FAILED: " in audit_words(read_site(folder), spec, asked)[-1]


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    result = run("audit", tmp_path, "--plain", "--epsilon", 1)
    assert isinstance(result.exception, ConfigError)
    assert "belong to a private release" in str(result.exception)


@pytest.mark.parametrize(("option", "said"), [("--epsilon", "epsilon 0"), ("--delta", "delta 0")])
def test_zero_is_no_default(tmp_path: Path, spec: Spec, option: str, said: str) -> None:
    folder, file = manifest(tmp_path / "clinic"), tmp_path / "spec.json"
    file.write_text(spec_json(spec))
    result = run("audit", folder, "--spec", file, option, 0)
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
    assert not (folder / ".fedprint" / "features").exists(), "no image is read for it"
