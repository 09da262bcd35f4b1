"""The augmentation policies that a site would apply: bounded combinations of listed transforms.

An augmentation policy is a pipeline of albumentations' transforms as data. It may come from another
site, so it holds nothing but transforms of `fl_client.policy_transforms`, nested no deeper than
choice, sub-policy, transform: the shape of RandAugment's policies (Cubuk et al., arXiv 1909.13719)
and of AutoAugment's, which Faster AutoAugment searches, too (Hataya et al., arXiv 1911.06987). It
has nothing to do with the release policy of `fl_client.policy`, which says what may leave a site.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fl_client.policy_transforms import Node, Transform

MOST_TRANSFORMS = 256
"""Most transforms in an augmentation policy, all alternatives counted."""

MOST_APPLIED = 8
"""Most transforms that one image can go through."""

_BY_NAME = Field(discriminator="name")


class Sequential(Node):
    """Transforms one after another: a sub-policy."""

    name: Literal["Sequential"] = Field("Sequential", alias="__class_fullname__")
    transforms: Annotated[tuple[Annotated[Transform, _BY_NAME], ...], Field(min_length=1)]


Choice: TypeAlias = Annotated[Transform | Sequential, _BY_NAME]


class OneOf(Node):
    """One of several, drawn by their probabilities, and then applied for sure."""

    name: Literal["OneOf"] = Field("OneOf", alias="__class_fullname__")
    transforms: Annotated[tuple[Choice, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        if not sum(one.p for one in self.transforms) > 0:
            raise ValueError("none of its transforms has a probability above 0")
        return self


class SomeOf(Node):
    """So many of several, each of them then applied by its own probability."""

    name: Literal["SomeOf"] = Field("SomeOf", alias="__class_fullname__")
    n: int = Field(ge=1, le=MOST_APPLIED)
    replace: bool = False
    transforms: Annotated[tuple[Choice, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_so_many(self) -> Self:
        if self.n > len(self.transforms) and not self.replace:
            raise ValueError(f"it takes {self.n} of {len(self.transforms)} transforms")
        return self


Step: TypeAlias = Annotated[Transform | Sequential | OneOf | SomeOf, _BY_NAME]


class AugmentationPolicy(BaseModel):
    """An augmentation policy: steps that every training image goes through, in this order.

    Raises
    ------
    pydantic.ValidationError
        If a transform is not listed, a number is out of bounds, or it is too costly.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, validate_by_name=True)

    name: Literal["Compose"] = Field("Compose", alias="__class_fullname__")
    p: Literal[1] = 1
    transforms: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _is_affordable(self) -> Self:
        held, most = _held(self), applied(self)
        if held > MOST_TRANSFORMS:
            raise ValueError(f"{held} transforms are more than {MOST_TRANSFORMS}")
        if most > MOST_APPLIED:
            raise ValueError(f"{most} transforms of one image are more than {MOST_APPLIED}")
        return self


Part: TypeAlias = AugmentationPolicy | Step


def _held(part: Part) -> int:
    """Return how many transforms a part of a policy holds."""
    if isinstance(part, AugmentationPolicy | Sequential | OneOf | SomeOf):
        return sum(_held(one) for one in part.transforms)
    return 1


def applied(part: Part) -> int:
    """Return how many transforms a part of a policy applies to one image at most."""
    if not isinstance(part, AugmentationPolicy | Sequential | OneOf | SomeOf):
        return 1
    costs = sorted((applied(one) for one in part.transforms), reverse=True)
    if isinstance(part, OneOf):
        return costs[0]
    if isinstance(part, SomeOf):
        return part.n * costs[0] if part.replace else sum(costs[: part.n])
    return sum(costs)
