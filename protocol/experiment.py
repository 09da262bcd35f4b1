"""The experiment: knowledge of a source task, used on a target task, and what came of it.

Four scenarios of knowledge transfer, as in Godau et al. (arXiv 2412.08763). What was handed over is
data, a name, a policy or a digest, and never code.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

from protocol.envelope import parse_statement, sign
from protocol.errors import DigestMismatch
from protocol.files import canonical_json, sha256_hex
from protocol.keys import Signer
from protocol.names import Sha256Hex
from protocol.statement import STATEMENT_TYPE, Digest, Subject, Subjects

EXPERIMENT_TYPE: Literal["urn:fedprint:experiment:v1"] = "urn:fedprint:experiment:v1"
POLICY_BYTES = 64 * 1024
"""Most bytes that an augmentation policy may have, as canonical JSON."""

Scenario: TypeAlias = Literal["architecture", "pretraining", "augmentation", "co-training"]
Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w.:/@+-]{1,100}$")]
Value: TypeAlias = bool | int | float | Annotated[str, StringConstraints(max_length=200)] | None
SEED = 2**63 - 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")


class Architecture(_Model):
    """A network by its name, such as one of timm's."""

    kind: Literal["architecture"] = "architecture"
    name: Name


class Weights(_Model):
    """Pretrained weights, by the SHA-256 of their safetensors file."""

    kind: Literal["weights"] = "weights"
    sha256: Sha256Hex
    architecture: Name | None = None


class Policy(_Model):
    """An augmentation policy, as the JSON of a pipeline."""

    kind: Literal["policy"] = "policy"
    pipeline: dict[str, JsonValue]

    @field_validator("pipeline")
    @classmethod
    def _is_small(cls, pipeline: dict[str, JsonValue]) -> dict[str, JsonValue]:
        size = len(canonical_json(pipeline))
        if size > POLICY_BYTES:
            raise ValueError(f"a policy of {size} bytes is longer than {POLICY_BYTES}")
        return pipeline


class Partner(_Model):
    """Training together: in which arm, and how many tasks did, target and source among them."""

    kind: Literal["partner"] = "partner"
    arm: Name
    tasks: int = Field(ge=2, le=100_000)


Detail: TypeAlias = Annotated[
    Architecture | Weights | Policy | Partner, Field(discriminator="kind")
]
KINDS: dict[Scenario, str] = {
    "architecture": "architecture",
    "pretraining": "weights",
    "augmentation": "policy",
    "co-training": "partner",
}


class Experiment(_Model):
    """One measured use of knowledge.

    Parameters
    ----------
    scenario : {"architecture", "pretraining", "augmentation", "co-training"}
        What kind of knowledge was used.
    target : str
        The task it was used on: SHA-256 of its release.
    source : str or None
        The task it came from; None where the target's site searched for itself.
    detail : Architecture, Weights, Policy or Partner
        The knowledge itself; its kind follows from the scenario.
    hyperparameters : dict
        What else the result depends on.
    seed : int or None
        Of everything random.
    metric : str
        What was measured, such as ``"balanced_accuracy"``; higher is better.
    performance : float
        What was measured with the knowledge.
    baseline : float or None
        The same without it; None where that was not measured.
    run : str
        The run in which it was measured.
    recorded : datetime
        When; it is no part of the id.
    """

    scenario: Scenario
    target: Sha256Hex
    source: Sha256Hex | None = None
    detail: Detail
    hyperparameters: Annotated[dict[Name, Value], Field(max_length=100)] = {}
    seed: int | None = Field(default=None, ge=-SEED, le=SEED)
    metric: Name
    performance: float
    baseline: float | None = None
    run: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")] = ""
    recorded: AwareDatetime

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        wanted = KINDS[self.scenario]
        if self.detail.kind != wanted:
            raise ValueError(f"{self.scenario} hands over {wanted}, not {self.detail.kind}")
        if self.source == self.target:
            raise ValueError("source and target are one task: leave the source out")
        if self.source is None and self.scenario == "co-training":
            raise ValueError("co-training needs a source")
        return self

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of all fields but the time, 64 hexadecimal digits."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", exclude={"recorded"})))


class ExperimentStatement(BaseModel):
    """In-toto statement of an experiment; its subject is the target's release."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)

    statement_type: Literal["https://in-toto.io/Statement/v1"] = Field(
        STATEMENT_TYPE, alias="_type"
    )
    subject: Subjects
    predicate_type: Literal["urn:fedprint:experiment:v1"] = Field(
        EXPERIMENT_TYPE, alias="predicateType"
    )
    predicate: Experiment


def sign_experiment(experiment: Experiment, signer: Signer) -> bytes:
    """Return the signed envelope of an experiment."""
    subject = Subject(name="target", digest=Digest(sha256=experiment.target))
    return sign(ExperimentStatement(subject=[subject], predicate=experiment), signer)


def parse_experiment(payload: bytes) -> Experiment:
    """Return the experiment of a statement whose signature was verified.

    Raises
    ------
    MalformedStatement
        When the bytes are no statement of an experiment.
    DigestMismatch
        When its subject is another task than the experiment's target.
    """
    statement = parse_statement(payload, ExperimentStatement)
    if statement.subject[0].digest.sha256 != statement.predicate.target:
        raise DigestMismatch("the statement's subject is not the target of its experiment")
    return statement.predicate
