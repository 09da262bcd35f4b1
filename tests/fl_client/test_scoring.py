"""Models that leave a site, and models of others that it scores, asked as a coordinator does."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_asking import AUTOMATIC, Coordinator, ask, config_for
from fixtures_sites import write_classes
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from scipy.special import softmax

from fl_client import client_app
from fl_client.history import History
from fl_client.learner import Learner
from fl_client.node import _read_site
from fl_client.scoring import outputs, require_model, score
from fl_client.site import read_site
from fl_client.turns import LOCK
from protocol.envelope import own_key
from protocol.errors import BadDtype, BadShape, DigestMismatch, FedprintError, NotFinite
from protocol.orders import order_from_config
from protocol.records import refusal
from protocol.score_records import Candidate, from_scores, to_score_request
from protocol.scores import ModelScores, Scores, check_scores, open_scores
from protocol.sharing import BODY, HIDDEN, Arrays, initial_adapter, initial_rows, row_name
from protocol.spec import Spec
from protocol.weights import weights_sha256
from strategies.transferability import SCORES, score_model


@pytest.fixture(autouse=True)
def _identity() -> Iterator[None]:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    yield
    client_app._learners.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = write_classes(tmp_path / "north", {"brain": 12, "lung": 12})
    (site / "site.toml").write_text("[task]\nshares_weights = true\n")
    return site


def model_of(seed: int, classes: tuple[str, ...] = ("crack", "no crack", "gap")) -> Arrays:
    """Return a model that some other site may have trained."""
    return initial_adapter(512, seed) | initial_rows(classes, HIDDEN, seed)


def learner(folder: Path, spec: Spec) -> Learner:
    return Learner(read_site(folder), spec, "adapter", "cpu", 0)


SCORING = f"{AUTOMATIC}scores = true\n"


def request(models: dict[str, Arrays], also: dict[str, str] | None = None) -> RecordDict:
    """Return a request to score models, and others that came before."""
    digests = {source: weights_sha256(model) for source, model in models.items()} | (also or {})
    sent = {source: client_app.array_record(model) for source, model in models.items()}
    listed = [Candidate(source=source, sha256=sha256) for source, sha256 in digests.items()]
    return to_score_request("nonce-1", listed, sent)


def ask_scores(folder: Path, spec: Spec, content: RecordDict, **own: Any) -> RecordDict:
    own.setdefault("policy_text", SCORING)
    return ask(folder, "query.score", config_for(spec, arm="alone"), content=content, **own)


def opened(answer: RecordDict, release: str, spec: Spec) -> Scores:
    assert refusal(answer) is None, refusal(answer)
    envelope = from_scores(answer)
    statement, _ = open_scores(envelope, lambda _key: own_key(envelope))
    said = {s: scored.model for s, scored in statement.predicate.models.items()}
    where = {"site": "north", "run": "run-1", "release": release, "spec": spec.digest}
    return check_scores(statement, **where, models=said)


def decisions(folder: Path) -> list[tuple[str, str, str]]:
    entries = History(folder / ".fedprint").read()
    return [(entry.arm, entry.decision, entry.reason) for entry in entries]


def test_a_model_leaves_by_consent_only(folder: Path, spec: Spec) -> None:
    config = config_for(spec, arm="alone")
    answer = refusal(ask(folder, "query.model", config))
    assert answer == ("nothing-trained", "site north has trained no model alone in run run-1")
    ask(folder, "train.alone", config)
    sent = ask(folder, "query.model", config).array_records["arrays"]
    assert set(sent) == {*initial_adapter(512, 0), row_name("brain"), row_name("lung")}
    (folder / "site.toml").write_text("[task]\nshares_weights = false\n")
    assert refusal(ask(folder, "query.model", config)) == (
        "weights-not-shared",
        "site north hands its weights to nobody: shares_weights = true in site.toml would permit "
        "it",
    )
    left = [entry for entry in History(folder / ".fedprint").read() if entry.decision == "model"]
    arrays = {name: array.numpy() for name, array in sent.items()}
    assert [entry.sha256 for entry in left] == [weights_sha256(arrays)]
    assert left[0].bytes > 4 * 64 * 512


def test_scores_are_those_of_the_training_images(folder: Path, spec: Spec) -> None:
    release = Coordinator(folder, spec).release
    models = {"south": model_of(1), "west": model_of(2, ("roof", "road"))}
    found = opened(ask_scores(folder, spec, request(models)), release, spec)
    here = learner(folder, spec)
    train = here.data.splits["train"]
    assert (found.nonce, found.images) == ("nonce-1", len(train))
    for source, model in models.items():
        assert found.models[source].model == weights_sha256(model)
        wanted = score_model(*outputs(here, model), here.data.labels[train])
        assert set(found.models[source].values) == set(SCORES)
        for name, value in found.models[source].values.items():
            assert value == pytest.approx(wanted[name], rel=1e-5)
            assert value == float(f"{value:.6g}")
    assert decisions(folder) == [
        ("", "released", ""),
        ("alone", "training", ""),
        ("", "scores", ""),
    ]


def test_outputs_are_the_models_own(folder: Path, spec: Spec) -> None:
    here, model = learner(folder, spec), model_of(3)
    order = order_from_config(config_for(spec, arm="alone"))
    names = ("gap", "crack", "no crack")
    here.classes = names  # a model of the source's classes, built as training builds it
    built = here._model(order)
    built.load_arrays(model)
    batch = torch.stack([here.data.evaluation[i][0] for i in here.data.splits["train"]])
    with torch.inference_mode():
        wanted = softmax(built.eval()(batch).double().numpy(), axis=1)  # [n, 3]
    embeddings, probabilities = outputs(here, model)
    assert embeddings.shape == (len(batch), HIDDEN)
    order_of = np.argsort([row_name(name) for name in names])
    np.testing.assert_allclose(probabilities, wanted[:, order_of], rtol=1e-5)


def test_a_model_that_fine_tunes_the_backbone_is_scored_too(folder: Path, spec: Spec) -> None:
    here = Learner(read_site(folder), spec, "fine-tune", "cpu", 0)
    model = here.start(0)
    found = score(here, model, weights_sha256(model))
    assert set(found.values) == set(SCORES)
    assert outputs(here, model)[0].shape == (here.examples, 512)


def changed(model: Arrays, name: str, value: Any) -> Arrays:
    return {**model, name: value}


BIAS = f"{BODY}bias"


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (
            changed(model_of(1), "more", np.zeros(3, np.float32)),
            BadShape,
            "the model does not hold the arrays of the body: more is amiss",
        ),
        (
            changed(model_of(1), BIAS, np.zeros(HIDDEN, np.float64)),
            BadDtype,
            "the model's body.bias is float64, not float32",
        ),
        (
            changed(model_of(1), BIAS, np.zeros(HIDDEN + 1, np.float32)),
            BadShape,
            "the model's body.bias has shape (65,), not (64,)",
        ),
        (
            changed(model_of(1), row_name("gap"), np.zeros(HIDDEN, np.float32)),
            BadShape,
            f"the model's {row_name('gap')} has shape (64,), not (65,)",
        ),
        (
            changed(model_of(1), BIAS, np.full(HIDDEN, np.nan, np.float32)),
            NotFinite,
            "the model's body.bias holds NaN or infinite values",
        ),
        (model_of(1, ("one",)), BadShape, "the model has 1 classes, 2 to 10000 can be scored"),
    ],
)
def test_what_is_no_model_is_not_run(
    folder: Path, spec: Spec, model: Arrays, error: type[FedprintError], said: str
) -> None:
    here = learner(folder, spec)
    with pytest.raises(error) as caught:
        require_model(here, model, weights_sha256(model))
    assert str(caught.value) == said
    sha256 = weights_sha256(model)
    assert score(here, model, sha256) == ModelScores(model=sha256, unscored=error.reason)


def test_other_bytes_than_announced_are_not_scored(folder: Path, spec: Spec) -> None:
    here = learner(folder, spec)
    with pytest.raises(DigestMismatch, match=r"^the model has SHA-256 \w{12}, not bbbbbbbbbbbb as"):
        require_model(here, model_of(1), "b" * 64)


def test_one_bad_model_costs_only_its_own_score(folder: Path, spec: Spec) -> None:
    release = Coordinator(folder, spec).release
    models = {"bad": model_of(1) | {BIAS: np.full(HIDDEN, np.inf, np.float32)}}
    # values that overflow in the body's own arithmetic
    models["vast"] = {name: np.full_like(a, 3e38) for name, a in model_of(1).items()}
    models["good"] = model_of(2)
    found = opened(ask_scores(folder, spec, request(models)), release, spec).models
    assert {source: scored.unscored for source, scored in found.items()} == {
        "bad": "not-finite",
        "vast": "not-finite",
        "good": "",
    }
    assert found["good"].values
    assert not found["bad"].values


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (np.linalg.LinAlgError("not positive definite"), ({}, "undefined")),
        (OverflowError("too large"), ({}, "undefined")),
        ({"leep": -1.0, "nce": np.nan, "logme": 1e300}, ({"leep": -1.0}, "")),
        ({"logme": -np.inf}, ({}, "undefined")),
    ],
)
def test_a_model_that_breaks_the_arithmetic_costs_only_its_own_score(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch, found: Any, left: Any
) -> None:
    def scored(*_: Any) -> dict[str, float]:
        if isinstance(found, Exception):
            raise found
        return dict(found)

    monkeypatch.setattr("fl_client.scoring.score_model", scored)
    model = model_of(1)
    one = score(learner(folder, spec), model, weights_sha256(model))
    assert (one.values, one.unscored) == left


def test_models_in_several_messages_are_all_in_the_last_answer(folder: Path, spec: Spec) -> None:
    release = Coordinator(folder, spec).release
    first, last = model_of(1), model_of(2)
    both = {"south": weights_sha256(first), "west": weights_sha256(last)}
    half = opened(ask_scores(folder, spec, request({"south": first}, both)), release, spec)
    assert list(half.models) == ["south"]
    whole = opened(ask_scores(folder, spec, request({"west": last}, both)), release, spec)
    assert list(whole.models) == ["south", "west"]
    assert whole.models["south"] == half.models["south"]


def test_a_model_is_scored_once_and_not_too_many_are(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Coordinator(folder, spec).release
    content = {"south": model_of(1)}
    before = opened(ask_scores(folder, spec, request(content)), release, spec)
    monkeypatch.setattr("fl_client.kept_scores.MOST_MODELS", 1)
    monkeypatch.setattr("fl_client.scoring.score_model", None)  # it would be called
    after = opened(ask_scores(folder, spec, request(content)), release, spec)
    assert after.models == before.models
    more = refusal(ask_scores(folder, spec, request({"west": model_of(2)})))
    assert more == ("too-many-models", "site north scores at most 1 models for run run-1")


def test_two_requests_at_once_do_not_score_twice_as_many_models(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    Coordinator(folder, spec)
    monkeypatch.setattr("fl_client.kept_scores.MOST_MODELS", 1)
    state, taken = folder / ".fedprint", []

    def while_another_scores(*_: Any) -> dict[str, float]:
        with (state / LOCK).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken.append(1)
        return {"leep": -1.0}

    monkeypatch.setattr("fl_client.scoring.score_model", while_another_scores)
    ask_scores(folder, spec, request({"south": model_of(1)}))
    assert taken == [1]


def test_changed_images_are_scored_anew(folder: Path, spec: Spec) -> None:
    release = Coordinator(folder, spec).release
    content = {"south": model_of(1)}
    before = opened(ask_scores(folder, spec, request(content)), release, spec)
    write_classes(folder / "more", {"heart": 9}, seed=77)
    (folder / "more" / "heart").rename(folder / "heart")
    (folder / "more").rmdir()
    _read_site.cache_clear()  # a deployment's messages are processes of their own
    client_app._learners.clear()
    after = opened(ask_scores(folder, spec, request(content)), release, spec)
    assert after.images > before.images
    assert after.models["south"].values != before.models["south"].values


@pytest.mark.parametrize(
    ("policy", "answer"),
    [
        (
            "",
            (
                "scores-not-allowed",
                "site policy: site north scores no models of others: scores = true would permit it",
            ),
        ),
        (
            "scores = true\ntraining = false\n",
            ("training-not-allowed", "site policy: site north gives fingerprints only"),
        ),
        (
            "scores = true\nmax_bins = 5\n",
            (
                "too-many-bins",
                "site policy: spec tiny has 10 bins, at most 5 are allowed",
            ),
        ),
    ],
)
def test_a_policy_may_refuse(
    folder: Path, spec: Spec, policy: str, answer: tuple[str, str]
) -> None:
    Coordinator(folder, spec)
    content, text = request({"south": model_of(1)}), AUTOMATIC + policy
    assert refusal(ask_scores(folder, spec, content, policy_text=text)) == answer
    assert ("scores", "refused", answer[0]) in decisions(folder)


def test_approve_first_holds_for_models_and_scores(folder: Path, spec: Spec) -> None:
    waiting = SCORING.replace("automatic = true", "automatic = false")
    asked = (
        ask(folder, "query.model", config_for(spec, arm="alone"), policy_text=waiting),
        ask_scores(folder, spec, request({"south": model_of(1)}), policy_text=waiting),
    )
    assert {(refusal(answer) or ("",))[0] for answer in asked} == {"awaiting-approval"}


def test_nothing_is_scored_for_a_run_that_nothing_left_for(folder: Path, spec: Spec) -> None:
    assert refusal(ask_scores(folder, spec, request({"south": model_of(1)}))) == (
        "nothing-released",
        "site north released nothing for run run-1, and scores nothing for it",
    )


def test_a_damaged_file_of_scores_says_so_at_the_site(
    folder: Path, spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    Coordinator(folder, spec)
    ask_scores(folder, spec, request({"south": model_of(1)}))
    [kept] = (folder / ".fedprint" / "scores").glob("*.json")
    kept.write_text("{")
    answer = refusal(ask_scores(folder, spec, request({"south": model_of(1)})))
    assert answer == (
        "site-error",
        "the site's data cannot be used as they are: the site's own log says why",
    )
    assert f"{kept} is damaged: delete it and run again" in caplog.text


def test_a_malformed_request_is_refused_before_the_gate(folder: Path, spec: Spec) -> None:
    content = RecordDict({"fedprint": ConfigRecord({"nonce": "n"}), "arrays": ArrayRecord()})
    answer = refusal(ask_scores(folder, spec, content))
    assert answer is not None
    assert answer[0] == "malformed-message"
