"""Augmentation policies as JSON: read with suspicion, applied through albumentations.

The form is that of ``albumentations.to_dict``. A foreign file is never handed to albumentations:
what is listed and within bounds is read into `AugmentationPolicy`, a pipeline is built from that,
and the file must say nothing that this pipeline, serialised again, does not say. So a parameter
that nobody checked cannot slip through, whatever albumentations would make of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import JsonValue, ValidationError

from fl_client.policy_space import AugmentationPolicy, OneOf, Part, Sequential, SomeOf
from protocol.errors import ConfigError, one_line
from protocol.experiment import POLICY_BYTES
from protocol.files import atomic_write, canonical_json, sha256_hex
from protocol.names import printable
from protocol.spec import Preprocess

if TYPE_CHECKING:
    import albumentations as A

Pipeline = dict[str, JsonValue]
"""An augmentation policy as ``albumentations.to_dict`` writes it."""

VERSION, CLASS = "__version__", "__class_fullname__"


def augmentation(policy: AugmentationPolicy, preprocess: Preprocess, seed: int) -> A.Compose:
    """Return what `fl_client.augment.SiteImages` applies to train with an augmentation policy.

    Parameters
    ----------
    policy : AugmentationPolicy
        What to apply between the random crop and the normalisation.
    preprocess : Preprocess
        The spec's crop in pixels and normalisation.
    seed : int
        Of the augmentation's own random numbers.
    """
    import albumentations as A

    crop = A.RandomCrop(preprocess.crop, preprocess.crop)
    return A.Compose(
        [crop, *_steps(policy), A.Normalize(preprocess.mean, preprocess.std)], seed=seed
    )


def views(policy: AugmentationPolicy, crop: int) -> A.Compose:
    """Return the same without normalisation: to uint8 pixels [crop, crop, 3]."""
    import albumentations as A

    return A.Compose([A.RandomCrop(crop, crop), *_steps(policy)])


def default_policy() -> AugmentationPolicy:
    """Return `fl_client.augment.training_augmentation` as an augmentation policy."""
    import albumentations as A

    from fl_client.augment import training_augmentation

    usual = training_augmentation(Preprocess(resize=1, crop=1, mean=[0.5] * 3, std=[1.0] * 3), 0)
    # crop and normalisation are the spec's and no part of a policy
    return policy_of(A.to_dict(A.Compose(list(usual.transforms[1:-1]))))


def pipeline_of(policy: AugmentationPolicy) -> Pipeline:
    """Return the JSON of an augmentation policy, as ``albumentations.to_dict`` writes it."""
    import albumentations as A

    written: Pipeline = json.loads(canonical_json(A.to_dict(A.Compose(_steps(policy)))))
    return written


def policy_digest(policy: AugmentationPolicy) -> str:
    """Return the SHA-256 of what a policy does, whichever albumentations wrote it down."""
    return sha256_hex(canonical_json(policy.model_dump(mode="json", by_alias=True)))


def policy_of(pipeline: Any, where: str = "augmentation policy") -> AugmentationPolicy:
    """Check a pipeline and return it as an augmentation policy.

    Parameters
    ----------
    pipeline : any JSON value
        As ``albumentations.to_dict`` writes it, ``{"__version__", "transform"}``.
    where : str
        What to call it in errors.

    Raises
    ------
    ConfigError
        If it holds anything that is not listed or not within bounds.
    """
    if not _is_compose(pipeline):
        raise ConfigError(f"{where}: give what albumentations.to_dict writes, a Compose")
    try:
        size = len(canonical_json(pipeline))
    except (ValueError, TypeError, RecursionError):  # infinity, half a character, no JSON at all
        raise ConfigError(f"{where} holds what JSON cannot: write it anew") from None
    if size > POLICY_BYTES:
        raise ConfigError(f"{where}: longer than {POLICY_BYTES} bytes")
    try:
        policy = AugmentationPolicy.model_validate(pipeline["transform"])
    except ValidationError as error:
        raise ConfigError(f"{where}: {printable(one_line(error), 600)}") from None
    _no_more(pipeline["transform"], pipeline_of(policy)["transform"], where, "transform")
    return policy


def parse_policy(data: bytes, where: str = "augmentation policy") -> AugmentationPolicy:
    """Return the augmentation policy of a JSON file's content.

    Raises
    ------
    ConfigError
        If it is too long, no JSON, or no policy that may be applied.
    """
    if len(data) > POLICY_BYTES:
        raise ConfigError(f"{where}: longer than {POLICY_BYTES} bytes")
    try:
        pipeline = json.loads(data, parse_constant=_no_number, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON ({_short(error)}): write it anew") from None
    return policy_of(pipeline, where)


def read_policy(path: Path) -> AugmentationPolicy:
    """Read an augmentation policy from a file.

    Raises
    ------
    ConfigError
        As `parse_policy`, or if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(POLICY_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"augmentation policy {path} cannot be read ({error.strerror}): name another file"
        ) from error
    return parse_policy(data, f"augmentation policy {path}")


def write_policy(path: Path, policy: AugmentationPolicy) -> None:
    """Write an augmentation policy, so that ``albumentations.load`` reads it, too."""
    atomic_write(path, json.dumps(pipeline_of(policy), indent=1) + "\n")


def _steps(policy: AugmentationPolicy) -> list[Any]:
    return [_built(step) for step in policy.transforms]


def _built(part: Part) -> Any:
    """Build a transform: its class is one of the listed names, its arguments were checked."""
    import albumentations as A

    if isinstance(part, Sequential | OneOf | SomeOf):
        inner = [_built(one) for one in part.transforms]
        more = {"n": part.n, "replace": part.replace} if isinstance(part, SomeOf) else {}
        return getattr(A, part.name)(inner, p=part.p, **more)
    values = part.model_dump(exclude={"name"}, exclude_none=True)
    return getattr(A, part.name)(**values)


def _is_compose(pipeline: Any) -> bool:
    if not isinstance(pipeline, dict) or set(pipeline) - {VERSION} != {"transform"}:
        return False
    inner = pipeline["transform"]
    return isinstance(inner, dict) and inner.get(CLASS) == "Compose"


def _no_more(given: Any, own: Any, where: str, at: str) -> None:
    """Check that what was given says nothing but what our own pipeline says."""
    if isinstance(given, dict) and isinstance(own, dict):
        for key, value in given.items():
            if key not in own:
                raise ConfigError(
                    f"{where}: {at} has a parameter {printable(key, 40)} that is unknown"
                )
            _no_more(value, own[key], where, f"{at}.{key}")
    elif isinstance(given, list | tuple) and isinstance(own, list) and len(given) == len(own):
        for number, pair in enumerate(zip(given, own, strict=True)):
            _no_more(*pair, where, f"{at}.{number}")
    elif given != own:
        raise ConfigError(
            f"{where}: {at} is {printable(json.dumps(given), 40)}, but only "
            f"{printable(json.dumps(own), 40)} is allowed there"
        )


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:80]
