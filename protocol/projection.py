"""The public projection of a spec: few directions in the features, the same for everybody.

A private release adds noise to every counted feature, and the noise grows with the square root of
their number: counting a few principal directions of public images costs far less than counting
every feature. The directions are part of the spec, never made of a site's own images.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from protocol.files import sha256_hex
from protocol.names import Sha256Hex

LIMIT = 8 * 1024 * 1024
"""Most characters of a matrix in base64."""
MOST_WEIGHT = 1e6
"""Largest absolute entry of a matrix: projected features stay far inside what a float64 holds."""


class Projection(BaseModel):
    """A public linear map from m features to k directions, which are counted instead.

    Parameters
    ----------
    components : int
        Number of directions k.
    matrix : str
        Base64 of the directions as little-endian float32, row-major, shape [k, m].
    sha256 : str
        SHA-256 of those bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    components: int = Field(gt=0, le=4096)
    matrix: Annotated[str, Field(max_length=LIMIT, repr=False)]
    sha256: Sha256Hex

    @classmethod
    def of(cls, directions: NDArray[np.floating]) -> Self:
        """Return the projection onto `directions`, float [k, m], rounded to float32."""
        raw = np.ascontiguousarray(directions, dtype="<f4").tobytes()
        text = b64encode(raw).decode("ascii")
        return cls(components=len(directions), matrix=text, sha256=sha256_hex(raw))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        try:
            raw = b64decode(self.matrix, validate=True)
        except ValueError:
            raise ValueError("matrix is not base64") from None
        if not raw or len(raw) % (4 * self.components):
            raise ValueError(f"matrix must hold {self.components} rows of float32 values")
        if sha256_hex(raw) != self.sha256:
            raise ValueError("sha256 is not the digest of the matrix")
        values = np.frombuffer(raw, "<f4").reshape(self.components, -1)  # [k, m]
        if not np.isfinite(values).all() or np.abs(values).max() > MOST_WEIGHT:
            raise ValueError(f"the matrix must be finite, of values up to {MOST_WEIGHT:g}")
        if not values.any(axis=1).all():
            raise ValueError("a direction of the matrix is zero everywhere")
        return self

    @property
    def array(self) -> NDArray[np.float64]:
        """The directions, float64 [k, m]."""
        values = np.frombuffer(b64decode(self.matrix), "<f4").reshape(self.components, -1)
        return values.astype(np.float64)

    @property
    def features(self) -> int:
        """Number of features m that go in."""
        return len(b64decode(self.matrix)) // (4 * self.components)

    def apply(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the projected features, float64 [n, k], of `features` [n, m]."""
        projected: NDArray[np.float64] = features.astype(np.float64) @ self.array.T
        return projected
