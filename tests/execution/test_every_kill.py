"""Killed between any two operations on the store, every command resumes to what an undisturbed one makes."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kill_points import Killed, Scene, _contents, frames_lost, killing
from night import files, same_bytes

import aqdask as aq
from aqdask.execution.open_archive import writing

SCENES = (
    "ingest", "score", "run", "change", "compaction", "migrate", "repair pixels", "repair maps",
    "repair metadata",
)  # fmt: skip
ALL = os.environ.get("AQDASK_ALL_KILL_POINTS") == "1"  # every point, some minutes; else a sample


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, bundle):
    """Scenes with what an undisturbed run makes of them, made when they are asked for."""
    made = {}

    def scene(name):
        if name not in made:
            one = Scene(name, tmp_path_factory.mktemp("scene"), bundle)
            archive = one.copy("undisturbed")
            with killing(None) as point:
                one.act(archive)
            made[name] = one, point.count, pixels_and_maps(archive), _contents(archive)
        return made[name]

    return scene


def pixels_and_maps(archive):
    """Everything that is stored but the ledger and consolidated metadata."""
    return {name: data for name, data in files(archive).items() if "/c/" in name}


def kill_and_resume(scenes, name, at, torn):
    scene, count, stored, contents = scenes(name)
    archive = scene.copy("killed")
    with pytest.raises(Killed), killing(at % count, torn):
        scene.act(archive)
    if archive.exists() and (archive / "zarr.json").exists():
        assert frames_lost(scene, archive) == []
        aq.verify(archive, cluster="serial")  # says what it finds, whatever that is
    scene.act(archive)
    assert aq.verify(archive, cluster="serial").sound
    assert _contents(archive) == contents
    with writing(archive):  # what a killed writer left is swept by the next one
        pass
    assert not list(archive.rglob("*.partial"))
    same_bytes(pixels_and_maps(archive), stored)


@pytest.mark.parametrize("name", SCENES)
@given(at=st.integers(0, 10_000), torn=st.booleans())
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_killed_anywhere_it_resumes(scenes, name, at, torn):
    kill_and_resume(scenes, name, at, torn)


@pytest.mark.skipif(not ALL, reason="a sample is drawn above; AQDASK_ALL_KILL_POINTS=1 tries every point")
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_killed_everywhere_it_resumes(scenes, name):
    for at in range(scenes(name)[1]):
        kill_and_resume(scenes, name, at, torn=at % 2 == 1)
