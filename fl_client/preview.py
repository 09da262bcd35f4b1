"""What a release would tell and to whom, in full and in words, before it leaves."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel

from fl_client.approval import Desk
from fl_client.audit_words import audit_words
from fl_client.privacy_words import PLAIN as PLAIN
from fl_client.privacy_words import in_words
from fl_client.requests import Request
from protocol.files import sha256_hex
from protocol.fingerprint import pack
from protocol.names import printable
from protocol.spec import Spec, list_specs
from protocol.statement import Privacy
from protocol.taskcard import TaskCard

READERS = "everybody who can read the coordinator's run folder"


class SpecSummary(BaseModel):
    """What would be computed."""

    name: str
    digest: str
    shipped: bool
    backbone: str
    weights: str
    features: int
    bins: int
    sampling: str


class PayloadSummary(BaseModel):
    """The bytes that would leave: the safetensors file, and its size on the wire."""

    sha256: str
    bytes: int
    packed: int
    features: int
    bins: int


class RequestSummary(BaseModel):
    """Who asked; `times` is 0 when nobody has yet."""

    run: str
    times: int
    first_asked: datetime | None
    last_asked: datetime | None
    denied: datetime | None


class ReceiverSummary(BaseModel):
    """Who would receive it; `authority` is the SHA-256 of the certificate that vouches for it."""

    superlink: str
    authority: str
    run: str
    readers: str = READERS


class PolicySummary(BaseModel):
    """The release policy that it would go under, and whether the site may train under it too.

    `plans` says whether it also takes part in trials, and trains as signed plans say; `scores`
    whether it tells how well models of other sites fit its images.
    """

    name: str
    digest: str
    file: str
    automatic: bool
    training: bool
    plans: bool
    scores: bool


class Summary(BaseModel):
    """Everything that would leave the site beside the counts, and what a person should know."""

    site: str
    request: RequestSummary
    spec: SpecSummary
    payload: PayloadSummary
    images: int
    patients: int | None
    task_card: TaskCard
    patients_by_class: dict[str, int] = {}
    contribution_cap: int = 0
    privacy: Privacy
    privacy_in_words: str = PLAIN
    audit: list[str] = []
    policy: PolicySummary
    key_id: str
    expires: datetime
    receiver: ReceiverSummary


def summarise(desk: Desk, request: Request, payload: bytes) -> Summary:
    """Return the summary of one request's preview."""
    gate, settings, asked = desk.gate, desk.settings, request.times > 0
    terms, run = desk.terms(request), printable(request.run)
    return Summary(
        site=gate.site.name,
        request=RequestSummary(
            run=run,
            times=request.times,
            first_asked=request.first_asked if asked else None,
            last_asked=request.last_asked if asked else None,
            denied=request.denied,
        ),
        spec=_spec(request.spec),
        payload=PayloadSummary(
            sha256=sha256_hex(payload),
            bytes=len(payload),
            packed=len(pack(payload)),
            features=request.spec.width,
            bins=request.spec.bins,
        ),
        images=terms.images,
        patients=terms.patients,
        task_card=terms.task_card,
        patients_by_class=gate.site.patients_by_class,
        contribution_cap=terms.contribution_cap,
        privacy=terms.privacy,
        privacy_in_words=in_words(terms, request.spec, gate.policy),
        audit=audit_words(gate.site, request.spec, terms.privacy, terms.contribution_cap),
        policy=PolicySummary(
            name=gate.policy.name,
            digest=gate.policy.digest,
            file=str(settings.policy),
            automatic=not gate.policy.waits(request.spec),
            training=gate.policy.training,
            plans=gate.policy.training and gate.policy.plans,
            scores=gate.policy.training and gate.policy.scores,
        ),
        key_id=desk.key_id,
        expires=terms.expires,
        receiver=ReceiverSummary(
            superlink=settings.superlink, authority=settings.authority, run=run
        ),
    )


