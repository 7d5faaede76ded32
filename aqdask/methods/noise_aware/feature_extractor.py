"""Extraction of patch features with the networks: pixels in, numbers by name out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import nn

from aqdask.methods.base import BATCH
from aqdask.methods.noise_aware.networks import FOLD, Networks
from aqdask.methods.noise_aware.noise_model import (
    NoiseModel,
    clipped_variance,
    compress,
    difference,
    expand,
    restore_counts,
    sky_level,
    variance_stabilise,
)
from aqdask.methods.noise_aware.normalise_kernel import SLOPE, noise_terms, normalise
from aqdask.methods.noise_aware.patch_statistics import WINSOR, WINSOR_SLOPE, View, arranged, table
from aqdask.methods.noise_aware.statistics_kernel import measure, residual_statistics
from aqdask.methods.tensors import Staging, as_float, exact_arithmetic
from aqdask.timing import timed

LEVELS = ("valid", "saturated", "sky", "noise")
PLATEAU = 0.25  # of a patch's valid pixels: so many at its largest value are full, or dead
NOISE_SEED = (
    1053  # gives noise without an outstanding row, column or cell; part of the score of patches with gaps
)
DEVICE_BATCH = 4096  # patches measured at a time on a device with memory of its own
SMALLEST_BATCH = 64
log = logging.getLogger(__name__)
LARGEST_BUFFER = 31 * 2**20  # bytes; glibc raises its threshold up to 32 MiB


@dataclass(frozen=True)
class Detector:
    """Noise and saturation level of a detector.

    Parameters
    ----------
    noise : NoiseModel
    saturation : float
        Counts from which a pixel is saturated; infinite where unknown.
    """

    noise: NoiseModel
    saturation: float = float("inf")


class FeatureExtractor:
    """Extractor of the features of batches of patches, with the networks on a device.

    Parameters
    ----------
    networks : Networks
        Put on the device, in evaluation mode, with batch norm folded into the convolutions. With skip
        connections the autoencoder takes a generic path: layers as they are, on squares of pixels.
    device : str or torch.device
    precision : str
        'fp32' or 'bf16', of the networks.
    """

    def __init__(
        self, networks: Networks, device: str | torch.device = "cpu", precision: str = "fp32"
    ) -> None:
        self.device = torch.device(device)
        self.staging = Staging(self.device)
        self.batch = BATCH if self.device.type == "cpu" else DEVICE_BATCH
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        reuse_buffers()
        networks.eval()
        encoder, decoder = networks.autoencoder.encoder, [*networks.autoencoder.decoder][:-1]
        self.skips = networks.autoencoder.skips
        self.encoder = self._placed(encoder if self.skips else _on_strips(encoder))
        self.decoder = self._placed(nn.Sequential(*decoder) if self.skips else _fused(decoder))
        self.head = self._placed(_on_strips(networks.head.layers))
        self.statistics = table(networks.latent)
        self.feature_names = (*LEVELS, *(name for row in self.statistics for name in row.names))

    def extract(self, patches: torch.Tensor, valid: torch.Tensor | None, detector: Detector) -> np.ndarray:
        """Extract features ``(n, k)``, float32, of patches ``(n, P, P)`` in counts.

        ``valid`` is bool ``(n, P, P)``, None where every pixel is data. Features are NaN where nothing is.
        """
        if self.device.type == "cpu":
            count, side, _ = patches.shape
            known = None if valid is None else valid.reshape(-1, side).numpy()
            rows, columns = side * np.arange(count), np.zeros(count, int)
            return self._extract_at(patches.reshape(-1, side).numpy(), known, rows, columns, side, detector)
        with torch.inference_mode(), exact_arithmetic():
            levels, u = self.normalised(patches, valid, detector)
            view = self.view(u)
            return self._features(levels, [row.function(view) for row in self.statistics], detector)

    def _features(self, levels: torch.Tensor, found: list[torch.Tensor], detector: Detector) -> np.ndarray:
        """Put features together, NaN where there is nothing to measure."""
        features = torch.cat([levels, *found], dim=1)
        lost = levels[:, :1] == 0
        if detector.noise.source == "subtracted":
            lost |= levels[:, 3:].isnan()
        features = features.masked_fill(lost, torch.nan)
        features[:, 0] = levels[:, 0]
        return self.staging.fetch(features.float())

    def extract_frame(
        self,
        image: np.ndarray,
        invalid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        side: int,
        detector: Detector,
    ) -> np.ndarray:
        """Extract features ``(n, k)``, float32, of the patches of a frame ``(H, W)``.

        Patches of ``side`` px begin at rows ``tops`` and columns ``lefts``. Another device is sent the
        frame's own integers, and cuts patches itself; a batch that does not fit into its memory is halved.
        """
        if self.device.type == "cpu":
            return self._extract_in_batches(image, invalid, tops, lefts, side, detector)
        return self._extract_on_device(image, invalid, tops, lefts, side, detector)

    def _extract_on_device(
        self,
        image: np.ndarray,
        invalid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        side: int,
        detector: Detector,
    ) -> np.ndarray:
        """Do what `extract_frame` does on a device with memory of its own."""
        frame = as_float(image, self.staging, detector.noise.unit)
        unknown = None if invalid is None else self.staging.send(invalid)
        pixels = torch.arange(side, device=self.device)
        starts = [torch.from_numpy(first.astype(np.int64)).to(self.device) for first in (tops, lefts)]
        y, x = ((start[:, None] + pixels) for start in starts)

        def features(part: slice) -> np.ndarray:  # its tensors are gone when a batch is halved
            index = y[part, :, None], x[part, None, :]
            values, mask = frame[index], None if unknown is None else ~unknown[index]
            return self.extract(values, known_pixels(values, mask, finite=image.dtype.kind != "f"), detector)

        size, first, found = self.batch, 0, list[np.ndarray]()
        while first < len(tops):
            try:
                found.append(features(slice(first, first + size)))
                first += size
            except torch.OutOfMemoryError:
                size //= 2
                if size < SMALLEST_BATCH:
                    raise
        if size < self.batch:
            log.warning("warning: %s has no memory for %d patches at a time: %d from now on",
                        self.device, self.batch, size)  # fmt: skip
            self.batch = size
        return np.concatenate(found)

    def _placed(self, layers: nn.Sequential) -> nn.Sequential:
        return layers.to(self.device, self.dtype)

    def _extract_in_batches(
        self,
        image: np.ndarray,
        invalid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        side: int,
        detector: Detector,
    ) -> np.ndarray:
        """Do what `extract_frame` does on a processor; the last batch is padded."""
        own = image.dtype == np.uint16 and detector.noise.unit == 1  # the kernel converts it patch by patch
        source = image if own else as_float(image, "cpu", detector.noise.unit).numpy()
        valid = None if invalid is None else ~invalid
        if image.dtype.kind == "f":
            valid = np.isfinite(source) if valid is None else valid & np.isfinite(source)
        valid = None if valid is None or valid.all() else valid
        found = []
        for first in range(0, len(tops), self.batch):
            part = np.minimum(np.arange(first, first + self.batch), len(tops) - 1)
            found.append(self._extract_at(source, valid, tops[part], lefts[part], side, detector))
        return np.concatenate(found)[: len(tops)]

    def _extract_at(
        self,
        source: np.ndarray,
        valid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        side: int,
        detector: Detector,
    ) -> np.ndarray:
        """Extract features on a processor: kernels before the networks and after them."""
        known = np.empty((0, 0), bool) if valid is None else valid
        scratch = np.empty((side, side), np.float64 if source.dtype == np.float64 else np.float32)
        about = noise_terms(detector.noise), detector.saturation, unit_noise(side).numpy()
        with timed("statistics"):
            measured, v, short, *found = measure(source, known, tops, lefts, scratch, *about)
        levels = torch.from_numpy(measured)
        if not math.isfinite(detector.saturation):
            levels[:, 1] = torch.where(levels[:, 1] > PLATEAU, -levels[:, 1], 0.0)
        exact = self.dtype == torch.float32
        narrow = torch.from_numpy(v) if exact else torch.from_numpy(short).view(self.dtype)
        with torch.inference_mode():
            latent, shape, smooth = self.reconstructed(fold(narrow))
            with timed("statistics"):
                bits = smooth.permute(0, 2, 3, 1).contiguous().view(torch.int32 if exact else torch.int16)
                residual = residual_statistics(v, bits.numpy(), 0 if exact else 16)
                subpatches, packed, lines, folded = (torch.from_numpy(values) for values in found)
                whole = torch.from_numpy(residual), subpatches, packed, lines, folded, latent, shape
                return self._features(levels, arranged(*whole), detector)

    def normalised(
        self, patches: torch.Tensor, valid: torch.Tensor | None, detector: Detector
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute `LEVELS` ``(n, 4)`` and the variance-stabilised signal, gaps filled, ``(n, P, P)``.

        Where the sky was subtracted, and its noise cannot be expected, in units of that of the patch.
        """
        noise = detector.noise
        variance = clipped_variance(difference(patches, valid, noise.lag))
        sky = sky_level(patches, valid, variance)
        full, share = _shares(patches, valid, detector.saturation)
        u = variance_stabilise(patches, sky, noise).float()
        if noise.source == "subtracted":
            u *= (noise.a / variance.clamp(min=noise.floor)).sqrt().float()[:, None, None]
        if valid is not None:
            u = fill_invalid(u, valid)
        return torch.stack([share, full, sky, variance], dim=1), u

    def reconstruct(
        self, patches: np.ndarray, valid: np.ndarray | None, detector: Detector, *, in_counts: bool = True
    ) -> tuple[np.ndarray, ...]:
        """Compute the compressed signal of patches ``(n, P, P)``, its reconstruction, and that in counts.

        float32 the first two; the last, left out unless ``in_counts``, in the type of `as_float`.
        """
        values = as_float(patches, self.staging, detector.noise.unit)
        mask = None if valid is None else self.staging.send(np.ascontiguousarray(valid))
        known = known_pixels(values, mask, finite=patches.dtype.kind != "f")
        with torch.inference_mode(), exact_arithmetic():
            here = self.device.type == "cpu"
            levels, u = (self._normalised_here if here else self.normalised)(values, known, detector)
            signal = compress(u)
            smooth = unfold(self.autoencoded(fold(signal.to(self.dtype)))[1]).float()
            parts = [signal, smooth, *([_counts(smooth, levels, detector.noise)] if in_counts else ())]
            if known is not None:
                parts = [part.masked_fill(~known, torch.nan) for part in parts]
            return tuple(self.staging.fetch(part) for part in parts)

    def _normalised_here(
        self, patches: torch.Tensor, valid: torch.Tensor | None, detector: Detector
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute `normalised` on a processor, by the kernel."""
        count, side, _ = patches.shape
        known = np.empty((0, 0), bool) if valid is None else valid.reshape(-1, side).numpy()
        source = patches.reshape(-1, side).numpy()
        about = noise_terms(detector.noise), detector.saturation, unit_noise(side).numpy()
        scratch = np.empty((side, side), np.float64 if source.dtype == np.float64 else np.float32)
        places = side * np.arange(count), np.zeros(count, int)
        levels, u = normalise(source, known, *places, scratch, *about)
        return torch.from_numpy(levels), torch.from_numpy(u)

    def view(self, u: torch.Tensor) -> View:
        """Run the networks on variance-stabilised patches ``(n, P, P)``."""
        v = compress(u)
        latent, shape, smooth = self.reconstructed(fold(v.to(self.dtype)))
        return View(u, v - unfold(smooth).float(), latent, shape)

    def reconstructed(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the networks on what `fold` gives, of their own type.

        Returns
        -------
        latent : Tensor (n, z, P / 8, P / 8), float32
        shape : Tensor (n, 6), float32
            `View.shape`.
        smooth : Tensor (n, 16, P / 4, P / 4)
            Reconstruction as `unfold` takes it, of the networks' type.
        """
        latent, smooth = self.autoencoded(strips)
        value, weight = self.head(strips).float().split(3, dim=1)
        weight = nn.functional.softplus(weight.contiguous())  # six times as fast as of a view
        shape = torch.cat([weight, weight * value], dim=1).flatten(2).sum(dim=2)
        return latent.float(), shape, smooth

    def autoencoded(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the autoencoder alone: latent and smooth as in `reconstructed`, of the networks' type."""
        if self.skips:
            squares = strips.permute(0, 2, 3, 1).flatten(2)[:, None]  # as before `fold`
            return self.skips.run(self.encoder, self.decoder, squares)
        latent = self.encoder(strips)
        return latent, self.decoder(latent)


def _counts(v: torch.Tensor, levels: torch.Tensor, noise: NoiseModel) -> torch.Tensor:
    """Convert compressed signal ``(n, P, P)`` to counts of the frame, given its `LEVELS` ``(n, 4)``."""
    sky, variance = levels[:, 2], levels[:, 3]
    u = expand(v).to(levels.dtype)
    if noise.source == "subtracted":
        u = u * (variance.nan_to_num(1.0).clamp(min=noise.floor) / noise.a).sqrt()[:, None, None]
    return restore_counts(u, sky, noise) * noise.unit


def known_pixels(values: torch.Tensor, valid: torch.Tensor | None, *, finite: bool) -> torch.Tensor | None:
    """Return the valid pixels of patches, None for all: not NaN and infinity, unless all are ``finite``."""
    if not finite:
        valid = values.isfinite() if valid is None else valid & values.isfinite()
    return None if valid is None or bool(valid.all()) else valid  # the same bits, and less work


def reuse_buffers() -> None:
    """Let this process use the memory of one batch for the next.

    glibc hands free memory beyond twice the largest mapped buffer that it has seen freed back to the kernel,
    which clears it before the next batch: up to 300,000 page faults, .3 s, a frame of 4096 x 4096 px. One
    large buffer that is freed, whose pages are not touched, teaches it. Dask workers are told in
    `aqdask.execution.worker`, and other allocators take no notice.
    """
    np.empty(LARGEST_BUFFER, np.uint8)


def _shares(
    patches: torch.Tensor, valid: torch.Tensor | None, saturation: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the saturated fraction of the valid pixels, and the valid fraction of all; ``(n,)`` each.

    Where the saturation level is unknown, minus the fraction at the largest value of the patch, if it is
    above `PLATEAU`; other patches tell if such pixels are saturated or dead.
    """
    number = patches[0].numel()
    full = torch.zeros_like(patches[:, 0, 0])
    share = torch.ones_like(full) if valid is None else valid.flatten(1).sum(dim=1) / number
    pixels = (patches if valid is None else patches.masked_fill(~valid, -torch.inf)).flatten(1)
    top = pixels.amax(dim=1)
    known = math.isfinite(saturation)
    level = torch.full_like(top, saturation) if known else top
    reached = ((top >= level) & top.isfinite()).nonzero()[:, 0]
    if len(reached):  # with a known saturation, few patches
        count = torch.count_nonzero(pixels[reached] >= level[reached, None], dim=1)
        full[reached] = count.to(full.dtype) / number
    full = full / share.clamp(min=1 / number)
    return full if known else torch.where(full > PLATEAU, -full, 0.0), share


def fold(v: torch.Tensor) -> torch.Tensor:
    """Strips of `FOLD` px along the rows of ``(n, P, P)`` as channels, ``(n, FOLD, P, P / FOLD)``.

    A view, and channels last: unlike folding squares, nothing is copied.
    """
    count, side, _ = v.shape
    return v.view(count, side, side // FOLD, FOLD).permute(0, 3, 1, 2)


def unfold(channels: torch.Tensor) -> torch.Tensor:
    """``(n, P, P)`` of squares of `FOLD` px that are channels; as `torch.nn.PixelShuffle`, in one copy."""
    count, _, cells, _ = channels.shape
    spread = channels.permute(0, 2, 3, 1).reshape(count, cells, cells, FOLD, FOLD).permute(0, 1, 3, 2, 4)
    return spread.reshape(count, FOLD * cells, FOLD * cells)


def fill_invalid(u: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Replace invalid pixels: isolated ones by the mean of their valid neighbours, wide gaps by sky.

    A gap is wide where a pixel has no valid one among its eight neighbours. It is filled with the noise of a
    sky, always the same, about the plane of the valid pixels, so that a patch that is half a gap has the
    statistics of half a patch of sky. At its rim the noise is added to the mean, to the variance of a pixel.
    """
    gaps = (~valid.flatten(1).all(dim=1)).nonzero()[:, 0]  # mostly few
    known = valid[gaps]
    total = _sum_around(torch.where(known, u[gaps], 0.0))
    count = _sum_around(known.to(u.dtype))
    filling = total / count.clamp(min=1)
    empty = count == 0
    wide = empty.flatten(1).any(dim=1).nonzero()[:, 0]  # fewer still
    if len(wide):
        noise = unit_noise(u.shape[1]).to(u)
        sky = torch.where(empty[wide], _plane(u[gaps[wide]], known[wide]), filling[wide])
        rim = _sum_around(empty[wide].to(u.dtype)) > 0
        scale = torch.where(empty[wide], 1.0, (1 - 1 / count[wide].clamp(min=1)).sqrt())
        filling[wide] = sky + torch.where(rim, scale * noise, 0.0)
    filled = u.clone()
    filled[gaps] = torch.where(known, u[gaps], filling)
    return filled


def _plane(u: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Fit a plane to the known pixels of each patch, ``(n, P, P)``, cut at `WINSOR` sigma.

    Ridge regression: slopes are taken to be `SLOPE` sigma a pixel, so that few pixels do not tell one.
    """
    weight = known.to(u.dtype)
    values = torch.where(known, u.clamp(-WINSOR, WINSOR) / WINSOR_SLOPE, 0.0)
    number = weight.sum(dim=(1, 2)).clamp(min=1)[:, None, None]
    level = values.sum(dim=(1, 2))[:, None, None] / number
    steps = torch.arange(u.shape[1], dtype=u.dtype, device=u.device)
    y, x = (
        position - (weight * position).sum(dim=(1, 2))[:, None, None] / number
        for position in torch.meshgrid(steps, steps, indexing="ij")
    )
    yy, xx, xy = ((weight * product).sum(dim=(1, 2)) for product in (y * y, x * x, x * y))
    uy, ux = ((values * axis).sum(dim=(1, 2)) for axis in (y, x))
    yy, xx = yy + SLOPE**-2, xx + SLOPE**-2
    scale = yy * xx - xy * xy
    slope_y, slope_x = ((uy * xx - ux * xy) / scale, (ux * yy - uy * xy) / scale)
    return level + slope_y[:, None, None] * y + slope_x[:, None, None] * x


@lru_cache
def unit_noise(side: int) -> torch.Tensor:
    """Pseudo-random noise of mean 0 and variance 1, float32 ``(side, side)``; the same on every machine.

    Sums of twelve uniform integers of 16 bits (Irwin-Hall, nearly normal, at most 6 sigma) from the raw
    output of PCG64, which no release of NumPy changes.
    """
    raw = np.random.PCG64(NOISE_SEED).random_raw(3 * side * side)
    parts = np.stack([raw >> np.uint64(shift) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)])
    total = parts.reshape(12, side, side).sum(axis=0, dtype=np.int64)
    return torch.from_numpy(((total - 6 * 0xFFFF) / 2**16).astype(np.float32))


def _sum_around(values: torch.Tensor) -> torch.Tensor:
    """Sums over 3 x 3 px of ``(n, P, P)``, zero beyond the edges: a convolution with one channel is slow."""
    padded = nn.functional.pad(values, (1, 1, 1, 1))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]


def _on_strips(layers: nn.Sequential) -> nn.Sequential:
    """`_fused` layers that begin with `torch.nn.PixelUnshuffle` as layers that take what `fold` gives.

    A kernel over folded squares is one over strips that is `FOLD` times as high and moves as many rows.
    """
    first = cast(nn.Conv2d, layers[1])
    outer, _, height, width = first.weight.shape
    squares = first.weight.detach().view(outer, FOLD, FOLD, height, width)  # (out, row, column, y, x)
    strips = nn.Conv2d(
        FOLD,
        outer,
        (FOLD * height, width),
        stride=(FOLD, 1),
        padding=(FOLD * (height // 2), width // 2),
        bias=first.bias is not None,
        device=first.weight.device,
        dtype=first.weight.dtype,
    )
    kernel = squares.permute(0, 2, 3, 1, 4).reshape(strips.weight.shape)
    strips.load_state_dict(first.state_dict() | {"weight": kernel})
    return _fused([strips.eval(), *[*layers][2:]])


def _fused(layers: Iterable[nn.Module]) -> nn.Sequential:
    """The same layers without batch norm, whose scale and shift go into the convolution before it."""
    fused: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and isinstance(fused[-1], nn.Conv2d):
            fused[-1] = nn.utils.fuse_conv_bn_eval(fused[-1], layer)
        else:
            fused.append(layer)
    return nn.utils.convert_conv2d_weight_memory_format(nn.Sequential(*fused), torch.channels_last)
