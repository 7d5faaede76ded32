"""The shipped model: ``python -m aqdask.models.pretrain`` trains ``wide-field`` on simulated frames.

Each frame is another camera (`aqdask.sky.scenes.wide_field_prior`) whose noise and PSF are known, so that
the head learns from true sizes and shapes, and no frame is seen twice. This is a program, not a part of the
layer in which it lies: it uses the simulator.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from aqdask.kernels.noise import NoiseModel, clipped_variance, compress, difference, sky_level, stabilise
from aqdask.kernels.patches import gather
from aqdask.models import losses
from aqdask.models.adapt import calibrate, learn_cameras
from aqdask.models.aqdask import networks_of
from aqdask.models.bundle import POOLED, Bundle
from aqdask.models.distort import SPREAD
from aqdask.models.fit import TrainProgress, fit
from aqdask.models.learn import ARCHITECTURE, WARM_UP
from aqdask.models.measurer import Measurer
from aqdask.models.networks import Networks
from aqdask.models.sets import split_groups
from aqdask.models.settings import TrainSpec
from aqdask.models.shipped import SHIPPED, place
from aqdask.sky.psf import local_fwhm
from aqdask.sky.scene import SceneSpec
from aqdask.sky.scenes import preset, wide_field_prior
from aqdask.sky.simulate import simulate_frame
from aqdask.specs import Card

SIDE, PATCH = 384, 64  # px of a simulated frame and of a crop
FRAMES, CROPS = 32, 256  # frames of a pass, and crops of each
BATCH = 64
STEPS = 16_000
RATE = 4e-3
LARGEST_E = 0.4  # ellipticity of one frame in two
PIXEL = 1 / 12  # px squared: the second moment of a pixel
SIGMA_PER_FWHM = 1 / 2.3548
_FRAME, _HELD_OUT = 21, 22  # first words of generators' seeds
REFERENCES, REFERENCE_SIDE = 30, 1024  # frames that calibrate what is shipped, and their side
CAMERA = "simulator"


@dataclass(frozen=True)
class Pass:
    """Crops: ``u`` float32 ``(n, P, P)`` in units of the noise, ``truth`` float32 ``(n, 3)`` for the head."""

    u: np.ndarray
    truth: np.ndarray


def draw_pass(seed: int, number: int, tag: int = _FRAME, frames: int = FRAMES) -> Pass:
    """Crops of fresh frames, shuffled."""
    parts = [_crops(np.random.default_rng([tag, seed, number, k])) for k in range(frames)]
    u, truth = (np.concatenate([getattr(part, name) for part in parts]) for name in ("u", "truth"))
    order = np.random.default_rng([tag, seed, number]).permutation(len(u))
    return Pass(u[order], truth[order])


def _crops(rng: np.random.Generator) -> Pass:
    """Crops of one simulated frame of a random camera, and what its stars are like there."""
    scene = wide_field_prior(rng, SIDE, SIDE)
    ellipticity = rng.uniform(0, LARGEST_E) if rng.random() < 0.5 else 0.0
    sigma = scene.fwhm * SIGMA_PER_FWHM
    # A line of length L adds L**2 / 12 along it: e = m / (2 sigma**2 + m).
    drift = sigma * math.sqrt(24 * ellipticity / (1 - ellipticity))
    # One PSF a frame: zones of a varying one cost more than they teach in so small a field.
    scene = replace(scene, drift=drift, drift_angle=rng.uniform(0, 180), fwhm_variation=0.0)
    image = simulate_frame(scene, seed=int(rng.integers(2**31))).image
    tops, lefts = (rng.integers(0, SIDE - PATCH + 1, CROPS) for _ in range(2))
    counts = torch.from_numpy(gather(image, tops, lefts, PATCH).astype(np.float32))
    noise = camera_noise(scene)
    sky = sky_level(counts, None, clipped_variance(difference(counts, None)))
    u = stabilise(counts, sky, noise).float().numpy()
    return Pass(u, _truth(scene, lefts + PATCH / 2, tops + PATCH / 2))


def camera_noise(scene: SceneSpec) -> NoiseModel:
    """The noise model of a scene's camera, known instead of learnt."""
    a = (scene.read_noise / scene.gain) ** 2 - scene.pedestal / scene.gain
    return NoiseModel(a, 1 / scene.gain, floor=0.25 * (scene.read_noise / scene.gain) ** 2)


