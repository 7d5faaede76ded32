"""Reference frames of an archive: read at most twice, on any cluster, less outliers if proposed."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import aqdask as aq
from aqdask import api
from aqdask.cli import aqdask
from aqdask.errors import ArchiveError, OutlierFramesError
from aqdask.execution.executors import SerialExecutor
from aqdask.execution.reference_frames import choose_frames, without_outliers
from aqdask.execution.reporter import Silent
from aqdask.methods.training.progress import TrainProgress
from aqdask.simulate.demo import demo_plan, write_demo_frame
from aqdask.store.frame_store import FrameStore

GOOD, SIZE = 8, 512
SETTINGS = {"frames": ["*"], "alpha": 0.02, "name": "model"}


class Named(SimpleNamespace):
    """Frames of which some can be left out."""

    def without(self, ids):
        return Named(ids=[name for name in self.ids if name not in ids])


def refusing(*bad):
    """Refuse frames one at a time, as a calibration does that finds the next after the first is gone."""

    def calibrate(frames):
        for name in bad:
            if name in frames.ids:
                error = OutlierFramesError(f"{name} is an outlier")
                error.frames = (name,)
                raise error
        return frames.ids

    return calibrate


def test_outliers_among_proposed_frames_are_left_out_with_a_note():
    told = []
    left = without_outliers(Named(ids=[f"f{k}" for k in range(12)]), refusing("f3", "f7"), told.append)
    assert left == [f"f{k}" for k in range(12) if k not in (3, 7)]
    assert [one.note for one in told] == [
        "f3 is an outlier; left out of the references",
        "f7 is an outlier; left out of the references",
    ]


def test_a_third_of_them_is_too_many():
    frames = Named(ids=[f"f{k}" for k in range(12)])
    with pytest.raises(OutlierFramesError, match="f4 is an outlier"):
        without_outliers(frames, refusing("f1", "f2", "f3", "f4"), lambda progress: None)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Good frames of the simulated camera; not to be changed."""
    folder = tmp_path_factory.mktemp("drawn")
    for frame in demo_plan(12, SIZE, seed=5)[:GOOD]:
        write_demo_frame(folder, frame)
    place = tmp_path_factory.mktemp("archive") / "a.zarr"
    aq.ingest(folder, place, cluster="serial")
    return place


@pytest.fixture(scope="module")
def calibrated(archive):
    return aq.calibrate(archive, "wide-field", cluster="serial", **SETTINGS)


def test_notes_on_the_choice_of_references_stay_with_the_model(archive, monkeypatch):
    def calibrate(model, frames, spec, *, progress, device):
        progress(TrainProgress("note", note="left\nout"))
        return replace(model, notes=("own",))

    monkeypatch.setattr(api.dispatch, "calibrate", calibrate)
    own, chosen, left_out = aq.calibrate(archive, "wide-field", cluster="serial").notes
    assert (own, left_out) == ("own", "left\\x0aout.")
    assert chosen.endswith("would bring the false-mask rate closer to alpha.")


def test_calibrate_reads_every_frame_at_most_twice(archive, calibrated, monkeypatch):
    reads: Counter[int] = Counter()
    read = FrameStore.read

    def counted(self, row, *arguments, **named):
        reads[row] += 1
        return read(self, row, *arguments, **named)

    monkeypatch.setattr(FrameStore, "read", counted)
    again = aq.calibrate(archive, "wide-field", cluster="serial", **SETTINGS)
    assert again.contents == calibrated.contents
    assert len(reads) == GOOD
    assert max(reads.values()) <= 2


def test_a_task_reads_its_frames_from_any_folder(archive, monkeypatch, tmp_path):
    monkeypatch.chdir(archive.parent)
    frames = choose_frames(archive.name, ["*"], SerialExecutor(), Silent())
    sent = pickle.dumps(frames.chosen.only([0]))
    monkeypatch.chdir(tmp_path)
    image, _ = pickle.loads(sent).read(0)
    assert image.shape == (SIZE, SIZE)
    assert pickle.loads(sent).read(0, 64)[0].any()


def test_a_lost_shard_is_no_dark_sky(archive, tmp_path):
    copied = shutil.copytree(archive, tmp_path / "a.zarr")
    shutil.rmtree(copied / "frames" / "image" / "c" / "0")
    frames = choose_frames(copied, ["*"], SerialExecutor(), Silent())
    with pytest.raises(ArchiveError, match="stored pixels are missing or damaged"):
        frames.chosen.read(0, 64)


@pytest.mark.parametrize("command", ["calibrate", "train"])
def test_the_command_runs_where_the_configuration_says(command, archive, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(api, "choose_frames", lambda *arguments: seen.append(arguments[2]) or 1 / 0)
    model = ["--model", "wide-field"] if command == "calibrate" else []
    CliRunner().invoke(aqdask, [command, str(archive), *model, "--out", str(tmp_path / "m.safetensors")])
    assert type(seen[0]).__name__ == "Deferred"


@pytest.mark.cluster
def test_workers_calibrate_to_the_bytes_of_one_process(archive, calibrated):
    assert aq.calibrate(archive, "wide-field", cluster="local:2", **SETTINGS).contents == calibrated.contents
