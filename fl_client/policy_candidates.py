"""Augmentation policies to choose among: drawn from the two families that work best in practice.

*RandAugment* (Cubuk et al., arXiv 1909.13719): n of a set of operations, all of one magnitude.
*Sub-policies*, as AutoAugment and its faster successors search them (Hataya et al.,
arXiv 1911.06987): one of three pairs of operations, each with its own probability and magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fl_client.policy_files import default_policy
from fl_client.policy_space import AugmentationPolicy, OneOf, Sequential, SomeOf
from fl_client.policy_transforms import (
    Affine,
    CoarseDropout,
    ColorJitter,
    GaussianBlur,
    GaussNoise,
    Plain,
    Posterize,
    RandomBrightnessContrast,
    RandomGamma,
    Scales,
    Sharpen,
    Shifts,
    Slants,
    Solarize,
    Transform,
)

DEFAULT, CROP = "default", "crop"
"""Names of two candidates that are always there: the usual policy, and nothing but the crop."""

SUB_POLICIES, MAGNITUDES = 3, (0.1, 0.3, 0.5, 0.7, 0.9)


def _both(low: float, high: float) -> dict[str, tuple[float, float]]:
    return {"x": (low, high), "y": (low, high)}


GEOMETRIC: dict[str, Callable[[float, float], Transform]] = {
    "turn": lambda m, p: Affine(p=p, rotate=(-45 * m, 45 * m)),
    "scale": lambda m, p: Affine(p=p, scale=Scales(**_both(1 / (1 + m), 1 + m))),
    "shift": lambda m, p: Affine(p=p, translate_percent=Shifts(**_both(-0.3 * m, 0.3 * m))),
    "slant": lambda m, p: Affine(p=p, shear=Slants(**_both(-20 * m, 20 * m))),
    "mirror": lambda _m, p: Plain(name="HorizontalFlip", p=p / 2),
    "upside-down": lambda _m, p: Plain(name="VerticalFlip", p=p / 2),
    "quarter-turns": lambda _m, p: Plain(name="RandomRotate90", p=p),
    "holes": lambda m, p: CoarseDropout(
        p=p,
        num_holes_range=(1, 3),
        hole_height_range=(0.05, 0.05 + 0.3 * m),
        hole_width_range=(0.05, 0.05 + 0.3 * m),
    ),
}
"""Operations that move or hide things, by magnitude (0 to 1) and probability."""

PHOTOMETRIC: dict[str, Callable[[float, float], Transform]] = {
    "light": lambda m, p: RandomBrightnessContrast(
        p=p, brightness_limit=(-0.4 * m, 0.4 * m), contrast_limit=(-0.5 * m, 0.5 * m)
    ),
    "gamma": lambda m, p: RandomGamma(p=p, gamma_limit=(100 / (1 + m), 100 * (1 + m))),
    "colour": lambda m, p: ColorJitter(
        p=p,
        brightness=(1.0, 1.0),
        contrast=(1.0, 1.0),
        saturation=(1 - 0.7 * m, 1 + 0.7 * m),
        hue=(-0.2 * m, 0.2 * m),
    ),
    "blur": lambda m, p: GaussianBlur(p=p, sigma_limit=(0.1, 0.1 + 3 * m)),
    "sharpen": lambda m, p: Sharpen(p=p, alpha=(0.0, m), lightness=(0.8, 1.2)),
    "noise": lambda m, p: GaussNoise(p=p, std_range=(0.0, 0.2 * m)),
    "posterise": lambda m, p: Posterize(p=p, num_bits=(8 - round(5 * m), 8)),
    "solarise": lambda m, p: Solarize(p=p, threshold_range=(1 - 0.6 * m, 1.0)),
    "equalise": lambda _m, p: Plain(name="Equalize", p=p / 2),
    "stretch": lambda _m, p: Plain(name="AutoContrast", p=p / 2),
    "grey": lambda _m, p: Plain(name="ToGray", p=p / 2),
}
"""Operations that change values only."""

FAMILIES = {
    "geometric": GEOMETRIC,
    "photometric": PHOTOMETRIC,
    "all": GEOMETRIC | PHOTOMETRIC,
}


def draw_candidates(
    count: int, seed: int, given: Mapping[str, AugmentationPolicy] | None = None
) -> dict[str, AugmentationPolicy]:
    """Draw augmentation policies.

    Parameters
    ----------
    count : int
        How many: the default policy, the bare crop and what is given are always among them, and
        the others alternate between the two families.
    seed : int
        The first policies of a seed are the same for every count.
    given : mapping, optional
        Policies by name that come from elsewhere, such as a pool's advice.

    Returns
    -------
    dict
        Policies by name.
    """
    drawn = {DEFAULT: default_policy(), CROP: AugmentationPolicy(), **(given or {})}
    rng = np.random.default_rng([seed, 1])
    for number in range(count - len(drawn)):
        make, kind = (_subs, "sub-policies") if number % 2 else (_rand, "randaugment")
        for _ in range(50):  # there are but 45 policies of RandAugment's kind
            policy = make(rng)
            if policy not in drawn.values():
                break
        drawn[f"{kind}-{number + 1:02d}"] = policy
    return drawn


def _rand(rng: np.random.Generator) -> AugmentationPolicy:
    """Draw n of a family's operations at one magnitude."""
    family = FAMILIES[str(rng.choice(list(FAMILIES)))]
    magnitude, n = float(rng.choice(MAGNITUDES)), int(rng.integers(1, 4))
    operations = tuple(make(magnitude, 1.0) for make in family.values())
    return AugmentationPolicy(transforms=(SomeOf(n=n, transforms=operations),))


def _subs(rng: np.random.Generator) -> AugmentationPolicy:
    """Draw pairs of operations, one of which an image goes through."""
    makers = list(FAMILIES["all"].values())
    pairs = []
    for _ in range(SUB_POLICIES):
        chosen = rng.choice(len(makers), size=2, replace=False)
        pairs.append(
            Sequential(
                transforms=tuple(
                    makers[which](float(rng.choice(MAGNITUDES)), float(rng.choice((0.4, 0.7, 1.0))))
                    for which in chosen
                )
            )
        )
    return AugmentationPolicy(transforms=(OneOf(transforms=tuple(pairs)),))
