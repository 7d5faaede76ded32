"""Masks of patches with their reasons, of many frames at once, from the stored maps; no pixel is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import zarr

from aqdask import flags
from aqdask.stats.masking import bad_patches, check_alpha
from aqdask.store import layout
from aqdask.store.entry_table import CODE
from aqdask.store.ledger import DONE, Rows, open_ledger
from aqdask.store.quality_store import QualityStore, row_checksum

GOOD = 255
"""Code of a patch that is not masked, in maps of reasons."""
BLOCK_BYTES = 2**24  # of p-values that are read at a time
CODES = np.array([flag.value for flag in flags.REASONS])
PLACES = np.zeros(256, np.int64)  # of each code in `aqdask.flags.REASONS`; unknown ones count as no data
PLACES[CODES] = np.arange(len(CODES))
WITHOUT_SCORE = tuple(flags.code(flags.REASONS, name) for name in ("no_data", "saturated"))


@dataclass(frozen=True, eq=False)
class MaskBlock:
    """Masks of some frames.

    Parameters
    ----------
    rows : ndarray (n,)
        Rows of the archive.
    pvalue : ndarray (n, n_y, n_x)
        float32, NaN without score.
    reasons : ndarray (n, n_y, n_x)
        uint8, reason of each masked patch, `GOOD` elsewhere.
    damaged : ndarray (n,)
        bool, frames whose maps are missing or damaged; their p-values are NaN.
    """

    rows: np.ndarray
    pvalue: np.ndarray
    reasons: np.ndarray
    damaged: np.ndarray

    @cached_property
    def masked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masked patches: places of frame (in ``rows``), patch (in the flattened grid) and reason."""
        codes = self.reasons.reshape(len(self.rows), -1)
        frame, patch = np.nonzero(codes != GOOD)
        return frame, patch, PLACES[codes[frame, patch]]

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of masked patches of each frame by reason, int64 ``(n, len(REASONS))``."""
        frame, _, reason = self.masked
        shape = len(self.rows), len(CODES)
        return np.bincount(frame * shape[1] + reason, minlength=shape[0] * shape[1]).reshape(shape)


@dataclass(frozen=True, eq=False)
class MaskSummaries:
    """Masks of all frames of an archive in numbers.

    Parameters
    ----------
    counts : ndarray (rows, len(REASONS))
        int64, masked patches by reason in the order of `aqdask.flags.REASONS`.
    patches : int
        Patches of a frame.
    known : ndarray (rows,)
        bool, frames that are scored and whose maps are sound.
    damaged : ndarray (rows,)
        bool, frames that are scored and whose maps are missing or damaged.
    """

    counts: np.ndarray
    patches: int
    known: np.ndarray
    damaged: np.ndarray

    def take(self, rows: np.ndarray) -> MaskSummaries:
        """Return those of some frames."""
        return MaskSummaries(self.counts[rows], self.patches, self.known[rows], self.damaged[rows])

    @cached_property
    def shares(self) -> np.ndarray:
        """Fraction of the patches masked for each reason, float64 like ``counts``; NaN where unknown."""
        return np.where(self.known[:, None], self.counts / self.patches, np.nan)

    @cached_property
    def masked(self) -> np.ndarray:
        """Fraction of the patches that are masked, float64 ``(rows,)``; NaN where unknown."""
        return self.shares.sum(axis=1)

    @cached_property
    def main_reasons(self) -> np.ndarray:
        """Name of the most common reason of each frame, ``(rows,)``; see `main_reasons`."""
        return main_reasons(self.counts)


def main_reasons(counts: np.ndarray) -> np.ndarray:
    """Return the most common reason of masked patches by frame.

    Parameters
    ----------
    counts : ndarray (n, len(REASONS))
        As in `MaskSummaries`.

    Returns
    -------
    ndarray (n,) of str
        That of the patches with a score; 'no_data' or 'saturated' only if no other patch is masked; empty if
        no patch is masked.
    """
    scored = np.where(np.isin(CODES, WITHOUT_SCORE), 0, counts)
    used = np.where(scored.any(axis=1, keepdims=True), scored, counts)
    names = np.array([flag.name for flag in flags.REASONS])
    return np.where(used.any(axis=1), names[used.argmax(axis=1)], "")


def read_masks(store: QualityStore, known: Rows, quality: str, alpha: float) -> Iterator[MaskBlock]:
    """Read the masks of frames in blocks of whole shards, some 16 MB of p-values at a time.

    Parameters
    ----------
    store : QualityStore
        The quality group.
    known : Rows
        Frames with a score of this group, in row order; others are left out by the caller.
    quality : str
        Its name.
    alpha : float
        False-mask rate, in (0, 1).
    """
    check_alpha(alpha)
    arrays, per_block = _readers(store)
    rows, checksums = known.column("row"), known.score(quality, "crc32c")
    starts = np.unique(rows // per_block) * per_block
    for start, stop in zip(starts, np.searchsorted(rows, starts + per_block), strict=True):
        part = slice(int(np.searchsorted(rows, start)), int(stop))
        yield _block(store, arrays, rows[part], checksums[part], alpha)


def _readers(store: QualityStore) -> tuple[list[zarr.Array], int]:
    """Open p-values and reasons; the number of frames that are read at a time, whole shards."""
    arrays = [layout.open_reader(store.group, name) for name in ("pvalue", "reason")]
    size = 4 * int(np.prod(arrays[0].shape[1:]))
    return arrays, max(BLOCK_BYTES // size // store.frames_per_shard, 1) * store.frames_per_shard


def _block(
    store: QualityStore, arrays: Sequence[object], rows: np.ndarray, checksums: np.ndarray, alpha: float
) -> MaskBlock:
    whole = slice(int(rows[0]), int(rows[-1]) + 1)
    damaged = np.zeros(len(rows), bool)
    try:
        pvalue, reason = (np.asarray(array[whole])[rows - whole.start] for array in arrays)  # type: ignore[index]
    except layout.UNREADABLE:
        pvalue, reason, damaged = _one_by_one(store, rows)
    for place in np.flatnonzero(~damaged & ~np.isfinite(pvalue).any(axis=(1, 2))):
        # inner chunks have checksums of their own; a shard that is gone reads as no data
        row = int(rows[place])
        damaged[place] = _is_other(store, row, str(checksums[place]))
    reasons = np.where(bad_patches(pvalue, alpha), reason, np.uint8(GOOD))
    return MaskBlock(rows, pvalue, reasons, damaged)


def _one_by_one(store: QualityStore, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the maps of frames of which some are damaged: p-values, reasons, damaged frames."""
    empty, damaged = store.empty(len(rows)), np.zeros(len(rows), bool)
    pvalue, reason = empty["pvalue"], empty["reason"]
    for place, row in enumerate(rows.tolist()):
        try:
            pvalue[place], reason[place] = (store.read_map(name, row) for name in ("pvalue", "reason"))
        except layout.UNREADABLE:
            damaged[place] = True
            pvalue[place], reason[place] = store.empty(1)["pvalue"][0], store.empty(1)["reason"][0]
    return pvalue, reason, damaged


