"""How a site's listing gives labels: one an image, or several of a multi-label task.

Several labels stand in one cell (``edema;effusion``), or in one column of 0 and 1 a class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError

_NOTHING = ("nan", "na", "null", "none")
_TICKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True)
class Labels:
    """Whether an image has several labels, and where they stand.

    Attributes
    ----------
    several : bool
        Whether the task is multi-label.
    names : tuple of str
        Columns of 0 and 1, one a class; for arrays names of the classes, in order. Empty where one
        cell names all classes of an image, or classes are numbers.
    masks : bool
        Whether masks show the classes, and images have no labels of their own.
    grades : tuple of str
        Of an ordinal task all grades: one may be called ``none``, as an empty cell elsewhere.
    """

    several: bool = False
    names: tuple[str, ...] = ()
    masks: bool = False
    grades: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a table that hold the labels."""
        if self.masks:
            return ("mask",)
        return self.names or (("labels",) if self.several else ("label",))

    def of(self, cells: Mapping[str, str], where: str) -> tuple[str, ...]:
        """Return the labels of a row of a table.

        Raises
        ------
        DataError
            If a cell cannot be used; begins with `where`.
        """
        if self.masks:
            return ()
        if self.names:
            return tuple(name for name in self.names if _is_ticked(cells[name], name, where))
        (column,) = self.columns
        cell = cells[column]
        nothing = cell.lower() in _NOTHING and cell not in self.grades
        if nothing or not (cell or self.several):
            mend = "leave it empty where there are none" if self.several else "fill it in"
            raise DataError(f"{where}: {column} is {cell or 'empty'}: {mend}")
        return named(cell, where) if self.several else (cell,)


ONE = Labels()
"""One label an image, in the column ``label``."""


def named(cell: str, where: str) -> tuple[str, ...]:
    """Return the names that stand in one cell, separated by ``;`` or ``|``.

    Raises
    ------
    DataError
        If one is there twice; begins with `where`.

    Examples
    --------
    >>> named("edema; effusion", "line 2")
    ('edema', 'effusion')
    """
    names = [name for part in re.split(r"[;|]", cell) if (name := part.strip())]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{where}: labels name {twice[0]} twice: keep one")
    return tuple(names)


def of_matrix(
    held: NDArray[np.generic], images: int, names: Sequence[str], where: str
) -> list[tuple[str, ...]]:
    """Return the labels of images out of an array of 0 and 1, [n, k].

    Parameters
    ----------
    held : ndarray, shape [n, k]
        1 where an image has the label.
    images : int
        The n that it should have.
    names : sequence of str
        Of the k classes; without any they are numbered from 0.
    where : str
        Which array, for messages.

    Raises
    ------
    DataError
        If the array has another shape or other values; begins with `where`.
    """
    if held.ndim != 2 or len(held) != images:
        raise DataError(
            f"{where} has shape {held.shape} for {images} images: "
            'give one column of 0 and 1 a class, or leave objective = "multilabel" out'
        )
    if names and len(names) != held.shape[1]:
        raise DataError(
            f"{where} has {held.shape[1]} classes and [data] labels names {len(names)}: name each"
        )
    if held.dtype.kind not in "buif" or not bool(np.isin(held, (0, 1)).all()):
        raise DataError(f"{where} holds other values than 0 and 1: mend them")
    called = np.array(list(names) or [str(number) for number in range(held.shape[1])], dtype=object)
    return [tuple(called[row]) for row in held.astype(bool)]


def _is_ticked(cell: str, name: str, where: str) -> bool:
    if cell.lower() not in _TICKS:
        raise DataError(f"{where}: {name} is {cell or 'empty'}: write 0 or 1")
    return _TICKS[cell.lower()]
