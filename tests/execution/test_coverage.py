"""Frames of a camera that the model was not calibrated for: warned of, recorded, refused where asked."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from night import OPTIONS, files, night_frame, same_bytes, sky, tiny_bundle, write_frame, write_night

import aqdask as aq
from aqdask.errors import UsageError
from aqdask.execution.coverage import OutOfReferenceCounter
from aqdask.execution.reporter import Silent
from aqdask.methods.bundle import calibration_key


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        if text.startswith(("warning", "note")):
            self.lines.append(text)


@pytest.fixture
def only_l():
    """A model that is calibrated for the filter L of the night's camera, not for R."""
    bundle = tiny_bundle()
    return type(bundle)(
        name="only-l", method="paper", patch=bundle.patch, normalisation="minmax",
        architecture=bundle.architecture, weights=bundle.weights,
        calibrations={key: bundle.calibration() for key in ("", "tinycam|L")},
    )  # fmt: skip


def groups(archive):
    return [path for path in (archive / "quality").iterdir() if path.is_dir()]


def test_a_calibrated_camera_is_nothing_to_talk_about(ingested, bundle):
    archive, said = ingested(), Said()
    aq.score(archive, bundle, strict=True, cluster="serial", reporter=said)
    assert said.lines == []
    assert "uncalibrated" not in aq.open_quality(archive).attrs


def test_one_line_names_pairs_frames_and_remedy_and_the_maps_remember(ingested, only_l):
    archive, said = ingested(), Said()
    summary = aq.score(archive, only_l, cluster="serial", reporter=said)
    assert summary.done == 10
    (line,) = said.lines
    assert "the model only-l is not calibrated for tinycam R (5 frames)" in line
    assert "aqdask calibrate" in line
    assert aq.open_quality(archive).attrs["uncalibrated"] == ["tinycam|R"]
    assert aq.verify(archive, cluster="serial").sound
    aq.score(archive, only_l, cluster="serial", reporter=said)  # nothing is left to score
    assert said.lines == [line, line]
    assert aq.open_quality(archive).attrs["uncalibrated"] == ["tinycam|R"]


def test_the_range_is_told_in_the_right_number():
    counter, said = OutOfReferenceCounter(), Said()
    counter.count([{"out_of_reference": 1}])
    counter.tell(said)
    assert said.lines[0].startswith("note: 1 of 1 frame lies outside the reference frames (density 1)")


def test_strict_refuses_before_anything_is_scored(ingested, only_l):
    archive = ingested()
    with pytest.raises(UsageError, match=r"tinycam R \(5 frames\).*Nothing was scored.*What to do: calib"):
        aq.score(archive, only_l, strict=True, cluster="serial")
    assert groups(archive) == []


def test_strict_refuses_maps_of_an_earlier_run_too(night, ingested, only_l):
    archive = ingested()
    aq.score(archive, only_l, cluster="serial")
    before = files(archive)
    with pytest.raises(UsageError, match=r"tinycam R \(5 frames\)"):
        aq.score(archive, only_l, strict=True, cluster="serial")
    with pytest.raises(UsageError, match=r"tinycam R \(5 frames\)"):
        aq.run(night, archive, only_l, strict=True, cluster="serial", **OPTIONS)
    same_bytes(before, files(archive))


def test_a_fused_run_says_and_records_the_same(night, ingested, only_l, tmp_path):
    apart, fused, said = ingested(), tmp_path / "fused.zarr", Said()
    aq.score(apart, only_l, cluster="serial")
    aq.run(night, fused, only_l, cluster="serial", reporter=said, **OPTIONS)
    assert sum(line.startswith("warning") for line in said.lines) == 1
    same_bytes(apart, fused)
    with pytest.raises(UsageError, match="tinycam"):
        aq.run(night, tmp_path / "strict.zarr", only_l, strict=True, cluster="serial", **OPTIONS)
    assert groups(tmp_path / "strict.zarr") == []


