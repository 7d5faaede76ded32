"""Agreement of flags and masks with the labels of people: precision and recall, by reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from aqdask import flags
from aqdask.specs import PatchGrid
from aqdask.stats.masking import bad_patches, check_alpha
from aqdask.stats.patches import patches_of
from aqdask.store import labels, layout
from aqdask.store.labels import BAD, GOOD, Label
from aqdask.store.ledger import DONE, Entry, open_ledger
from aqdask.store.quality_store import QualityStore

FRAME, BOX, PATCH = "frame", "box", "patch"
UNITS = (FRAME, BOX, PATCH)
NO_PATCH = "whole frame"  # reason of a flagged frame without a masked patch


@dataclass(frozen=True)
class Agreement:
    """Agreement in one unit: of all reasons together, or of one.

    Parameters
    ----------
    unit : str
        'frame': flag of labelled frames; 'box': masked in any of its patches; 'patch': patches of boxes.
    reason : str
        Reason of the flag or mask; empty for all of them.
    bad, good : int
        Units labelled so, whatever their reason.
    found : int
        Of those labelled bad, flagged or masked (for this reason).
    false : int
        Of those labelled good, flagged or masked (for this reason).
    """

    unit: str
    reason: str
    bad: int
    good: int
    found: int
    false: int

    @property
    def precision(self) -> float | None:
        """Part of the labelled flags or masks that is labelled bad; None where there is none."""
        return self.found / (self.found + self.false) if self.found + self.false else None

    @property
    def recall(self) -> float | None:
        """Part of the units labelled bad that is found; None where there is none."""
        return self.found / self.bad if self.bad else None

    def facts(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        names = ("unit", "reason", "bad", "good", "found", "false", "precision", "recall")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class LabelAgreement:
    """Agreement of one model's flags and masks with the labels of an archive.

    Parameters
    ----------
    quality : str
        Quality group of the model.
    alpha : float
        False-mask rate of the mask.
    rows : tuple of Agreement
        For each unit with labels the sum, then its reasons, most frequent first.
    unscored, outdated : tuple of str
        Ids of labelled frames that take no part: without a score of this model, or with pixels that were
        replaced after the label.
    """

    quality: str
    alpha: float
    rows: tuple[Agreement, ...] = ()
    unscored: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()

    def of(self, unit: str) -> Agreement | None:
        """Return the sum over all reasons of one unit; None where nothing of it is labelled."""
        return next((row for row in self.rows if row.unit == unit and not row.reason), None)

    def facts(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        about = {"quality": self.quality, "alpha": self.alpha}
        lists = {"unscored": list(self.unscored), "outdated": list(self.outdated)}
        return about | {"rows": [row.facts() for row in self.rows]} | lists


def label_agreement(archive: str | os.PathLike[str], quality: str, alpha: float = 0.01) -> LabelAgreement:
    """Compare flags and masks of a model with the labels of an archive.

    Labels of whole frames are compared with the frame's flag; methods without a flag have no such rows. Of a
    box, the patches are compared that it covers by half, or that hold half of it; where boxes overlap, the
    later label counts. A frame label says nothing about single patches. The reason of a patch is the stored
    one, that of a box or frame the most frequent one of its masked patches.

    Parameters
    ----------
    archive : path
        A scored and labelled archive; only labelled frames are read.
    quality : str
        Name of the quality group.
    alpha : float
        False-mask rate, in (0, 1).

    Raises
    ------
    UsageError
        For alpha outside (0, 1), or no such quality group.
    ArchiveError
        If stored maps or labels do not decode.
    """
    check_alpha(alpha)
    root = layout.open_root(archive)
    ledger, store = open_ledger(root, damaged=True), QualityStore.open(archive, quality)
    given: dict[str, list[Label]] = {}
    outdated = set()
    for label in labels.latest(root):
        if labels.is_valid(label, ledger):
            given.setdefault(label.frame_id, []).append(label)
        else:
            outdated.add(label.frame_id)
    grid = PatchGrid(*layout.read_spec(root).shape, int(store.group.attrs["patch"]))  # type: ignore[arg-type]
    entries = sorted((ledger.entries[frame_id] for frame_id in given), key=lambda entry: entry.row)
    scored = [e for e in entries if not e.score_pending(quality) and e.scores[quality].state == DONE]
    unscored = {entry.frame_id for entry in entries} - {entry.frame_id for entry in scored}
    counts = _Counts()
    for entry, maps in _maps_of(scored, store, alpha):
        found = given[entry.frame_id]
        counts.add(_frame_verdicts(maps, found, entry.scores[quality].values.get("frame_flag")))
        counts.add(_box_verdicts(maps, found, grid))
    return LabelAgreement(quality, alpha, counts.rows(), tuple(sorted(unscored)), tuple(sorted(outdated)))


class _Verdict(NamedTuple):
    """One labelled unit, and the reason for which it is flagged or masked; None where it is not."""

    unit: str
    verdict: str
    reason: str | None


@dataclass(frozen=True, eq=False)
class _Maps:
    """Masked patches of a frame, and the reasons of all, ``(patch_y, patch_x)``."""

    masked: np.ndarray
    reason: np.ndarray

    def reasons(self, where: np.ndarray) -> list[str]:
        """Return the reasons of the masked patches among some, by name."""
        return [_NAMES.get(int(code), f"code {code}") for code in self.reason[where & self.masked]]

    def main_reason(self, where: np.ndarray) -> str | None:
        """Return the most frequent reason of the masked patches among some; None without any."""
        found = Counter(self.reasons(where))
        return min(found, key=lambda name: (-found[name], name)) if found else None


def _maps_of(entries: Sequence[Entry], store: QualityStore, alpha: float) -> Iterator[tuple[Entry, _Maps]]:
    """Yield entries, given in the order of their rows, with their maps; each shard is read once."""
    per_shard = store.frames_per_shard
    arrays = [layout.open_reader(store.group, name) for name in ("pvalue", "reason")]
    for shard, members in groupby(entries, key=lambda entry: entry.row // per_shard):
        start = shard * per_shard
        try:
            pvalue, reason = (np.asarray(array[start : start + per_shard]) for array in arrays)
        except layout.UNREADABLE as error:
            what = f"{store.group.path}: maps from row {start} on do not decode"
            raise layout.damaged(store.group.store, {"maps": what}) from error
        for entry in members:
            at = entry.row - start
            yield entry, _Maps(bad_patches(pvalue[at], alpha), reason[at])


@dataclass
class _Counts:
    """Labelled units, and those flagged or masked by reason, for each unit and verdict."""

    labelled: Counter[tuple[str, str]] = field(default_factory=Counter)
    flagged: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, verdicts: Iterator[_Verdict]) -> None:
        for unit, verdict, reason in verdicts:
            self.labelled[unit, verdict] += 1
            if reason is not None:
                self.flagged[unit, verdict, reason] += 1

    def rows(self) -> tuple[Agreement, ...]:
        """Return the sum and the reasons of each unit."""
        rows: list[Agreement] = []
        for unit in UNITS:
            bad, good = self.labelled[unit, BAD], self.labelled[unit, GOOD]
            names = {reason for one, _, reason in self.flagged if one == unit}
            parts = [
                Agreement(unit, n, bad, good, self.flagged[unit, BAD, n], self.flagged[unit, GOOD, n])
                for n in names
            ]
            if bad or good:
                found, false = sum(part.found for part in parts), sum(part.false for part in parts)
                rows.append(Agreement(unit, "", bad, good, found, false))
            rows += sorted(parts, key=lambda part: (-part.found - part.false, part.reason))
        return tuple(rows)


def _frame_verdicts(maps: _Maps, found: Sequence[Label], flag: float | None) -> Iterator[_Verdict]:
    for label in found:
        if label.box is None and flag in (0, 1):
            reason = maps.main_reason(maps.reason != _NO_DATA) or NO_PATCH
            yield _Verdict(FRAME, label.verdict, reason if flag == 1 else None)


def _box_verdicts(maps: _Maps, found: Sequence[Label], grid: PatchGrid) -> Iterator[_Verdict]:
    bad = np.zeros(grid.shape, bool)
    good = np.zeros(grid.shape, bool)
    for label in found:
        if label.box is None:
            continue
        covered = patches_of(label.box, grid)
        yield _Verdict(BOX, label.verdict, maps.main_reason(covered))
        bad[covered], good[covered] = label.verdict == BAD, label.verdict == GOOD
    for verdict, patches in ((BAD, bad), (GOOD, good)):
        yield from (_Verdict(PATCH, verdict, reason) for reason in maps.reasons(patches))
        unmasked = np.count_nonzero(patches & ~maps.masked)
        yield from (_Verdict(PATCH, verdict, None) for _ in range(unmasked))


_NO_DATA = flags.code(flags.REASONS, "no_data")
_NAMES = {flag.value: flag.name for flag in flags.REASONS}
