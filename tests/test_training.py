"""Reference frames that nobody named: those that turn out to be unlike the others are left out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aqdask import training
from aqdask.errors import OutlierFramesError


@pytest.fixture
def chosen(monkeypatch):
    """Twelve frames, of which `ChosenFrames.of` takes some by row."""

    def of(store, places):
        return SimpleNamespace(store=store, places=tuple(places), ids=[f"f{row}" for row in places])

    monkeypatch.setattr(training.ChosenFrames, "of", of)
    return of(None, range(12))


def refusing(*bad):
    """Refuses frames one at a time, as a calibration does that finds the next after the first is gone."""

    def make(references):
        for name in bad:
            if name in references.ids:
                error = OutlierFramesError(f"{name} is unlike the others")
                error.frames = (name,)
                raise error
        return references.ids

    return make


def test_frames_that_nobody_named_are_left_out_and_told_of(chosen):
    told = []
    left = training._agreeing(chosen, refusing("f3", "f7"), told.append)
    assert left == [f"f{k}" for k in range(12) if k not in (3, 7)]
    assert [one.note for one in told] == [
        "f3 is unlike the others; left out of the references",
        "f7 is unlike the others; left out of the references",
    ]


def test_a_third_of_them_is_too_many(chosen):
    with pytest.raises(OutlierFramesError, match="f4 is unlike"):
        training._agreeing(chosen, refusing("f1", "f2", "f3", "f4"), lambda progress: None)