def _is_other(store: QualityStore, row: int, expected: str) -> bool:
    try:
        return row_checksum(store.read(row, row + 1), 0) != expected
    except layout.UNREADABLE:
        return True


def scored_rows(known: Rows, quality: str) -> Rows:
    """Return the frames with a finished score of their stored pixels."""
    return known.take(known.standing(quality) == CODE[DONE])


def summarise_masks(archive: str | os.PathLike[str], quality: str, alpha: float) -> MaskSummaries:
    """Count the masked patches of all frames of an archive by reason.

    Parameters
    ----------
    archive : path
        The archive.
    quality : str
        Name of the quality group.
    alpha : float
        False-mask rate, in (0, 1).

    Raises
    ------
    UsageError
        For an alpha outside (0, 1), or no such group.
    """
    store, ledger = QualityStore.open(archive, quality), open_ledger(layout.open_root(archive))
    scored = scored_rows(ledger.rows(), quality)
    return summary_of(read_masks(store, scored, quality, alpha), store, ledger.row_count)


def summary_of(blocks: Iterator[MaskBlock], store: QualityStore, rows: int) -> MaskSummaries:
    """Collect the numbers of blocks of frames of an archive with so many ``rows``."""
    counts = np.zeros((rows, len(flags.REASONS)), np.int64)
    known, damaged = np.zeros(rows, bool), np.zeros(rows, bool)
    for block in blocks:
        counts[block.rows] = block.counts
        known[block.rows], damaged[block.rows] = ~block.damaged, block.damaged
    patches = int(np.prod(store.group["pvalue"].shape[1:]))  # type: ignore[union-attr]
    return MaskSummaries(counts, patches, known, damaged)


def read_reasons(store: QualityStore, rows: np.ndarray, known: np.ndarray, alpha: float) -> np.ndarray:
    """Read the masks of some frames as codes of reasons.

    Parameters
    ----------
    store : QualityStore
        The quality group.
    rows : ndarray (n,)
        Rows of the archive in any order.
    known : ndarray (n,)
        bool; other frames have no data.
    alpha : float
        False-mask rate, in (0, 1).

    Returns
    -------
    ndarray (n, n_y, n_x)
        uint8, `aqdask.flags.REASONS`, `GOOD` for a patch that is not masked.
    """
    arrays, per_block = _readers(store)
    found = np.full((len(rows), *arrays[0].shape[1:]), WITHOUT_SCORE[0], np.uint8)
    places = np.flatnonzero(known)
    places = places[np.argsort(rows[places], kind="stable")]
    for part in np.split(places, np.flatnonzero(np.diff(rows[places] // per_block)) + 1):
        if len(part):
            found[part] = _block(store, arrays, rows[part], np.full(len(part), ""), alpha).reasons
    return found
