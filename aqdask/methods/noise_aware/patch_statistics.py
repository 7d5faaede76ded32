"""Statistics of single patches: one function each, from a batch of patches to named numbers ``(n, k)``.

A function takes a `View` and no other patch, so that tiles of a frame can be measured anywhere; statistics of
several patches are in `feature_groups`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from aqdask.methods.noise_aware.noise_model import row_median

SCALES = (4, 8, 16)  # px over which the residual is averaged
SUBPATCH = 16  # px of the sub-patches whose sky is taken
SUBPATCHES_PER_SIDE = 4  # of them along a side of a patch of 64 px
LIMIT = 2.0  # sigma at which sums of 4 x 4 px are cut before they are added up along lines
WINSOR = 1.5  # sigma at which pixels are cut for the sky of sub-patches
WINSOR_SLOPE = math.erf(WINSOR / math.sqrt(2))
CELL = 4  # px a side of the cells of `line_sums`
STAR_SIGMA = 5.0  # of 2 x 2 px: a local maximum above it counts as a star
ANGLES = 16  # directions of lines
LINE_FOLD = 4  # px averaged before lines are added up
SHORTEST_LINE = 8  # folded px
_TINY = 1e-6


@dataclass(frozen=True)
class View:
    """Tensors of a batch of patches; P is a multiple of 16.

    Parameters
    ----------
    u : Tensor (n, P, P)
        Signal above sky in units of the noise (`noise_model.variance_stabilise`).
    residual : Tensor (n, P, P)
        Compressed signal less its reconstruction, the same units.
    latent : Tensor (n, z, p, p)
        The autoencoder's latent.
    shape : Tensor (n, 6)
        Sums over cells of the head's precisions, and of precision times value.
    """

    u: torch.Tensor
    residual: torch.Tensor
    latent: torch.Tensor
    shape: torch.Tensor

    @cached_property
    def clipped(self) -> torch.Tensor:
        """``u`` cut at `WINSOR` sigma, ``(n, P, P)``."""
        return self.u.clamp(-WINSOR, WINSOR)

    @cached_property
    def row_sums(self) -> torch.Tensor:
        """Sums of `clipped` over each row, ``(n, P)``."""
        return self.clipped.sum(dim=2)

    @cached_property
    def column_sums(self) -> torch.Tensor:
        """Sums of `clipped` over each column, ``(n, P)``."""
        return self.clipped.sum(dim=1)

    @cached_property
    def halved(self) -> torch.Tensor:
        """``u`` averaged over 2 x 2 px, times 2, ``(n, P / 2, P / 2)``."""
        return _halve(self.u)


def absolute_residual(view: View) -> torch.Tensor:
    """Mean absolute residual: the published score, in units of the noise."""
    return view.residual.flatten(1).abs().mean(dim=1)[:, None]


def residual_scales(view: View) -> torch.Tensor:
    """ln mean square and ln maximum of the residual averaged over `SCALES`, times the scale."""
    pooled, scale, features = view.residual, 1, []
    for wanted in SCALES:
        while scale < wanted:
            pooled, scale = _halve(pooled), 2 * scale
        flat = pooled.flatten(1)
        features += [_ln(flat.square().mean(dim=1)), _ln(_farthest(flat))]
    return torch.stack(features, dim=1)


def _farthest(flat: torch.Tensor) -> torch.Tensor:
    """Largest absolute value of each row."""
    return torch.maximum(flat.amax(dim=1), -flat.amin(dim=1))


def _halve(values: torch.Tensor) -> torch.Tensor:
    """Sums of 2 x 2 over 2: white noise keeps its variance."""
    down = values[:, 0::2] + values[:, 1::2]
    return (down[:, :, 0::2] + down[:, :, 1::2]) / 2


def _ln(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(min=_TINY).log()


def sky_subpatches(view: View) -> torch.Tensor:
    """Sky of the sub-patches of 16 px above that of the patch, in sigma: winsorised means, ``(n, 16)``."""
    count, side, _ = view.clipped.shape
    cells = side // SUBPATCH
    # Rows first: whole rows are added up several times as fast as parts of them.
    rows = view.clipped.view(count, cells, SUBPATCH, side).sum(dim=2)
    return rows.view(count, cells, cells, SUBPATCH).sum(dim=3).flatten(1) / (SUBPATCH**2 * WINSOR_SLOPE)


def latent_moments(view: View) -> torch.Tensor:
    """Mean and standard deviation of each latent channel over the patch."""
    return _moments(view.latent)


def _moments(latent: torch.Tensor) -> torch.Tensor:
    flat = latent.flatten(2)
    mean = flat.mean(dim=2)
    scatter = (flat - mean[:, :, None]).square().mean(dim=2).sqrt()  # twice as fast as `Tensor.std`
    return torch.cat([mean, scatter], dim=1)


def spikes(view: View) -> torch.Tensor:
    """ln of the largest excess of a pixel's residual over its four neighbours, and of the residual, in sigma.

    The first is the Laplacian of van Dokkum (2001, PASP 113, 1420), which cosmic rays and hot pixels have and
    stars lack.
    """
    r = view.residual
    around = (r[:, 1:-1, 2:] + r[:, 1:-1, :-2]).add_(r[:, 2:, 1:-1]).add_(r[:, :-2, 1:-1])
    excess = torch.sub(r[:, 1:-1, 1:-1], around, alpha=1 / 4).flatten(1).amax(dim=1) / math.sqrt(1.25)
    return torch.stack([_ln(excess), _ln(_farthest(r.flatten(1)))], dim=1)


def lines(view: View) -> torch.Tensor:
    """Lines across the patch: of rows, of columns, and of any direction.

    ln mean square and ln maximum of the sums over rows and over columns, and ln maximum over straight lines
    in `ANGLES` directions (a discrete Radon transform) of the signal averaged over 4 x 4 px, each in units
    of its noise. What is added up is cut (pixels at 1.5 sigma, sums of 4 x 4 at 2), so that no star makes a
    line, and a plane is taken out, so that no slope of the sky does. The signal, and not the residual: the
    autoencoder gives back a part of a trail.
    """
    found = []
    for sums in (view.row_sums, view.column_sums):
        sums = sums / math.sqrt(view.clipped.shape[1])
        sums = sums @ without_slope(sums.shape[1]).to(sums)
        found += [_ln(sums.square().mean(dim=1)), _ln(sums.abs().amax(dim=1))]
    folded = _halve(view.halved).flatten(1)
    folded = (folded - row_median(folded)[:, None]).clamp(-LIMIT, LIMIT)
    weights = line_weights(view.u.shape[1] // LINE_FOLD).to(folded)
    found.append(_ln((folded @ weights).abs().amax(dim=1)))
    return torch.stack(found, dim=1)


def line_sums(view: View) -> torch.Tensor:
    """Sums of `View.clipped` for lines across the frame (`frame_lines`), packed: ``(n, 128)`` for P = 64.

    Means over cells of 4 x 4 px, over columns and over rows, in units of `WINSOR`, rounded to 1 / 127; three
    a number (`pack`), since they are six times as many as all other features.
    """
    count, side, _ = view.clipped.shape
    rows = view.clipped.view(count, side // CELL, CELL, side).sum(dim=2)
    cells = rows.view(count, side // CELL, side // CELL, CELL).sum(dim=3).flatten(1)
    means = [cells / CELL**2, view.column_sums / side, view.row_sums / side]
    return pack(torch.cat(means, dim=1) / WINSOR)


def pack(values: torch.Tensor) -> torch.Tensor:
    """Pack three numbers in [-1, 1], as bytes, into the 24 bits that float32 holds: ``(n, 3 m)``, ``(n, m)``.

    The k-th byte of a result, least significant first, is 128 + 127 x rounded.
    """
    low, middle, high = (values * 127).round_().add_(128).unflatten(1, (-1, 3)).unbind(2)
    return low + 256 * middle + 65536 * high


@lru_cache
def without_slope(length: int) -> torch.Tensor:
    """Projection that takes mean and slope out of ``length`` values, float32 ``(length, length)``."""
    steps = torch.linspace(-1, 1, length, dtype=torch.float64)
    basis = torch.linalg.qr(torch.stack([torch.ones_like(steps), steps], dim=1))[0]
    return (torch.eye(length, dtype=torch.float64) - basis @ basis.T).float()


@lru_cache
def line_weights(side: int) -> torch.Tensor:
    """Straight lines over a square of ``side`` less its plane, float32 ``(side**2, lines)``, of unit norm."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) - (side - 1) / 2] * 2, indexing="ij")
    plane = torch.linalg.qr(torch.stack([torch.ones(side**2), y.flatten(), x.flatten()], dim=1).double())[0]
    found = []
    for step in range(ANGLES):
        angle = math.pi * step / ANGLES
        distance = x * math.cos(angle) + y * math.sin(angle)
        reach = math.ceil(side / math.sqrt(2))
        for offset in range(-reach, reach + 1):
            weight = (1 - (distance - offset * 0.75).abs()).clamp(min=0).flatten()
            if weight.sum() >= SHORTEST_LINE:
                weight = weight - plane @ (plane.T @ weight)
                found.append(weight / weight.norm())
    return torch.stack(found, dim=1).float()


