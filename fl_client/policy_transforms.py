"""The transforms that an augmentation policy may hold: a closed list, with bounds for every number.

All of them take colour 8-bit pixels, keep their shape, and need at most a few milliseconds for an
image of 224 pixels a side.

The geometric and photometric operations are those of AutoAugment's family (Cubuk et al.,
arXiv 1909.13719, section 3; Hataya et al., arXiv 1911.06987, table 1), with quarter turns, gamma,
blur and noise for images that have no upright.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"a range from {pair[0]:g} to {pair[1]:g} is empty")
    return pair


Probability = Annotated[float, Field(ge=0, le=1)]
Ordered = AfterValidator(_ordered)
_Unit = Annotated[float, Field(ge=0, le=1)]
_Turn = Annotated[float, Field(ge=-180, le=180)]
_Slant = Annotated[float, Field(ge=-45, le=45)]
_Factor = Annotated[float, Field(ge=0.5, le=2)]
_Shift = Annotated[float, Field(ge=-0.5, le=0.5)]
_Gamma = Annotated[float, Field(ge=25, le=400)]  # per cent
_Sigma = Annotated[float, Field(ge=0.1, le=5)]
_Gain = Annotated[float, Field(ge=0.2, le=2)]
_Noise = Annotated[float, Field(ge=0, le=0.5)]
_Bits = Annotated[int, Field(ge=1, le=8)]
_Holes = Annotated[int, Field(ge=1, le=8)]
_Side = Annotated[float, Field(ge=0.02, le=0.5)]
Unit = Annotated[tuple[_Unit, _Unit], Ordered]
Turn = Annotated[tuple[_Turn, _Turn], Ordered]
Slant = Annotated[tuple[_Slant, _Slant], Ordered]
Factor = Annotated[tuple[_Factor, _Factor], Ordered]
Shift = Annotated[tuple[_Shift, _Shift], Ordered]
Gamma = Annotated[tuple[_Gamma, _Gamma], Ordered]
Sigma = Annotated[tuple[_Sigma, _Sigma], Ordered]
Gain = Annotated[tuple[_Gain, _Gain], Ordered]
Noise = Annotated[tuple[_Noise, _Noise], Ordered]
Bits = Annotated[tuple[_Bits, _Bits], Ordered]
Holes = Annotated[tuple[_Holes, _Holes], Ordered]
Side = Annotated[tuple[_Side, _Side], Ordered]


class Node(BaseModel):
    """What every part has: the probability that it is applied."""

    # what is extra is compared with what albumentations makes of the rest, see `policy_files`
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, validate_by_name=True)

    p: Probability = 1.0


class _Axes(BaseModel):
    """One range along the width and one along the height."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")


class Scales(_Axes):
    """Factors."""

    x: Factor = (1.0, 1.0)
    y: Factor = (1.0, 1.0)


class Shifts(_Axes):
    """Shares of the image's side."""

    x: Shift = (0.0, 0.0)
    y: Shift = (0.0, 0.0)


class Slants(_Axes):
    """Degrees."""

    x: Slant = (0.0, 0.0)
    y: Slant = (0.0, 0.0)


class Plain(Node):
    """A transform without numbers."""

    name: Literal[
        "HorizontalFlip", "VerticalFlip", "RandomRotate90", "AutoContrast", "Equalize",
        "InvertImg", "ToGray",
    ] = Field(alias="__class_fullname__")  # fmt: skip


class Affine(Node):
    """Scale, shift (shares of the side), turn and slant (degrees)."""

    name: Literal["Affine"] = Field("Affine", alias="__class_fullname__")
    scale: Scales = Scales()
    translate_percent: Shifts | None = None
    rotate: Turn = (0.0, 0.0)
    shear: Slants = Slants()


class RandomBrightnessContrast(Node):
    """Brightness and contrast, as shares of the full range."""

    name: Literal["RandomBrightnessContrast"] = Field(
        "RandomBrightnessContrast", alias="__class_fullname__"
    )
    brightness_limit: Shift = (-0.2, 0.2)
    contrast_limit: Shift = (-0.2, 0.2)


class RandomGamma(Node):
    """Exponent of the brightness, per cent."""

    name: Literal["RandomGamma"] = Field("RandomGamma", alias="__class_fullname__")
    gamma_limit: Gamma = (80.0, 120.0)


class GaussianBlur(Node):
    """Standard deviation in pixels."""

    name: Literal["GaussianBlur"] = Field("GaussianBlur", alias="__class_fullname__")
    sigma_limit: Sigma = (0.5, 3.0)


class Sharpen(Node):
    """Share of the sharpened image, and its lightness."""

    name: Literal["Sharpen"] = Field("Sharpen", alias="__class_fullname__")
    alpha: Unit = (0.2, 0.5)
    lightness: Gain = (0.5, 1.0)


class Posterize(Node):
    """Bits that are left of each channel."""

    name: Literal["Posterize"] = Field("Posterize", alias="__class_fullname__")
    num_bits: Bits = (4, 4)


class Solarize(Node):
    """Brightness above which pixels are inverted."""

    name: Literal["Solarize"] = Field("Solarize", alias="__class_fullname__")
    threshold_range: Unit = (0.5, 0.5)


class ColorJitter(Node):
    """Factors of brightness, contrast and saturation, and the shift of hue."""

    name: Literal["ColorJitter"] = Field("ColorJitter", alias="__class_fullname__")
    brightness: Gain = (0.8, 1.2)
    contrast: Gain = (0.8, 1.2)
    saturation: Gain = (0.8, 1.2)
    hue: Shift = (-0.5, 0.5)


class GaussNoise(Node):
    """Standard deviation of the noise, as a share of the full range."""

    name: Literal["GaussNoise"] = Field("GaussNoise", alias="__class_fullname__")
    std_range: Noise = (0.2, 0.44)


class CoarseDropout(Node):
    """Black rectangles: how many, and their sides as shares of the image's."""

    name: Literal["CoarseDropout"] = Field("CoarseDropout", alias="__class_fullname__")
    num_holes_range: Holes = (1, 2)
    hole_height_range: Side = (0.1, 0.2)
    hole_width_range: Side = (0.1, 0.2)


Transform: TypeAlias = (
    Plain
    | Affine
    | RandomBrightnessContrast
    | RandomGamma
    | GaussianBlur
    | Sharpen
    | Posterize
    | Solarize
    | ColorJitter
    | GaussNoise
    | CoarseDropout
)
