"""What goes wrong in or on the detector; see `aqdask.simulate.defect`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from aqdask.simulate.camera import peak_electrons
from aqdask.simulate.defect import Defect
from aqdask.simulate.psf import PHASES
from aqdask.simulate.scene import Light, SceneSpec
from aqdask.simulate.sources import render_stars


@dataclass(frozen=True)
class ReadNoise(Defect):
    """The whole frame has this read noise."""

    kind, unit = "read_noise", "e-"

    def scene(self, spec: SceneSpec) -> SceneSpec:
        return dataclasses.replace(spec, read_noise=self.amplitude)


@dataclass(frozen=True)
class GainError(Defect):
    """The amplifier's gain is off: counts are ``1 + amplitude`` times what the header's GAIN says."""

    kind, unit = "gain_error", "fraction of the counts"

    def scene(self, spec: SceneSpec) -> SceneSpec:
        return dataclasses.replace(spec, gain=spec.gain / (1 + self.amplitude))


@dataclass(frozen=True)
class DeadColumn(Defect):
    """A column that has lost ``amplitude`` of its response to light (1: dead), above ``start`` (fraction)."""

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
    """``number`` more stars of ``amplitude`` electrons each, so bright that their charge bleeds.

    In a scene without full wells, these are set to what the largest count stands for, and stars of the scene
    that are brighter bleed as well: all that this changes is in the truth.
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
    """Tracks of 1 to ``longest`` px, ``amplitude`` electrons in each pixel, ``density`` per pixel."""

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
    """A column above a defect pixel at ``start`` (fraction): all that is read out through it is brighter."""

    column: float = 0.3
    start: float = 0.0
    kind, unit = "hot_column", "e-"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        change = np.zeros(spec.shape, np.float32)
        change[int(self.start * spec.height) :, int(self.column * spec.width)] = self.amplitude
        return change


@dataclass(frozen=True)
class Banding(Defect):
    """Electronic interference: rows rise and fall as a sine of ``amplitude`` with this ``period`` in rows."""

    period: float = 14.0
    kind, unit = "banding", "e-"

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
        phase = rng.uniform(0, 2 * np.pi)
        wave = self.amplitude * np.sin(2 * np.pi * np.arange(spec.height) / self.period + phase)
        return np.broadcast_to(wave.astype(np.float32)[:, None], spec.shape)
