"""Variables that ``method="aqdask"`` gives for a frame.

The size of a PSF is the geometric mean of its standard deviations along its axes, the pixel included; its
ellipticity is ``e1 = e cos 2t``, ``e2 = e sin 2t`` with ``e = (a**2 - b**2) / (a**2 + b**2)`` and the angle t
from +x towards +y. `references.ImageStatistics` has another ellipticity, ``1 - b / a``.
"""

from __future__ import annotations

import numpy as np

from aqdask import flags
from aqdask.specs import Variable


def _map(name: str, long_name: str, units: str = "1") -> Variable:
    return Variable(name, "float32", np.nan, {"long_name": long_name, "units": units})


def _number(name: str, long_name: str, units: str = "1") -> Variable:
    return Variable(name, "float32", np.nan, {"long_name": long_name, "units": units}, per_frame=True)


# Per patch: decision, published score, physical maps. Per frame: score, flag, the same physical quantities.
VARIABLES: tuple[Variable, ...] = (
    _map("score", "patch score, -log10 of the smallest group p-value, larger is worse"),
    _map("pvalue", "p-value of the patch, smaller is worse"),
    Variable(
        "reason",
        "uint8",
        flags.code(flags.REASONS, "no_data"),
        {"long_name": "property of the patch with the smallest p-value", **flags.cf_values(flags.REASONS)},
    ),
    _map("mae", "mean absolute residual of the reconstruction in units of the noise"),
    _map("sky", "sky of the patch", "count"),
    _map("noise_ratio", "measured over expected standard deviation of the noise"),
    _map("size_ratio", "PSF size relative to the reference frames, above 1 = wider"),
    _map("e1", "PSF ellipticity along the axes less that of the reference frames"),
    _map("e2", "PSF ellipticity along the diagonals less that of the reference frames"),
    _map("stars", "stars in the patch above 5 sigma"),
    _number(
        "frame_score",
        "frame score: distance from the reference frames in standard deviations, or 25 times the masked "
        "fraction of the patches where that is more, larger is worse",
    ),
    Variable(
        "frame_flag",
        "uint8",
        255,  # not scored
        {
            "long_name": "frame is flagged: frame_score above 5 (standard deviations of size, ellipticity, "
            "noise or sky, or more than 20 % of the patches masked)",
            "flag_values": [0, 1, 255],
            "flag_meanings": "good flagged not_scored",
        },
        per_frame=True,
    ),
    _number(
        "frame_size_ratio",
        "PSF size of the frame relative to that of the reference frames, above 1 = wider",
    ),
    _number("frame_ellipticity", "modulus of the difference in PSF ellipticity from the reference frames"),
    _number("frame_size_pvalue", "p-value of the frame's PSF size"),
    _number("frame_ellipticity_pvalue", "p-value of the frame's PSF ellipticity"),
    _number("frame_sky", "median sky of the patches, pedestal included", "count"),
    _number("frame_noise_ratio", "median measured over expected standard deviation of the noise"),
    _number("frame_stars", "mean number of stars per patch"),
    Variable(
        "out_of_reference",
        "uint8",
        0,
        {
            "long_name": "quantities outside the range of the reference frames: stars per patch "
            "(density), sky, noise relative to the noise model (gain)",
            "flag_masks": list(flags.OUTSIDE.values()),
            "flag_meanings": " ".join(flags.OUTSIDE),
        },
        per_frame=True,
    ),
)
