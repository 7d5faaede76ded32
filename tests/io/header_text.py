"""Headers of the tests as text, and what is read from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from aqdask.io.metadata import read_metadata
from aqdask.io.reader import probe
from aqdask.specs import FrameMetadata, ReadSpec

INSTANT = "2024-03-05T21:34:56"


def cards(values: dict[str, object]) -> str:
    return fits.Header(list(values.items())).tostring(endcard=False, padding=False)


def raw(*lines: str) -> str:
    return "".join(line.ljust(80) for line in lines)


def described(values: dict[str, object]) -> FrameMetadata:
    return read_metadata(cards(values), "")


def microseconds(iso: str | None) -> int | None:
    return None if iso is None else int(np.datetime64(iso, "us").astype(int))


def of_file(path: Path) -> FrameMetadata:
    return probe(path, ReadSpec())[0].metadata
