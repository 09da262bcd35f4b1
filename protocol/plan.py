"""What a group trains with: found out in trials, signed by the coordinator, shown to every site.

A plan combines the transfer scenarios of Godau et al. (arXiv 2412.08763), which the paper tries
one at a time: one architecture, one augmentation policy and one start for a whole co-training
group. All of it is data: names and digests, a pipeline's JSON, and weights in safetensors; never
code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from protocol.envelope import parse_statement, sign
from protocol.errors import DigestMismatch
from protocol.experiment import Name, Policy, Scenario
from protocol.files import canonical_json, sha256_hex
from protocol.keys import Signer
from protocol.names import Sha256Hex, SiteName
from protocol.spec import Spec
from protocol.statement import STATEMENT_TYPE, Digest, Subject

PLAN_TYPE: Literal["urn:fedprint:plan:v1"] = "urn:fedprint:plan:v1"
Sentence = Annotated[str, StringConstraints(max_length=1000)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Start(_Model):
    """Weights to start from, relayed through the federation.

    Parameters
    ----------
    sha256 : str
        Of the body's safetensors file, see `protocol.weights`.
    architecture : str
        The network that they belong to, by the name of its backbone.
    sources : list of str
        Releases of the tasks that they were trained on.
    """

    sha256: Sha256Hex
    architecture: Name
    sources: Annotated[list[Sha256Hex], Field(min_length=1, max_length=10_000)]


class Knowledge(_Model):
    """What to train with, apart from the run's own settings; what is None is as the run has it.

    Parameters
    ----------
    architecture : Spec or None
        Backbone, weights and preprocessing; it needs no bin edges, because nothing is counted.
    augmentation : Policy or None
        How to augment the training images.
    start : Start or None
        Weights of the body to start from.
    """

    architecture: Spec | None = None
    augmentation: Policy | None = None
    start: Start | None = None

    @property
    def is_default(self) -> bool:
        """Tell whether this is training as the run has it."""
        return self == Knowledge()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_hex(canonical_json(self.model_dump(mode="json")))


class Choice(_Model):
    """What was chosen in one scenario, and on what evidence.

    Parameters
    ----------
    scenario : str
        Architecture, augmentation or pretraining.
    label : str
        What was chosen, in a few words; ``"as in the run"`` where nothing did better.
    gain : float or None
        Mean gain in AUROC on the sites' own validation data over training without it;
        None where nothing was tried.
    error : float or None
        Standard error of that mean over sites.
    sentence : str
        The same for people, with what else was tried.
    """

    scenario: Scenario
    label: Annotated[str, StringConstraints(max_length=200)]
    gain: float | None = None
    error: float | None = None
    sentence: Sentence


class Plan(_Model):
    """What one group trains with.

    Parameters
    ----------
    run, group : str
        Of which run, and which group.
    sites : dict
        SHA-256 of each site's release.
    knowledge : Knowledge
        What is applied.
    choices : list of Choice
        How it came about, one a scenario.
    """

    run: Annotated[str, StringConstraints(max_length=200)]
    group: Annotated[str, StringConstraints(max_length=200)]
    sites: dict[SiteName, Sha256Hex]
    knowledge: Knowledge
    choices: list[Choice] = []


class PlanStatement(BaseModel):
    """In-toto statement of a plan; its subjects are the releases of the group's sites."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)

    statement_type: Literal["https://in-toto.io/Statement/v1"] = Field(
        STATEMENT_TYPE, alias="_type"
    )
    subject: Annotated[list[Subject], Field(min_length=1, max_length=10_000)]
    predicate_type: Literal["urn:fedprint:plan:v1"] = Field(PLAN_TYPE, alias="predicateType")
    predicate: Plan


def sign_plan(plan: Plan, signer: Signer) -> bytes:
    """Return the signed envelope of a plan."""
    subjects = [
        Subject(name=site, digest=Digest(sha256=release))
        for site, release in sorted(plan.sites.items())
    ]
    return sign(PlanStatement(subject=subjects, predicate=plan), signer)


def parse_plan(payload: bytes) -> Plan:
    """Return the plan of a statement whose signature was verified.

    Raises
    ------
    MalformedStatement
        When the bytes are no statement of a plan.
    DigestMismatch
        When its subjects are not the releases of the plan's sites.
    """
    statement = parse_statement(payload, PlanStatement)
    subjects = {subject.name: subject.digest.sha256 for subject in statement.subject}
    if subjects != statement.predicate.sites:
        raise DigestMismatch("the statement's subjects are not the sites of its plan")
    return statement.predicate
