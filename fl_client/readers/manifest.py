"""Manifests: a table, CSV or Parquet, that names each image with its label and subject."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from fl_client.readers.cut import Cut
from fl_client.readers.kinds import KINDS, kind_of, open_file, tile_at
from fl_client.readers.labels import ONE, Labels
from fl_client.readers.masks import masks_of
from fl_client.readers.rows import Row, check_splits, inside, split_named
from fl_client.readers.source import Source
from protocol.errors import DataError

_MOST_ROWS = 10_000_000
Cells = dict[str, str]


def read_manifest(
    folder: Path, manifest: str, named_in: Path, cut: Cut | None = None, labels: Labels = ONE
) -> list[Row]:
    """List the images of a site's manifest (columns path, label, subject_id and maybe split).

    A multi-label task has the column ``labels`` instead, or one column of 0 and 1 a class; a
    segmentation the column ``mask``, which names a file of label maps beside each file of images.
    A row that names a file with several images lists all of them, unless it is a whole slide and
    the columns ``x`` and ``y`` say which tile is meant.

    Parameters
    ----------
    folder : Path
        Where the data lie: what the manifest and its rows are relative to, and must not leave.
    manifest : str
        The manifest: Parquet if it ends so, else CSV.
    named_in : Path
        The ``site.toml`` that names it.
    cut : Cut, optional
        How files with several images are cut.
    labels : Labels
        In which columns labels stand.

    Raises
    ------
    DataError
        If the table cannot be read, lacks columns, or a row cannot be used.
    """
    table = inside(folder, manifest, f"{named_in}: manifest")
    if not table.is_file():
        raise DataError(f"manifest {table} does not exist: create it or correct {named_in}")
    cut = cut or Cut()
    found: dict[tuple[str, str, str], list[Row]] = {}
    columns = ("path", *labels.columns, "subject_id")
    for where, cells in (_parquet if table.suffix.lower() == ".parquet" else _csv)(table, columns):
        path = _check(folder, cells, where, cut)
        at = cells.get("x", ""), cells.get("y", "")
        key = (path.relative_to(folder).as_posix(), *at)
        if key in found:
            raise DataError(f"{where}: {cells['path']} is listed twice: keep one line")
        split = split_named(cells["split"], where) if cells.get("split") else None
        sources = [tile_at(path, cut, at, where)] if any(at) else open_file(path, cut)
        own, subject = labels.of(cells, where), cells["subject_id"]
        shown: Sequence[Source | None] = [None] * len(sources)
        if labels.masks:
            shown = masks_of(folder, cells["mask"], sources, cut, where)
        found[key] = [Row(s, own, subject, split, m) for s, m in zip(sources, shown, strict=True)]
    rows = [row for key in sorted(found) for row in found[key]]
    if not rows:
        raise DataError(f"manifest {table} lists no images: add lines of {','.join(columns)}")
    check_splits(table, rows)
    return rows


def _check(folder: Path, cells: Cells, where: str, cut: Cut) -> Path:
    """Return the path that a row names; see that all of its cells can be used."""
    for column in ("path", "subject_id"):
        if cells[column].lower() in ("", "nan", "na", "null", "none"):
            raise DataError(f"{where}: {column} is {cells[column] or 'empty'}: fill it in")
    path = inside(folder, cells["path"], where)
    if kind_of(path, cut) is None and (path.suffix or path.is_file()):
        raise DataError(f"{where}: {cells['path']} is no image that can be read ({KINDS})")
    if not path.is_file():
        raise DataError(f"{where}: image {cells['path']} does not exist: restore it or drop this")
    return path


def _check_header(table: Path, header: list[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        hint = ""
        if "subject_id" in missing:
            hint = " (repeat the path when every image is its own subject)"
        elif missing == ["label"] and "labels" in header:
            hint = ', or say objective = "multilabel" in [task]'
        raise DataError(
            f"manifest {table} lacks the column {', '.join(missing)}: its first line must name "
            f"{','.join(columns)}[,split]{hint}"
        )


def _csv(table: Path, columns: Sequence[str]) -> Iterator[tuple[str, Cells]]:
    """Yield where each row stands, and its cells."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            _check_header(table, header, columns)
            for cells in reader:
                where = f"{table}, line {reader.line_num}"
                if None in cells or None in cells.values():
                    raise DataError(f"{where}: has not as many cells as the header: correct it")
                yield where, {key: value.strip() for key, value in cells.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"manifest {table} cannot be read ({error}): save it as CSV in UTF-8"
        ) from error


def _parquet(table: Path, columns: Sequence[str]) -> Iterator[tuple[str, Cells]]:
    """Yield where each row stands, and its cells as text; only the known columns are read."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f'manifest {table} is Parquet: run pip install "fedprint[datasets]", or save it as CSV'
        ) from error
    try:
        with ParquetFile(table) as file:
            header = file.schema_arrow.names
            _check_header(table, header, columns)
            if file.metadata.num_rows > _MOST_ROWS:
                raise DataError(f"manifest {table} has more than {_MOST_ROWS} rows: split it")
            wanted = [name for name in (*columns, "split", "x", "y") if name in header]
            number = 0
            for batch in file.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{table}, row {number}", {k: _text(v) for k, v in row.items()}
    except (OSError, ArrowException, UnicodeDecodeError, OverflowError) as error:
        detail = " ".join(str(error).split())
        raise DataError(f"manifest {table} cannot be read ({detail}): write it again") from error


def _text(value: object) -> str:
    """Write a cell as a CSV file would: whole numbers without a point, lists with semicolons."""
    if isinstance(value, list):
        return ";".join(map(_text, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()
