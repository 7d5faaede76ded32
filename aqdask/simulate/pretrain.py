"""Training of the shipped model ``wide-field`` on simulated frames: ``python -m aqdask.simulate.pretrain``.

Each frame has a camera of its own (`aqdask.simulate.presets.wide_field_prior`) with known noise and PSF, so
that the head is trained on true sizes and shapes. No frame is used twice.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aqdask.methods.base import FrameSource
from aqdask.methods.bundle import POOLED, Bundle
from aqdask.methods.noise_aware.calibrate import calibrate_cameras, camera_noises
from aqdask.methods.noise_aware.networks import PRIOR, SHAPE_UNITS, Networks, load_networks
from aqdask.methods.noise_aware.noise_model import (
    NoiseModel,
    clipped_variance,
    compress,
    difference,
    sky_level,
    variance_stabilise,
)
from aqdask.methods.noise_aware.reference_split import split_groups
from aqdask.methods.shipped import SHIPPED, place
from aqdask.methods.training.loop import fit
from aqdask.methods.training.progress import TrainProgress
from aqdask.methods.training.schedules import factor
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.presets import preset, wide_field_prior
from aqdask.simulate.psf import local_fwhm
from aqdask.simulate.scene import SceneSpec
from aqdask.specs import FrameMetadata
from aqdask.stats.patches import gather

ARCHITECTURE: dict[str, Any] = {"width": 16, "inner": 64, "latent": 3}
SIZE_UNIT = 1.5  # px; the head estimates ln of the size in this unit
# the crop and its quarters as regions of an 8 x 8 grid: top, bottom, left, right
_REGIONS = ((0, 8, 0, 8), (0, 4, 0, 4), (0, 4, 4, 8), (4, 8, 0, 4), (4, 8, 4, 8))
SIDE, PATCH = 384, 64  # px of a simulated frame and of a crop
FRAMES, CROPS = 32, 256  # frames of a pass, and crops of each frame
BATCH = 64
STEPS = 16_000
RATE = 4e-3
WARM_UP = 50  # steps in which the rate rises from zero
MAX_ELLIPTICITY = 0.4  # in half of the frames; the others have round stars
PIXEL_VARIANCE = 1 / 12  # px**2, second moment of a pixel
SIGMA_PER_FWHM = 1 / 2.3548
_FRAME, _HELD_OUT = 21, 22  # first words of the seeds
REFERENCES, REFERENCE_SIDE = 30, 1024  # frames that calibrate the shipped model, and their side in px
CAMERA = "simulator"


def reconstruction(networks: Networks, u: torch.Tensor) -> torch.Tensor:
    """Mean squared residual of variance-stabilised crops ``(n, P, P)`` after compression, 0-d."""
    v = compress(u)[:, None].contiguous(memory_format=torch.channels_last)
    return torch.nn.functional.mse_loss(networks.autoencoder(v), v)


def likelihood(networks: Networks, v: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of true sizes and shapes given the estimates of the head, 0-d.

    The estimate of a region is ``sum(w t) / (sum(w) + PRIOR)`` with variance ``1 / (sum(w) + PRIOR)``. The
    whole crop and its quarters count, so that the weights of cells can be summed over any region.

    Parameters
    ----------
    networks : Networks
        The head is used.
    v : Tensor (n, P, P)
        Compressed crops.
    truth : Tensor (n, 3)
        ln size, e1, e2 in units of `SHAPE_UNITS`.
    """
    weight, product = networks.head(v[:, None].contiguous(memory_format=torch.channels_last))
    cells = weight.shape[-1]
    total = torch.zeros((), device=v.device)
    for region in _REGIONS:
        top, bottom, left, right = (edge * cells // 8 for edge in region)
        precision = weight[:, :, top:bottom, left:right].sum(dim=(2, 3)) + PRIOR
        value = product[:, :, top:bottom, left:right].sum(dim=(2, 3)) / precision
        total = total + (precision * (value - truth) ** 2 - precision.log()).mean() / 2
    return total / len(_REGIONS)


@dataclass(frozen=True)
class Pass:
    """Training crops.

    Parameters
    ----------
    u : ndarray (n, P, P)
        float32, in units of the noise.
    truth : ndarray (n, 3)
        float32, ln size, e1, e2 in units of `SHAPE_UNITS`.
    """

    u: np.ndarray
    truth: np.ndarray


def draw_pass(seed: int, number: int, tag: int = _FRAME, frames: int = FRAMES) -> Pass:
    """Draw shuffled crops of new frames; ``seed``, ``number`` and ``tag`` seed the generator."""
    parts = [_crops(np.random.default_rng([tag, seed, number, k])) for k in range(frames)]
    u, truth = (np.concatenate([getattr(part, name) for part in parts]) for name in ("u", "truth"))
    order = np.random.default_rng([tag, seed, number]).permutation(len(u))
    return Pass(u[order], truth[order])


def _crops(rng: np.random.Generator) -> Pass:
    """Crops of one simulated frame of a random camera, with the true sizes and shapes of stars."""
    scene = wide_field_prior(rng, SIDE, SIDE)
    ellipticity = rng.uniform(0, MAX_ELLIPTICITY) if rng.random() < 0.5 else 0.0
    sigma = scene.fwhm * SIGMA_PER_FWHM
    # A line of length L adds L**2 / 12 along it: e = m / (2 sigma**2 + m).
    drift = sigma * math.sqrt(24 * ellipticity / (1 - ellipticity))
    # One PSF per frame: zones of a varying PSF are expensive, and nearly equal in so small a field.
    scene = replace(scene, drift=drift, drift_angle=rng.uniform(0, 180), fwhm_variation=0.0)
    image = simulate_frame(scene, seed=int(rng.integers(2**31))).image
    tops, lefts = (rng.integers(0, SIDE - PATCH + 1, CROPS) for _ in range(2))
    counts = torch.from_numpy(gather(image, tops, lefts, PATCH).astype(np.float32))
    noise = camera_noise(scene)
    sky = sky_level(counts, None, clipped_variance(difference(counts, None)))
    u = variance_stabilise(counts, sky, noise).float().numpy()
    return Pass(u, _truth(scene, lefts + PATCH / 2, tops + PATCH / 2))


def camera_noise(scene: SceneSpec) -> NoiseModel:
    """Noise model of the camera of a scene, from its true gain and read noise."""
    a = (scene.read_noise / scene.gain) ** 2 - scene.pedestal / scene.gain
    return NoiseModel(a, 1 / scene.gain, floor=0.25 * (scene.read_noise / scene.gain) ** 2)


def _truth(scene: SceneSpec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """True ln size (of `SIZE_UNIT`), e1, e2 at positions x, y in `SHAPE_UNITS`, float32 ``(n, 3)``."""
    variance = (local_fwhm(scene, x, y) * SIGMA_PER_FWHM) ** 2 + PIXEL_VARIANCE
    along = scene.drift**2 / 12
    angle = 2 * math.radians(scene.drift_angle)
    e = along / (2 * variance + along)
    size = np.sqrt(np.sqrt(variance * (variance + along)))
    found = [np.log(size / SIZE_UNIT), e * math.cos(angle), e * math.sin(angle)]
    return (np.stack(found, axis=1) / SHAPE_UNITS).astype(np.float32)


class PretrainRecipe:
    """Joint training of both networks on crops of simulated frames (see `aqdask.methods.training.loop`).

    Parameters
    ----------
    seed, steps : int
        Seed of weights and crops, and number of optimiser steps.
    pool : ProcessPoolExecutor
        Draws the next pass during the current one.
    """

    def __init__(self, seed: int, steps: int, pool: ProcessPoolExecutor) -> None:
        self.seed, self.steps, self.pool = seed, steps, pool
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = Networks(**ARCHITECTURE)
        self.network = torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
        self.validation = draw_pass(seed, 0, _HELD_OUT, 24)
        self.drawn: dict[int, Future[Pass]] = {}

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return crops ``(batch, P, P)`` and truth ``(batch, 3)`` of one step."""
        number, at = divmod(step, FRAMES * CROPS // BATCH)
        for ahead in (number, number + 1):
            if ahead not in self.drawn:
                self.drawn[ahead] = self.pool.submit(draw_pass, self.seed, ahead)
        self.drawn.pop(number - 1, None)
        crops = self.drawn[number].result()
        part = slice(at * BATCH, (at + 1) * BATCH)
        return torch.from_numpy(crops.u[part]), torch.from_numpy(crops.truth[part])

    def loss(self, step: int, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return the loss of a batch, reconstruction plus likelihood of the shapes, 0-d."""
        self.network.train()
        return self._loss(*batch)

    def _loss(self, u: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        shape = likelihood(self.network, compress(u), truth)
        return reconstruction(self.network, u) + shape

    def held_out(self) -> float:
        """Return the loss on frames of other seeds."""
        self.network.eval()
        u, truth = torch.from_numpy(self.validation.u), torch.from_numpy(self.validation.truth)
        parts = zip(u.split(BATCH), truth.split(BATCH), strict=True)
        return float(np.mean([self._loss(*part).item() for part in parts]))

    def rate(self, step: int) -> float:
        """Return the learning rate: a warm-up, then half a cosine to zero."""
        return RATE * factor("cosine", step, self.steps, WARM_UP)


class SimulatedFrames(FrameSource):
    """Good frames of one simulated camera, as reference frames."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([_HELD_OUT, seed, 1])
        base = replace(preset("default"), height=REFERENCE_SIDE, width=REFERENCE_SIDE)
        self.scenes = [
            replace(base, sky=float(rng.uniform(800, 1200)), fwhm=float(rng.uniform(2.2, 2.6)))
            for _ in range(REFERENCES)
        ]
        self.seeds = [int(rng.integers(2**31)) for _ in self.scenes]
        self.ids: Sequence[str] = [f"simulated-{k:03d}" for k in range(REFERENCES)]
        self.metadata: Sequence[FrameMetadata] = [
            FrameMetadata(exptime=60.0, filter="L", camera=CAMERA, gain=base.gain) for _ in self.scenes
        ]

    def read(self, index: int, /) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw one frame, uint16 ``(y, x)``; no pixel is invalid."""
        return simulate_frame(self.scenes[index], seed=self.seeds[index]).image, None


def pretrain(seed: int = 0, steps: int = STEPS, trained: Bundle | None = None) -> Bundle:
    """Train and calibrate the shipped model; half an hour on two cores.

    Parameters
    ----------
    seed, steps : int
        Seed of everything, and number of optimiser steps.
    trained : Bundle, optional
        A trained model, which is calibrated again without training.
    """
    if trained:
        networks, curve = load_networks(trained), trained.provenance["loss_curve"]
        seed, steps = (trained.provenance["settings"][name] for name in ("seed", "steps"))
    else:
        with ProcessPoolExecutor(1) as pool:
            recipe = PretrainRecipe(seed, steps, pool)
            curve, networks = fit(recipe, _tell).facts(), recipe.network
    frames, spec = SimulatedFrames(seed), TrainSpec(name=SHIPPED, seed=seed)
    groups = split_groups(frames, spec)
    noises = camera_noises(frames, groups, PATCH, spec.alpha, _tell)
    calibrations = calibrate_cameras(networks, frames, groups, noises, spec, PATCH, _tell, "cpu")
    return Bundle(
        name=SHIPPED,
        method="aqdask",
        patch=PATCH,
        normalisation="noise",
        architecture={"network": "Networks", **ARCHITECTURE},
        weights={key: value.contiguous().numpy() for key, value in networks.state_dict().items()},
        calibrations={key: calibration.stored() for key, calibration in calibrations.items()},
        provenance={
            "shipped": SHIPPED,
            "settings": {"seed": seed, "steps": steps, "batch": BATCH, "learning_rate": RATE},
            "frames": "simulated: aqdask.simulate.presets.wide_field_prior",
            "versions": {"aqdask": version("aqdask"), "numpy": np.__version__, "torch": torch.__version__},
            "loss_curve": {name: values[-40:] for name, values in curve.items()},
        },
        notes=(
            "Calibrated on simulated frames only: use `aqdask calibrate` for your camera first.",
            *(note for note in calibrations[POOLED].facts["notes"] if not note.startswith("Inspect")),
        ),
    )


def _tell(progress: TrainProgress) -> None:
    """Print every note, and progress every 200 steps."""
    if progress.stage == "note":
        print(progress.note, flush=True)
    elif progress.done % 200 == 0 or progress.done == progress.total:
        print(
            f"{progress.stage} {progress.done}/{progress.total} loss {progress.loss:.4f} "
            f"held out {progress.held_out:.4f} {progress.seconds:.0f} s, {progress.eta_seconds:.0f} s left",
            flush=True,
        )


def main(arguments: Iterator[str] | None = None) -> None:
    """Run the command line of ``python -m aqdask.simulate.pretrain``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=place(SHIPPED))
    parser.add_argument("--recalibrate", action="store_true", help="keep the weights of the existing bundle")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(chosen.threads)
    begun = time.monotonic()
    trained = Bundle.load(chosen.out) if chosen.recalibrate else None
    bundle = pretrain(chosen.seed, chosen.steps, trained)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    bundle.save(chosen.out)
    print(
        f"{chosen.out}: {len(bundle.contents)} bytes, sha256 {bundle.digest[:16]}..., "
        f"{time.monotonic() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
