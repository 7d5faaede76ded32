"""Defects of the detector and its electronics."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from aqdask.simulate.camera import peak_electrons
from aqdask.simulate.defect_base import Defect
from aqdask.simulate.psf import PHASES
from aqdask.simulate.scene import Light, SceneSpec
from aqdask.simulate.sources import render_stars


@dataclass(frozen=True)
class ReadNoise(Defect):
    """Read noise of the whole frame, in place of the scene's."""

    kind, unit = "read_noise", "e-"

    def scene(self, spec: SceneSpec) -> SceneSpec:
        return dataclasses.replace(spec, read_noise=self.amplitude)


@dataclass(frozen=True)
class GainError(Defect):
    """Gain error: counts are ``1 + amplitude`` times those of the GAIN in the header."""

    kind, unit = "gain_error", "fraction of the counts"

    def scene(self, spec: SceneSpec) -> SceneSpec:
        return dataclasses.replace(spec, gain=spec.gain / (1 + self.amplitude))


@dataclass(frozen=True)
class DeadColumn(Defect):
    """Column without ``amplitude`` of its response (1: dead), from the fraction ``start`` of the rows on."""

    column: float = 0.7
    start: float = 0.0
    kind, unit = "dead_column", "fraction of response lost"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        change = np.zeros(spec.shape, np.float32)
        place = slice(int(self.start * spec.height), None), int(self.column * spec.width)
        change[place] = -self.amplitude * (light.sky[place] + light.stars[place])
        return change


@dataclass(frozen=True)
class SaturatedStars(Defect):
    """Additional stars, ``number`` of ``amplitude`` electrons each, so bright that their charge blooms.

    In a scene without a full well, the full well becomes the charge at saturation. Brighter stars of the
    scene then bloom as well; the truth includes the pixels that they change.
    """

    number: int = 4
    kind, unit = "saturated_stars", "e- a star"

    def scene(self, spec: SceneSpec) -> SceneSpec:
        return dataclasses.replace(spec, full_well=spec.full_well or peak_electrons(spec))

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        place = rng.uniform(0, 1, (self.number, 2)) * (spec.width, spec.height)
        place = np.round(place * PHASES) / PHASES
        stars = np.column_stack([place, np.full(self.number, float(self.amplitude))])
        return render_stars(spec, stars) * light.flat


@dataclass(frozen=True)
class CosmicRays(Defect):
    """Cosmic rays: ``density`` tracks per pixel of 1 to ``longest`` px, with ``amplitude`` in each pixel."""

    density: float = 2e-5
    longest: float = 12.0
    kind, unit = "cosmic_rays", "e- a pixel"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        change = np.zeros(spec.shape, np.float32)
        for _ in range(max(round(self.density * change.size), 1)):
            y, x = rng.uniform(0, spec.height), rng.uniform(0, spec.width)
            length, angle = rng.uniform(1, self.longest), rng.uniform(0, np.pi)
            steps = np.arange(0, length, 0.5)
            rows = (y + steps * math.sin(angle)).astype(int)
            columns = (x + steps * math.cos(angle)).astype(int)
            inside = (rows < spec.height) & (columns >= 0) & (columns < spec.width)
            change[rows[inside], columns[inside]] = self.amplitude
        return change


@dataclass(frozen=True)
class HotColumn(Defect):
    """Column that is brighter from the fraction ``start`` of the rows on, as behind a defective pixel."""

    column: float = 0.3
    start: float = 0.0
    kind, unit = "hot_column", "e-"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        change = np.zeros(spec.shape, np.float32)
        change[int(self.start * spec.height) :, int(self.column * spec.width)] = self.amplitude
        return change


@dataclass(frozen=True)
class Banding(Defect):
    """Electronic interference: a sine over the rows, with a ``period`` in rows and a random phase."""

    period: float = 14.0
    kind, unit = "banding", "e-"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        phase = rng.uniform(0, 2 * np.pi)
        wave = self.amplitude * np.sin(2 * np.pi * np.arange(spec.height) / self.period + phase)
        return np.broadcast_to(wave.astype(np.float32)[:, None], spec.shape)
