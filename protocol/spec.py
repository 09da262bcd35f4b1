"""The spec: everything that must be equal for two fingerprints to be comparable."""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocol.errors import ConfigError, SpecMismatch, one_line
from protocol.files import canonical_json, sha256_hex
from protocol.names import Sha256Hex
from protocol.projection import Projection as Projection

Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Weights(_Part):
    """Where the backbone's weights come from, and the SHA-256 of their values."""

    source: str
    sha256: Sha256Hex | None = None


class Preprocess(_Part):
    """From image to network input: shorter side, crop (both in pixels), normalisation."""

    resize: int = Field(gt=0, le=4096)
    crop: int = Field(gt=0, le=4096)
    interpolation: str = "bicubic"
    mean: Triple
    std: Triple


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
    bins : int
        Number of bins b.
    lower, upper : list of float, or None
        Public bin edges, m = `width` values each in units of the counted features; None in a
        recipe, which has no edges yet.
    edges_sha256 : str or None
        SHA-256 of `lower` then `upper` as little-endian float64.
    """

    name: str
    backbone: str
    weights: Weights
    preprocess: Preprocess
    features: int = Field(gt=0, le=1_000_000)
    projection: Projection | None = None
    bins: int = Field(gt=1, le=1_000_000)
    lower: list[float] | None = None
    upper: list[float] | None = None
    edges_sha256: Sha256Hex | None = None
    sampling: Sampling = Sampling()
    calibration: Calibration | None = None

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
            wide = "" if self.projection is None else f" --components {self.width}"
            raise ConfigError(
                f"spec {self.name} is a recipe without bin edges: calibrate it first, on public "
                f"images: fedprint spec calibrate FOLDER --backbone {self.backbone} --bins "
                f"{self.bins}{wide} --draws {self.sampling.draws or 0} --name {self.name} "
                "--out FILE"
            )
        return self

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
