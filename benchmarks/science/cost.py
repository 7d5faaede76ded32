"""Part 5: seconds and multiply-accumulates of a frame by part, on one thread, and the peak of memory."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import helpers
import numpy as np
import torch
from draws import CAMERA, FILTER, good_scene
from seeds import SEEDS
from torch import nn

from aqdask.methods.base import BATCH, score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.noise_aware.feature_extractor import FeatureExtractor, fold, unfold
from aqdask.methods.noise_aware.noise_model import (
    clipped_variance,
    compress,
    difference,
    sky_level,
    variance_stabilise,
)
from aqdask.methods.noise_aware.patch_statistics import View, line_weights
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer, with_position
from aqdask.methods.tensors import as_float, exact_arithmetic
from aqdask.simulate.frame import simulate_frame
from aqdask.specs import PatchGrid
from aqdask.stats.patches import cut_range, padded

GIGA = 1e9


class Stopwatch:
    """Processor seconds by part, summed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the processor time of the block."""
        begin = time.process_time()
        yield
        self.seconds[name] += time.process_time() - begin


def cost(bundle: Bundle, size: int = 4096, repeat: int = 3) -> dict[str, Any]:
    """Processor seconds of a frame of ``size`` px a side by part, GMAC by network, peak memory in MiB."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seed = SEEDS["cost"]
        image = simulate_frame(good_scene(seed, size), seed=seed).image
        scorer = NoiseAwareScorer(bundle)
        runs = [_parts(scorer, image) for _ in range(repeat + 1)][1:]  # the first warms up
        sparse = np.zeros(image.shape, bool)
        sparse[::37, ::41] = True  # a pixel or two of every patch
        kinds = {
            "score_frame": (image, None),
            "score_frame, float32": (image.astype(np.float32), None),
            "score_frame, invalid pixels in every patch": (image, sparse),
        }
        whole = {name: [_whole(scorer, *given) for _ in range(repeat)] for name, given in kinds.items()}
    finally:
        torch.set_num_threads(threads)
    seconds = {name: median(run[name] for run in runs) for name in runs[0]}
    return {
        "size": size,
        "repeat": repeat,
        "seconds": seconds,
        "whole": {
            name: {"processor": median(cpu for cpu, _ in times), "wall": median(wall for _, wall in times)}
            for name, times in whole.items()
        },
        "gmac": gmac(scorer.extractor, scorer.patch, PatchGrid(size, size, scorer.patch)),
        "parameters": {
            name: _parameters(getattr(scorer.extractor, name)) for name in ("encoder", "decoder", "head")
        },
        "peak_mib": _peak(bundle, size),
    }


def _parts(scorer: NoiseAwareScorer, image: np.ndarray) -> dict[str, float]:
    """Processor seconds by part of one pass over a frame: `score_frame`, step by step."""
    watch, grid = Stopwatch(), PatchGrid(*image.shape, scorer.patch)
    calibration, _ = scorer.calibration(CAMERA, FILTER)
    noise, extractor = calibration.decision.camera.noise, scorer.extractor
    total, found = grid.shape[0] * grid.shape[1], []
    with torch.inference_mode(), exact_arithmetic():
        for first in range(0, total, BATCH):
            stop = min(first + BATCH, total)
            with watch.part("cut"):
                patches = as_float(padded(cut_range(image, grid, first, stop), BATCH), "cpu")
            with watch.part("noise and sky"):
                variance = clipped_variance(difference(patches, None, noise.lag))
                sky = sky_level(patches, None, variance)
            with watch.part("variance stabilisation"):
                u = variance_stabilise(patches, sky, noise).float()
            levels = torch.stack([torch.ones_like(sky), torch.zeros_like(sky), sky, variance], dim=1)
            features = [levels.float(), *_statistics(extractor, _view(extractor, u, watch), watch)]
            rows, columns = np.divmod(np.arange(first, stop), grid.shape[1])
            measured = torch.cat(features, dim=1).numpy()[: stop - first]
            found.append(with_position(measured, grid.starts(0)[rows], grid.starts(1)[columns]))
    with watch.part("decision"):
        scorer.score_features(np.concatenate(found).reshape(*grid.shape, -1), CAMERA, FILTER)
    return dict(watch.seconds)


def _view(extractor: FeatureExtractor, u: torch.Tensor, watch: Stopwatch) -> View:
    """Time `FeatureExtractor.view`."""
    with watch.part("variance stabilisation"):
        v = compress(u)
        strips = fold(v)
    with watch.part("encoder"):
        latent = extractor.encoder(strips)
    with watch.part("head"):
        value, weight = extractor.head(strips).split(3, dim=1)
        weight = nn.functional.softplus(weight.contiguous())
        shape = torch.cat([weight, weight * value], dim=1).flatten(2).sum(dim=2)
    with watch.part("decoder"):
        smooth = unfold(extractor.decoder(latent))
        residual = torch.sub(v, smooth, out=smooth)
    return View(u, residual, latent, shape)


def _statistics(extractor: FeatureExtractor, view: View, watch: Stopwatch) -> list[torch.Tensor]:
    found = []
    for row in extractor.statistics:
        with watch.part(f"statistics: {row.names[0]} ..."):
            found.append(row.function(view).float())
    return found


def _whole(scorer: NoiseAwareScorer, image: np.ndarray, invalid: np.ndarray | None) -> tuple[float, float]:
    """Processor and wall seconds of `score_frame`."""
    begin = time.process_time(), time.perf_counter()
    score_frame(scorer, image, invalid, CAMERA, FILTER)
    return time.process_time() - begin[0], time.perf_counter() - begin[1]


def gmac(extractor: FeatureExtractor, patch: int, grid: PatchGrid) -> dict[str, float]:
    """1e9 multiply-accumulates of a frame in convolutions, and in the sums along lines."""
    count = grid.shape[0] * grid.shape[1]
    strips = fold(torch.zeros(1, patch, patch))
    with torch.inference_mode():
        latent = extractor.encoder(strips)
        inputs = {"encoder": strips, "decoder": latent, "head": strips}
        found = {
            name: count * _macs(getattr(extractor, name), given) / GIGA for name, given in inputs.items()
        }
    weights = line_weights(patch // 4)
    found["lines"] = 2 * count * weights.numel() / GIGA
    return found


def _macs(layers: nn.Sequential, given: torch.Tensor) -> int:
    """Multiply-accumulates of the convolutions for one input."""
    total = 0
    for layer in layers:
        given = layer(given)
        if isinstance(layer, nn.Conv2d):
            total += given.numel() * layer.weight[0].numel()
    return total


def _parameters(layers: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layers.parameters())


def _peak(bundle: Bundle, size: int) -> dict[str, float]:
    """Peak memory of a fresh process: after the imports and one small frame, and after a whole frame."""
    with helpers.scratch(None) as folder, helpers.new_process() as call:
        bundle.save(folder / "model.safetensors")
        path = str(folder / "model.safetensors")
        return {"64 px": call(_peak_after, path, 64), f"{size} px": call(_peak_after, path, size)}


def _peak_after(path: str, size: int) -> float:
    """Peak resident memory of this process in MiB after a frame of ``size`` px was scored."""
    torch.set_num_threads(1)
    image = np.random.default_rng(SEEDS["cost"]).poisson(1000, (64, 64)).astype(np.uint16)
    tiles = max(size // 64, 1)
    score_frame(
        NoiseAwareScorer(Bundle.load(Path(path))), np.tile(image, (tiles, tiles)), None, CAMERA, FILTER
    )
    return helpers.peak_memory()
