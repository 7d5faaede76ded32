"""Files of a table: Parquet, ECSV or CSV by the suffix of the name."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from aqdask.errors import UsageError, place_failed
from aqdask.io.places import check_output, write_file
from aqdask.products.table import as_astropy
from aqdask.text import printable


def _ecsv(table: pa.Table, stream: Any) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    as_astropy(table).write(text, format="ascii.ecsv")
    text.detach()


WRITERS: Mapping[str, Callable[[pa.Table, Any], None]] = {
    ".csv": csv.write_csv, ".ecsv": _ecsv, ".parquet": pq.write_table
}  # fmt: skip


def check_table(path: str | os.PathLike[str]) -> None:
    """Check, before anything is computed, that a table can be written to a file.

    Raises
    ------
    UsageError
        For a folder, or another suffix than those of `WRITERS`.
    ArchiveError
        If nothing can be written there.
    """
    if Path(path).suffix not in WRITERS:
        raise UsageError(
            f"a table named {printable(os.fspath(path))}",
            expected=f"a name that ends with one of {', '.join(WRITERS)}",
            consequence="Nothing was written",
            remedy="choose another name",
        )
    check_output(path)


def write_table(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write a table of `aqdask.products.columns.described_schema` whole, in the format of the name's suffix.

    Raises
    ------
    UsageError
        For a folder, or another suffix.
    ArchiveError
        If the file cannot be written.
    """
    check_table(path)
    stream = io.BytesIO()
    WRITERS[Path(path).suffix](table, stream)
    try:
        write_file(Path(path), stream.getvalue())
    except OSError as error:
        raise place_failed(path, error) from error
