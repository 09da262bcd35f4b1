"""Runs in which sites score each other's models: what is collected, verified, kept and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_server import collector, enrolling
from fl_server.asking import Problem
from fl_server.course import array_record
from fl_server.late import join_late
from fl_server.model_answers import body_shapes, only_model
from fl_server.model_answers import model_of as model_of_answer
from fl_server.progress import read_status
from fl_server.report_data import read_distances
from fl_server.runfolder import CHECKPOINT
from fl_server.score_asking import parts
from fl_server.score_folder import read_scores
from fl_server.settings import RunSettings
from fl_server.tasks import tasks_of_folder
from fl_server.verify_evidence import Evidence
from fl_server.verify_run import verify_run
from fl_server.verify_scores import check_signed_scores
from protocol.errors import ConfigError, DigestMismatch, FedprintError, UnknownKey
from protocol.keys import generate_node_key
from protocol.score_records import Candidate, from_scores, to_score_request
from protocol.sharing import BODY, HIDDEN, initial_rows
from protocol.verify import read_fingerprints
from strategies.suspicion import Suspicion
from tests.fl_server.deployed import Deployed, prepare
from tests.fl_server.joining import CLASSES, MEMBERS, SPEC
from tests.fl_server.scoring import ScoringSite, model_of, value_of
from tests.strategies.fake_grid import Killed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ScoringSite]]:
    folder = tmp_path_factory.mktemp("prepared") / "coordinator"
    sites = {name: ScoringSite(name) for name in CLASSES}
    prepare(folder, sites)
    return folder, sites


@pytest.fixture
def deployed(
    prepared: tuple[Path, dict[str, ScoringSite]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Deployed:
    monkeypatch.setattr(collector, "ROSTER_SECONDS", 0.0)
    folder, sites = prepared
    shutil.copytree(folder, tmp_path / "coordinator")
    fresh = {name: ScoringSite(name, site.key) for name, site in sites.items()}
    grid = Deployed(tmp_path / "coordinator", fresh)  # type: ignore[arg-type]
    grid.away(*(set(CLASSES) - set(MEMBERS)))
    return grid


def site_of(deployed: Deployed, name: str) -> ScoringSite:
    site = deployed.sites[name]
    assert isinstance(site, ScoringSite)
    return site


def scores_of(deployed: Deployed) -> dict[str, dict[str, dict[str, float]]]:
    _, releases = read_fingerprints(deployed.out)
    return read_scores(deployed.out, {r.fingerprint.site: r for r in releases})


def events(deployed: Deployed) -> dict[str, Any]:
    return read_status(deployed.out) or {}


def findings(deployed: Deployed) -> list[tuple[str, str]]:
    evidence = Evidence(deployed.out, deployed.coordinator.public_pem)
    return [(found.where, found.what) for found in verify_run(evidence).findings]


EXPECTED = {
    target: {m: {s: value_of(m, s, target) for s in MEMBERS} for m in ("leep", "logme")}
    for target in MEMBERS
}


def test_every_site_scores_every_model(deployed: Deployed) -> None:
    deployed.go(scores=True)
    assert scores_of(deployed) == EXPECTED
    assert deployed.is_whole()
    assert {t.name: t.scores for t in tasks_of_folder(deployed.out)} == EXPECTED
    kinds = [m.metadata.message_type for m in deployed.sent]
    assert kinds.count("train.alone") == kinds.count("query.score") == len(MEMBERS)
    assert kinds.index("query.score") < kinds.index("train")
    assert all(site_of(deployed, name).brought == [sorted(MEMBERS)] for name in MEMBERS)


def test_without_the_setting_nobody_is_asked(deployed: Deployed) -> None:
    deployed.go()
    kinds = {m.metadata.message_type for m in deployed.sent}
    assert not kinds & {"query.model", "query.score"}
    assert not (deployed.out / "scores").exists()
    assert "scores" not in RunSettings().decisive


def test_consent_decides_whose_model_travels(deployed: Deployed) -> None:
    site_of(deployed, "site-0-0").shares = False
    deployed.go(scores=True)
    assert "query.model" not in deployed.sites["site-0-0"].asked
    others = sorted(set(MEMBERS) - {"site-0-0"})
    assert site_of(deployed, "site-0-0").brought == [others]  # it scores all the same
    assert {tuple(by["leep"]) for by in scores_of(deployed).values()} == {tuple(others)}
    assert deployed.is_whole()


def test_where_nobody_shares_the_run_goes_on(
    deployed: Deployed, caplog: pytest.LogCaptureFixture
) -> None:
    for name in MEMBERS:
        site_of(deployed, name).shares = False
    caplog.set_level("INFO", "fedprint")
    deployed.go(scores=True)
    assert "no models are scored: no task card says shares_weights = true" in caplog.text
    assert not (deployed.out / "scores").exists()
    assert deployed.is_whole()


def refuse_scores(site: ScoringSite) -> None:
    site.refuses = "query.score"


def die(site: ScoringSite) -> None:
    site.dies_in = "query.score"


def sign(**values: Any) -> Callable[[ScoringSite], None]:
    def change(site: ScoringSite) -> None:
        site.signs = values

    return change


def other_key(site: ScoringSite) -> None:
    known = site.score

    def signed(content: RecordDict) -> RecordDict:
        own, site.key = site.key, generate_node_key()
        answer = known(content)
        site.key = own
        return answer

    site.score = signed  # type: ignore[method-assign]


def other_release(site: ScoringSite) -> None:
    site.release_digest = "0" * 64


def no_answer(site: ScoringSite) -> None:
    site.score = lambda _content: RecordDict()  # type: ignore[method-assign]


def another_model(site: ScoringSite) -> None:
    site.found = lambda c: {"model": "0" * 64}  # type: ignore[method-assign, assignment, return-value]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (refuse_scores, "scores-not-allowed"),
        (die, "client-error"),
        (sign(nonce="old"), "stale-nonce"),
        (sign(run="run-0"), "wrong-run"),
        (sign(site="site-1-0"), "wrong-site"),
        (sign(spec_digest="0" * 64), "spec-mismatch"),
        (sign(images=7), "wrong-size"),
        (other_key, "unknown-key"),
        (other_release, "digest-mismatch"),
        (another_model, "digest-mismatch"),
        (no_answer, "malformed-message"),
    ],
)
def test_a_target_that_answers_badly_costs_its_own_scores(
    deployed: Deployed, harm: Callable[[ScoringSite], None], reason: str
) -> None:
    harm(site_of(deployed, "site-1-1"))
    deployed.go(scores=True)
    assert scores_of(deployed) == {t: by for t, by in EXPECTED.items() if t != "site-1-1"}
    said = (deployed.out / "state" / "events.jsonl").read_text()
    assert f'"{reason}"' in said
    assert deployed.is_whole()
    assert ["site-1-0", "site-1-1"] in deployed.groups()


def with_array(name: str, value: Any) -> Callable[[ScoringSite], None]:
    def change(site: ScoringSite) -> None:
        arrays = {**model_of(site.name), name: value}
        if value is None:
            arrays.pop(name)
        record = ArrayRecord({key: Array(array) for key, array in arrays.items()})
        site.model = lambda: RecordDict({"arrays": record})  # type: ignore[method-assign]

    return change


@pytest.mark.parametrize(
    "harm",
    [
        with_array(f"{BODY}bias", np.full(HIDDEN, np.nan, np.float32)),
        with_array(f"{BODY}bias", np.zeros(HIDDEN + 1, np.float32)),
        with_array(f"{BODY}bias", np.zeros(HIDDEN, np.float64)),
        with_array(f"{BODY}bias", None),
        with_array(f"{BODY}more", np.zeros(HIDDEN, np.float32)),
        with_array("else", np.zeros(HIDDEN, np.float32)),
        with_array(*next(iter(initial_rows(["q"], HIDDEN, 0).items()))),
    ],
)
def test_what_is_no_model_goes_to_nobody(
    deployed: Deployed, harm: Callable[[ScoringSite], None]
) -> None:
    harm(site_of(deployed, "site-1-1"))
    deployed.go(scores=True)
    left = set(MEMBERS) - {"site-1-1"}
    assert {tuple(by["leep"]) for by in scores_of(deployed).values()} == {tuple(sorted(left))}
    assert set(scores_of(deployed)) == set(MEMBERS)
    assert deployed.is_whole()


def test_a_big_federation_sends_its_models_in_several_messages(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(array.nbytes for array in model_of("site-0-0").values())
    monkeypatch.setattr("fl_server.score_asking.MESSAGE_BYTES", 2 * size + 100)
    assert [sorted(part) for part in parts({name: model_of(name) for name in MEMBERS})] == [
        ["site-0-0", "site-0-1"],
        ["site-1-0", "site-1-1"],
        ["site-2-0"],
    ]
    deployed.go(scores=True)
    assert [len(sent) for sent in site_of(deployed, "site-2-0").brought] == [2, 2, 1]
    assert scores_of(deployed) == EXPECTED
    assert deployed.is_whole()


@given(st.lists(st.integers(1, 40), max_size=12), st.integers(1, 60))
def test_parts_hold_every_model_once_and_no_more_than_fits(sizes: list[int], room: int) -> None:
    models = {f"s{n:02}": {"body.x": np.zeros(size, np.float32)} for n, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fl_server.score_asking.MESSAGE_BYTES", 4 * room)
        found = parts(models)
    assert [source for part in found for source in part] == sorted(models)
    for part in found:
        held = [models[source]["body.x"].size for source in part]
        assert sum(held) <= room or len(held) == 1


def test_the_body_of_a_backbone_is_for_the_sites_to_know() -> None:
    arrays = {f"{BODY}stem": np.ones((2, 3), np.float32), **initial_rows("xy", 4, 0)}
    content = RecordDict({"arrays": array_record(arrays)})
    assert body_shapes("fine-tune", 48) is None
    assert set(model_of_answer(only_model(content), "xy", None)) == set(arrays)
    with pytest.raises(Problem, match=r"^sent a model with another body than the run trains$"):
        model_of_answer(content, "xy", body_shapes("adapter", 48))
    with pytest.raises(Problem, match=r"^sent a model of other classes than its card names$"):
        model_of_answer(content, "xz", None)


def test_killed_after_any_message_it_ends_alike(deployed: Deployed) -> None:
    deployed.go(scores=True)
    metrics, messages = deployed.read("metrics.json"), len(deployed.sent)
    for lives in range(4, messages, 7):
        shutil.rmtree(deployed.out)
        deployed.sent, deployed.lives = [], lives
        with pytest.raises(Killed):
            deployed.go(scores=True)
        deployed.lives = None
        if not (deployed.out / CHECKPOINT).exists():
            deployed.go(scores=True, timeout=7)
        assert deployed.read("metrics.json")["sites"] == metrics["sites"]
        assert scores_of(deployed) == EXPECTED
        assert deployed.is_whole()
        asked = [m.metadata.message_type for m in deployed.sent]
        assert asked.count("train.alone") <= 2 * len(MEMBERS)


def test_scores_of_an_interrupted_run_are_not_asked_for_again(deployed: Deployed) -> None:
    deployed.go(scores=True)
    kinds = [m.metadata.message_type for m in deployed.sent]
    shutil.rmtree(deployed.out)
    deployed.sent = []
    deployed.lives = kinds.index("train") + 1
    with pytest.raises(Killed):
        deployed.go(scores=True)
    deployed.sent, deployed.lives = [], None
    deployed.go(scores=True)
    again = {m.metadata.message_type for m in deployed.sent}
    assert not again & {"query.model", "query.score", "train.alone"}
    assert scores_of(deployed) == EXPECTED
    assert deployed.is_whole()


def test_a_run_that_trains_nothing_has_no_models_to_score(deployed: Deployed) -> None:
    with pytest.raises(ConfigError) as caught:
        deployed.go(scores=True, arms="")
    assert str(caught.value) == (
        "run-config scores=true scores the models that sites train alone, and this run trains "
        'nothing: let arms be "alone", or take a measure that needs no scores'
    )
    with pytest.raises(ConfigError, match=r'^run-config measure="logme" scores the models'):
        deployed.go(measure="logme", mode="exchange")
    assert not deployed.sent


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"sig":"', b'"sig":"A', 1))


def swap(path: Path) -> None:
    shutil.copy(path.with_name("site-1-0.dsse.json"), path)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (rewrite, "is not the file that the log names"),
        (swap, "is not the file that the log names"),
        (Path.unlink, "is missing"),
    ],
)
def test_verify_finds_what_was_changed(
    deployed: Deployed, harm: Callable[[Path], None], said: str
) -> None:
    deployed.go(scores=True)
    harm(deployed.out / "scores" / "site-1-1.dsse.json")
    assert ("scores/site-1-1.dsse.json", said) in findings(deployed)


def test_verify_finds_what_was_added(deployed: Deployed) -> None:
    deployed.go(scores=True)
    folder = deployed.out / "scores"
    shutil.copy(folder / "site-1-1.dsse.json", folder / "site-3-0.dsse.json")
    assert ("scores/site-3-0.dsse.json", "was added") in findings(deployed)
    shutil.rmtree(deployed.out)
    deployed.go()
    (deployed.out / "scores").mkdir()
    (deployed.out / "scores" / "site-1-1.dsse.json").write_text("{}")
    assert ("scores", "was added: the run had no models scored") in findings(deployed)


def test_a_folder_of_scores_is_verified_when_it_is_read(deployed: Deployed) -> None:
    deployed.go(scores=True)
    folder = deployed.out / "scores"
    swap(folder / "site-1-1.dsse.json")
    with pytest.raises(UnknownKey, match=r"^the scores of site-1-1 are signed with another key"):
        tasks_of_folder(deployed.out)
    shutil.move(folder / "site-1-1.dsse.json", folder / "site-3-0.dsse.json")
    with pytest.raises(ConfigError) as caught:
        tasks_of_folder(deployed.out)
    assert str(caught.value) == (
        f"{deployed.out} holds scores of site-3-0, and no fingerprint that they go with: bring it, "
        "or delete scores/site-3-0.dsse.json"
    )


def test_scores_of_different_models_are_not_compared(deployed: Deployed) -> None:
    deployed.go(scores=True)
    site = site_of(deployed, "site-1-1")
    [candidate] = [Candidate(source="site-0-0", sha256="0" * 64)]
    site.known = {"site-0-0": "0" * 64}
    envelope = from_scores(site.score(to_score_request("n", [candidate], {})))
    (deployed.out / "scores" / "site-1-1.dsse.json").write_bytes(envelope)
    with pytest.raises(ConfigError) as caught:
        tasks_of_folder(deployed.out)
    assert str(caught.value) == (
        f"{deployed.out} holds scores of site-0-0 and site-1-1 that are of different models of "
        "site-0-0: keep those of one run in scores"
    )


def test_scores_go_with_one_fingerprint(deployed: Deployed) -> None:
    deployed.go(scores=True)
    _, releases = read_fingerprints(deployed.out)
    by_site = {r.fingerprint.site: r for r in releases}
    statement = by_site["site-0-0"].statement
    [subject] = statement.subject
    digest = subject.digest.model_copy(update={"sha256": "0" * 64})
    other = statement.model_copy(
        update={"subject": [subject.model_copy(update={"digest": digest})]}
    )
    by_site["site-0-0"] = type(by_site["site-0-0"])(
        **{**vars(by_site["site-0-0"]), "statement": other}
    )
    with pytest.raises(DigestMismatch, match=r"^the scores of site-0-0 go with another release"):
        read_scores(deployed.out, by_site)
    assert SPEC.digest


def distances(deployed: Deployed) -> dict[str, dict[str, float]]:
    """Return distances.csv by target and source."""
    names, values = read_distances(deployed.out / "distances.csv")
    by_target = zip(names, values.T.tolist(), strict=True)
    return {target: dict(zip(names, column, strict=True)) for target, column in by_target}


def test_a_run_decides_by_the_scores(deployed: Deployed) -> None:
    deployed.go(measure="logme")
    found = distances(deployed)
    assert found == {t: {s: -v for s, v in by["logme"].items()} for t, by in EXPECTED.items()}
    nearest = deployed.read("groups.json")["sites"]["site-0-0"]["partners"][0]["site"]
    assert nearest == "site-0-1"
    assert "nobody else can compute them again" in (deployed.out / "report.html").read_text()
    assert deployed.is_whole()
    assert deployed.groups() == [["site-0-0", "site-0-1"], ["site-1-0", "site-1-1"], ["site-2-0"]]


def test_what_was_not_scored_is_unknown(deployed: Deployed) -> None:
    site_of(deployed, "site-0-0").shares = False
    refuse_scores(site_of(deployed, "site-2-0"))
    deployed.go(measure="logme")
    found = distances(deployed)
    unknown = {(s, t) for t, by in found.items() for s, value in by.items() if np.isnan(value)}
    assert unknown == {
        (s, t) for s in MEMBERS for t in MEMBERS if s == "site-0-0" or t == "site-2-0"
    }
    assert deployed.is_whole()
    said = deployed.read("groups.json")["sites"]["site-2-0"]["warnings"]
    assert said == ["Released no scores, which measure logme needs."]


def test_a_measure_of_scores_needs_one_at_least(deployed: Deployed) -> None:
    for name in MEMBERS:
        site_of(deployed, name).shares = False
    with pytest.raises(FedprintError) as caught:
        deployed.go(measure="logme")
    assert str(caught.value) == (
        "measure logme needs scores of models, and there is none: no task card says "
        "shares_weights = true"
    )


@pytest.mark.parametrize(
    ("kind", "why"),
    [("query.model", "no site sent its own"), ("query.score", "no site scored them")],
)
def test_a_measure_of_scores_needs_an_answer(deployed: Deployed, kind: str, why: str) -> None:
    for name in MEMBERS:
        site_of(deployed, name).refuses = kind
    with pytest.raises(FedprintError) as caught:
        deployed.go(measure="logme")
    said = f"measure logme needs scores of models, and there is none: {why}"
    assert str(caught.value) == said


def evidence_with(deployed: Deployed, change: Callable[[list[dict[str, Any]]], None]) -> Evidence:
    """Return the run as if its coordinator had written another log."""
    evidence = Evidence(deployed.out, deployed.coordinator.public_pem)
    change(evidence.entries)
    return evidence


def other_entry(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(entries: list[dict[str, Any]]) -> None:
        wanted = [e for e in entries if e["kind"] == values["kind"] and e["site"] == "site-1-1"]
        wanted[0] |= values

    return change


def later(entries: list[dict[str, Any]]) -> None:
    [number] = [n for n, e in enumerate(entries) if e["kind"] == "groups"]
    entries.insert(0, entries.pop(number))


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        (
            other_entry(kind="model", sha256="0" * 64),
            "scores/site-0-0.dsse.json",
            "site-0-0 scored another model of site-1-1 than it was sent",
        ),
        (
            other_entry(kind="scores", key="0" * 64),
            "scores/site-1-1.dsse.json",
            "which is not the key that the log names",
        ),
        (later, "log", "has scores that came after the groups"),
    ],
)
def test_verify_compares_scores_with_the_log(
    deployed: Deployed, change: Callable[[list[dict[str, Any]]], None], where: str, said: str
) -> None:
    deployed.go(scores=True)
    found = list(check_signed_scores(evidence_with(deployed, change)))
    assert [f for f in found if f.where == where and said in f.what]


def test_who_lies_about_scores_is_found_by_verify(deployed: Deployed) -> None:
    deployed.go(measure="logme")
    path = deployed.out / "distances.csv"
    text = path.read_text()
    path.write_text(text.replace("-1.051", "-1.053", 1))
    assert any(where == "distances.csv" and "the" in what for where, what in findings(deployed))


def test_who_joins_later_has_no_scores_and_is_placed_all_the_same(deployed: Deployed) -> None:
    deployed.go(measure="logme")
    deployed.away("site-3-0", "site-3-1", "site-0-2", "site-2-1")
    settings = deployed.settings(measure="logme")
    assert join_late(deployed, settings, deployed.coordinator) == ["site-1-2"]
    found = distances(deployed)
    assert found["site-0-0"]["site-0-1"] == -EXPECTED["site-0-0"]["logme"]["site-0-1"]
    assert np.isnan([found["site-1-2"]["site-0-0"], found["site-0-0"]["site-1-2"]]).all()
    assert deployed.is_whole()


def test_a_site_that_is_left_out_as_suspicious_is_sent_no_model(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*_: object) -> list[Suspicion]:
        return [Suspicion("site-2-0", "copy", "cannot be honest", certain=True)]

    for module in ("fl_server.scoring", "fl_server.decisions"):
        monkeypatch.setattr(f"{module}.suspicions", found)
    deployed.go(scores=True, suspects="leave-out")
    assert not {"query.score", "query.model"} & set(deployed.sites["site-2-0"].asked)
    kinds = [m.metadata.message_type for m in deployed.sent]
    assert kinds.count("train.alone") == len(MEMBERS) - 1
    assert set(scores_of(deployed)) == set(MEMBERS) - {"site-2-0"}


@pytest.mark.parametrize("online", [True, False])
def test_who_is_revoked_while_models_are_scored_is_left_out(
    deployed: Deployed, online: bool
) -> None:
    site = site_of(deployed, "site-1-1")
    answer = site.score

    def revoked_meanwhile(content: RecordDict) -> RecordDict:
        enrolling.revoke(deployed.folder, "site-1-1", offline=True)
        if not online:
            deployed.away(*(set(CLASSES) - set(MEMBERS)), "site-1-1")
        return answer(content)

    site.score = revoked_meanwhile  # type: ignore[method-assign]
    deployed.go(measure="logme")
    left_out = {gone["site"]: gone["reason"] for gone in deployed.read("run.json")["left_out"]}
    assert left_out == {"site-1-1": "key-revoked"}
    assert set(scores_of(deployed)) == set(MEMBERS) - {"site-1-1"}
    assert deployed.is_whole()
