"""The site's release policy: what may leave, decided by the site and nobody else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from fl_client.contribution import counted_number, counted_patients
from fl_client.regions import has_masks, no_masks
from fl_client.site import Site
from protocol.descriptors import KINDS, Kind
from protocol.errors import ConfigError, PolicyError, one_line
from protocol.files import canonical_json, sha256_hex
from protocol.privacy import (
    DELTA,
    EPSILON,
    LEAST_DELTA,
    LEAST_EPSILON,
    MOST_CAP,
    MOST_DELTA,
    MOST_EPSILON,
)
from protocol.spec import Spec, list_specs

AWAITING = "awaiting-approval"
"""Reason code of a request that only lacks a person's approval."""

_DIGEST = re.compile("[0-9a-f]{64}")


class Policy(BaseModel):
    """What a site lets go, and under which conditions.

    What the policy does not allow is refused: a policy without any allowed spec releases nothing.

    Parameters
    ----------
    name : str
        Shown in messages.
    specs : list of str
        Allowed specs: names of shipped ones, or digests; ``"*"`` allows every one.
    min_images, min_patients : int
        Fewest images and subjects; a site without subject ids counts images as subjects.
    min_class_patients : int
        Fewest subjects of each class: the task card names the classes, and a rare one its patient.
    max_bins : int or None
        Most bins of a spec.
    automatic : bool
        Whether releases go without a person; otherwise a person at the site approves each first.
    approved : list of str
        Digests of specs whose fingerprint goes without asking all the same.
    training : bool
        Whether the site takes part in training too; otherwise it gives fingerprints only.
    plans : bool
        Whether it also trains with other architectures, augmentation and starting weights than the
        run's own: in trials, and as a plan that its coordinator signed says.
    descriptors : list of str
        Kinds of descriptors that may leave beside a fingerprint, for measures that need more than
        histograms: ``moments``, ``class-moments``, ``fisher``. Where releases are private, only
        moments do, with noise of their own. Raw ``features`` never leave, but where all sites are
        simulated on one machine.
    scores : bool
        Whether it also tells how well models of other sites fit its training images. A made-up
        model makes that a question about single images, which no noise answers.
    release : {"private", "plain"}
        The least protection that a fingerprint leaves with: noise always, or noise where the
        coordinator asks for it.
    epsilon, delta : float
        Most that one private release spends; who asks for less noise gets this much all the same.
    budget_epsilon : float
        Most that all private releases of this site together spend, ever, at `delta`.
    contribution_cap : int
        Of each patient a private release counts so many images at most.
    images_per_bin : int
        Fewest images for each bin of a spec.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "site policy"
    specs: list[str] = []
    min_images: int = Field(default=10, ge=1)
    min_patients: int = Field(default=1, ge=1)
    min_class_patients: int = Field(default=1, ge=1)
    max_bins: int | None = Field(default=None, ge=2)
    automatic: StrictBool = False
    approved: list[str] = []
    training: StrictBool = True
    plans: StrictBool = True
    descriptors: list[Kind] = []
    scores: StrictBool = False
    release: Literal["private", "plain"] = "private"
    epsilon: float = Field(default=EPSILON, ge=LEAST_EPSILON, le=MOST_EPSILON)
    delta: float = Field(default=DELTA, ge=LEAST_DELTA, le=MOST_DELTA)
    budget_epsilon: float = Field(default=8.0, ge=LEAST_EPSILON, le=MOST_EPSILON)
    contribution_cap: int = Field(default=1, ge=1, le=MOST_CAP)
    images_per_bin: int = Field(default=0, ge=0)

    def waits(self, spec: Spec) -> bool:
        """Tell whether a person must approve the fingerprint of a spec before it goes."""
        return not self.automatic and spec.digest not in self.approved

    @property
    def digest(self) -> str:
        """SHA-256 of the policy's canonical JSON, as the release statement names it."""
        return sha256_hex(canonical_json(self.model_dump(mode="json")))


def local_policy(**changes: Any) -> Policy:
    """Return the policy of commands that a person at the site starts: any spec, two images.

    It adds noise where it is asked for, as much as is asked for, and permits every descriptor and
    score.
    """
    limits = {
        "epsilon": MOST_EPSILON,
        "budget_epsilon": MOST_EPSILON,
        "descriptors": [*KINDS],
        "scores": True,
    }
    allowed = {"specs": ["*"], "min_images": 2, "automatic": True, "release": "plain"}
    return Policy.model_validate({"name": "local commands", **allowed, **limits, **changes})


