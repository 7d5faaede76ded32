"""Data of the report on an archive, from the ledger, stored scores and stored maps; no pixel is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from aqdask.execution.coverage import ATTRIBUTE, CALIBRATIONS, in_words
from aqdask.execution.quality_groups import PRECISION, VERSIONS
from aqdask.execution.reporter import Reporter, Silent
from aqdask.io.sources import Scan
from aqdask.methods.bundle import Bundle
from aqdask.products.drift import series_changes
from aqdask.products.drift_series import read_series
from aqdask.products.flagged import StoredModel, flagged
from aqdask.products.mask_summaries import MaskBlock, MaskSummaries, read_masks, scored_rows, summary_of
from aqdask.products.open import quality_name
from aqdask.products.report import sentences
from aqdask.products.report.columns import frame_values, header_columns, labels, score_columns
from aqdask.products.report.detector import MaskSums
from aqdask.products.report.drift import drifts
from aqdask.products.report.places import MapPlaces
from aqdask.products.report.references import reference_sentences
from aqdask.products.report.values import (
    Band,
    Drift,
    MeanMask,
    PValues,
    RepeatedPlace,
    ReportData,
    Standing,
)
from aqdask.specs import PATCH, PatchGrid
from aqdask.stats.masking import check_alpha
from aqdask.stats.patches import patches_of
from aqdask.store import layout, quality_store
from aqdask.store.entry_table import STATES, decoded
from aqdask.store.frame_store import FrameStore
from aqdask.store.labels import BAD, Box, bad_boxes, of_frames, valid
from aqdask.store.ledger import Ledger, Rows, open_ledger
from aqdask.store.quality_store import QualityStore
from aqdask.text import plural, printable
from aqdask.version import __version__

__all__ = [
    "Band", "Drift", "MeanMask", "PValues", "RepeatedPlace", "ReportData", "Standing", "report_data",
]  # fmt: skip
NOT_FOLLOWED = ("frame_flag", "out_of_reference", "frame_size_pvalue", "frame_ellipticity_pvalue")
PLACES_SHOWN = 3  # in the summary


def report_data(
    archive: str | os.PathLike[str],
    quality: str = "",
    alpha: float = 0.01,
    reporter: Reporter | None = None,
) -> ReportData:
    """Collect the data of a report.

    Parameters
    ----------
    archive : path
        The archive.
    quality : str
        Name or digest of the model. Empty: the only one, or no scores where there is none.
    alpha : float
        False-mask rate, in (0, 1).
    reporter : Reporter, optional
        Listens to the progress.

    Raises
    ------
    UsageError
        Without an archive, for an alpha outside (0, 1), or where the archive has several quality groups and
        none is named.
    ArchiveError
        For an archive that is damaged.
    """
    check_alpha(alpha)
    root = layout.open_root(archive)
    ledger, frames = open_ledger(root), FrameStore.at(root)
    store = None
    if quality or quality_store.names(root):
        quality = quality_name(archive, quality or None)
        store = QualityStore.open(archive, quality)
        if lost := store.lost():
            raise layout.damaged(archive, lost)
    if problems := frames.problems(ledger.row_count, thorough=False):
        raise layout.damaged(archive, problems)
    known = ledger.rows()
    columns = header_columns(frames, known)
    values = frame_values(store, ledger.row_count)
    patch: Any = store.group.attrs["patch"] if store else PATCH
    grid = PatchGrid(*frames.spec.shape, int(patch))
    given = valid(root, ledger)
    sums = _mask_sums(columns, ledger.row_count, grid, alpha, _boxes(bad_boxes(given), known, grid))
    masks = None
    if store is not None:
        scored = scored_rows(known, quality)
        blocks = _told(read_masks(store, scored, quality, alpha), len(scored), reporter or Silent())
        bad = np.isin(known.texts("frame_id"), [*of_frames(given, BAD)])
        labelled_bad = np.zeros(ledger.row_count, bool)
        labelled_bad[known.column("row")] = bad
        masks = summary_of(_added(blocks, sums, values, labelled_bad), store, ledger.row_count)
    model = StoredModel(store)
    bands = model.filters_at(columns["camera"], columns["filter"], columns["time"])
    columns |= score_columns(
        known, quality, values, masks, model, columns | {"filter": np.array(bands, object)}
    )
    order = np.lexsort((columns["row"], columns["time"]))  # NaT is last
    columns = {name: column[order] for name, column in columns.items()}
    references = _references(columns, model)
    followed = ["masked_patches", *(name for name in values if name not in NOT_FOLLOWED)]
    moved = drifts(columns, followed, references)
    series = read_series(archive, quality, ledger=ledger).series if store else ()
    changes = tuple(change for one in series for change in series_changes(one)) if moved else ()
    notes = _notes(model.bundle)
    places = sums.repeated_places(grid, notes)
    standings, pvalues = _standings(ledger, quality), sums.pvalues()
    damaged = int(masks.damaged.sum()) if masks else 0
    told = _told_frames(columns, MapPlaces(store, grid, alpha, columns, places), masks) if store else []
    shared = [*reference_sentences(columns, model.bundle, series, alpha)]
    summary = [*_summary(store, columns, standings, damaged, told, pvalues, shared, places, moved)]
    left_out: Any = root.attrs.get(layout.LEFT_OUT, {})
    if note := Scan((), left_out).note():
        summary.append(f"Last ingest: {note}.")
    provenance = tuple(_provenance(archive, root, store, model.bundle, alpha))
    return ReportData(
        os.fspath(archive), quality, alpha, tuple(filter(None, summary)), standings, columns, labels(store),
        references, sums.mean_masks(), places, pvalues, moved, changes, provenance, notes,
    )  # fmt: skip


def _mask_sums(
    columns: Mapping[str, np.ndarray], rows: int, grid: PatchGrid, alpha: float, boxes: dict[int, np.ndarray]
) -> MaskSums:
    """Return empty sums over the masks of an archive with so many ``rows``; ``columns`` are of its frames."""
    cameras, numbers = np.unique(columns["camera"].astype(str), return_inverse=True)
    by_row, ids = np.zeros(rows, np.int64), np.full(rows, "", object)
    times = np.full(rows, np.datetime64("NaT", "us"))
    for found, column in ((by_row, numbers), (ids, columns["frame_id"]), (times, columns["time"])):
        found[columns["row"]] = column
    return MaskSums(grid.shape, by_row, cameras.tolist(), alpha, times, boxes, ids)


def _boxes(labelled: Mapping[str, list[Box]], known: Rows, grid: PatchGrid) -> dict[int, np.ndarray]:
    """Return the patches in boxes of frames by the row of each frame."""
    if not labelled:
        return {}
    rows = dict(zip(known.texts("frame_id"), known.column("row").tolist(), strict=True))
    return {
        rows[frame_id]: np.any([patches_of(box, grid) for box in boxes], axis=0)
        for frame_id, boxes in labelled.items()
    }


def _notes(bundle: Bundle | None) -> tuple[str, ...]:
    """Return the notes of a calibration; those of the shipped model are on simulated frames, and left out."""
    if bundle is None or ("shipped" in bundle.provenance and not bundle.provenance.get("adapted")):
        return ()
    return tuple(map(printable, bundle.notes))


def _told(blocks: Iterator[MaskBlock], total: int, reporter: Reporter) -> Iterator[MaskBlock]:
    """Report the progress, and pass each block on."""
    reporter.start("masks", total)
    for block in blocks:
        yield block
        reporter.advance(len(block.rows))
    reporter.finish()


def _added(
    blocks: Iterator[MaskBlock], sums: MaskSums, values: dict[str, np.ndarray], labelled_bad: np.ndarray
) -> Iterator[MaskBlock]:
    """Add each block to the sums, and pass it on."""
    for block in blocks:
        masked = block.counts.sum(axis=1) / sums.patches
        is_flagged = flagged({name: column[block.rows] for name, column in values.items()}, masked)
        sums.add(block, is_flagged, labelled_bad[block.rows])
        yield block


def _references(columns: dict[str, np.ndarray], model: StoredModel) -> dict[tuple[str, str], dict[str, Band]]:
    """Return the spans of the references by camera and filter, over all calibrations in use."""
    bands = model.filters_at(columns["camera"], columns["filter"], columns["time"])
    frames = zip(columns["camera"].tolist(), columns["filter"].tolist(), bands, strict=True)
    found: dict[tuple[str, str], dict[str, Band]] = {}
    for camera, name, band in sorted(set(frames)):
        for variable, span in model.spans(camera, band).items():
            bands_of = found.setdefault((camera, name), {})
            before = bands_of.get(variable, Band(*span))
            bands_of[variable] = Band(min(before.low, span[0]), before.median, max(before.high, span[2]))
    return found


def _standings(ledger: Ledger, quality: str) -> tuple[Standing, ...]:
    """Group all frames, and the sources that gave none, by state and reason."""
    entries = ledger.table.all()
    states = np.array(STATES)[entries.standing(quality)].tolist()
    reasons = [decoded(reason) for reason in entries.reasons(quality).tolist()]
    return sentences.standings(states, reasons, entries.texts("frame_id"))


def _told_frames(frames: dict[str, np.ndarray], places: MapPlaces, masks: MaskSummaries | None) -> list[str]:
    """Return the sentences on flagged frames, and on those with a defect in a part."""
    local = sentences.local_sentence(frames, masks.patches, places.of_reason) if masks else ""
    return [sentences.flag_sentence(frames, places.of_run, places.sky_of_run), local]


def _summary(
    store: QualityStore | None,
    frames: dict[str, np.ndarray],
    standings: tuple[Standing, ...],
    damaged: int,
    told: list[str],
    pvalues: PValues,
    shared: list[str],
    places: tuple[RepeatedPlace, ...],
    moved: tuple[Drift, ...],
) -> Iterator[str]:
    """Yield the sentences of the summary, some of them empty."""
    if not standings:
        yield "The archive is empty: run `aqdask ingest` first."
        return
    scored = np.isfinite(frames["masked_patches"]).any()
    if store is None:
        yield "Nothing is scored yet: run `aqdask score` (or `aqdask run`) first."
    else:
        yield from told
    yield from sentences.state_sentences(standings, all_done=store is not None)
    if damaged:
        whose = plural(damaged, "frame")
        yield f"The maps of {whose} are missing or damaged: `aqdask verify --repair` makes them again."
    if store is not None and scored:
        yield pvalues.text
        yield from _uncalibrated(store, frames)
        yield sentences.outside_sentence(frames)
        yield from shared
    for place in places[:PLACES_SHOWN]:
        yield f"Masked again and again: {place.text}."
    if len(places) > PLACES_SHOWN:
        more = len(places) - PLACES_SHOWN
        which = "place of the detector is" if more == 1 else "places of the detectors are"
        yield f"{more} more {which} masked again and again."
    yield from (drift.text for drift in moved)
    yield sentences.time_sentence(frames) if len(frames["time"]) else ""


def _uncalibrated(store: QualityStore, frames: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield a sentence on frames of cameras and filters without a calibration of their own."""
    keys: Any = store.group.attrs.get(ATTRIBUTE, [])
    pairs = zip(frames["camera"].tolist(), frames["filter"].tolist(), strict=True)
    counts = Counter(f"{camera}|{band}" for camera, band in pairs)
    if found := {key: counts[key] for key in keys if counts[key]}:
        listed = ", ".join(f"{in_words(key)} ({n})" for key, n in found.items())
        yield (
            f"The model is not calibrated for {listed}: p-values come from other cameras and filters, and "
            "masks may have more or fewer false alarms than alpha says."
        )


