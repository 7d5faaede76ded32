"""Results as pictures; none without matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archive import NOTHING, ORACLE
from evaluate import ALPHA
from methods import AQDASK, CLASSICAL, MAE, PAPER, TWO_SIDED

COLOURS = {
    PAPER: "C7", MAE: "C1", CLASSICAL: "C0", AQDASK: "C3", TWO_SIDED: "C2", NOTHING: "0.8", ORACLE: "k",
}  # fmt: skip


def pictures(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """PNG plots of the sweeps and of the archive into ``folder``."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import matplotlib

    matplotlib.use("Agg")
    made = []
    if "fwhm" in results:
        made.append(_fwhm_picture(results["fwhm"], folder / "fwhm.png"))
    if "background" in results:
        made.append(_background_picture(results["background"], folder / "background.png"))
    if "gwac" in results:
        made.append(_archive_picture(results["gwac"], results.get("differences", []), folder / "gwac.png"))
    return made


def _archive_picture(
    rows: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]], path: Path
) -> Path:
    """Bars by mask: scatter of magnitudes, spurious detections, spurious difference-image candidates."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    bars = [
        ("scatter of aperture magnitudes [mag]", rows, lambda row: row["rms"]),
        ("spurious detections left", rows, lambda row: row["detections"]["spurious_kept"]),
        ("spurious difference candidates left", differences, lambda row: row["detections"]["spurious_kept"]),
    ]
    for axes, (title, table, value) in zip(panels, bars, strict=True):
        for place, row in enumerate(table):
            bar = axes.barh(place, value(row), color=COLOURS[row["mask"]])
            axes.bar_label(
                bar, fmt=lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.3f}", padding=2, fontsize="small"
            )
        axes.set_yticks(range(len(table)), [row["mask"] for row in table])
        axes.invert_yaxis()
        axes.margins(x=0.3)
        axes.set_title(title, fontsize="medium")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _lines(axes: Any, steps: Sequence[Mapping[str, Any]], x: str, key: str) -> None:
    """One line a method with error bars."""
    for name in steps[0]["methods"]:
        found = [step["methods"][name][key] for step in steps]
        axes.errorbar(
            [step[x] for step in steps],
            [one["value"] for one in found],
            [one["error"] for one in found],
            label=name,
            color=COLOURS[name],
            marker="o",
            markersize=3,
            capsize=2,
        )


def _fwhm_picture(found: Mapping[str, Any], path: Path) -> Path:
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 7), sharex=True, layout="constrained")
    _lines(above, found["steps"], "fwhm_arcsec", "auroc")
    _lines(below, found["steps"], "fwhm_arcsec", "recall")
    for axes, label in ((above, "AUROC"), (below, f"masked at alpha {ALPHA:g}")):
        axes.axvspan(*(edge * found["pixel_scale"] for edge in (2.2, 2.6)), color="0.9")
        axes.set_ylabel(label)
        axes.set_ylim(-0.02, 1.02)
    above.legend(fontsize="small")
    below.set_xlabel(f"FWHM [arcsec], {found['pixel_scale']} arcsec a pixel; grey: reference frames")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _background_picture(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    from matplotlib import pyplot

    scales = sorted({row["scale_px"] for row in rows})
    figure, panels = pyplot.subplots(
        1, len(scales), figsize=(5 * len(scales), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, scale in zip(panels[0], scales, strict=True):
        _lines(axes, [row for row in rows if row["scale_px"] == scale], "level", "auroc")
        axes.set_title(f"background of {scale} px")
        axes.set_xlabel("rms, fraction of the sky")
    panels[0][0].set_ylabel("AUROC")
    panels[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def masks(panels: Sequence[tuple[Any, Any, str]], alpha: float, path: Path) -> None:
    """Frames ``(y, x)`` with their masked patches in red; a panel is image, p-values and title."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from aqdask.specs import PatchGrid
    from aqdask.stats.masking import bad_pixels

    figure, every = pyplot.subplots(
        1, len(panels), figsize=(6 * len(panels), 5), squeeze=False, layout="constrained"
    )
    for axes, (image, pvalue, title) in zip(every[0], panels, strict=True):
        low, high = np.nanpercentile(image, (2, 99))
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower")
        masked = bad_pixels(pvalue, alpha, PatchGrid(*image.shape))
        axes.imshow(np.ma.masked_equal(masked, 0), cmap="autumn", alpha=0.35, origin="lower")
        axes.set_title(f"{title}\n{masked.mean():.1%} masked at alpha {alpha:g}", fontsize="small")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
