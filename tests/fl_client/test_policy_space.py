"""What an augmentation policy can hold, what it costs, and the candidates drawn from it."""

from __future__ import annotations

import re
import typing

import albumentations as A
import pytest
from pydantic import ValidationError

from fl_client.policy_candidates import CROP, DEFAULT, FAMILIES, draw_candidates
from fl_client.policy_files import default_policy
from fl_client.policy_space import (
    MOST_APPLIED,
    AugmentationPolicy,
    OneOf,
    Sequential,
    SomeOf,
    applied,
)
from fl_client.policy_transforms import Plain, RandomGamma, Transform

FLIP = Plain(name="HorizontalFlip")
PAIR = Sequential(transforms=(FLIP, FLIP))


def names() -> set[str]:
    """Return the names of all listed transforms."""
    kinds = [kind.model_fields["name"].annotation for kind in typing.get_args(Transform)]
    return {name for kind in kinds for name in typing.get_args(kind)}


def test_all_that_is_listed_changes_pixels_of_an_image_alone() -> None:
    assert len(names()) == 17
    for name in names():
        kind = getattr(A, name)
        assert issubclass(kind, A.ImageOnlyTransform | A.DualTransform)
        assert "Lambda" not in name


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ((), 0),
        ((FLIP, FLIP, FLIP), 3),
        ((OneOf(transforms=(FLIP, PAIR)), FLIP), 3),
        ((SomeOf(transforms=(FLIP, PAIR, PAIR), n=2),), 4),
        ((SomeOf(transforms=(FLIP, PAIR), n=3, replace=True),), 6),
    ],
)
def test_the_most_that_one_image_goes_through(steps: typing.Any, most: int) -> None:
    assert applied(AugmentationPolicy(transforms=steps)) == most


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: OneOf(transforms=(Plain(name="ToGray", p=0),)),
            "none of its transforms has a pro",
        ),
        (lambda: SomeOf(transforms=(FLIP,), n=2), "it takes 2 of 1 transforms"),
        (lambda: RandomGamma(gamma_limit=(120, 80)), "a range from 120 to 80 is empty"),
        (lambda: RandomGamma(gamma_limit=(80, 1e6)), "less than or equal to 400"),
        (lambda: Plain(name="Lambda"), "Input should be 'HorizontalFlip'"),
        (lambda: Plain(name="ToGray", p=float("nan")), "finite number"),
        (
            lambda: AugmentationPolicy(transforms=(FLIP,) * 9),
            f"9 transforms of one image are more than {MOST_APPLIED}",
        ),
    ],
)
def test_out_of_bounds(make: typing.Callable[[], object], text: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(text)):
        make()


def test_candidates_are_of_both_families_and_do_not_depend_on_how_many() -> None:
    many = draw_candidates(40, 5)
    assert list(many)[:4] == [DEFAULT, CROP, "randaugment-01", "sub-policies-02"]
    assert many[DEFAULT] == default_policy()
    assert many[CROP].transforms == ()
    assert dict(list(many.items())[:10]) == draw_candidates(10, 5)
    assert many != draw_candidates(40, 6)
    assert len({policy.model_dump_json() for policy in many.values()}) == 40  # each once
    kinds = [policy.transforms[0].name for policy in list(many.values())[2:]]
    assert kinds == ["SomeOf", "OneOf"] * 19


def test_every_operation_is_valid_at_every_magnitude() -> None:
    for make in FAMILIES["all"].values():
        for step in range(11):
            assert 0 <= make(step / 10, 1.0).p <= 1