def _truth(scene: SceneSpec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """ln size in `losses.UNIT`, e1, e2 of the stars at these places, in units of `SPREAD`."""
    variance = (local_fwhm(scene, x, y) * SIGMA_PER_FWHM) ** 2 + PIXEL
    along = scene.drift**2 / 12
    angle = 2 * math.radians(scene.drift_angle)
    e = along / (2 * variance + along)
    size = np.sqrt(np.sqrt(variance * (variance + along)))
    found = [np.log(size / losses.UNIT), e * math.cos(angle), e * math.sin(angle)]
    return (np.stack(found, axis=1) / SPREAD).astype(np.float32)


class PretrainRecipe:
    """Both networks at once, on crops of simulated frames (see `fit.Recipe`).

    Parameters
    ----------
    seed, steps : int
    pool : ProcessPoolExecutor
        Draws the next pass while this one is learnt from.
    """

    def __init__(self, seed: int, steps: int, pool: ProcessPoolExecutor) -> None:
        self.seed, self.steps, self.pool = seed, steps, pool
        self.digest = f"pretrain {seed} {steps} {ARCHITECTURE} {RATE} {FRAMES} {torch.__version__}"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = Networks(**ARCHITECTURE)
        self.network = torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
        self.watched = draw_pass(seed, 0, _HELD_OUT, 24)
        self.drawn: dict[int, Future[Pass]] = {}

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops ``(batch, P, P)`` and truth ``(batch, 3)``."""
        number, at = divmod(step, FRAMES * CROPS // BATCH)
        for ahead in (number, number + 1):
            if ahead not in self.drawn:
                self.drawn[ahead] = self.pool.submit(draw_pass, self.seed, ahead)
        self.drawn.pop(number - 1, None)
        crops = self.drawn[number].result()
        part = slice(at * BATCH, (at + 1) * BATCH)
        return torch.from_numpy(crops.u[part]), torch.from_numpy(crops.truth[part])

    def loss(self, step: int, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Reconstruction and likelihood of the shapes, 0-d."""
        self.network.train()
        return self._loss(*batch)

    def _loss(self, u: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        shape = losses.likelihood(self.network, compress(u), truth)
        return losses.reconstruction(self.network, u) + shape

    def held_out(self, step: int) -> float:
        """The same on frames of other seeds."""
        self.network.eval()
        u, truth = torch.from_numpy(self.watched.u), torch.from_numpy(self.watched.truth)
        parts = zip(u.split(BATCH), truth.split(BATCH), strict=True)
        return float(np.mean([self._loss(*part).item() for part in parts]))

    def rate(self, step: int) -> float:
        """Warm-up, then half a cosine to zero."""
        return RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def after(self, step: int, curve: Mapping[str, Sequence[float]]) -> int:
        """Never stops early: no frame is seen twice."""
        return step


class SimulatedFrames:
    """Good frames of one simulated camera (see `crops.FrameSource`)."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([_HELD_OUT, seed, 1])
        base = replace(preset("default"), height=REFERENCE_SIDE, width=REFERENCE_SIDE)
        self.scenes = [
            replace(base, sky=float(rng.uniform(800, 1200)), fwhm=float(rng.uniform(2.2, 2.6)))
            for _ in range(REFERENCES)
        ]
        self.seeds = [int(rng.integers(2**31)) for _ in self.scenes]
        self.ids: Sequence[str] = [f"simulated-{k:03d}" for k in range(REFERENCES)]
        self.cards: Sequence[Card] = [
            Card(exptime=60.0, filter="L", camera=CAMERA, gain=base.gain) for _ in self.scenes
        ]

    def read(self, index: int, /) -> tuple[np.ndarray, np.ndarray | None]:
        """One frame, drawn when it is asked for."""
        return simulate_frame(self.scenes[index], seed=self.seeds[index]).image, None


def pretrain(
    seed: int = 0, steps: int = STEPS, checkpoint: Path | None = None, trained: Bundle | None = None
) -> Bundle:
    """Train the shipped model, half an hour on two cores; or calibrate anew one that is ``trained``."""
    if trained:
        networks, curve = networks_of(trained)[0], trained.provenance["loss_curve"]
        seed, steps = (trained.provenance["settings"][name] for name in ("seed", "steps"))
    else:
        with ProcessPoolExecutor(1) as pool:
            recipe = PretrainRecipe(seed, steps, pool)
            curve, networks = fit(recipe, _tell, checkpoint), recipe.network
    frames, spec = SimulatedFrames(seed), TrainSpec(name=SHIPPED, seed=seed)
    groups = split_groups(frames, spec)
    measurer = Measurer(networks, ARCHITECTURE["latent"])
    cameras = learn_cameras(frames, groups, PATCH, spec.alpha)
    known = calibrate(measurer, frames, groups, cameras, spec, PATCH, _tell)
    return Bundle(
        name=SHIPPED,
        method="aqdask",
        patch=PATCH,
        normalisation="noise",
        architecture={"network": "Networks", **ARCHITECTURE},
        weights={key: value.contiguous().numpy() for key, value in networks.state_dict().items()},
        calibrations={key: knowledge.calibration() for key, knowledge in known.items()},
        provenance={
            "shipped": SHIPPED,
            "settings": {"seed": seed, "steps": steps, "batch": BATCH, "learning_rate": RATE},
            "frames": "simulated: aqdask.sky.scenes.wide_field_prior",
            "versions": {"aqdask": version("aqdask"), "numpy": np.__version__, "torch": torch.__version__},
            "loss_curve": {name: values[-40:] for name, values in curve.items()},
        },
        notes=(
            "Calibrated on simulated frames only: adapt it to your camera with `aqdask calibrate` first.",
            *(note for note in known[POOLED].facts["notes"] if not note.startswith("Look at")),
        ),
    )


def _tell(progress: TrainProgress) -> None:
    """A line now and then."""
    if progress.stage == "note":
        print(progress.note, flush=True)
    elif progress.done % 200 == 0 or progress.done == progress.total:
        print(
            f"{progress.stage} {progress.done}/{progress.total} loss {progress.loss:.4f} "
            f"held out {progress.held_out:.4f} {progress.seconds:.0f} s, {progress.eta_seconds:.0f} s left",
            flush=True,
        )


def main(arguments: Iterator[str] | None = None) -> None:
    """Command line of ``python -m aqdask.models.pretrain``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=place(SHIPPED))
    parser.add_argument("--recalibrate", action="store_true", help="keep the weights of what is there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(chosen.threads)
    begun = time.monotonic()
    checkpoint = chosen.out.with_suffix(".checkpoint")
    trained = Bundle.load(chosen.out) if chosen.recalibrate else None
    bundle = pretrain(chosen.seed, chosen.steps, checkpoint, trained)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    bundle.save(chosen.out)
    checkpoint.unlink(missing_ok=True)
    print(
        f"{chosen.out}: {len(bundle.contents)} bytes, sha256 {bundle.digest[:16]}..., "
        f"{time.monotonic() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
