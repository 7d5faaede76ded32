"""Simulated frames with known defects: image, header, stars, and the truth of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from aqdask.simulate.camera import bleed, dark_current, flat_field, read_out
from aqdask.simulate.defect_base import TRUTH_SIGMA, Defect
from aqdask.simulate.scene import Light, SceneSpec, correlated_field, stream
from aqdask.simulate.sources import draw_galaxies, draw_stars, render_galaxies, render_stars

__all__ = ["SceneSpec", "SimulatedFrame", "expose", "read_out", "simulate_frame"]

FIELD_CENTRE = 210.0, 35.0  # right ascension and declination in degrees, far from the Milky Way

Header = dict[str, tuple[str | int | float, str]]


@dataclass(frozen=True)
class SimulatedFrame:
    """Simulated frame and its truth.

    Parameters
    ----------
    image : ndarray
        uint16 ``(y, x)``, ADU.
    truth : dict of str to ndarray
        Kind of defect to bool ``(y, x)``, True = affected; empty for a good frame.
    header : dict
        Keyword to (value, comment).
    stars : ndarray
        float64 ``(n, 3)``: x, y in pixels, flux in electrons before vignetting and defects. Some lie
        outside the frame.
    """

    image: np.ndarray
    truth: dict[str, np.ndarray]
    header: Header
    stars: np.ndarray


def simulate_frame(spec: SceneSpec, defects: Sequence[Defect] = (), seed: int = 0) -> SimulatedFrame:
    """Draw one frame.

    Parameters
    ----------
    spec : SceneSpec
        The scene without defects.
    defects : sequence of Defect
        Applied in turn; their changes add up.
    seed : int
        The same scene, defects and seed give the same bytes on the same machine. Elsewhere matrix products
        may differ in the last bit.

    Notes
    -----
    Every purpose has its own random stream, so that frames with and without a defect show the same stars and
    sky.

    `aqdask.simulate.defect_base` defines an affected pixel. The noise is that of the good frame at the pixel,
    ``sqrt(sky + stars + dark + read_noise**2)`` electrons, after blooming. Each defect is compared with the
    frame that has the defects before it.
    """
    scenes = list(accumulate(defects, lambda scene, defect: defect.scene(scene), initial=spec))
    scene = scenes[-1]
    stars = draw_stars(scene, seed)
    light = expose(scene, stars, seed)
    expected = light.total()
    charge = bleed(expected, spec.full_well)
    noise = np.sqrt(charge + np.float32(spec.read_noise**2))
    truth: dict[str, np.ndarray] = {}
    for position, defect in enumerate(defects):
        change = defect.change(light, scene, stream(seed, f"{defect.kind}-{position}"))
        if change is None:
            affected = np.ones(spec.shape, bool)
        elif (full_well := scenes[position + 1].full_well) is None:
            affected = np.abs(change) > TRUTH_SIGMA * noise
            expected += change
            charge = expected
        else:
            expected = expected + change
            before, charge = charge, bleed(expected, full_well)
            affected = np.abs(charge - before) > TRUTH_SIGMA * noise
        truth[defect.kind] = affected | truth[defect.kind] if defect.kind in truth else affected
    image = read_out(scene, charge, stream(seed, "noise"))
    return SimulatedFrame(image, truth, describe(spec, seed), stars)


def expose(spec: SceneSpec, stars: np.ndarray, seed: int) -> Light:
    """Expected light and dark current of a good frame.

    Parameters
    ----------
    spec : SceneSpec
        The scene.
    stars : ndarray (n, 3)
        x, y in pixels and flux in electrons before vignetting.
    seed : int
        Seed of sky structure and galaxies.
    """
    flat = flat_field(spec)
    structure = correlated_field(spec.shape, spec.structure_scale, stream(seed, "structure"))
    sky = flat * np.float32(spec.sky)
    sky *= np.maximum(1 + np.float32(spec.structure) * structure, 0)
    sources = render_stars(spec, stars)
    if spec.galaxies:
        sources += render_galaxies(spec, draw_galaxies(spec, seed))
    return Light(sky, sources * flat, flat, dark_current(spec))


def add_stars(image: np.ndarray, stars: np.ndarray, spec: SceneSpec, seed: int) -> np.ndarray:
    """Add stars with their photon noise to a simulated frame, for example transients.

    Parameters
    ----------
    image : ndarray (y, x)
        ADU, of scene ``spec``.
    stars : ndarray (n, 3)
        x, y in pixels and flux in electrons before vignetting.
    spec : SceneSpec
        Scene whose PSF, flat, gain and saturation apply.
    seed : int
        Seed of the photon noise.

    Returns
    -------
    ndarray (y, x)
        ADU, type of ``image``.
    """
    electrons = render_stars(spec, np.asarray(stars, dtype=np.float64).reshape(-1, 3)) * flat_field(spec)
    photons = np.random.default_rng(seed).poisson(np.maximum(electrons, 0))
    counts = image + np.rint(photons / spec.gain)
    return np.minimum(counts, spec.saturation).astype(image.dtype)


def describe(spec: SceneSpec, seed: int) -> Header:
    """Header cards of a frame: camera, scene, and a TAN projection with north up and east to the left."""
    degree = spec.pixel_scale / 3600
    return {
        "INSTRUME": (spec.camera, "camera"),
        "FILTER": (spec.filter, "filter"),
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
