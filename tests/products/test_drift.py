"""Change points of an archive, the advice that they give, the command and its tables."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "science"))

from drift import DAY, MINUTE, START, write_scored
from night import tiny_bundle

import aqdask as aq
import aqdask.products.drift as drift_module
from aqdask.cli.main import aqdask
from aqdask.errors import ArchiveError, UsageError
from aqdask.methods.bundle import Calibration
from aqdask.methods.shipped import load_shipped
from aqdask.products.drift import find_drift, series_changes
from aqdask.products.drift_series import FrameSeries, read_series
from aqdask.products.report.data import report_data
from aqdask.products.table_files import write_table

NIGHTS, PER_NIGHT, STEP, HOT = 40, 8, 24, 15  # nights, frames of each, and the first nights after a change
NO_TIME = np.iinfo(np.int64).min


def night(number):
    return np.datetime64(START + number * DAY, "us")


@pytest.fixture(scope="module")
def bundle():
    """The shipped model with a calibration for CAM from references of the first ten nights."""
    shipped = load_shipped()
    pooled = shipped.calibrations[""]
    times = [str(night(n).astype("datetime64[s]")) for n in (0, 10)]
    facts = {**pooled.facts, "about": {**pooled.facts["about"], "times": times}}
    return shipped.with_calibrations({"CAM|L": Calibration(pooled.arrays, facts)}, name="cam")


@pytest.fixture(scope="module")
def archive(tmp_path_factory, bundle):
    """40 nights: the focus is worse from night 24 on, pixels hot from 15 on, one frame of twelve is bad."""
    rng, row = np.random.default_rng(43), np.arange(NIGHTS * PER_NIGHT)
    number, within = np.divmod(row, PER_NIGHT)
    bad = rng.random(len(row)) < 1 / 12
    times = START + number * DAY + within * MINUTE
    times[[3, 100]] = NO_TIME
    seeing = rng.normal(1, 0.03, NIGHTS)[number]
    values = {
        "frame_size_ratio": seeing + rng.normal(0, 0.02, len(row)) + 0.2 * (number >= STEP) + 0.8 * bad,
        "frame_noise_ratio": rng.normal(1, 0.01, len(row)), "frame_sky": rng.normal(1200, 50, len(row)),
        "frame_flag": bad.astype(float),
    }  # fmt: skip
    place = tmp_path_factory.mktemp("drift") / "a.zarr"
    hot = {(1, 2): "spike", (3, 0): "spike"}
    write_scored(place, bundle, times, values, lambda at: hot if number[at] >= HOT else {}, "CAM")
    return place


@pytest.fixture(scope="module")
def found(archive):
    return aq.drift(archive)


def test_what_changed_is_told_with_time_and_size(found):
    hot, size = found.changes
    assert (hot.quantity, size.quantity, size.kind) == ("hot_pixels", "size", "step")
    assert size.time == night(STEP)
    assert (size.before, size.after) == (pytest.approx(1, abs=0.02), pytest.approx(1.2, abs=0.02))
    assert 3 < size.sigma < 15
    assert size.frames_before + size.frames_after == sum(
        use.frames - use.flagged for use in found.calibrations
    )
    assert abs(hot.time - night(HOT)) <= np.timedelta64(2, "D")  # chunks of ten unflagged frames
    assert (hot.before, hot.after, hot.unit) == (0, 2, "patch")
    assert hot.places == "128:192,64:128 0:64,192:256"
    told = f"changed from {size.before:.4g} to {size.after:.4g} from 2022-01-29 20:00 UTC on"
    assert size.text == f"The size of CAM L {told}."


def test_when_to_calibrate_anew_and_what_is_not_followed(found, archive):
    (use,) = found.calibrations
    assert (use.calibration, use.is_own, use.references[0]) == ("CAM|L", True, "2022-01-05T20:00:00")
    first, second = found.changes
    ends = [str(one.time.astype("datetime64[s]")) for one in (first, second)]
    assert use.calibrate_for == (f"{ends[0]}/{ends[1]}", f"{ends[1]}/..")
    assert use.text.endswith(f"calibrate anew with frames from {ends[0]} to {ends[1]} and from {ends[1]} on.")
    assert found.without_time == ("f0000003.fits", "f0000100.fits")
    assert found.notes == ()
    assert aq.drift(archive, maps=False).notes == (
        "hot pixels and repeats are not followed: no maps were read",
    )


def test_flagged_frames_make_no_change_unless_they_stay(archive):
    (series,) = read_series(archive, name_of(archive)).series
    assert series.is_by_night
    np.testing.assert_array_equal(series.is_good, ~series.is_flagged)
    stay = replace(series, is_flagged=series.is_flagged | (series.times >= night(STEP)))
    assert stay.is_good[stay.times >= night(STEP)].all()
    assert [(one.quantity, one.time) for one in series_changes(stay)] == [("size", night(STEP))]


def name_of(archive):
    (name,) = (path.name for path in (archive / "quality").iterdir() if path.is_dir())
    return name


def test_the_report_shows_the_changes(archive):
    data = report_data(archive)
    assert [(one.quantity, one.time) for one in data.changes] == [("size", night(STEP))]


def gains(noise, gain_after, seed=5):
    """Changes of 300 frames whose gain changes in the middle, under skies of 500 to 3000 counts."""
    rng, row = np.random.default_rng(seed), np.arange(300)
    sky = rng.uniform(500, 3000, 300)
    slope = np.where(row < 150, noise["b"], 1 / gain_after)
    ratio = np.sqrt((noise["a"] + slope * sky) / (noise["a"] + noise["b"] * sky)) * rng.normal(1, 0.003, 300)
    times = (START + row * MINUTE).astype("datetime64[us]")
    values = {"frame_sky": sky, "frame_noise_ratio": ratio}
    series = FrameSeries("CAM", "L", "CAM|L", row, times, np.zeros(300, bool), values)
    changes, notes = list(series_changes(series)), []
    bundle = load_shipped()
    own = bundle.with_calibrations({"CAM|L": Calibration({}, {"noise": noise})})
    return [*changes, *drift_module._gains(series, own, changes, notes)], notes


def test_the_gain_is_fitted_on_both_sides_of_a_change_of_the_noise():
    changes, notes = gains({"a": 100.0, "b": 0.5, "c": 0.0, "unit": 1.0}, gain_after=1.6)
    (gain,) = [one for one in changes if one.quantity == "gain"]
    assert gain.before == pytest.approx(2.0, rel=0.02)
    assert gain.after == pytest.approx(1.6, rel=0.02)
    assert abs(gain.time - np.datetime64(START + 150 * MINUTE, "us")) <= np.timedelta64(5, "m")
    assert (gain.unit, notes) == ("electron / count", [])


@pytest.mark.parametrize("suffix", ["csv", "ecsv", "parquet"])
def test_the_command_writes_tables_that_come_back(archive, tmp_path, suffix):
    path = tmp_path / f"changes.{suffix}"
    ended = CliRunner().invoke(aqdask, ["drift", str(archive), "--out", str(path)])
    assert ended.exit_code == 0, ended.output
    assert "calibrate anew with frames from" in ended.output
    assert "without a time, and not followed: 2 frames, f0000003.fits, f0000100.fits" in ended.output
    table = pq.read_table(path).to_pandas() if suffix == "parquet" else Table.read(path).to_pandas()
    assert table["quantity"].tolist() == ["hot_pixels", "size"]
    assert table["after"].tolist() == [2, pytest.approx(1.2, abs=0.02)]
    assert str(table["time"][1])[:10] == "2022-01-29"


def test_json_has_a_line_for_each_change_and_calibration(archive):
    ended = CliRunner().invoke(aqdask, ["drift", str(archive), "--json"])
    lines = [json.loads(line) for line in ended.output.splitlines()]
    assert [line["event"] for line in lines] == ["row", "row", "calibration", "without_time"]
    assert lines[2]["calibrate_for"][1].endswith("/..")


def test_some_frames_alone(archive, tmp_path):
    early = aq.drift(archive, frames="f00000*", filter="L", maps=False)
    assert (early.calibrations[0].frames, len(early.without_time)) == (99, 1)
    with pytest.raises(UsageError, match="no frame with the filter 'B'"):
        aq.drift(archive, filter="B")
    with pytest.raises(UsageError, match="no frame 'x'"):
        aq.drift(archive, frames="x")


def test_bad_requests_are_refused(archive, found, tmp_path):
    with pytest.raises(UsageError, match=r"a table named .*changes.txt.*\.csv, \.ecsv, \.parquet"):
        write_table(found.table, tmp_path / "changes.txt")
    with pytest.raises(UsageError, match="alpha"):
        aq.drift(archive, alpha=2)


def test_a_model_without_frame_quantities_is_refused(tmp_path):
    place = tmp_path / "paper.zarr"
    write_scored(place, tiny_bundle(patch=64), START + np.arange(3) * MINUTE, {})
    with pytest.raises(
        UsageError, match=r"measures no size, noise or sky.*method 'aqdask'.*What to do: score"
    ):
        aq.drift(place)


def test_damaged_maps_are_named_and_lost_values_are_an_error(archive, tmp_path):
    own = Path(shutil.copytree(archive, tmp_path / "a.zarr"))
    group = own / "quality" / name_of(archive)
    (group / "pvalue" / "c" / "1" / "0" / "0").unlink()
    assert aq.drift(own).notes == ("maps of 15 frames missing or damaged (`aqdask verify --repair`)",)
    shutil.rmtree(group / "frame_size_ratio")
    with pytest.raises(ArchiveError, match="frame_size_ratio"):
        aq.drift(own)


def test_an_empty_series_and_a_short_one_are_named(tmp_path, bundle):
    place = tmp_path / "few.zarr"
    write_scored(place, bundle, START + np.arange(6) * MINUTE, {}, camera="CAM")
    few = find_drift(place, name_of(place))
    assert few.changes == ()
    assert few.notes == (
        "CAM L: too few unflagged frames (6) to follow hot pixels and repeats",
        "CAM L: too short for change points (fewer than 10 frames)",
    )
    assert few.table.num_rows == 0
    ended = CliRunner().invoke(aqdask, ["drift", str(place)])
    assert ended.output.startswith("no changes were found\n"), ended.output
