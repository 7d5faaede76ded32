"""Command `info` on archives."""

from __future__ import annotations

import json
from dataclasses import replace

from click.testing import CliRunner
from night import sky, tiny_bundle, write_frame, write_night

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.cli.info import _strata


def told(*arguments: object) -> str:
    return CliRunner().invoke(aqdask, ["info", *map(str, arguments)]).stdout


def test_maps_of_cameras_that_were_not_calibrated_are_named(tmp_path):
    night, archive, whole = write_night(tmp_path / "night", 3), tmp_path / "a.zarr", tiny_bundle()
    only_l = replace(
        whole, name="only-l", calibrations={"": whole.calibration(), "tinycam|L": whole.calibration()}
    )
    aq.run(night, archive, whole, cluster="serial")
    assert "uncalibrated" not in told(archive)
    aq.score(archive, only_l, cluster="serial")
    (line,) = [line for line in told(archive).splitlines() if line.startswith("uncalibrated")]
    assert line.split() == ["uncalibrated", f"only-l-{only_l.digest[:8]}", "for", "tinycam", "R"]
    quality = json.loads(told(archive, "--json"))["quality"]
    assert {name.rpartition("-")[0]: entry["uncalibrated"] for name, entry in quality.items()} == {
        "tiny": [],
        "only-l": ["tinycam|R"],
    }


def test_each_stratum_of_sky_has_a_row():
    dark = {"patches": 100, "smallest_pvalue": 0.02, "about": {"frames": {"fit": ["a", "b", "c"]}}}
    bright = {"patches": 60, "smallest_pvalue": 0.03, "about": {"frames": {"fit": ["c"]}}}
    rows = _strata(dark | {"brighter": {"limit": 3000.0, "facts": bright}})
    assert rows == [
        {"sky": "up to 3000", "frames": 2, "patches": 100, "smallest_pvalue": 0.02},
        {"sky": "above 3000", "frames": 1, "patches": 60, "smallest_pvalue": 0.03},
    ]
    (row,) = _strata(dark)
    assert (row["sky"], row["frames"]) == ("any", 3)


def test_what_was_read_of_the_headers_stands_beside_each_frame(tmp_path):
    cards = {
        "DATE-OBS": "2024-03-05T21:34:56.25",
        "EXPTIME": 30.0,
        "FILTER": "L",
        "INSTRUME": "cam",
        "IMAGETYP": "Flat",
    }
    write_frame(tmp_path / "n" / "a.fits", sky(0), **cards)
    write_frame(tmp_path / "n" / "b.fits", sky(1))
    aq.ingest(tmp_path / "n", tmp_path / "a.zarr", cluster="serial")
    lines = [line.split() for line in told(tmp_path / "a.zarr", "--frames").splitlines()]
    start = lines.index(["row", "frame", "state", "time", "exptime", "filter", "camera", "type"])
    assert lines[start + 1] == ["0", "a.fits", "done", "2024-03-05T21:34:56.250", "30", "L", "cam", "flat"]
    assert lines[start + 2] == ["1", "b.fits", "done", "-", "-", "-", "-", "-"]
    rows = [json.loads(line) for line in told(tmp_path / "a.zarr", "--frames", "--json").splitlines()[1:]]
    assert [row["time"] for row in rows] == ["2024-03-05T21:34:56.250", None]
    assert [row["camera"] for row in rows] == ["cam", None]
