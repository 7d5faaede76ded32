"""One simulated frame: the scene, its defects, the detector's noise, and the truth about every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqdask.sky.defects import TRUTH_SIGMA, Defect
from aqdask.sky.scene import SceneSpec, draw_stars, expose, stream

__all__ = ["SceneSpec", "SimulatedFrame", "simulate_frame"]

GAUSSIAN_ABOVE = (
    50.0  # e-; a Poisson number this large is drawn as a Gaussian (skewness below 0.14), 5 x faster
)
PIXEL_SCALE = 1.0  # arcsec
FIELD_CENTRE = (
    210.0,
    35.0,
)  # right ascension and declination in degrees: away from the plane of the Milky Way

Header = dict[str, tuple[str | int | float, str]]


@dataclass(frozen=True)
class SimulatedFrame:
    """What came out of the camera, and what is true.

    Parameters
    ----------
    image : ndarray
        uint16 ``(y, x)`` in ADU.
    truth : dict of str to ndarray
        Kind of defect to bool ``(y, x)``, True = affected; empty for a good frame.
    header : dict
        Keyword to (value, comment).
    stars : ndarray
        float64 ``(n, 3)``: x, y in pixels, flux in electrons before vignetting and defects. Some lie
        outside of the frame.
    """

    image: np.ndarray
    truth: dict[str, np.ndarray]
    header: Header
    stars: np.ndarray


def simulate_frame(spec: SceneSpec, defects: Sequence[Defect] = (), seed: int = 0) -> SimulatedFrame:
    """Draw one frame.

    The same specification, defects and seed give the same bytes on the same machine (matrix products may
    differ in the last bit elsewhere). Every purpose has its own random stream, so a frame with and without
    a defect shows the same stars under the same sky.

    Truth: see `aqdask.sky.defects`. The noise it is measured in is that of the good frame at that pixel,
    ``sqrt(sky + stars + read_noise**2)`` electrons.
    """
    scene = spec
    for defect in defects:
        scene = defect.scene(scene)
    stars = draw_stars(scene, seed)
    light = expose(scene, stars, seed)
    expected = light.sky + light.stars
    noise = np.sqrt(expected + np.float32(spec.read_noise**2))
    truth: dict[str, np.ndarray] = {}
    for position, defect in enumerate(defects):
        change = defect.change(light, scene, stream(seed, f"{defect.kind}-{position}"))
        if change is None:
            affected = np.ones(spec.shape, bool)
        else:
            affected = np.abs(change) > TRUTH_SIGMA * noise
            expected += change
        truth[defect.kind] = affected | truth[defect.kind] if defect.kind in truth else affected
    image = read_out(scene, expected, stream(seed, "noise"))
    return SimulatedFrame(image, truth, describe(spec, seed), stars)


def read_out(spec: SceneSpec, expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts from expected electrons: photon and read noise, gain, pedestal, saturation; uint16 ``(y, x)``.

    Where no pixel expects fewer than `GAUSSIAN_ABOVE` electrons, photon and read noise are one Gaussian.
    """
    expected = np.maximum(expected, 0)
    counts = rng.standard_normal(expected.shape, dtype=np.float32)
    if expected.min() >= GAUSSIAN_ABOVE:
        counts *= np.sqrt(expected + np.float32(spec.read_noise**2))
        counts += expected
    else:
        counts *= np.float32(spec.read_noise)
        counts += rng.poisson(expected)
    counts /= np.float32(spec.gain)
    counts += np.float32(spec.pedestal)
    return np.clip(np.rint(counts), 0, spec.saturation).astype(np.uint16)


def describe(spec: SceneSpec, seed: int) -> Header:
    """Header of a frame: camera, scene, and a TAN projection with north up and east to the left."""
    degree = PIXEL_SCALE / 3600
    return {
        "INSTRUME": ("SIMCAM", "camera"),
        "FILTER": ("L", "filter"),
        "EXPTIME": (60.0, "[s] exposure time"),
        "GAIN": (spec.gain, "[e-/ADU]"),
        "RDNOISE": (spec.read_noise, "[e-] read noise"),
        "SATURATE": (spec.saturation, "[ADU] largest value"),
        "SIMSEED": (seed, "seed of the simulation"),
        "SIMFWHM": (spec.fwhm, "[px] seeing, without defects"),
        "CTYPE1": ("RA---TAN", "tangent plane"),
        "CTYPE2": ("DEC--TAN", "tangent plane"),
        "CRVAL1": (FIELD_CENTRE[0], "[deg] right ascension"),
        "CRVAL2": (FIELD_CENTRE[1], "[deg] declination"),
        "CRPIX1": ((spec.width + 1) / 2 + spec.pointing[1], "[px] counted from 1"),
        "CRPIX2": ((spec.height + 1) / 2 + spec.pointing[0], "[px] counted from 1"),
        "CDELT1": (-degree, "[deg/px]"),
        "CDELT2": (degree, "[deg/px]"),
        "CUNIT1": ("deg", ""),
        "CUNIT2": ("deg", ""),
        "RADESYS": ("ICRS", "reference system"),
    }
