"""Reconstruction error of patches."""

from __future__ import annotations

import torch


def mean_absolute_error(
    patches: torch.Tensor, reconstruction: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the mean absolute error (MAE) of each patch over its valid pixels: the published score.

    MAE = sum over valid pixels of |patch - reconstruction|, divided by their number
    (Jia et al. 2024, arXiv 2405.03408; there every pixel counts).

    Parameters
    ----------
    patches, reconstruction : Tensor (n, P, P), float
        In the units of the normalised patch; finite.
    valid : Tensor (n, P, P) of bool, or None
        None: every pixel is data, with the same bits as a mask that is all True.

    Returns
    -------
    Tensor (n,), type of the input
        NaN where a patch has no valid pixel.
    """
    difference = (patches - reconstruction).abs().flatten(1)
    if valid is None:
        return difference.sum(dim=1) / difference.shape[1]
    inside = valid.flatten(1)
    return difference.masked_fill(~inside, 0.0).sum(dim=1) / inside.sum(dim=1)