def facts(summary: Summary) -> list[tuple[str, str]]:
    """Return the summary as lines of a name and what a person reads beside it."""
    spec, payload, card, request = summary.spec, summary.payload, summary.task_card, summary.request
    patients = "unknown, each image is its own" if summary.patients is None else summary.patients
    asked = "nobody yet"
    if request.times:
        often = "once" if request.times == 1 else f"{request.times} times, last"
        asked = f"{often} by run {request.run} on {_minute(request.last_asked)}"
    lines = {
        "site": summary.site,
        "asked for": f"{asked}; denied on {_minute(request.denied)}" if request.denied else asked,
        "spec": f"{spec.name}, digest {spec.digest}, "
        + ("as shipped with fedprint" if spec.shipped else "not one that fedprint ships"),
        "computed by": f"{spec.backbone}, weights {spec.weights}, sampling {spec.sampling}",
        "counts": f"{payload.features} features x {payload.bins} bins",
        "bytes": f"{payload.bytes}, packed {payload.packed}, SHA-256 {payload.sha256}",
        "images": f"{summary.images}{_capped(summary)}",
        "patients": str(patients),
        "task card": f"name {card.name}, modality {card.modality or 'not said'}, anatomy "
        f"{card.anatomy or 'not said'}, keywords {', '.join(card.keywords) or 'none'}, objective "
        f"{card.objective}{_properties(card)}",
        "classes": ", ".join(f"{c.name} ({c.code})" if c.code else c.name for c in card.classes)
        + _rarest(summary),
        "privacy": summary.privacy_in_words,
        "audit": " ".join(summary.audit),
        "policy": f"{summary.policy.name}, {summary.policy.file}, digest {summary.policy.digest}",
        "signed with": f"key {summary.key_id}",
        "valid until": _minute(summary.expires),
        "goes to": f"the coordinator at {summary.receiver.superlink}, and "
        f"{summary.receiver.readers}",
        "vouched for": f"by the authority with the certificate of SHA-256 "
        f"{summary.receiver.authority}",
        "training": "approving this also lets the site train with its group: "
        f"{'yes' if summary.policy.training else 'no'} (policy: training)"
        + ("; the model's updates carry no noise" if _trains_private(summary) else ""),
        "plans": "with training it tries other architectures, augmentation and starting weights "
        "for its group, and trains as a plan of its coordinator says: "
        f"{'yes' if summary.policy.plans else 'no'} (policy: plans)",
        "scores": "with training it tells how well models of other sites fit its images: "
        f"{'yes' if summary.policy.scores else 'no'} (policy: scores)",
        "weights": _weights(card),
    }
    return [(name, printable(text)) for name, text in lines.items()]


def _properties(card: TaskCard) -> str:
    """Say what else the card tells of the images, where it tells anything."""
    said = card.properties.model_dump(exclude_none=True)
    grades = {"grades": " < ".join(card.order)} if card.order else {}
    return "".join(f", {name} {value}" for name, value in (grades | said).items())


def _weights(card: TaskCard) -> str:
    """Say what may become of weights that were trained on the site's images."""
    if not card.shares_weights:
        return (
            "weights trained on these images stay with the run and its group "
            "(site.toml: shares_weights = false)"
        )
    return (
        "weights trained on these images may be handed on to other groups and later runs, where "
        "all sites that trained them agree, and to sites that score them (site.toml: "
        "shares_weights = true)"
    )


def _capped(summary: Summary) -> str:
    most = summary.contribution_cap
    if not most or summary.patients is None:
        return ""
    return f", at most {most} of each patient, are counted"


def _rarest(summary: Summary) -> str:
    """Point at the class whose name tells of the fewest patients."""
    if not summary.patients_by_class:
        return ""
    name, number = min(summary.patients_by_class.items(), key=lambda pair: pair[1])
    who = "images" if summary.patients is None else "patients"
    return f"; the names leave as they are, and {name} stands for {number} {who} only"


def _trains_private(summary: Summary) -> bool:
    return summary.policy.training and summary.privacy.mode == "private"


def _minute(time: datetime | None) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time else ""


def _spec(spec: Spec) -> SpecSummary:
    return SpecSummary(
        name=printable(spec.name, 200),
        digest=spec.digest,
        shipped=any(spec.digest == shipped.digest for shipped in list_specs()),
        backbone=spec.backbone,
        weights=spec.weights.source,
        features=spec.width,
        bins=spec.bins,
        sampling=spec.sampling.rule + (", regions of masks" if spec.regions is not None else ""),
    )
