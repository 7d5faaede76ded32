"""Fixtures: a scored archive of frames with a WCS."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

from night import OPTIONS, tiny_bundle, write_night

import aqdask as aq


@pytest.fixture(scope="session")
def night(tmp_path_factory) -> Path:
    """Six scored frames of 130 x 200 px with a WCS, and one source that is no FITS file; read only."""
    folder = write_night(tmp_path_factory.mktemp("night"), 6)
    (folder / "bad.fits").write_text("no FITS")
    place = tmp_path_factory.mktemp("archive") / "night.zarr"
    aq.ingest(folder, place, cluster="serial", **OPTIONS)
    aq.score(place, tiny_bundle(), cluster="serial")
    return place
