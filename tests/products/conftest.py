"""Fixtures: a scored archive and its export."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

from night import OPTIONS, tiny_bundle, write_night

import aqdask as aq
from aqdask.methods.bundle import Bundle


@pytest.fixture(scope="session")
def model() -> Bundle:
    """Tiny model."""
    return tiny_bundle()


@pytest.fixture(scope="session")
def archive(tmp_path_factory, model) -> Path:
    """Six scored frames, and one source that is no FITS file; read only."""
    folder = write_night(tmp_path_factory.mktemp("night"), 6)
    (folder / "bad.fits").write_text("no FITS")
    place = tmp_path_factory.mktemp("archive") / "night.zarr"
    aq.ingest(folder, place, cluster="serial", **OPTIONS)
    aq.score(place, model, cluster="serial")
    return place


@pytest.fixture(scope="session")
def exported(archive, tmp_path_factory) -> Path:
    """Masks and table at alpha = 0.2."""
    folder = tmp_path_factory.mktemp("products")
    aq.export(archive, folder, alpha=0.2, cluster="serial")
    return folder
