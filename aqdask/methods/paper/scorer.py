"""Scorer of ``method="paper"``: the published algorithm, as a reference for comparison.

From the paper (Jia et al. 2024, arXiv 2405.03408): frames cut into small patches, each normalised by
itself, a convolutional autoencoder trained on good frames with the mean squared error, and the mean
absolute error (MAE) of the reconstruction as the score, larger = worse. Ours, because the paper leaves them
open: min-max as the normalisation's formula, the layers (`network`), the p-value (split conformal
against patches of held-out reference frames, in place of a threshold by hand), and pixels without data.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from aqdask import flags
from aqdask.errors import ModelError
from aqdask.methods.base import Reconstruction
from aqdask.methods.bundle import Bundle, Calibration
from aqdask.methods.paper.network import ARCHITECTURES, ConvAutoencoder
from aqdask.methods.paper.normalise import minmax, minmax_bounds
from aqdask.methods.paper.residual import mean_absolute_error
from aqdask.methods.paper.variables import VARIABLES
from aqdask.methods.tensors import as_float, exact_arithmetic, restore_network
from aqdask.specs import MIN_VALID, PatchGrid
from aqdask.stats.conformal import ScoreTable, conformal_pvalue
from aqdask.stats.patches import cut_range, join, padded, valid_range

BATCH = 32  # patches in every forward pass, the last padded: one shape, hence one arithmetic


class PatchErrors:
    """MAE of patches under one network, with the same bits however the patches are grouped.

    Training calibrates with this very class, so that reference and input scores are comparable. A frame of
    4096 x 4096 takes 1.1 to 1.5 s on one core in fp32 (four fifths in the network) and under 40 MB beside it.

    Parameters
    ----------
    network : ConvAutoencoder
        Put on the device, in evaluation mode, by this class.
    device : str or torch.device
        'cpu', 'cuda', ...
    """

    def __init__(self, network: ConvAutoencoder, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        network = network.to(self.device).eval()
        self.network = nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)

    def of_frame(self, image: np.ndarray, invalid: np.ndarray | None, grid: PatchGrid) -> np.ndarray:
        """Compute the MAE ``(n_y, n_x)``, float32, of a frame's patches, a batch in memory at a time."""
        total = grid.shape[0] * grid.shape[1]
        scores = np.empty(total, dtype=np.float32)
        for first, stop in _batches(total):
            valid = valid_range(invalid, grid, first, stop)
            scores[first:stop] = self._of_batch(cut_range(image, grid, first, stop), valid)
        return scores.reshape(grid.shape)

    def of_patches(self, patches: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """Compute the MAE ``(n,)``, float32, of patches ``(n, P, P)``; NaN where too few pixels are data."""
        scores = np.empty(len(patches), dtype=np.float32)
        for first, stop in _batches(len(patches)):
            some = None if valid is None else valid[first:stop]
            scores[first:stop] = self._of_batch(patches[first:stop], some)
        return scores

    def reconstruct(self, image: np.ndarray, invalid: np.ndarray | None, grid: PatchGrid) -> list[np.ndarray]:
        """Compute the planes of `aqdask.methods.base.Reconstruction`."""
        found = []
        for first, stop in _batches(grid.shape[0] * grid.shape[1]):
            patches, valid = cut_range(image, grid, first, stop), valid_range(invalid, grid, first, stop)
            with torch.inference_mode(), exact_arithmetic():
                mask = None if valid is None else torch.from_numpy(valid).to(self.device)
                values = as_float(patches, self.device)
                known = values.isfinite() if mask is None else mask & values.isfinite()
                scaled = minmax(values, known)
                smooth = self.network(scaled[:, None])[:, 0].float()
                low, span = minmax_bounds(values, known)
                planes = scaled, smooth, low + span * smooth
                found.append([part.masked_fill(~known, torch.nan).cpu().numpy() for part in planes])
        return [join(np.concatenate(parts), grid) for parts in zip(*found, strict=True)]

    def _of_batch(self, patches: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """Compute the MAE of at most `BATCH` patches."""
        count = len(patches)
        with torch.inference_mode(), exact_arithmetic():
            values = as_float(padded(patches, BATCH), self.device)
            mask = None if valid is None else torch.from_numpy(padded(valid, BATCH)).to(self.device)
            if patches.dtype.kind == "f":  # NaN and infinity are no data, whatever the mask says
                finite = values.isfinite()
                mask = finite if mask is None else mask & finite
            scaled = minmax(values, mask)
            layout = scaled[:, None].contiguous(memory_format=torch.channels_last)
            scores = mean_absolute_error(scaled, self.network(layout)[:, 0], mask)
            if mask is not None:
                enough = mask.flatten(1).sum(dim=1) >= MIN_VALID * mask[0].numel()
                scores = scores.masked_fill(~enough, torch.nan)
            return scores[:count].cpu().numpy()


def _batches(total: int) -> Iterator[tuple[int, int]]:
    """Yield bounds of consecutive groups of at most `BATCH`."""
    for first in range(0, total, BATCH):
        yield first, min(first + BATCH, total)


def calibration_of(scores: np.ndarray) -> Calibration:
    """Calibrate with the MAE ``(n,)`` of reference patches; NaN (no data) is left out.

    Raises
    ------
    UsageError
        If no score is left.
    """
    table = ScoreTable.from_scores(scores)
    return Calibration(table.arrays(), {"patches": table.total, "smallest_pvalue": table.smallest})


class PaperScorer:
    """Scorer of the published method (`aqdask.methods.base.Scorer`).

    Parameters
    ----------
    bundle : Bundle
        With ``method="paper"``.
    device : str
        'cpu', 'cuda', ...

    Raises
    ------
    ModelError
        If the weights do not fit the architecture that the bundle states, or a calibration has no scores.
    """

    variables = VARIABLES
    feature_names: tuple[str, ...] = ("mae",)

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        self.name, self.digest, self.patch = bundle.name, bundle.digest, bundle.patch
        self._bundle = bundle
        _check_calibrations(bundle)
        self._errors = PatchErrors(restore_network(bundle, ARCHITECTURES, "widths"), device)

    def extract_features(
        self,
        patches: np.ndarray,
        valid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        camera: str = "",
        filter: str = "",
    ) -> np.ndarray:
        """Compute the MAE ``(n, 1)``, float32, of patches ``(n, P, P)``, wherever they stand; see `Scorer`.

        NaN for a patch with fewer than `MIN_VALID` of its pixels.
        """
        return self._errors.of_patches(patches, valid)[:, None]

    def reconstruct(
        self,
        image: np.ndarray,
        invalid: np.ndarray | None = None,
        camera: str = "",
        filter: str = "",
        *,
        in_counts: bool = True,
    ) -> Reconstruction:
        """Reconstruct a frame by the autoencoder; see `aqdask.methods.base.reconstruct_frame`.

        Each patch is scaled to [0, 1].
        """
        grid = PatchGrid(image.shape[0], image.shape[1], self.patch)
        return Reconstruction(*self._errors.reconstruct(image, invalid, grid))

    def score_features(
        self, features: np.ndarray, camera: str = "", filter: str = ""
    ) -> dict[str, np.ndarray]:
        """Compute every variable of a frame from its MAE ``(n_y, n_x, 1)``: the score is the MAE itself.

        A patch without one has the reason no_data, a frame without any has NaN as its ``frame_score``.
        """
        mae = np.array(features[..., 0], dtype=np.float32)
        scored = mae[~np.isnan(mae)]
        mean = scored.mean(dtype=np.float64) if scored.size else np.nan
        code = np.where(
            np.isnan(mae), flags.code(flags.REASONS, "no_data"), flags.code(flags.REASONS, "residual")
        )
        table = ScoreTable.of(self._bundle.calibration(camera, filter).arrays)
        return {
            "score": mae.copy(),
            "pvalue": conformal_pvalue(mae, table),
            "reason": code.astype(np.uint8),
            "mae": mae,
            "frame_score": np.array(mean, dtype=np.float32),
        }


def _check_calibrations(bundle: Bundle) -> None:
    try:
        for calibration in bundle.calibrations.values():
            ScoreTable.of(calibration.arrays)
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"a calibration of the model {bundle.name} without {error}",
            expected="a table of reference scores in each",
            consequence="Its scores would have no p-value",
            remedy="train again with this release of aqdask",
        ) from error
