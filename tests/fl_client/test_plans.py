"""Recipes, trials and plans, asked of a site's ClientApp as a coordinator does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures_asking import AUTOMATIC, Coordinator, Failed, ask, config_for
from fixtures_networks import OTHER, SIZE, write_weights
from fixtures_sites import write_classes
from flwr.app import RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_client import client_app
from fl_client.final_model import final_folder
from fl_client.history import History
from fl_client.models import RunModels
from fl_client.plans import Plans
from fl_client.policy_files import default_policy, pipeline_of
from fl_client.site import read_site
from protocol.envelope import own_key
from protocol.errors import DigestMismatch
from protocol.experiment import Policy
from protocol.files import sha256_hex
from protocol.keys import generate_key, key_pem, public_pem, signer
from protocol.model_card import CARD
from protocol.plan import Knowledge, Plan, Start, sign_plan
from protocol.plan_records import (
    RecipesRequest,
    ShownPlan,
    from_accepted,
    from_recipes,
    recipes_request,
    to_shown_plan,
)
from protocol.records import refusal
from protocol.sharing import HIDDEN, Arrays, initial_adapter, initial_rows
from protocol.spec import Spec
from protocol.weights import weights_sha256

AUGMENTED = Knowledge(augmentation=Policy(pipeline=pipeline_of(default_policy())))
CLOSED = f"{AUTOMATIC}plans = false\n"
NO_PLANS = (
    "plans-not-allowed",
    "site policy: site north trains as the run itself has it, and takes no part in trials and "
    "plans",
)


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch, weights: Path) -> Iterator[None]:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(weights))
    yield
    client_app._learners.clear()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "north", {"brain": 8, "lung": 8})


def plan_of(coordinator: Coordinator, knowledge: Knowledge = AUGMENTED, **changes: Any) -> Plan:
    """Return the plan of a group of two."""
    values = {
        "run": coordinator.run,
        "group": "grouped-1",
        "sites": {"north": coordinator.release, "south": "b" * 64},
        "knowledge": knowledge,
    }
    return Plan.model_validate(values | changes)


def show(coordinator: Coordinator, signed: bytes, **own: Any) -> RecordDict:
    """Show the site a plan, and return its answer."""
    shown = ShownPlan(coordinator.run, own.pop("pem", coordinator.pem), signed)
    return ask(coordinator.folder, "query.plan", None, content=to_shown_plan(shown), **own)


def accepted(coordinator: Coordinator, knowledge: Knowledge = AUGMENTED) -> str:
    """Let the site accept a plan, and return its digest."""
    signed = sign_plan(plan_of(coordinator, knowledge), signer(coordinator.key))
    sha256 = from_accepted(show(coordinator, signed))
    assert sha256 == sha256_hex(signed)
    return sha256


def decisions(folder: Path) -> list[tuple[str, str, str]]:
    entries = History(folder / ".fedprint").read()
    return [(entry.arm, entry.decision, entry.reason) for entry in entries]


def scores(answer: RecordDict) -> dict[str, Any]:
    assert refusal(answer) is None, refusal(answer)
    assert not answer.array_records
    return dict(answer.metric_records["metrics"])


def other(folder: Path) -> Spec:
    content = recipes_request(RecipesRequest("run-1", [OTHER, "resnet999"], SIZE))
    found = from_recipes(ask(folder, "query.recipes", None, content=content))
    assert found.missing == {
        "resnet999": "the site's settings cannot be used as they are: the site's own log says why"
    }
    return found.recipes[OTHER]


def test_from_recipes_over_trials_and_a_plan_to_the_planned_model(folder: Path, spec: Spec) -> None:
    coordinator = Coordinator(folder, spec)
    recipe = other(folder)
    body = initial_adapter(recipe.features, 5)
    start = Start(sha256=weights_sha256(body), architecture=OTHER, sources=["c" * 64])
    knowledge = Knowledge(architecture=recipe, augmentation=AUGMENTED.augmentation, start=start)
    ask(folder, "train.alone", config_for(spec, arm="alone", epochs=2))
    tried = config_for(spec, arm="trial-pretraining-1", epochs=2, knowledge=knowledge)
    found = scores(ask(folder, "train.trial", tried, body))
    assert {"val_balanced_accuracy", "val_loss", "test_auroc", "num-examples"} <= found.keys()
    assert "keeps-group" not in found

    planned = {"arm": "planned", "knowledge": knowledge, "plan": accepted(coordinator, knowledge)}
    sent = body | initial_rows(["brain"], HIDDEN, 0)
    back = ask(folder, "train", config_for(spec, **planned) | {"server-round": 1}, sent)
    arrays = {name: array.numpy() for name, array in back.array_records["arrays"].items()}
    final = config_for(spec, **planned, guard_against="alone")
    assert scores(ask(folder, "evaluate", final, arrays))["keeps-group"] in (0, 1)

    by_itself = config_for(spec, **planned, epochs=2, guard_against="alone")
    judged = scores(ask(folder, "train.alone", by_itself, body))
    assert judged["keeps-group"] in (0, 1)
    assert {name: judged[name] for name in found} == found  # the same training as was tried
    site = read_site(folder)
    arm = "planned" if judged["keeps-group"] else "alone"
    models = RunModels(site, "run-1", arm)
    assert (final_folder(site, "run-1") / CARD).read_text() == models.load_card()
    assert decisions(folder) == [
        ("", "released", ""),
        ("alone", "training", ""),
        ("trial-pretraining-1", "training", ""),
        ("planned", "plan", ""),
        ("planned", "training", ""),
    ]


def test_the_same_plan_is_accepted_once_and_answered_again(folder: Path, spec: Spec) -> None:
    coordinator = Coordinator(folder, spec)
    signed = sign_plan(plan_of(coordinator), signer(coordinator.key))
    answers = {from_accepted(show(coordinator, signed)) for _ in range(2)}
    assert answers == {sha256_hex(signed)}
    assert decisions(folder) == [("", "released", ""), ("planned", "plan", "")]
    plans = Plans(folder / ".fedprint")
    (kept,) = plans.all()
    assert kept == plans.find(sha256_hex(signed))
    assert kept.plan == plan_of(coordinator)
    assert kept.key == own_key(signed).keyid
    assert key_pem(own_key(signed)) == coordinator.pem
    (path,) = plans.folder.iterdir()
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DigestMismatch, match=r"that the site keeps was changed: remove it$"):
        list(plans.all())


def test_a_site_that_plans_nothing_refuses_all_of_it(folder: Path, spec: Spec) -> None:
    coordinator = Coordinator(folder, spec)
    signed = sign_plan(plan_of(coordinator), signer(coordinator.key))
    content = recipes_request(RecipesRequest("run-1", [OTHER], SIZE))
    asked = ask(folder, "query.recipes", None, content=content, policy_text=CLOSED)
    assert refusal(asked) == NO_PLANS
    assert refusal(show(coordinator, signed, policy_text=CLOSED)) == NO_PLANS
    tried = config_for(spec, arm="trial-augmentation-1", knowledge=AUGMENTED)
    assert refusal(ask(folder, "train.trial", tried, policy_text=CLOSED)) == NO_PLANS
    # a plan that was accepted before holds no longer
    planned = config_for(spec, arm="planned", knowledge=AUGMENTED, plan=accepted(coordinator))
    assert refusal(ask(folder, "train.alone", planned, policy_text=CLOSED)) == NO_PLANS
    assert refusal(ask(folder, "train.alone", config_for(spec), policy_text=CLOSED)) is None
    assert decisions(folder)[1:] == [
        ("planned", "refused", "plans-not-allowed"),
        ("trial-augmentation-1", "refused", "plans-not-allowed"),
        ("planned", "plan", ""),
        ("planned", "refused", "plans-not-allowed"),
        ("grouped", "training", ""),
    ]
    without = f"{AUTOMATIC}training = false\n"
    for answer in (
        ask(folder, "query.recipes", None, content=content, policy_text=without),
        show(coordinator, signed, policy_text=without),
    ):
        assert refusal(answer) == (
            "training-not-allowed",
            "site policy: site north gives fingerprints only",
        )


def test_a_plan_that_is_not_the_coordinators(folder: Path, spec: Spec) -> None:
    coordinator, stranger = Coordinator(folder, spec), generate_key()
    own = signer(coordinator.key).public_key.keyid[:12]
    other = signer(stranger).public_key.keyid[:12]
    signed = sign_plan(plan_of(coordinator), signer(coordinator.key))
    forged = sign_plan(plan_of(coordinator), signer(stranger))
    changed = signed.replace(b'"payload":"ey', b'"payload":"eX', 1)
    assert changed != signed
    for answer, expected in (
        (
            show(coordinator, forged),
            ("unknown-key", f"the plan is signed with key {other}, not the coordinator's"),
        ),
        (
            show(coordinator, forged, pem=public_pem(stranger)),
            (
                "unknown-key",
                f"the plan is signed with key {other}, which is not the coordinator's of run run-1 "
                "as the site knows it",
            ),
        ),
        (
            show(coordinator, changed),
            (
                "bad-signature",
                f"the signature is not one of key {own} over this content: it was changed on its "
                "way or signed with another key",
            ),
        ),
        (
            show(coordinator, b"no envelope"),
            ("malformed-envelope", "these bytes are not a DSSE envelope"),
        ),
    ):
        assert refusal(answer) == expected
    assert list(Plans(folder / ".fedprint").all()) == []
    assert ("planned", "refused", "unknown-key") in decisions(folder)


def test_the_invitation_says_who_coordinates(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = Coordinator(folder, spec, shows=False)
    signed = sign_plan(plan_of(unseen), signer(unseen.key))
    assert refusal(show(unseen, signed)) == (
        "bad-log",
        "site north was shown no log of run run-1 before its plan",
    )
    invited = {signer(unseen.key).public_key.keyid}
    monkeypatch.setattr(client_app, "site_coordinators", lambda _context: {"d" * 64})
    answer = refusal(show(unseen, signed))
    assert answer is not None
    assert answer[0] == "unknown-key"
    monkeypatch.setattr(client_app, "site_coordinators", lambda _context: invited)
    assert from_accepted(show(unseen, signed)) == sha256_hex(signed)


def test_a_plan_of_another_run_site_or_release(folder: Path, spec: Spec) -> None:
    coordinator = Coordinator(folder, spec)
    cases: tuple[tuple[dict[str, Any], tuple[str, str]], ...] = (
        ({"run": "run-2"}, ("wrong-run", "the plan is of run 'run-2', not 'run-1'")),
        (
            {"sites": {"south": "b" * 64}},
            ("wrong-site", "the plan is of south, and not of north"),
        ),
        (
            {"sites": {"north": "b" * 64}},
            (
                "digest-mismatch",
                "the plan names a release bbbbbbbbbbbb of north, which did not leave it for run "
                "run-1",
            ),
        ),
    )
    for changes, expected in cases:
        signed = sign_plan(plan_of(coordinator, **changes), signer(coordinator.key))
        assert refusal(show(coordinator, signed)) == expected
    assert list(Plans(folder / ".fedprint").all()) == []


def test_a_plan_that_the_site_cannot_apply(folder: Path, spec: Spec) -> None:
    coordinator, recipe = Coordinator(folder, spec), other(folder)
    swapped = recipe.weights.model_copy(update={"sha256": "e" * 64})
    odd = {"transform": {"__class_fullname__": "Compose", "p": 1, "transforms": [{"p": 1}]}}
    for knowledge, reason in (
        (Knowledge(architecture=recipe.model_copy(update={"weights": swapped})), "digest-mismatch"),
        (Knowledge(augmentation=Policy(pipeline=odd)), "site-error"),
    ):
        signed = sign_plan(plan_of(coordinator, knowledge), signer(coordinator.key))
        answer = refusal(show(coordinator, signed))
        assert answer is not None
        assert answer[0] == reason
    assert list(Plans(folder / ".fedprint").all()) == []


@pytest.mark.parametrize("kind", ["train", "evaluate", "train.alone", "train.join", "query.body"])
def test_only_a_trial_trains_otherwise_without_a_plan(folder: Path, spec: Spec, kind: str) -> None:
    config = config_for(spec, knowledge=AUGMENTED)
    assert said(folder, kind, config, initial_adapter(512, 0)) == (
        "plan-not-accepted",
        "the order trains otherwise than the run and names no plan: show the site the plan first",
    )


def said(folder: Path, kind: str, config: dict[str, Any], arrays: Arrays) -> tuple[str, str]:
    """Return why the site refuses an order."""
    try:
        found = refusal(ask(folder, kind, config, arrays))
    except Failed as failed:
        reason, _, text = str(failed.args[1]).partition(": ")
        return reason, text
    assert found is not None
    return found


def test_an_order_must_say_what_its_plan_says(folder: Path, spec: Spec) -> None:
    coordinator = Coordinator(folder, spec)
    sha256, arrays = accepted(coordinator), initial_adapter(512, 0)
    elsewhere = Coordinator(folder, spec, run="run-2")
    unknown = sign_plan(plan_of(elsewhere), signer(elsewhere.key))
    for order, text in (
        (
            {"plan": sha256_hex(unknown), "knowledge": AUGMENTED},
            f"site north accepted no plan {sha256_hex(unknown)[:12]} of run run-1: show it the "
            "plan first",
        ),
        (
            {"plan": accepted(elsewhere), "knowledge": AUGMENTED},
            f"site north accepted no plan {sha256_hex(unknown)[:12]} of run run-1: show it the "
            "plan first",
        ),
        (
            {"plan": sha256},
            f"the order trains otherwise than plan {sha256[:12]}: order what the plan says",
        ),
    ):
        config = config_for(spec, arm="planned", **order)
        assert said(folder, "train", config, arrays) == ("plan-not-accepted", text)
        assert said(folder, "train.alone", config, arrays) == ("plan-not-accepted", text)
    good = config_for(spec, arm="planned", plan=sha256, knowledge=AUGMENTED)
    assert scores(ask(folder, "train.alone", good))


def test_a_trial_follows_no_plan_and_chooses_nothing(folder: Path, spec: Spec) -> None:
    Coordinator(folder, spec)
    for changes in ({"plan": "a" * 64}, {"guard_against": "alone"}):
        answer = refusal(ask(folder, "train.trial", config_for(spec, **changes)))
        assert answer == (
            "malformed-message",
            "a trial follows no plan, and no model is chosen after it",
        )
    body = initial_adapter(512, 5)
    start = Start(sha256="a" * 64, architecture="resnet10t", sources=["c" * 64])
    tried = config_for(spec, knowledge=Knowledge(start=start))
    assert refusal(ask(folder, "train.trial", tried)) == (
        "malformed-message",
        "the message holds no record 'arrays'",
    )
    wrong = refusal(ask(folder, "train.trial", tried, body))
    assert wrong is not None
    assert wrong[0] == "digest-mismatch"


def test_a_site_keeps_two_learners_however_many_it_tries(folder: Path, spec: Spec) -> None:
    Coordinator(folder, spec)
    bare = {"transform": {"__class_fullname__": "Compose", "p": 1, "transforms": []}}
    ask(folder, "train.alone", config_for(spec))
    for knowledge in (AUGMENTED, Knowledge(augmentation=Policy(pipeline=bare)), AUGMENTED):
        ask(folder, "train.trial", config_for(spec, knowledge=knowledge))
    known = [learner.knowledge for learner in client_app._learners]
    assert known == [Knowledge(), AUGMENTED]
    for seed in (1, 2):
        ask(folder, "train.trial", config_for(spec, seed=seed))
    assert len(list(client_app._learners)) == 2


def test_a_full_shelf_of_plans(folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = Coordinator(folder, spec)
    accepted(coordinator)
    monkeypatch.setattr("fl_client.plans.MOST", 1)
    accepted(coordinator)  # the one that is there
    signed = sign_plan(plan_of(coordinator, group="grouped-2"), signer(coordinator.key))
    assert refusal(show(coordinator, signed)) == (
        "too-many-plans",
        "the site keeps 1 plans already: move old ones out of plans in its state folder",
    )
