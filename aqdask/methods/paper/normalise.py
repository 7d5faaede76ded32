"""Per-patch normalisation of the published algorithm: min-max to [0, 1]."""

from __future__ import annotations

import torch


def minmax(patches: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Scale each patch so that its smallest valid pixel is 0 and its largest is 1.

    The algorithm of Jia et al. 2024 (arXiv 2405.03408) normalises every patch by itself; the treatment
    of pixels that are not data is ours.

    Parameters
    ----------
    patches : Tensor (n, P, P), float32 or float64
        Non-finite values are allowed only where not valid.
    valid : Tensor (n, P, P) of bool, or None
        None: every pixel is data.

    Returns
    -------
    Tensor (n, P, P), float32
        Invalid pixels hold the (lower) median of the patch's valid ones, so that they carry no edge. A
        constant patch, or one without a valid pixel, is zero.
    """
    low, span = minmax_bounds(patches, valid)
    usable = span > 0  # False for a constant patch, and for (-inf) - inf where nothing is valid
    span, low = torch.where(usable, span, 1.0), torch.where(usable, low, 0.0)
    scaled = ((patches - low) / span).masked_fill(~usable, 0.0).to(torch.float32)
    return scaled if valid is None else _fill_invalid(scaled, valid)


def minmax_bounds(
    patches: torch.Tensor, valid: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smallest valid pixel of each patch and its distance to the largest, ``(n, 1, 1)`` each."""
    if valid is None:
        low, high = patches.amin(dim=(1, 2), keepdim=True), patches.amax(dim=(1, 2), keepdim=True)
    else:
        low = patches.masked_fill(~valid, torch.inf).amin(dim=(1, 2), keepdim=True)
        high = patches.masked_fill(~valid, -torch.inf).amax(dim=(1, 2), keepdim=True)
    return low, high - low


def _fill_invalid(scaled: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Replace invalid pixels by the median of the valid ones; zero where none is valid."""
    touched = (~valid).flatten(1).any(dim=1).nonzero().squeeze(1)  # medians are slow: only where needed
    if touched.numel() == 0:
        return scaled
    some = scaled[touched].masked_fill(~valid[touched], torch.nan)
    medians = some.flatten(1).nanmedian(dim=1).values.nan_to_num(0.0)
    filled = torch.where(valid[touched], some, medians[:, None, None])
    return scaled.index_copy(0, touched, filled)
