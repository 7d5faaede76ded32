"""Source catalogues with `sep` (Barbary 2016, JOSS 1, 58): positions, fluxes, sizes and shapes.

Positions are 0-based pixels ``(x, y)`` with integers at pixel centres; arrays are ``(y, x)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import sep

from aqdask.errors import UsageError
from aqdask.photometry.sky_subtraction import MIN_AREA, SkySubtracted, extract

KRON_LIMIT = 6.0  # isophotal radii within which the Kron radius is measured (SExtractor)
KRON_FACTOR, KRON_LEAST = 2.5, 1.75  # aperture in Kron radii, and its smallest radius in pixels (sep's guide)
GAUSSIAN_FWHM = 2 * math.sqrt(math.log(2))  # FWHM of a round Gaussian over sqrt(a**2 + b**2)


@dataclass(frozen=True)
class DetectSpec:
    """Settings of a detection; names and meanings are those of ``sep.extract``.

    Parameters
    ----------
    threshold : float
        Sigma of the local sky noise.
    minarea : int
        Smallest number of pixels above the threshold.
    apertures : tuple of float
        Radii of circular apertures, pixels, at least one.
    deblend_nthresh : int
        Number of thresholds for deblending.
    deblend_cont : float
        Smallest contrast of a deblended part, in [0, 1]; 1 switches deblending off.
    clean : bool
        Remove spurious detections in the wings of bright sources. Off by default, since it takes stars beside
        a trail or a hot column for spurious ones.
    """

    threshold: float = 3.0
    minarea: int = MIN_AREA
    apertures: tuple[float, ...] = (3.0, 6.0)
    deblend_nthresh: int = 32
    deblend_cont: float = 0.005
    clean: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "apertures", tuple(float(radius) for radius in self.apertures))
        radii = self.apertures
        are_radii = all(0 < radius < math.inf for radius in radii) and len(set(radii)) == len(radii) > 0
        expected = {
            "threshold": (0 < self.threshold < math.inf, "above 0"),
            "minarea": (self.minarea >= 1, "of 1 or more"),
            "apertures": (are_radii, "of different radii above 0"),
            "deblend_nthresh": (self.deblend_nthresh >= 1, "of 1 or more"),
            "deblend_cont": (0 <= self.deblend_cont <= 1, "in 0 to 1"),
        }
        for name, (is_usable, wanted) in expected.items():
            if not is_usable:
                raise UsageError(
                    f"{name} = {getattr(self, name)}",
                    expected=f"{name} {wanted}",
                    consequence="Nothing was detected",
                )


class Catalogue(NamedTuple):
    """Sources of one frame.

    Parameters
    ----------
    columns : dict of str to ndarray (n,)
        See `measure_sources`.
    segmentation : ndarray (y, x) of int32, or None
        Number of the source (from 1) that each pixel belongs to, 0 for none; None unless asked for.
    """

    columns: dict[str, np.ndarray]
    segmentation: np.ndarray | None


def measure_sources(
    frame: SkySubtracted, spec: DetectSpec, gain: float = math.nan, *, segmentation: bool = False
) -> Catalogue:
    """Detect and measure the sources of a frame; pixels that are invalid give no sources.

    Parameters
    ----------
    frame : SkySubtracted
        From `subtract_sky`.
    spec : DetectSpec
        Settings.
    gain : float
        Electrons per count; NaN where unknown: errors of fluxes are then those of the sky noise alone.
    segmentation : bool
        Make the segmentation map, too.

    Returns
    -------
    Catalogue
        Columns ``x``, ``y``, ``a``, ``b``, ``theta`` (radians), ``flux``, ``peak``, ``npix`` and ``xpeak``,
        ``ypeak`` of ``sep.extract``; ``flux_err``; ``kron_radius``, ``flux_auto``, ``flux_auto_err`` as in
        the guide of sep; ``flux_radius`` (half of ``flux_auto``); for each aperture of radius r
        ``flux_aper_r``, ``flux_aper_r_err`` and ``flag_aper_r``; ``flag``, bits of the extraction and of
        ``flux_auto``. Counts and pixels. NaN are sizes and angle of detections of negative flux, which have
        no shape; their ``flux_auto`` is that of the smallest circle.

    Raises
    ------
    RuntimeError
        For a frame so crowded or structured that sep gives up.
    """
    found = extract(
        frame.pixels, spec.threshold, err=frame.rms, mask=frame.invalid, minarea=spec.minarea,
        deblend_nthresh=spec.deblend_nthresh, deblend_cont=spec.deblend_cont, clean=spec.clean,
        segmentation_map=segmentation,
    )  # fmt: skip
    sources, labels = found if segmentation else (found, None)
    names = ("x", "y", "flux", "peak", "npix", "a", "b", "theta", "xpeak", "ypeak", "flag")
    columns = {name: np.ascontiguousarray(sources[name]) for name in names}
    rms = frame.rms[columns["ypeak"], columns["xpeak"]].astype(np.float64)
    photons = np.maximum(columns["flux"], 0) / gain if math.isfinite(gain) else 0.0
    columns["flux_err"] = np.sqrt(columns["npix"] * rms**2 + photons)
    columns |= _kron(frame, columns, gain)
    for radius in spec.apertures:
        flux, error, flag = _circle(frame, columns, radius, gain, subpix=5)
        name = aperture_name(radius)
        columns |= {f"flux_{name}": flux, f"flux_{name}_err": error, f"flag_{name}": flag}
    return Catalogue(columns, labels)


def aperture_name(radius: float) -> str:
    """Return the name of an aperture in columns, such as ``aper_3`` for 3 pixels."""
    return f"aper_{radius:g}"


def _circle(
    frame: SkySubtracted, at: dict[str, np.ndarray], radius: float, gain: float, subpix: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux, error and flag in circles."""
    known = gain if math.isfinite(gain) else None
    return sep.sum_circle(
        frame.pixels, at["x"], at["y"], radius, err=frame.rms, mask=frame.invalid, gain=known, subpix=subpix
    )