def test_a_source_that_gives_no_frame_is_not_counted_afterwards(only_l, tmp_path):
    folder = write_night(tmp_path / "night", 1)
    path = write_frame(folder / "cut.fits", sky(1), FILTER="V", INSTRUME="tinycam")
    path.write_bytes(path.read_bytes()[:-5760])  # the header is whole, pixels are missing
    aq.run(folder, tmp_path / "a.zarr", only_l, cluster="serial", **OPTIONS)
    assert "uncalibrated" not in aq.open_quality(tmp_path / "a.zarr").attrs


def test_frames_added_later_are_recorded_too(bundle, tmp_path):
    folder, archive = write_night(tmp_path / "night", 2), tmp_path / "a.zarr"
    aq.run(folder, archive, bundle, strict=True, cluster="serial", **OPTIONS)
    write_frame(folder / "new.fits", sky(3), FILTER="V", INSTRUME="newcam")
    write_frame(folder / "plain.fits", sky(4))
    said = Said()
    aq.run(folder, archive, bundle, cluster="serial", reporter=said, **OPTIONS)
    (line,) = said.lines
    assert "newcam V (1 frame), an unknown camera (1 frame)" in line
    assert aq.open_quality(archive).attrs["uncalibrated"] == ["newcam|V", "|"]
    group = zarr.open_group(str(groups(archive)[0]), mode="r")  # consolidated metadata say it as well
    assert group.attrs["uncalibrated"] == ["newcam|V", "|"]


def test_many_pairs_are_cut_short(bundle, tmp_path):
    for number in range(8):
        write_frame(tmp_path / "night" / f"{number}.fits", sky(number), INSTRUME=f"cam{number}")
    said = Said()
    aq.run(tmp_path / "night", tmp_path / "a.zarr", bundle, cluster="serial", reporter=said, **OPTIONS)
    assert "cam4 (1 frame) and 3 more:" in said.lines[0]


def test_quality_of_names_what_is_not_calibrated(only_l):
    images = np.stack([night_frame(0), night_frame(1)])
    assert aq.quality_of(images, only_l).attrs["uncalibrated"] == ["|"]
    assert aq.quality_of(images, only_l, camera="b/c", filter="R").attrs["uncalibrated"] == ["b/c|R"]
    assert "uncalibrated" not in aq.quality_of(images, only_l, camera="tinycam", filter="L").attrs


def test_unknown_cameras_can_be_calibrated_for(only_l):
    """Frames without camera and filter have a key of their own, which is not the pooled one."""
    unknown = only_l.with_calibrations({calibration_key("", ""): only_l.calibration()})
    assert "uncalibrated" not in aq.quality_of(night_frame(0), unknown).attrs


def test_frames_outside_the_references_are_counted_by_what():
    said, outside = Said(), OutOfReferenceCounter()
    outside.tell(said)
    outside.count([{"frame_score": 1.0}, {}, {"out_of_reference": 0.0}])
    outside.tell(said)
    assert said.lines == []
    outside.count([{"out_of_reference": 2.0}])
    outside.tell(said)
    outside.count([{"out_of_reference": 6.0}])
    outside.tell(said)
    assert "note: 1 of 2 frames lies outside the reference frames (sky 1): alpha" in said.lines[0]
    assert "note: 2 of 3 frames lie outside the reference frames (sky 2, gain 1): alpha" in said.lines[1]


def test_a_run_ends_with_the_frames_outside_the_references(tmp_path):
    """The shipped model on frames that its simulated references do not look like."""
    folder, said = write_night(tmp_path / "night", 3), Said()
    aq.ingest(folder, tmp_path / "a.zarr", cluster="serial", **OPTIONS)
    aq.score(tmp_path / "a.zarr", "wide-field", cluster="serial", reporter=said)
    found = aq.open_quality(tmp_path / "a.zarr")["out_of_reference"].values
    assert (found > 0).any()
    assert said.lines[-1].startswith(f"note: {(found > 0).sum()} of 3 frames ")
    aq.score(tmp_path / "a.zarr", "wide-field", cluster="serial", reporter=said)  # nothing is scored now
    assert not said.lines[-1].startswith("note")
