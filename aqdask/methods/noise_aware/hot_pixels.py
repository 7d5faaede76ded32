"""Hot pixels of a camera, found in the mean of reference frames."""

from __future__ import annotations

import numpy as np

EXCESS = 5.0  # sigma of one frame above the sky
SHARE = 0.2  # of it that the four neighbours may have on average: a star of 1.5 px FWHM leaves them a third
LARGEST = 0.01  # of all pixels: a map with more of them is no map of defects


def hot_pixels(mean: np.ndarray, frames: int) -> np.ndarray:
    """Find pixels that stand alone above the sky in the mean of frames, bool ``(y, x)``.

    A star on the same pixels in all frames has neighbours that share its light; a hot pixel has not.

    Parameters
    ----------
    mean : ndarray (y, x)
        Mean over frames of the signal above sky in sigma of one frame; NaN = no data.
    frames : int
        Number of frames; with fewer than two none is found, since a cosmic ray looks the same.
    """
    found = np.zeros(mean.shape, bool)
    if frames < 2 or min(mean.shape) < 3:
        return found
    signal = np.nan_to_num(mean)
    around = (signal[1:-1, 2:] + signal[1:-1, :-2] + signal[2:, 1:-1] + signal[:-2, 1:-1]) / 4
    centre = signal[1:-1, 1:-1]
    # Three sigma of the neighbours' mean in this many frames.
    slack = 3 / (2 * np.sqrt(frames))
    found[1:-1, 1:-1] = (centre > EXCESS) & (around < SHARE * centre + slack)
    return found if found.mean() <= LARGEST else np.zeros(mean.shape, bool)
