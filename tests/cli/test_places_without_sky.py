"""Frames with overscan or with corners beyond the detector, from FITS files to masks."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.simulate.truth import NARROW_FRACTIONS, patch_fraction
from aqdask.specs import PatchGrid

ALPHA = 0.01
LEAST = 0.25  # of the patches of the trail, 9 to 12 of each amplitude


@pytest.fixture(scope="module")
def trouble(data_dir, tmp_path_factory):
    """``trouble(kind)``: the folder of one kind of ``make_trouble.py``, and the pixels of its trail."""
    path = data_dir / "trouble" / "make_trouble.py"
    spec = importlib.util.spec_from_file_location("make_trouble", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        module.KINDS[kind](folder)
        return folder, module.TRAIL((512, 512), 1) > 0.3

    return make


def scored(folder, place, **options):
    """Calibrate on refs/ and score test/: notes, quality, and share of invalid pixels of the first frame."""
    model = place / "m.safetensors"
    aq.ingest(folder / "refs", place / "refs.zarr", cluster="serial", **options)
    bundle = aq.calibrate(place / "refs.zarr", "wide-field", frames=["*"], out=model, cluster="serial")
    aq.ingest(folder / "test", place / "test.zarr", cluster="serial", **options)
    aq.score(place / "test.zarr", model, cluster="serial")
    frames = aq.open_frames(place / "test.zarr")
    return bundle.notes, aq.open_quality(place / "test.zarr"), float(frames["invalid"][0].mean())


def found(quality, truth):
    """Masked share of the patches of the trail, by its amplitude; of all patches where there is none."""
    result: dict[int, list[np.ndarray]] = {}
    for frame, pvalue in zip(quality["frame_id"].values, quality["pvalue"].values, strict=True):
        amplitude = int(str(frame).removesuffix(".fits").rpartition("_")[2])
        fraction = patch_fraction(truth, PatchGrid(*truth.shape))
        counted = fraction >= NARROW_FRACTIONS["trail"] if amplitude else np.isfinite(pvalue)
        result.setdefault(amplitude, []).append(pvalue[counted & np.isfinite(pvalue)] <= ALPHA)
    return {amplitude: float(np.concatenate(masked).mean()) for amplitude, masked in result.items()}


@pytest.mark.real
def test_trails_beside_overscan_are_found(trouble, tmp_path):
    """Before sections were read, 0, 0, 0 and .07 were; ``benchmarks/results/overscan.md`` has more frames."""
    folder, trail = trouble("overscan")
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
def test_overscan_without_the_sections_is_found_by_the_calibration(trouble, tmp_path):
    folder, trail = trouble("overscan")
    notes, quality, invalid = scored(folder / "osc", tmp_path, sections=False)
    assert invalid == 0
    assert any("show no sky in any reference frame" in note for note in notes)
    shares = found(quality, np.pad(trail, ((0, 0), (20, 70))))
    assert shares.pop(0) < 0.03
    assert min(shares[120], shares[250], shares[500]) >= LEAST


@pytest.mark.real
@pytest.mark.parametrize("fill", ["zero", "nan"])
def test_trails_beside_corners_beyond_the_detector_are_found(trouble, tmp_path, fill):
    """With zeros none were."""
    folder, trail = trouble("footprint")
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