def star_counts(view: View) -> torch.Tensor:
    """Number of local maxima above `STAR_SIGMA` in the signal averaged over 2 x 2 px."""
    p = view.halved
    down = torch.maximum(torch.maximum(p[:, :-2], p[:, 2:]), p[:, 1:-1])
    around = torch.maximum(torch.maximum(down[:, :, :-2], down[:, :, 2:]), down[:, :, 1:-1])
    peak = p[:, 1:-1, 1:-1]
    found = (peak >= around) & (peak > STAR_SIGMA)
    return torch.count_nonzero(found.flatten(1), dim=1)[:, None].to(view.u.dtype)


def shape_sums(view: View) -> torch.Tensor:
    """Sums of the head's precisions, and of precision times value."""
    return view.shape


def arranged(
    residual: torch.Tensor,
    subpatches: torch.Tensor,
    packed: torch.Tensor,
    found: torch.Tensor,
    folded: torch.Tensor,
    latent: torch.Tensor,
    shape: torch.Tensor,
) -> list[torch.Tensor]:
    """Arrange what the kernels and the networks give in the order of `table`, ``(n, k)`` each.

    Parameters are what `statistics_kernel.residual_statistics`, `statistics_kernel.measure` and
    `FeatureExtractor.reconstructed` return.
    """
    weights = line_weights(math.isqrt(folded.shape[1])).to(folded)
    strongest = (folded @ weights).abs().amax(dim=1)[:, None]
    return [
        residual[:, :1],
        _ln(residual[:, 1:7]),
        subpatches,
        _moments(latent),
        _ln(residual[:, 7:]),
        _ln(torch.cat([found[:, :4], strongest], dim=1)),
        found[:, 4:],
        shape,
        packed,
    ]


