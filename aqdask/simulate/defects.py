"""Defects of sky and optics, and the table of all kinds of defect."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from aqdask.simulate.camera import corner_distance
from aqdask.simulate.defect_base import TRUTH_SIGMA, Defect
from aqdask.simulate.detector_defects import (
    Banding,
    CosmicRays,
    DeadColumn,
    GainError,
    HotColumn,
    ReadNoise,
    SaturatedStars,
)
from aqdask.simulate.scene import Light, SceneSpec, correlated_field

__all__ = [
    "DEFECTS", "KINDS", "TRUTH_SIGMA", "Background", "Banding", "Cloud", "CosmicRays", "DeadColumn", "Defect",
    "Defocus", "Elongation", "GainError", "Ghost", "Gradient", "HotColumn", "ReadNoise", "Region",
    "SaturatedStars", "Trail", "Vignetting",
]  # fmt: skip


@dataclass(frozen=True)
class Region:
    """Rectangle in fractions of the frame, with soft edges of a third of its sides except at the frame's."""

    top: float = 0.0
    bottom: float = 1.0
    left: float = 0.0
    right: float = 1.0

    def window(self, shape: tuple[int, int]) -> np.ndarray:
        """Weight of each pixel, float32 ``(y, x)`` in [0, 1], with raised cosines at the edges."""
        down = _soft_interval(shape[0], self.top, self.bottom)
        return down[:, None] * _soft_interval(shape[1], self.left, self.right)


def _soft_interval(length: int, start: float, stop: float) -> np.ndarray:
    position = (np.arange(length) + 0.5) / length
    from_start = position - start if start > 0 else np.ones(length)
    from_stop = stop - position if stop < 1 else np.ones(length)
    inside = np.minimum(from_start, from_stop) * 3 / (stop - start)
    return (0.5 - 0.5 * np.cos(np.pi * np.clip(inside, 0, 1))).astype(np.float32)


@dataclass(frozen=True)
class Defocus(Defect):
    """Focus error: the whole frame has this FWHM."""

    kind, unit = "defocus", "px FWHM"

    def scene(self, spec: SceneSpec) -> SceneSpec:
        return dataclasses.replace(spec, fwhm=self.amplitude)


@dataclass(frozen=True)
class Elongation(Defect):
    """Guiding error: all stars are smeared along a line of this length."""

    angle: float = 30.0  # degrees from +x towards +y
    kind, unit = "elongation", "px"

    def scene(self, spec: SceneSpec) -> SceneSpec:
        return dataclasses.replace(spec, drift=self.amplitude, drift_angle=self.angle)


@dataclass(frozen=True)
class Background(Defect):
    """Background structure: noise of ``scale`` px FWHM with an rms of ``amplitude`` times the sky."""

    scale: float = 32.0
    region: Region = Region()
    kind, unit = "background", "fraction of sky, rms"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        field = correlated_field(spec.shape, self.scale, rng) * self.region.window(spec.shape)
        return np.float32(self.amplitude) * light.sky * np.maximum(field, -1 / max(self.amplitude, 1e-9))


@dataclass(frozen=True)
class Cloud(Defect):
    """Cloud: stars are dimmed by up to ``amplitude``, the sky is brighter by up to ``glow``.

    ``glow`` is scattered light as a fraction of the sky. With 0, as under a dark sky, only pixels of stars
    are affected.
    """

    glow: float = 0.3
    region: Region = Region()
    kind, unit = "cloud", "fraction of starlight lost"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        billows = correlated_field(spec.shape, max(spec.shape) / 6, rng)
        billows += 0.4 * correlated_field(spec.shape, max(spec.shape) / 20, rng)
        thickness = np.clip(0.6 + 0.4 * billows, 0, 1) * self.region.window(spec.shape)
        return thickness * (np.float32(self.glow) * light.sky - np.float32(self.amplitude) * light.stars)


@dataclass(frozen=True)
class Gradient(Defect):
    """Moonlight: the sky rises linearly along ``angle``, from 0 to ``amplitude`` times the sky."""

    angle: float = 60.0
    kind, unit = "gradient", "fraction of sky, full range"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        y, x = np.linspace(0, 1, spec.height), np.linspace(0, 1, spec.width)
        direction = math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))
        plane = (y[:, None] * direction[0] + x * direction[1]).astype(np.float32)
        plane -= plane.min()
        return plane * np.float32(self.amplitude * spec.sky / plane.max())


@dataclass(frozen=True)
class Ghost(Defect):
    """Out-of-focus reflection: a disc or ring of ``amplitude`` times the sky.

    Parameters
    ----------
    centre : tuple of float
        Position (y, x) in fractions of the sides of the frame.
    radius : float
        In fractions of the shorter side; the edges are soft over 5 % of it.
    inner : float
        Radius of the dark centre as a fraction of ``radius``; 0 gives a disc.
    """

    centre: tuple[float, float] = (0.5, 0.5)
    radius: float = 0.12
    inner: float = 0.35
    kind, unit = "ghost", "fraction of sky"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        y = np.arange(spec.height, dtype=np.float32) - self.centre[0] * spec.height
        x = np.arange(spec.width, dtype=np.float32) - self.centre[1] * spec.width
        distance = np.hypot(y[:, None], x) / np.float32(self.radius * min(spec.shape))
        disc = np.clip((1 - distance) / 0.05, 0, 1)
        if self.inner > 0:
            disc *= np.clip((distance - self.inner) / 0.05, 0, 1)
        return disc * np.float32(self.amplitude * spec.sky)


@dataclass(frozen=True)
class Trail(Defect):
    """Satellite trail: a straight line across the frame as wide as the seeing.

    Parameters
    ----------
    angle : float
        Degrees from +x towards +y.
    through : tuple of float
        A point (y, x) of the line in fractions of the frame.
    """

    angle: float = 20.0
    through: tuple[float, float] = (0.5, 0.5)
    kind, unit = "trail", "e- peak"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        y = np.arange(spec.height, dtype=np.float32) - self.through[0] * spec.height
        x = np.arange(spec.width, dtype=np.float32) - self.through[1] * spec.width
        angle, sigma = math.radians(self.angle), math.hypot(spec.fwhm, 1) / 2.3548
        distance = np.abs(y[:, None] * np.float32(math.cos(angle)) - x * np.float32(math.sin(angle)))
        change = np.zeros(spec.shape, np.float32)
        near = distance < 6 * sigma
        change[near] = self.amplitude * np.exp(-0.5 * (distance[near] / sigma) ** 2)
        return change


@dataclass(frozen=True)
class Vignetting(Defect):
    """Additional vignetting: light loss of ``amplitude`` in the corners, in proportion to r**2."""

    kind, unit = "vignetting", "fraction of light lost in the corners"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        return np.float32(-self.amplitude / 2) * corner_distance(spec.shape) * (light.sky + light.stars)


# The position of a kind is its bit in stored truth images: append only.
DEFECTS: tuple[type[Defect], ...] = (
    Defocus, Background, Cloud, Gradient, Ghost, Trail, CosmicRays, HotColumn, Banding, ReadNoise, Elongation,
    SaturatedStars, DeadColumn, Vignetting, GainError,
)  # fmt: skip
KINDS: tuple[str, ...] = tuple(defect.kind for defect in DEFECTS)
