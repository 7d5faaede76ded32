"""Variables that ``method="paper"`` gives for a frame."""

from __future__ import annotations

import numpy as np

from aqdask import flags
from aqdask.specs import Variable

VARIABLES: tuple[Variable, ...] = (
    Variable("score", "float32", np.nan, {"long_name": "patch score, larger is worse", "units": "1"}),
    Variable(
        "pvalue", "float32", np.nan, {"long_name": "split conformal p-value of the score", "units": "1"}
    ),
    Variable(
        "reason",
        "uint8",
        flags.code(flags.REASONS, "no_data"),
        {"long_name": "property of the patch with the smallest p-value", **flags.cf_values(flags.REASONS)},
    ),
    Variable(
        "mae",
        "float32",
        np.nan,
        {"long_name": "mean absolute error of the reconstruction of the normalised patch", "units": "1"},
    ),
    Variable(
        "frame_score",
        "float32",
        np.nan,
        {"long_name": "mean MAE of the patches that have one", "units": "1"},
        per_frame=True,
    ),
)
