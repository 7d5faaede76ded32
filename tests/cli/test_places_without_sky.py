"""Frames with overscan or with corners beyond the detector, from FITS files to masks."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from trails import LEAST, found, scored

import aqdask as aq
from aqdask.cli import aqdask

ALPHA = 0.01


@pytest.fixture(scope="module")
def trail(make_trouble):
    """Pixels of the trail."""
    return make_trouble.TRAIL((512, 512), 1) > 0.3


@pytest.mark.real
def test_trails_beside_overscan_are_found(trouble, trail, tmp_path):
    """Before sections were read, 0, 0, 0 and .07 were; ``benchmarks/results/overscan.md`` has more frames."""
    folder, _ = trouble("overscan")
    truth = np.pad(trail, ((0, 0), (20, 70)))
    notes, quality, invalid = scored(folder / "osc", tmp_path)
    assert invalid == pytest.approx(90 / 602, abs=1e-3)
    assert not any("no sky" in note for note in notes)
    shares = found(quality, truth)
    assert shares.pop(0) < 0.03
    assert shares[60] >= 0.15
    assert min(shares[120], shares[250], shares[500]) >= LEAST
    assert np.isnan(quality["pvalue"].values[..., -1]).all()
    assert (quality["reason"].values[..., -1] == 0).all()
    aq.export(tmp_path / "test.zarr", tmp_path / "out", alpha=ALPHA, cluster="serial")
    with fits.open(next((tmp_path / "out" / "dq").iterdir())) as hdus:
        dq = hdus["DQ"].data
    assert ((dq & 4) != 0)[:, [0, 19, 532, 601]].all()
    assert not ((dq & 4) != 0)[:, 20:532].any()


@pytest.mark.real
def test_overscan_without_the_sections_is_found_by_the_calibration(trouble, trail, tmp_path):
    folder, _ = trouble("overscan")
    notes, quality, invalid = scored(folder / "osc", tmp_path, sections=False)
    assert invalid == 0
    assert any("show no sky in any reference frame" in note for note in notes)
    aq.export(tmp_path / "test.zarr", tmp_path / "out", alpha=ALPHA, cluster="serial")
    with fits.open(next((tmp_path / "out" / "dq").iterdir())) as hdus:
        dq = hdus["DQ"].data
    assert ((dq & 4) != 0)[:, [0, 19, 532, 601]].all()
    assert not ((dq & 4) != 0)[:, 36:516].any()
    shares = found(quality, np.pad(trail, ((0, 0), (20, 70))))
    assert shares.pop(0) < 0.03
    assert min(shares[120], shares[250], shares[500]) >= LEAST


@pytest.mark.real
@pytest.mark.parametrize("fill", ["zero", "nan"])
def test_trails_beside_corners_beyond_the_detector_are_found(trouble, trail, tmp_path, fill):
    """With zeros none were."""
    folder, _ = trouble("footprint")
    _, quality, invalid = scored(folder / fill, tmp_path)
    assert invalid == pytest.approx(0.2275, abs=0.005)
    shares = found(quality, trail)
    assert shares.pop(0) < 0.03
    assert min(shares[120], shares[250], shares[500]) >= LEAST


def test_the_options_are_those_of_the_command_line(tmp_path):
    image = np.random.default_rng(0).integers(900, 1100, (64, 80)).astype("u2")
    image[:, 60:] = 0
    hdu = fits.PrimaryHDU(image, fits.Header([("DATASEC", "[11:80,1:64]")]))
    hdu.writeto(tmp_path / "a.fits")
    for number, (options, invalid) in enumerate({(): 30, ("--no-sections",): 20, ("--no-fill",): 10}.items()):
        archive = tmp_path / f"{number}.zarr"
        words = ["ingest", str(tmp_path / "a.fits"), str(archive), "--cluster", "serial", *options]
        result = CliRunner().invoke(aqdask, words)
        assert result.exit_code == 0, result.output
        assert aq.open_frames(archive)["invalid"][0].sum() == 64 * invalid
        assert ("outside DATASEC: no data" in result.output) == ("--no-sections" not in options)
        assert ("a constant fill: no data" in result.output) == ("--no-fill" not in options)
