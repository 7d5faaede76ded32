"""Masks over the detector and p-values of patches, summed over all frames in one pass over the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage, stats

from aqdask import flags
from aqdask.products.mask_summaries import CODES, WITHOUT_SCORE, MaskBlock
from aqdask.products.report.sentences import interval
from aqdask.products.report.values import MeanMask, PValues, RepeatedPlace
from aqdask.references.detector_lines import told_line
from aqdask.specs import PatchGrid
from aqdask.text import plural

BINS = 20  # of the histogram of p-values
LEAST_FRAMES = 10  # good frames from which places are tested
SIGNIFICANCE = 0.01  # of the test of a whole detector
HALF = 0.5  # of a column or row of patches, from which those that repeat are one place
LINE = 3  # patches of one column or row, from which they are told as such
AGAIN = 0.1  # of the good frames in which a place is masked
THROUGHOUT = 0.9  # of the good frames in the period of a place, from which no time is told in words
PERIODS = 64  # into which the frames of a camera are divided along time, at most
LIGHT = ("sky", "background")  # reasons that come and go with the light
FEW = 20  # expected masked patches, below which nothing is said of the calibration
UNIFORM = 0.1  # largest difference from the uniform distribution of a sound calibration
SOUND = "the calibration is sound"
UNUSUAL = 2.0  # times alpha, or less than 1 / so much of it: masked patches of unflagged frames
MANY = 10.0  # times alpha: masked patches of a single frame that stand out


class MaskSums:
    """Sums over the masks of frames.

    Parameters
    ----------
    shape : tuple of int
        Patches of a frame, ``(n_y, n_x)``.
    cameras : ndarray (rows,)
        Camera of each row of the archive, as a number.
    names : sequence of str
        Name of each camera.
    alpha : float
        False-mask rate, in (0, 1).
    times : ndarray (rows,), optional
        datetime64 of each row, NaT where unknown.
    bad_boxes : mapping of int to ndarray, optional
        Patches in boxes that a person has labelled bad, bool ``(n_y, n_x)``, by row: no good p-values.
    ids : sequence of str, optional
        Frame id of each row.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cameras: np.ndarray,
        names: Sequence[str],
        alpha: float,
        times: np.ndarray | None = None,
        bad_boxes: Mapping[int, np.ndarray] | None = None,
        ids: Sequence[str] | np.ndarray = (),
    ) -> None:
        self.ids = ids
        self.bad_boxes, self.boxes_left_out = bad_boxes or {}, 0  # frames with such boxes
        self.cameras, self.names, self.alpha = cameras, names, alpha
        self.times = np.full(len(cameras), np.datetime64("NaT", "us")) if times is None else times
        self.periods = _periods(cameras, self.times)
        self.by_period = np.zeros((len(names), PERIODS, int(np.prod(shape))), np.int32)  # as `by_reason`
        self.good_in = np.zeros((len(names), PERIODS), np.int64)  # good frames
        self.frames, self.good = np.zeros((2, len(names)), np.int64)
        self.patches = int(np.prod(shape))
        self.by_reason = np.zeros((len(names), len(CODES), *shape), np.int64)  # masked patches of good frames
        self.of_others = np.zeros_like(self.by_reason)
        self.histogram, self.labelled_bad = np.zeros(BINS, np.int64), 0
        self.rates: list[np.ndarray] = []  # masked fraction of the scored patches of each good frame

    def add(self, block: MaskBlock, is_flagged: np.ndarray, labelled_bad: np.ndarray | bool = False) -> None:
        """Add some frames; ``is_flagged`` is bool ``(n,)``, as is ``labelled_bad`` (no good p-values)."""
        good = ~block.damaged & ~is_flagged
        cameras = self.cameras[block.rows]
        self.frames += np.bincount(cameras[~block.damaged], minlength=len(self.names))
        self.good += np.bincount(cameras[good], minlength=len(self.names))
        frame, patch, reason = block.masked
        for sums, wanted in ((self.by_reason, good), (self.of_others, ~block.damaged & ~good)):
            chosen = wanted[frame]
            camera = cameras[frame[chosen]]
            keys = (camera * len(CODES) + reason[chosen]) * self.patches + patch[chosen]
            sums += np.bincount(keys, minlength=sums.size).reshape(sums.shape)
        periods = self.periods[block.rows]
        timed = good & (periods >= 0)
        np.add.at(self.good_in, (cameras[timed], periods[timed]), 1)
        chosen = timed[frame]
        np.add.at(self.by_period, (cameras[frame[chosen]], periods[frame[chosen]], patch[chosen]), 1)
        self.labelled_bad += int(np.count_nonzero(good & labelled_bad))
        chosen = np.flatnonzero(good & ~np.asarray(labelled_bad))
        pvalue = block.pvalue[chosen].reshape(-1, self.patches)
        for place, row in enumerate(block.rows[chosen].tolist()):
            if row in self.bad_boxes:
                pvalue[place, self.bad_boxes[row].ravel()] = np.nan
                self.boxes_left_out += 1
        known = np.isfinite(pvalue)
        bins = np.minimum(pvalue[known] * BINS, BINS - 1).astype(np.int64)
        self.histogram += np.bincount(bins, minlength=BINS)
        counts, masked = known.sum(axis=1), (pvalue <= self.alpha).sum(axis=1)
        self.rates.append(masked[counts > 0] / counts[counts > 0])

    def mean_masks(self) -> dict[str, MeanMask]:
        """Return the mean masks by camera, of those with a scored frame."""
        found = {}
        for camera, name in enumerate(self.names):
            frames, good = int(self.frames[camera]), int(self.good[camera])
            if frames:
                in_good, in_others = (sums[camera].sum(axis=0) for sums in (self.by_reason, self.of_others))
                of_good = in_good / good if good else np.full(in_good.shape, np.nan)
                found[name] = MeanMask((in_good + in_others) / frames, of_good, frames, good)
        return found

    def repeated_places(self, grid: PatchGrid, notes: Sequence[str] = ()) -> tuple[RepeatedPlace, ...]:
        """Find patches that are masked more often in good frames than the others; the largest places first.

        Binomial test of each patch against the mean rate of the other patches of its camera (alpha at
        least), corrected for the number of patches (Bonferroni), and masked in a tenth of the good frames at
        least. The others are those that do not repeat at the median rate. The patches of a column or row
        are one place where half of it repeats. Frames are taken as independent: an object that stays in one
        place of all frames is found as well.

        Parameters
        ----------
        grid : PatchGrid
        notes : sequence of str
            Notes of the calibration, which may name the pixel column or row.
        """
        found = []
        for camera, good in enumerate(self.good.tolist()):
            if good >= LEAST_FRAMES:
                found += self._places(camera, good, grid, self._told_lines(camera, notes))
        return tuple(sorted(found, key=lambda place: (-place.patches * place.fraction, place.rows)))

    def _told_lines(self, camera: int, notes: Sequence[str]) -> list[tuple[str, int]]:
        """Return kind and pixel of the lines in the notes on a camera, or on no camera by name."""
        owners = sorted(filter(None, self.names), key=len, reverse=True)
        named = (
            (next((n for n in owners if note.startswith(f"{n} ")), ""), told_line(note)) for note in notes
        )
        return [line for owner, line in named if line and owner in ("", self.names[camera])]

    def _places(
        self, camera: int, good: int, grid: PatchGrid, named: Sequence[tuple[str, int]]
    ) -> list[RepeatedPlace]:
        by_reason = self.by_reason[camera]
        masked, (pvalue, again, rate) = by_reason.sum(axis=0), self._repeating(camera)
        lines = (again.mean(axis=0) >= HALF) | (again.mean(axis=1, keepdims=True) >= HALF)
        labels, _ = ndimage.label(again | lines, np.ones((3, 3)))
        labels[~again] = 0
        places = []
        for number, (y, x) in enumerate(ndimage.find_objects(labels), start=1):
            inside = labels == number
            reason = flags.REASONS[int(by_reason[:, inside].sum(axis=1).argmax())].name
            rows, columns = (
                (int(grid.starts(axis)[part.start]), int(grid.stops(axis)[part.stop - 1]))
                for axis, part in enumerate((y, x))
            )
            fraction, patches = float(masked[inside].mean() / good), int(inside.sum())
            within, is_throughout = self._period(camera, inside.ravel(), rate)
            first, last = self.times[within[[0, -1]]] if len(within) else [np.datetime64("NaT")] * 2
            when = "" if is_throughout else self._when(camera, within, reason)
            text = (
                f"{_told_place(rows, columns, inside[y, x], grid, named)} of "
                f"{self.names[camera] or 'the unknown camera'}, "
                f"masked in {fraction:.0%} of {plural(good, 'unflagged frame')} ({rate:.1%} by chance), "
                f"mostly for {flags.cause(reason)}{when}"
            )
            least = float(pvalue[inside].min())
            about = self.names[camera], rows, columns, patches, fraction, rate, least, reason
            places.append(RepeatedPlace(*about, first, last, text))
        return places

    def _counts(self, camera: int) -> tuple[np.ndarray, np.ndarray]:
        """Count the good frames in which each patch is masked with a score, and those in which it has one."""
        by_reason = self.by_reason[camera]
        without = by_reason[list(_positions(WITHOUT_SCORE))].sum(axis=0)
        return by_reason.sum(axis=0) - without, self.good[camera] - without

    def _repeating(self, camera: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Test each patch: p-values, True for those that repeat, and the rate of the others."""
        masked, good = self.by_reason[camera].sum(axis=0), int(self.good[camera])
        with_score, scored = self._counts(camera)
        rate = max(float(np.median(with_score / np.maximum(scored, 1))), self.alpha)
        _, again = _repeated(masked, good, rate)
        rate = max(float(with_score[~again].sum() / max(scored[~again].sum(), 1)), self.alpha)
        return *_repeated(masked, good, rate), rate

    def _elsewhere(self) -> float:
        """Return the masked fraction outside of the places that repeat; NaN where there are none."""
        masked, scored, repeated = 0, 0, False
        for camera in np.flatnonzero(self.good).tolist():
            found, known = self._counts(camera)
            others = np.ones(found.shape, bool)
            if self.good[camera] >= LEAST_FRAMES:
                others = ~self._repeating(camera)[1]
            masked, scored = masked + int(found[others].sum()), scored + int(known[others].sum())
            repeated |= not others.all()
        return masked / max(scored, 1) if repeated else float("nan")

    def _when(self, camera: int, within: np.ndarray, reason: str) -> str:
        """Tell a period by its frames and times, or by the first frame if it lasts to the last good one."""
        own, first = self.times[self.cameras == camera], self.times[within[0]]
        by_frame = len(self.ids) > 0 and len(own) <= PERIODS  # a frame each
        if self.good_in[camera, self.periods[within[-1]] + 1 :].any():
            named = f" from {self.ids[within[0]]} to {self.ids[within[-1]]}" if by_frame else ""
            cause = ": rather light, such as a ghost, than the detector" * (reason in LIGHT)
            return f", only{named} {interval(self.times[within[[0, -1]]])} (UTC){cause}"
        clock = str(first.astype("datetime64[m]")).replace("T", " ")
        if by_frame:
            return f", from {self.ids[within[0]]} on ({clock} UTC)"
        return f", from {clock} (UTC) on"

    def _period(self, camera: int, inside: np.ndarray, rate: float) -> tuple[np.ndarray, bool]:
        """Find the time in which patches are masked: rows in order, and True for nearly all frames.

        The contiguous periods with the largest log likelihood ratio of the mean rate of these patches to
        ``rate``: the maximal scoring segment of Karlin and Altschul (1990).
        """
        frames = self.good_in[camera]
        used = np.flatnonzero(frames)
        if not used.size:
            return used, True
        masked, total = self.by_period[camera][:, inside].sum(axis=1)[used], frames[used] * inside.sum()
        high, low = (np.clip(p, 1e-3, 1 - 1e-3) for p in (masked.sum() / total.sum(), rate))
        gain = masked * np.log(high / low) + (total - masked) * np.log((1 - high) / (1 - low))
        sums = np.concatenate([[0], np.cumsum(gain)])
        stop = int(np.argmax(sums[1:] - np.minimum.accumulate(sums)[:-1]))
        start = int(np.argmin(sums[: stop + 1]))
        is_within = (self.cameras == camera) & (self.periods >= used[start]) & (self.periods <= used[stop])
        within = np.flatnonzero(is_within)
        within = within[np.argsort(self.times[within], kind="stable")]
        return within, bool(total[start : stop + 1].sum() >= THROUGHOUT * total.sum())

    def pvalues(self) -> PValues:
        """Return the histogram of the p-values of unflagged frames, and the verdict."""
        edges = np.linspace(0, 1, BINS + 1)
        rates = np.concatenate([*self.rates, np.empty(0)])
        if not rates.size:
            text = "No unflagged frame is scored, so that the p-values cannot be compared with the uniform."
            return PValues(edges, self.histogram, float("nan"), self.alpha, None, text)
        masked, number = float(rates.mean()), int(self.histogram.sum())
        largest = float(np.abs(np.cumsum(self.histogram) / max(number, 1) - edges[1:]).max())
        about = (
            f"{masked:.2%} of the patches of unflagged frames are masked where {self.alpha:.2%} are expected"
        )
        left_out = [plural(self.labelled_bad, "frame")] * bool(self.labelled_bad)
        left_out += [f"boxes in {plural(self.boxes_left_out, 'frame')}"] * bool(self.boxes_left_out)
        if left_out:
            about += f" ({' and '.join(left_out)} labelled bad left out)"
        is_sound, verdict = self._verdict(rates)
        elsewhere = self._elsewhere()
        if masked > UNUSUAL * self.alpha and masked - elsewhere >= HALF * (masked - self.alpha):
            where = f"in places that are masked again and again; elsewhere {elsewhere:.2%} are masked"
            is_usual = elsewhere <= UNUSUAL * self.alpha
            verdict = (
                f"most of the excess is {where}" if is_usual else f"{verdict}. Most of the excess is {where}"
            )
        text = f"{about}: {verdict}. Their p-values are at most {largest:.1%} from a uniform distribution."
        return PValues(edges, self.histogram, masked, self.alpha, is_sound, text)

    def _verdict(self, rates: np.ndarray) -> tuple[bool | None, str]:
        """Judge the masked fractions of frames: sound or not, None where that cannot be told; and the words.

        Above alpha by three standard errors, or in more frames with ten times alpha than Markov's inequality
        allows: at most a tenth of the frames, however the patches of a frame are correlated.
        """
        masked, number = rates.mean(), int(self.histogram.sum())
        scatter = rates.std(ddof=1) / np.sqrt(len(rates)) if len(rates) > 1 else np.inf
        error = max(scatter, np.sqrt(self.alpha / max(number, 1)))
        many = np.count_nonzero(rates >= MANY * self.alpha)
        stand_out = stats.binom.sf(many - 1, len(rates), 1 / MANY) <= SIGNIFICANCE
        if masked > UNUSUAL * self.alpha and (masked - 3 * error > self.alpha or stand_out):
            return False, (
                "more than the calibration promises: these frames have small defects, or differ from the "
                "reference frames (calibrate on good frames of the same camera and filter)"
            )
        if masked < self.alpha / UNUSUAL and masked + 3 * error < self.alpha:
            return False, "less than the calibration promises, so that faint defects may be missed"
        counted = f"{plural(number, 'patch', 'patches')} of {plural(len(rates), 'frame')}"
        if masked > UNUSUAL * self.alpha:
            return None, f"more than expected, but with {counted} this can be chance"
        if self.alpha * number < FEW:
            return None, f"too few patches to tell if the calibration is sound ({counted})"
        edges, cumulative = np.linspace(0, 1, BINS + 1)[1:], np.cumsum(self.histogram) / number
        away = np.abs(cumulative - edges)
        if away.max() > UNIFORM:
            at = int(away.argmax())
            elsewhere = f"{cumulative[at]:.0%} would be masked at alpha = {edges[at]:.2g}"
            return False, f"as promised at this alpha, but {elsewhere}"
        return True, SOUND


def _told_place(
    rows: tuple[int, int],
    columns: tuple[int, int],
    inside: np.ndarray,
    grid: PatchGrid,
    lines: Sequence[tuple[str, int]],
) -> str:
    """Tell a place: by the pixel column or row where one of ``lines`` is the only one in it."""
    number = int(inside.sum())
    patches = plural(number, "patch", "patches")
    kind = "column" if inside.shape[1] == 1 else "row"
    is_line = min(inside.shape) == 1 and number >= LINE
    across, along, length = (columns, rows, grid.height) if kind == "column" else (rows, columns, grid.width)
    known = {at for own, at in lines if own == kind and across[0] <= at < across[1]}
    if is_line and len(known) == 1:
        other = "rows" if kind == "column" else "columns"
        span = f"all {other}" if along == (0, length) else f"{other} {along[0]} to {along[1] - 1}"
        return f"{kind} {known.pop()} (pixel), {span} ({patches})"
    line = (" above one another" if kind == "column" else " side by side") * is_line
    return f"{patches}{line} in rows {rows[0]} to {rows[1] - 1}, columns {columns[0]} to {columns[1] - 1}"


def _repeated(masked: np.ndarray, good: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Test the number of frames in which each patch is masked: p-values, and True for those that repeat."""
    pvalue = np.minimum(stats.binom.sf(masked - 1, good, rate) * masked.size, 1.0)
    return pvalue, (pvalue <= SIGNIFICANCE) & (masked >= AGAIN * good)


def _periods(cameras: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Divide the rows of each camera along time into `PERIODS` of equal numbers; -1 without a time."""
    found = np.full(len(times), -1)
    for camera in np.unique(cameras):
        own = np.flatnonzero((cameras == camera) & ~np.isnat(times))
        own = own[np.argsort(times[own], kind="stable")]
        found[own] = np.arange(len(own)) * min(PERIODS, len(own)) // max(len(own), 1)
    return found


def _positions(codes: Sequence[int]) -> np.ndarray:
    """Return the places of codes in `aqdask.flags.REASONS`."""
    return np.flatnonzero(np.isin(CODES, codes))
