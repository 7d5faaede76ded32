"""Places in frames of what stands out, from stored maps of single frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from aqdask import flags
from aqdask.products.mask_summaries import read_reasons
from aqdask.products.report.sky import sky_change
from aqdask.products.report.values import RepeatedPlace
from aqdask.specs import PatchGrid
from aqdask.store import layout
from aqdask.store.quality_store import QualityStore
from aqdask.text import plural

AT_ONCE = 1024  # maps in memory
OF_RUN = 16  # frames of a run whose maps are read, and unflagged frames for comparison
STRONG = 2.0  # dex of the score above the tenth of the patches with the lowest
SHARED = 2 / 3  # of the frames of a run, flagged for one reason, from which the run has a place
SKY_WORDS = {
    "": "",
    "gradient": "a gradient of the sky over the whole frame",
    "brighter": "a brighter sky",
    "darker": "a darker sky",
}
PARTS = 3  # places that are listed of one frame
LARGEST, FILLED = 0.75, 0.6  # of the frame, of which a part is no place of its own; and of that part


class MapPlaces:
    """Places of what stands out in the maps of frames.

    Parameters
    ----------
    store : QualityStore
    grid : PatchGrid
    alpha : float
        False-mask rate, in (0, 1).
    frames : mapping of str to ndarray (n,)
        Columns, see `aqdask.products.report.values.ReportData`.
    repeated : sequence of RepeatedPlace
        Places that are told by themselves.
    """

    def __init__(
        self,
        store: QualityStore,
        grid: PatchGrid,
        alpha: float,
        frames: Mapping[str, np.ndarray],
        repeated: Sequence[RepeatedPlace],
    ) -> None:
        self.store, self.grid, self.alpha, self.frames = store, grid, alpha, frames
        self.told: dict[str, np.ndarray] = {}
        for place in repeated:
            inside = self.told.setdefault(place.camera, np.zeros(grid.shape, bool))
            inside[
                np.ix_(*(self._patches(axis, span) for axis, span in enumerate((place.rows, place.columns))))
            ] = True

    def _patches(self, axis: int, span: tuple[int, int]) -> np.ndarray:
        return np.flatnonzero((self.grid.starts(axis) >= span[0]) & (self.grid.stops(axis) <= span[1]))

    def of_reason(self, chosen: np.ndarray, reason: str) -> list[tuple[int, str]]:
        """Count the patches that are masked for a reason outside of the repeated places, and tell where.

        Of frames by their positions in the columns.
        """
        found = []
        for part in np.array_split(chosen, max(-(-len(chosen) // AT_ONCE), 1)):
            known = np.ones(len(part), bool)
            maps = read_reasons(self.store, self.frames["row"][part], known, self.alpha)
            for place, reasons in zip(part.tolist(), maps, strict=True):
                here = reasons == flags.code(flags.REASONS, reason)
                here &= ~self.told.get(str(self.frames["camera"][place]), np.zeros((), bool))
                found.append((int(here.sum()), self._parts(here)))
        return found

    def of_run(self, run: Sequence[int]) -> str:
        """Tell the part of the frames in which the scores of a run are highest.

        Empty for all of a frame, and for a run of frames that are flagged for unlike reasons.
        """
        reasons = self.frames["flag_reason"][run].tolist()
        ((reason, number),) = Counter(reasons).most_common(1)
        if number < SHARED * len(run):
            return ""
        alike = [place for place, own in zip(run, reasons, strict=True) if own == reason]
        scores = self._maps("score", alike[:: -(-len(alike) // OF_RUN)])
        scores = [np.nan_to_num(score - np.nanquantile(score, 0.1)) for score in scores]
        if not scores:
            return ""
        strong = np.median(scores, axis=0) > STRONG
        labels, count = ndimage.label(strong)
        if not count:
            return ""
        sizes = np.bincount(labels.ravel())[1:]
        largest = labels == 1 + int(sizes.argmax())
        area = largest[ndimage.find_objects(largest.astype(np.int8))[0]].size
        is_place = sizes.max() >= FILLED * max(area, strong.sum()) and area <= LARGEST * strong.size
        return f", most of all in {self._box(largest)}" if is_place else ""

    def sky_of_run(self, run: Sequence[int]) -> str:
        """Tell how the sky of some frames differs from that of unflagged ones; empty where it does not tell.

        These are of the same camera and filter, the nearest in the order of time.
        """
        if "sky" not in self.store.variables:
            return ""
        frames, first = self.frames, run[0]
        is_usual = np.isfinite(frames["masked_patches"]) & ~frames["is_flagged"]
        for name in ("camera", "filter"):
            is_usual &= frames[name] == frames[name][first]
        usual = np.flatnonzero(is_usual)
        usual = usual[np.argsort(np.abs(usual - np.median(run)), kind="stable")][:OF_RUN]
        own = [place for place in run if frames["filter"][place] == frames["filter"][first]]
        maps = (self._maps("sky", places) for places in (own[:: -(-len(own) // OF_RUN)], usual.tolist()))
        change = sky_change(*(np.reshape(found, (-1, *self.grid.shape)) for found in maps))
        if change.kind != "patchy":
            return SKY_WORDS[change.kind]
        where = f" over {self._box(change.inside)}" if change.inside.any() else ""
        return f"patchy sky{where}{' (cloud?)' if change.moves else ''}"

    def _maps(self, name: str, places: Sequence[int]) -> list[np.ndarray]:
        """Read a map of frames by their positions, of those that are readable and have data."""
        found = []
        for place in places:
            try:
                values = self.store.read_map(name, int(self.frames["row"][place]))
            except layout.UNREADABLE:
                continue
            if np.isfinite(values).any():
                found.append(values)
        return found

    def _parts(self, inside: np.ndarray) -> str:
        """Tell the boxes of patches that lie together, the largest first, and count single ones.

        Patches with at most one other between them lie together.
        """
        labels, _ = ndimage.label(ndimage.maximum_filter(inside, 2), np.ones((3, 3)))
        sizes = np.bincount(labels[inside], minlength=1)
        listed = [part for part in np.argsort(-sizes, kind="stable") if sizes[part] > 1][:PARTS]
        if not listed:
            return self._box(inside)
        rest = int(inside.sum() - sizes[listed].sum())
        boxes = " and ".join(self._box(inside & (labels == part)) for part in listed)
        return boxes + (f" and {plural(rest, 'patch', 'patches')} elsewhere" if rest else "")

    def _box(self, inside: np.ndarray) -> str:
        if not inside.any():
            return ""
        spans = [
            (int(self.grid.starts(axis)[part.start]), int(self.grid.stops(axis)[part.stop - 1]) - 1)
            for axis, part in enumerate(ndimage.find_objects(inside.astype(np.int8))[0])
        ]
        return f"rows {spans[0][0]} to {spans[0][1]}, columns {spans[1][0]} to {spans[1][1]}"
