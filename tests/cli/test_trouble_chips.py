"""Four chips a file under one name of the instrument, from FITS files to masks."""

from __future__ import annotations

import pytest
from trails import ALPHA, scored


@pytest.mark.real
@pytest.mark.slow
def test_each_chip_has_a_calibration_of_its_own(trouble, tmp_path):
    """Together, one of four was masked at .109."""
    folder, _ = trouble("chips")
    _, quality, _ = scored(folder, tmp_path, hdu="all")
    cameras = [str(camera) for camera in quality["camera"].values]
    assert sorted(set(cameras)) == [f"MosCam IM{chip}" for chip in (1, 2, 3, 4)]
    masked = quality["pvalue"].values <= ALPHA
    assert masked.mean() <= 1.3 * ALPHA
    for camera in set(cameras):  # of 128 good patches each
        assert masked[[name == camera for name in cameras]].mean() < 0.03