def _kron(frame: SkySubtracted, columns: dict[str, np.ndarray], gain: float) -> dict[str, np.ndarray]:
    """Kron photometry and half-light radius of sources, as in the guide of sep.

    Detections without a shape, such as those of negative flux, are measured in the smallest circle.
    """
    x, y, a, b = (columns[name] for name in "xyab")
    has_shape = np.isfinite(a * b)
    a, b = np.where(has_shape, a, 1.0), np.where(has_shape, b, 1.0)  # others raise in sep
    theta = np.clip(columns["theta"], -math.pi / 2, math.pi / 2)  # rounding may lead beyond
    kron, kron_flag = sep.kron_radius(frame.pixels, x, y, a, b, theta, KRON_LIMIT, mask=frame.invalid)
    kron[~has_shape] = np.nan
    is_small = ~(kron * np.sqrt(a * b) >= KRON_LEAST)
    flux, error, flag = sep.sum_ellipse(
        frame.pixels, x, y, a, b, theta, np.where(is_small, 0.0, KRON_FACTOR * kron), err=frame.rms,
        mask=frame.invalid, gain=gain if math.isfinite(gain) else None, subpix=1,
    )  # fmt: skip
    small = {"x": x[is_small], "y": y[is_small]}
    flux[is_small], error[is_small], flag[is_small] = _circle(frame, small, KRON_LEAST, gain, subpix=1)
    half, half_flag = sep.flux_radius(
        frame.pixels, x, y, KRON_LIMIT * a, 0.5, normflux=flux, mask=frame.invalid, subpix=5
    )
    usable = has_shape & (flux > 0) & np.isfinite(half) & (half_flag & sep.APER_NONPOSITIVE == 0)
    return {
        "kron_radius": kron, "flux_auto": flux, "flux_auto_err": error,
        "flux_radius": np.where(usable, half, np.nan), "flag": columns["flag"] | kron_flag | flag,
        "theta": theta,
    }  # fmt: skip


def masked_fractions(
    mask: np.ndarray, columns: dict[str, np.ndarray], spec: DetectSpec
) -> dict[str, np.ndarray]:
    """Compute the masked fraction of each aperture, of what of it lies in the frame.

    Parameters
    ----------
    mask : ndarray (y, x) of bool
        True = bad.
    columns : dict of str to ndarray (n,)
        From `measure_sources`.
    spec : DetectSpec
        Settings of that call.

    Returns
    -------
    dict of str to ndarray (n,)
        float64 in [0, 1]: ``masked_fraction`` of the aperture of ``flux_auto``, and ``masked_aper_r`` for
        each aperture of radius r.
    """
    x, y, a, b, theta, kron = (columns[name] for name in ("x", "y", "a", "b", "theta", "kron_radius"))
    is_small = ~(kron * np.sqrt(a * b) >= KRON_LEAST)
    major, minor = (np.where(is_small, KRON_LEAST, KRON_FACTOR * kron * axis) for axis in (a, b))
    shapes = {"masked_fraction": (major, minor)}
    for radius in spec.apertures:
        shapes[f"masked_{aperture_name(radius)}"] = np.full(len(x), radius), np.full(len(x), radius)
    if not mask.any():
        return {name: np.zeros(len(x)) for name in shapes}
    height, width = mask.shape
    planes = np.ascontiguousarray(mask, np.float32), np.ones(mask.shape, np.float32)
    found = {}
    for name, (major, minor) in shapes.items():
        bad = sep.sum_ellipse(planes[0], x, y, major, minor, theta, 1.0, subpix=0)[0]
        area = math.pi * major * minor
        near = np.minimum(np.minimum(x, y), np.minimum(width - 1 - x, height - 1 - y)) + 0.5 < major
        cut = np.flatnonzero(near)  # the edge of the frame
        part = (values[cut] for values in (x, y, major, minor, theta))
        area[cut] = sep.sum_ellipse(planes[1], *part, 1.0, subpix=0)[0]
        found[name] = np.clip(bad / area, 0, 1)
    return found
