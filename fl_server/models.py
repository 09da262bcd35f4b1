"""Models of groups as files: safetensors, float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy
from flwr.app import ArrayRecord
from safetensors import SafetensorError

from protocol.errors import DataError
from protocol.files import atomic_write
from protocol.sharing import Arrays


def save_model(path: Path, record: ArrayRecord) -> None:
    """Write arrays, readable by the coordinator alone.

    Parameters
    ----------
    path : Path
        Target file; missing parent folders are made.
    record : ArrayRecord
        As a strategy returned it.
    """
    arrays = {
        name: np.ascontiguousarray(array.numpy(), dtype=np.float32).reshape(array.shape)
        for name, array in record.items()
    }
    atomic_write(path, safetensors.numpy.save(arrays), mode=0o600)


def load_model(path: Path) -> Arrays:
    """Read arrays that `save_model` wrote, by name in ascending order.

    Raises
    ------
    DataError
        If the file cannot be read or is no such file.
    """
    try:
        return dict(sorted(safetensors.numpy.load(path.read_bytes()).items()))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path} is no model ({error}): train the run again") from error
