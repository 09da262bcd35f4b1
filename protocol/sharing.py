"""What crosses the wire in co-training: the group plan, the names of the arrays, how they start.

The body (adapter or backbone) and the head rows of classes that at least two sites of the group
hold travel; every other head row stays on its site's disk. All rows of one class start alike, so
that sites which never met still speak of the same direction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Arrays = dict[str, NDArray[np.float32]]
Recipe = Literal["adapter", "fine-tune"]

BODY = "body."
HEAD = "head."
HIDDEN = 64
"""Width of the shared adapter."""


class GroupPlan(BaseModel):
    """What one group shares, and what it can expect.

    Attributes
    ----------
    group : str
        Name of the group.
    sites : list of str
        Its sites.
    shared_classes : list of str
        Keys of the classes whose head rows travel, sorted.
    holders : dict
        Sites that hold each shared class.
    apart : list of str
        Sites that hold no class of any other: they train alone, because only pooled labels pay.
    trainable : bool
        False where nothing can be gained together: a group of one, or no class in common.
    expectation : str
        One sentence for people.
    """

    model_config = ConfigDict(frozen=True)

    group: str
    sites: list[str]
    shared_classes: list[str]
    holders: dict[str, list[str]]
    apart: list[str] = []
    trainable: bool
    expectation: str

    @property
    def taking_part(self) -> list[str]:
        """Sites that train together: all of the group but those apart."""
        return [site for site in self.sites if site not in self.apart]


def row_name(key: str) -> str:
    """Return the array name of a class's head row; keys of any length and script are hashed."""
    return HEAD + hashlib.sha256(key.encode()).hexdigest()[:16]


def initial_row(key: str, width: int, seed: int) -> NDArray[np.float32]:
    """Return how a class's head row starts, weights then bias: float32 [width + 1].

    Uniform in +-1/sqrt(width) as a linear layer of torch; drawn from the class's key, so that
    every site starts it alike.
    """
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    bound = 1.0 / np.sqrt(width)
    row = np.random.default_rng(list(digest)).uniform(-bound, bound, width + 1)  # [width + 1]
    return row.astype(np.float32)


def initial_rows(keys: Sequence[str], width: int, seed: int) -> Arrays:
    """Return the starting head rows of several classes by array name."""
    return {row_name(key): initial_row(key, width, seed) for key in keys}


def initial_adapter(features: int, seed: int) -> Arrays:
    """Return how the shared adapter starts: weight float32 [HIDDEN, m] and bias [HIDDEN]."""
    rng = np.random.default_rng([seed, features])
    bound = 1.0 / np.sqrt(features)
    return {
        BODY + "weight": rng.uniform(-bound, bound, (HIDDEN, features)).astype(np.float32),
        BODY + "bias": rng.uniform(-bound, bound, HIDDEN).astype(np.float32),
    }


def scale_rows(
    before: Mapping[str, NDArray[np.float32]], after: Arrays, factors: Mapping[str, float]
) -> Arrays:
    """Scale a site's update of the head rows so that a plain weighted mean is the holders' mean.

    With weights n_i over all sites of the round and H the holders of a row r, the site sends

        r + (r_i - r) * factor,    factor = sum_all n_i / sum_H n_i,

    and sites outside H send r as it came; then sum_i n_i (sent_i) / sum n_i is the mean of r_i
    over H. Exact for linear means (FedAvg, FedProx, the pseudo-gradient of FedOpt).

    Parameters
    ----------
    before, after : mapping of str to ndarray
        Arrays as they came and as training left them; rows the site does not hold are equal.
    factors : mapping of str to float
        By array name; arrays without one are sent as they are.
    """
    sent = dict(after)
    for name, factor in factors.items():
        if name in sent:
            update = (after[name].astype(np.float64) - before[name]) * factor
            sent[name] = (before[name] + update).astype(np.float32)
    return sent