def load_policy(path: Path | str) -> Policy:
    """Read a policy from a TOML file with the fields of `Policy`.

    Raises
    ------
    ConfigError
        If the file is missing, is no TOML, or has an unknown or wrong field.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return Policy.model_validate(content)
    except OSError as error:
        raise ConfigError(
            f"release policy {path} cannot be read ({error.strerror}): nothing is released"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"release policy {path} is not TOML ({error}): correct it") from error
    except ValidationError as error:
        raise ConfigError(f"release policy {path}: {_fault(error)}") from error


def _fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] == "extra_forbidden":
        return f"unknown field {first['loc'][0]}: the fields are {', '.join(Policy.model_fields)}"
    if first["type"] == "bool_type":  # no guess at what "no" means for what may leave
        return f"{first['loc'][0]} is neither true nor false: write one of them, without quotes"
    return one_line(error)


def gate(
    policy: Policy, spec: Spec, site: Site, *, private: bool = False, approved: bool = False
) -> None:
    """Let a release of a site's fingerprint pass, or refuse it; no image is opened.

    Where the spec counts regions and is allowed, masks are read to know their number, once.

    Parameters
    ----------
    policy : Policy
        The site's.
    spec : Spec
        What is asked for.
    site : Site
        The site.
    private : bool
        Whether noise is added to it; then the images that are counted are those that matter.
    approved : bool
        Whether a person approved it, so that only the rest of the policy is asked.

    Raises
    ------
    PolicyError
        With reason ``spec-not-ready``, ``spec-not-allowed``, ``no-masks``, ``plain-not-allowed``,
        ``draws-repeat``, ``too-many-bins``, ``too-few-images``, ``too-few-patients``,
        ``small-class`` or, last of all, ``awaiting-approval``.
    """
    countable = spec.regions is None or has_masks(site)
    allowed = "*" in policy.specs or spec.digest in _digests(policy)
    cap, images, patients = policy.contribution_cap if private else 0, 0, 0
    if allowed and countable:  # else nobody is to learn how large regions are
        images, patients = counted_number(site, cap, spec), counted_patients(site, spec)
    has = "counts" if private else "has"
    refusals = (
        (not spec.ready, "spec-not-ready", f"spec {spec.name} has no bin edges: calibrate it"),
        (
            not allowed,
            "spec-not-allowed",
            f"spec {spec.name} is not allowed: add it to specs to allow it",
        ),
        (not countable, "no-masks", no_masks(site, spec)),
        (
            policy.release == "private" and not private,
            "plain-not-allowed",
            'a fingerprint without noise may not leave: release = "plain" would permit it',
        ),
        (
            private and spec.sampling.rule != "each-once",
            "draws-repeat",
            f"spec {spec.name} draws images repeatedly, a private release counts each once: "
            "take lite0-private",
        ),
        (
            policy.max_bins is not None and spec.bins > policy.max_bins,
            "too-many-bins",
            f"spec {spec.name} has {spec.bins} bins, at most {policy.max_bins} are allowed",
        ),
        (
            images < policy.images_per_bin * spec.bins,
            "too-many-bins",
            f"spec {spec.name} has {spec.bins} bins, at least {policy.images_per_bin} images a "
            f"bin are needed, and site {site.name} {has} {images}",
        ),
        (
            images < policy.min_images,
            "too-few-images",
            f"site {site.name} {has} {images} images, at least {policy.min_images} are needed",
        ),
        (
            patients < policy.min_patients,
            "too-few-patients",
            f"site {site.name} has {patients} patients, at least {policy.min_patients} are needed",
        ),
        (
            min(site.patients_by_class.values(), default=0) < policy.min_class_patients,
            "small-class",
            f"a class of site {site.name} has fewer than {policy.min_class_patients} patients, and "
            "its name would leave with the task card: leave the class out",
        ),
        (
            policy.waits(spec) and not approved,
            AWAITING,
            f"a person at site {site.name} must approve spec {spec.name} first "
            "(fedprint site preview, then fedprint site approve)",
        ),
    )
    for refused, reason, message in refusals:
        if refused:
            raise PolicyError(f"{policy.name}: {message}", reason)


def unknown_specs(policy: Policy) -> list[str]:
    """Return the names in a policy that mean no spec: neither a shipped one nor a digest."""
    known = {"*", *(spec.name for spec in list_specs())}
    return [name for name in policy.specs if name not in known and not _DIGEST.fullmatch(name)]


def _digests(policy: Policy) -> set[str]:
    """Return the digests that a policy allows; a name means the shipped spec of that name.

    Whoever asks for a release sends the spec along and can call it anything.
    """
    shipped = {spec.name: spec.digest for spec in list_specs()}
    return {shipped.get(name, name) for name in policy.specs}