def _provenance(
    archive: str | os.PathLike[str],
    root: Any,
    store: QualityStore | None,
    bundle: Bundle | None,
    alpha: float,
) -> Iterator[tuple[str, str]]:
    spec = layout.read_spec(root)
    yield "archive", printable(os.fspath(archive))
    yield "made by", str(root.attrs["created_by"])
    yield "layout version", str(root.attrs["layout_version"])
    yield "frame shape (y, x)", f"{spec.shape[0]} x {spec.shape[1]}"
    yield "type of the pixels", spec.dtype
    if store is not None:
        about = store.group.attrs
        yield "model", str(about["model"])
        yield "SHA-256 of the model", str(about["model_sha256"])
        yield "method", str(about["method"])
        yield "patch", f"{about['patch']} px"
        yield "precision", str(about.get(PRECISION, "fp32"))
        yield from _calibrations(store, bundle)
        made: Any = about.get(VERSIONS, [])
        for versions in made:
            yield "scored by", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "alpha", f"{alpha:g}"
    yield "report by", f"aqdask {__version__}"
    yield "date of the report", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _calibrations(store: QualityStore | None, bundle: Bundle | None) -> Iterator[tuple[str, str]]:
    """Yield the calibrations of the model, with the number of their reference frames and patches."""
    if bundle is None:
        yield "calibration", "unknown: the stored model is damaged"
        return
    used: Any = store.group.attrs.get(CALIBRATIONS, {}) if store else {}
    for key, calibration in sorted(bundle.calibrations.items()):
        if key:
            members = calibration.facts.get("about", {}).get("frames", {})
            count = sum(map(len, members.values()))
            frames = f"{plural(count, 'reference frame')}, " if count else ""
            patches = int(calibration.facts.get("patches", 0))
            yield (
                f"calibrated for {key.replace('|', ' ').strip() or 'an unknown camera'}",
                f"{frames}{plural(patches, 'reference patch', 'reference patches')}{_use(used.get(key))}",
            )
    if origin := bundle.provenance.get("adapted_from"):
        yield "calibrated from the model", str(origin)


def _use(counts: Mapping[str, int] | None) -> str:
    """Describe the frames that a calibration with a span of time serves; empty where it is not recorded."""
    if counts is None:
        return ""
    parts = [f"{counts['outside']} outside of its span"] * bool(counts["outside"])
    parts += [f"{counts['without_time']} without a time"] * bool(counts["without_time"])
    return f", for {plural(counts['frames'], 'frame')}" + (f" ({', '.join(parts)})" if parts else "")
