"""The spec: everything that must be equal for two fingerprints to be comparable."""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from protocol.errors import ConfigError, SpecMismatch, one_line
from protocol.files import canonical_json, sha256_hex
from protocol.names import Sha256Hex
from protocol.projection import Projection as Projection

Window = tuple[float, float]
Pooling = Literal["token", "avg", "map"]
"""A class token, the mean of the patches' tokens, or attention over all of them."""

Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Weights(_Part):
    """Where the backbone's weights come from, and the SHA-256 of their values."""

    source: str
    sha256: Sha256Hex | None = None


class Preprocess(_Part):
    """From image to network input: window, shorter side, crop (both in pixels), normalisation.

    The window says which intensities become black and white, in scanner units (of CT: Hounsfield).
    It applies to images that have such units, DICOM and NIfTI. Without one it is left out of the
    canonical JSON, so that a spec without a window has the digest that it always had.
    """

    window: Window | None = None
    resize: int = Field(gt=0, le=4096)
    crop: int = Field(gt=0, le=4096)
    interpolation: str = "bicubic"
    mean: Triple
    std: Triple

    @field_validator("window")
    @classmethod
    def _ascends(cls, window: Window | None) -> Window | None:
        if window is not None and not window[0] < window[1]:
            raise ValueError("the window's lower end must lie below its upper end")
        return window

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(
        self, serialise: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        if values.get("window") is None:
            values.pop("window", None)
        return values


class Sampling(_Part):
    """Which views of which images are counted.

    ``each-once`` counts every image once; ``with-replacement`` draws `draws` times. All
    randomness is seeded by the pixels, `seed` and the draw, never by file names or order.
    """

    rule: Literal["each-once", "with-replacement"] = "each-once"
    draws: int | None = Field(default=None, gt=0, le=1_000_000)
    flip: bool = False
    crop: Literal["centre", "random"] = "centre"
    seed: int = 0

    @model_validator(mode="after")
    def _draws_fit_rule(self) -> Self:
        if (self.rule == "with-replacement") != (self.draws is not None):
            raise ValueError("draws must be given for with-replacement, and only then")
        return self


class Regions(_Part):
    """What is counted instead of whole views: the regions that masks show in them.

    Each class that covers at least `least` cells of a view is one region, and counted once: its
    feature is the mean of the backbone's last feature map over the region's pixels.

    Parameters
    ----------
    source : {"mask"}
        What shows the regions: the label map that the site holds beside the image.
    cell : int
        Side of a cell of the feature map, in pixels of the view.
    least : float
        Smallest area of a region, in cells; smaller ones say more of what surrounds them.
    """

    source: Literal["mask"] = "mask"
    cell: int = Field(gt=0, le=4096)
    least: float = Field(default=0.25, gt=0, le=1000)

    @property
    def pixels(self) -> int:
        """Fewest pixels of a view that are a region."""
        return ceil(self.least * self.cell**2)


class Calibration(_Part):
    """The public images that the bin edges were calibrated on, never a site's own."""

    images: list[str]
    count: int = Field(gt=0)
    quantiles: tuple[float, float] = (0.05, 0.95)


class Spec(_Part):
    """A fingerprint specification.

    Parameters
    ----------
    name : str
        Short name, for example ``lite0-100``.
    backbone : str
        Name of a timm model.
    weights, preprocess, sampling, calibration
        See `Weights`, `Preprocess`, `Sampling`, `Calibration`.
    features : int
        Feature width of the backbone.
    projection : Projection or None
        Public projection of the features; its directions are counted instead of them.
    pooling : {"token", "avg", "map"} or None
        How a transformer makes one vector of its tokens. None, which is left out of the canonical
        JSON, is for networks with one way only: timm's, without classifier.
    bins : int
        Number of bins b.
    lower, upper : list of float, or None
        Public bin edges, m = `width` values each in units of the counted features; None in a
        recipe, which has no edges yet.
    edges_sha256 : str or None
        SHA-256 of `lower` then `upper` as little-endian float64.
    regions : Regions or None
        What is counted of each view; None counts the whole view, and is left out of the canonical
        JSON, so that a spec without regions has the digest that it always had.
    """

    name: str
    backbone: str
    weights: Weights
    preprocess: Preprocess
    features: int = Field(gt=0, le=1_000_000)
    pooling: Pooling | None = None
    projection: Projection | None = None
    bins: int = Field(gt=1, le=1_000_000)
    lower: list[float] | None = None
    upper: list[float] | None = None
    edges_sha256: Sha256Hex | None = None
    sampling: Sampling = Sampling()
    regions: Regions | None = None
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _regions_are_counted_once(self) -> Self:
        if self.regions is not None and self.sampling != Sampling(seed=self.sampling.seed):
            raise ValueError("regions are counted once each, in a centre crop without flips")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(
        self, serialise: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        for name in ("pooling", "regions"):
            if values.get(name) is None:
                values.pop(name, None)
        return values

    @model_validator(mode="after")
    def _projection_fits(self) -> Self:
        if self.projection is not None and self.projection.features != self.features:
            raise ValueError(
                f"the projection takes {self.projection.features} features, not {self.features}"
            )
        return self

    @model_validator(mode="after")
    def _edges_agree(self) -> Self:
        if self.lower is None or self.upper is None:
            if not (self.lower is None and self.upper is None and self.edges_sha256 is None):
                raise ValueError("lower, upper and edges_sha256 must be given together")
            return self
        if not len(self.lower) == len(self.upper) == self.width:
            raise ValueError(f"lower and upper must hold {self.width} values each")
        if not bool(np.all(self.lower_array < self.upper_array)):
            raise ValueError("every lower edge must lie below its upper edge")
        if self.edges_sha256 != edges_digest(self.lower_array, self.upper_array):
            raise ValueError("edges_sha256 is not the digest of lower and upper")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all fields, 64 hexadecimal digits."""
        return sha256_hex(canonical_json(self.model_dump(mode="json")))

    @cached_property
    def as_json(self) -> str:
        """The spec as it is sent to sites, written once for all of them."""
        return self.model_dump_json()

    def __copy__(self) -> Self:
        """Copy without what was computed of the fields: `model_copy` changes some of them."""
        copied = super().__copy__()
        for name in ("digest", "as_json"):
            copied.__dict__.pop(name, None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy as `__copy__` does."""
        return super().__deepcopy__(memo).__copy__()

    @property
    def width(self) -> int:
        """Number of counted features m: the projection's directions, or the backbone's features."""
        return self.features if self.projection is None else self.projection.components

    @property
    def ready(self) -> bool:
        """Whether the spec has edges and a weights digest, so that it can make fingerprints."""
        return self.lower is not None and self.weights.sha256 is not None

    def require_ready(self) -> Self:
        """Return the spec itself.

        Raises
        ------
        ConfigError
            When it is a recipe, without edges or weights digest.
        """
        if not self.ready:
            raise ConfigError(
                f"spec {self.name} is a recipe without bin edges: calibrate it first, on public "
                f"images: {self.calibrate_command}"
            )
        return self

    @property
    def calibrate_command(self) -> str:
        """The command that makes this spec, or one like it, with edges of public images."""
        seen, source = self.preprocess, self.weights.source
        words = ["fedprint spec calibrate FOLDER", f"--backbone {self.backbone}"]
        if source != "timm":
            words.append(f"--weights {source}")
        words += [f"--resize {seen.resize}", f"--crop {seen.crop}"]
        if self.pooling is not None:
            words.append(f"--pooling {self.pooling}")
        words.append(f"--bins {self.bins}")
        if self.projection is not None:
            words.append(f"--components {self.width}")
        if seen.window is not None:
            words.append("--window {:g} {:g}".format(*seen.window))
        if self.sampling.draws:
            words.append(f"--draws {self.sampling.draws}")
        return " ".join([*words, f"--name {self.name}", "--out FILE"])

    @property
    def lower_array(self) -> NDArray[np.float64]:
        """Lower edges, float64 [m]."""
        return np.asarray(self.lower if self.lower is not None else [], dtype=np.float64)

    @property
    def upper_array(self) -> NDArray[np.float64]:
        """Upper edges, float64 [m]."""
        return np.asarray(self.upper if self.upper is not None else [], dtype=np.float64)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Bin centres, float64 [m, b]."""
        self.require_ready()
        steps = (np.arange(self.bins) + 0.5) / self.bins  # [b]
        low, width = self.lower_array, self.upper_array - self.lower_array  # [m]
        return low[:, None] + width[:, None] * steps[None, :]  # [m, b]

    def with_edges(
        self,
        lower: NDArray[np.float64],
        upper: NDArray[np.float64],
        *,
        weights_sha256: str,
        calibration: Calibration,
        projection: Projection | None = None,
    ) -> Spec:
        """Return the ready spec that this recipe becomes with calibrated edges (m values each).

        Edges are those of the counted features: of `projection`, which is the recipe's own if None.
        """
        chosen = projection or self.projection
        update: dict[str, Any] = {
            "lower": np.asarray(lower, dtype=np.float64).tolist(),
            "upper": np.asarray(upper, dtype=np.float64).tolist(),
            "edges_sha256": edges_digest(lower, upper),
            "weights": {"source": self.weights.source, "sha256": weights_sha256},
            "calibration": calibration.model_dump(),
            "projection": None if chosen is None else chosen.model_dump(),
        }
        return parse_spec({**self.model_dump(), **update}, self.name)

    def of_regions(self, cell: int, least: float = 0.25) -> Spec:
        """Return the spec that counts regions of masks and is else this one, by another name.

        Raises
        ------
        ConfigError
            If it draws images again and again, or crops at random.
        """
        update = {"name": f"{self.name}-regions", "regions": {"cell": cell, "least": least}}
        return parse_spec({**self.model_dump(), **update}, f"{self.name} with regions")


def edges_digest(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> str:
    """Return the SHA-256 of the edges, `lower` [m] then `upper` [m], as little-endian float64."""
    return sha256_hex(
        np.asarray(lower, dtype="<f8").tobytes() + np.asarray(upper, dtype="<f8").tobytes()
    )


def parse_spec(data: str | bytes | dict[str, Any], where: str = "spec") -> Spec:
    """Make a spec of its JSON text or of a dict.

    Raises
    ------
    ConfigError
        When it is not a valid spec; `where` names its origin.
    """
    try:
        if isinstance(data, dict):
            return Spec.model_validate(data)
        return Spec.model_validate_json(data)
    except ValidationError as error:
        raise ConfigError(f"{where} is not a valid spec: {one_line(error)}") from error


def list_specs() -> list[Spec]:
    """Return the shipped specs, by name."""
    folder = resources.files("protocol") / "specs"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return [parse_spec(file.read_bytes(), file.name) for file in files]


def load_spec(name_or_path: str | Path) -> Spec:
    """Return a shipped spec by its name, or read one from a JSON file.

    Raises
    ------
    ConfigError
        When there is no such spec or the file does not hold one.
    """
    path = Path(name_or_path)
    if path.is_file():
        return parse_spec(path.read_bytes(), str(path))
    if path.suffix == ".json" or path.name != str(name_or_path):
        raise ConfigError(f"no spec file {path}: give a spec's JSON file or the name of a spec")
    shipped = resources.files("protocol") / "specs" / f"{name_or_path}.json"
    if not shipped.is_file():
        names = ", ".join(spec.name for spec in list_specs())
        raise ConfigError(f"unknown spec {name_or_path!r}: take one of {names}, or a JSON file")
    return parse_spec(shipped.read_bytes(), shipped.name)


def check_same(a: Spec, b: Spec) -> None:
    """Check that fingerprints of two specs can be compared.

    Raises
    ------
    SpecMismatch
        Naming the first field that differs.
    """
    if a.digest == b.digest:
        return
    left, right = _fields(a), _fields(b)
    for field in [*left, *(key for key in right if key not in left)]:
        x, y = left.get(field), right.get(field)
        if x != y:
            raise SpecMismatch(
                f"specs {a.name} and {b.name} differ in {field} ({_short(x)} against {_short(y)}): "
                "their fingerprints cannot be compared; fingerprint again under one spec"
            )


def _fields(spec: Spec) -> dict[str, Any]:
    """Return a spec's fields by dotted name, its projection in a few words."""
    values, projection = spec.model_dump(mode="json", exclude={"projection"}), None
    if spec.projection is not None:
        projection = f"{spec.width} directions {spec.projection.sha256[:12]}"
    return _flat({"name": spec.name, "backbone": spec.backbone, "projection": projection, **values})


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to dotted names, keeping the order of the fields."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
