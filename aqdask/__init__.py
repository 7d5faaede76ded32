"""aqdask: patch quality scores and masks for archives of large astronomical frames, on Dask.

    import aqdask as aq

    aq.ingest("night/*.fits.fz", "night.zarr")
    model = aq.calibrate("night.zarr", "wide-field", out="camera.safetensors")
    aq.score("night.zarr", model)
    quality = aq.open_quality("night.zarr")
    mask = aq.mask(quality, alpha=0.01)

Functions run on the Dask client of this process if there is one, else in this process; ``cluster=`` names
another place (``local``, ``slurm:FILE``, ``tcp://...``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aqdask.api import (
        Bundle,
        Comparison,
        Detections,
        LabelAgreement,
        Summary,
        Verification,
        WatchCounts,
        WatchSettings,
        calibrate,
        compare,
        detect,
        drift,
        export,
        ingest,
        label,
        label_agreement,
        label_from_file,
        labels,
        light_curves,
        load_model,
        mask,
        open_frames,
        open_quality,
        quality_of,
        rank_frames,
        reconstruct,
        report,
        run,
        score,
        select,
        stack,
        train,
        transients,
        verify,
        watch,
    )
    from aqdask.errors import AqdaskError
    from aqdask.measurements.light_curves import LightCurves
    from aqdask.measurements.search import FoundTransients
    from aqdask.products.drift import ArchiveDrift
    from aqdask.products.report.page import ReportPage
    from aqdask.version import __version__

__all__ = [
    "AqdaskError",
    "ArchiveDrift",
    "Bundle",
    "Comparison",
    "Detections",
    "FoundTransients",
    "LabelAgreement",
    "LightCurves",
    "ReportPage",
    "Summary",
    "Verification",
    "WatchCounts",
    "WatchSettings",
    "__version__",
    "calibrate",
    "compare",
    "detect",
    "drift",
    "export",
    "ingest",
    "label",
    "label_agreement",
    "label_from_file",
    "labels",
    "light_curves",
    "load_model",
    "mask",
    "open_frames",
    "open_quality",
    "quality_of",
    "rank_frames",
    "reconstruct",
    "report",
    "run",
    "score",
    "select",
    "stack",
    "train",
    "transients",
    "verify",
    "watch",
]

_ELSEWHERE = {
    "AqdaskError": "aqdask.errors",
    "FoundTransients": "aqdask.measurements.search",
    "LightCurves": "aqdask.measurements.light_curves",
    "ArchiveDrift": "aqdask.products.drift",
    "ReportPage": "aqdask.products.report.page",
    "__version__": "aqdask.version",
}


def __getattr__(name: str) -> Any:
    """Load the API when it is first used: ``aqdask --help`` needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'aqdask' has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "aqdask.api")), name)


def __dir__() -> list[str]:
    return __all__
