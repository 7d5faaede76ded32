"""What `aqdask info` says of an archive's maps."""

from __future__ import annotations

import json
from dataclasses import replace

from click.testing import CliRunner
from night import tiny_bundle, write_night

import aqdask as aq
from aqdask.cli import aqdask


def told(*arguments: object) -> str:
    return CliRunner().invoke(aqdask, ["info", *map(str, arguments), "--cluster", "serial"]).stdout


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
