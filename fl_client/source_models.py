"""Models of other tasks that a site has as files: read, checked, turned into bodies.

A file is one of a run folder's ``models/`` (body and head rows) or of a pool's shelf (body only).
It came from others: its size is limited, and it must be an adapter on the very features that the
site has, in finite float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError

from fl_client.model import Adapter
from fl_client.start import require_arrays
from protocol.errors import DataError, VerificationError
from protocol.sharing import BODY, HIDDEN, Arrays
from protocol.weights import body_of

MOST_BYTES = 1 << 26
"""Largest file: an adapter of 4,096 features with 10,000 head rows is 4 MB."""
MOST_WEIGHT = 1e6
"""Largest absolute value in a model; those that were trained stay below a hundred."""


@dataclass(frozen=True, eq=False)
class SourceModel:
    """A model of another task.

    Attributes
    ----------
    name : str
        What to call it: the file's stem.
    body : dict
        Arrays of its adapter by name; its head is of other classes and stays behind.
    """

    name: str
    body: Arrays


def read_models(paths: Sequence[Path], features: int) -> list[SourceModel]:
    """Read the models of several files.

    Parameters
    ----------
    paths : sequence of Path
        Safetensors files.
    features : int
        Width m of the features that the site has.

    Raises
    ------
    DataError
        If a file cannot be read, holds something else, or has the name of another one.
    """
    models = [read_model(path, features) for path in paths]
    names = [model.name for model in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"two models are called {twice[0]}: rename one of the files")
    return models


def read_model(path: Path, features: int) -> SourceModel:
    """Read the model of one file; parameters and errors as in `read_models`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} has more than {MOST_BYTES >> 20} MiB: it is no adapter")
        arrays = safetensors.numpy.load(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is no model ({error}): name a safetensors file") from error
    shapes = {BODY + "weight": (HIDDEN, features), BODY + "bias": (HIDDEN,)}
    try:
        require_arrays(body := body_of(arrays), shapes, "model")
    except VerificationError as error:
        raise DataError(
            f"{path}: {error}; name a model of the adapter recipe on {features} features"
        ) from error
    if max(float(np.abs(value).max()) for value in body.values()) > MOST_WEIGHT:
        raise DataError(f"{path} holds weights above {MOST_WEIGHT:g}: leave that model out")
    return SourceModel(path.stem, body)


def adapter_of(body: Arrays) -> Adapter:
    """Return the module of an adapter's arrays, float32 ``[HIDDEN, m]`` and ``[HIDDEN]``."""
    adapter = Adapter(body[BODY + "weight"].shape[1])
    state = {
        name.removeprefix(BODY): torch.from_numpy(value.copy()) for name, value in body.items()
    }
    adapter.load_state_dict(state)
    return adapter