LINES = ("rows_square", "rows_peak", "columns_square", "columns_peak", "line_peak")
LINE_SUMS = tuple(f"packed_{n}" for n in range(128))


@dataclass(frozen=True)
class Statistic:
    """One row of the table: a function and the names of its results."""

    function: Callable[[View], torch.Tensor]
    names: tuple[str, ...]


def _scales(stem: str) -> tuple[str, ...]:
    return tuple(f"{stem}_{scale}" for scale in SCALES)


def table(latent: int) -> tuple[Statistic, ...]:
    """List the statistics of a patch whose latent has ``latent`` channels, in the order of the features."""
    interleaved = (name for pair in zip(_scales("square"), _scales("peak"), strict=True) for name in pair)
    return (
        Statistic(absolute_residual, ("mae",)),
        Statistic(residual_scales, tuple(interleaved)),
        Statistic(sky_subpatches, tuple(f"cell_{n}" for n in range(SUBPATCHES_PER_SIDE**2))),
        Statistic(latent_moments, tuple(f"latent_{m}_{n}" for m in ("mean", "std") for n in range(latent))),
        Statistic(spikes, ("spike", "peak_1")),
        Statistic(lines, LINES),
        Statistic(star_counts, ("stars",)),
        Statistic(shape_sums, SHAPE_NAMES),
        Statistic(line_sums, LINE_SUMS),
    )


SHAPE_NAMES = (
    "size_weight", "e1_weight", "e2_weight", "size_sum", "e1_sum", "e2_sum",
)  # fmt: skip
