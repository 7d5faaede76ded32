"""Stored frames aligned with a reference frame on the workers: measured alone, or resampled to its pixels."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from astropy.wcs import WCS

from aqdask.errors import FrameError, place_failed
from aqdask.execution.executors import Executor
from aqdask.execution.pipeline import blame, collect
from aqdask.execution.reporter import Reporter
from aqdask.execution.work_estimate import seconds
from aqdask.execution.worker import at_work
from aqdask.io.places import PARTIAL, absolute, write_file
from aqdask.io.wcs import celestial_wcs, wcs_transform
from aqdask.measurements.scored_frame import ScoredFrame, ScoredFrames, ScoredPlace, scored_places
from aqdask.photometry.alignment import ScaledAlignment, Stars, align, find_stars
from aqdask.photometry.resampling import resample_weighted
from aqdask.photometry.sky_subtraction import SkySubtracted, subtract_sky
from aqdask.products.dq import quality_bundle
from aqdask.products.weights import weight_map
from aqdask.store import layout
from aqdask.text import plural, printable
from aqdask.version import __version__

MESHES = (32, 128)  # px, smallest and largest mesh of the sky; SWarp's default is 128
ATTEMPTS = 5  # frames that are tried as a reference
MAX_MASKED = 0.9  # of a frame: what is left is neither aligned nor worth it


class Aligned(NamedTuple):
    """Result of the alignment of one frame.

    Parameters
    ----------
    row : int
        Position in the archive.
    scale : float
        Counts of the reference for a count of the frame.
    stars : int
        Stars in common.
    offset : float
        Median distance of these stars after the alignment, px.
    method : str
        'wcs' or 'stars'.
    fwhm : float
        Median FWHM of its stars, px.
    noise : float
        Median noise of the sky in counts of the frame.
    masked : float
        Masked fraction of its pixels.
    weight : str
        Origin of the variance of its pixels.
    file : str
        Name of the file of resampled pixels; empty for none.
    left_out, problem : str
        Reason why it has nothing to give, and why it could not be used.
    time : int or None
        Start of the exposure, UTC, microseconds since 1970-01-01.
    exptime, gain : float
        Seconds, and electrons per count; NaN where unknown.
    """

    row: int
    scale: float = math.nan
    stars: int = 0
    offset: float = math.nan
    method: str = ""
    fwhm: float = math.nan
    noise: float = math.nan
    masked: float = math.nan
    weight: str = ""
    file: str = ""
    left_out: str = ""
    problem: str = ""
    time: int | None = None
    exptime: float = math.nan
    gain: float = math.nan


@dataclass(frozen=True, eq=False)
class Reference:
    """Frame to which others are aligned.

    Parameters
    ----------
    frame_id : str
        Id in the archive.
    key : list
        All that identifies its pixels and mask, as JSON takes it.
    shape : tuple of int
        ``(y, x)``.
    stars : Stars
        Its stars.
    header, primary_header : str
        Cards of its source.
    exptime : float
        Seconds; NaN where unknown.
    """

    frame_id: str
    key: list
    shape: tuple[int, int]
    stars: Stars
    header: str
    primary_header: str
    exptime: float

    @cached_property
    def wcs(self) -> WCS | None:
        """Celestial WCS; None without one."""
        found = celestial_wcs(self.header, self.primary_header)
        return found.wcs if found else None

    @classmethod
    def of(cls, frames: ScoredFrames, place: ScoredPlace, *, masked: bool, mesh: int = 0) -> Reference:
        """Read a frame and find its stars.

        Raises
        ------
        FrameError
            If it cannot be read, or has no measurable sky.
        """
        frame = frames.read(place)
        light = _light(frame, masked, mesh)
        key = [place.frame.row, place.frame.crc32c, place.maps, frames.quality, frames.alpha]
        stars = find_stars(frame.image, light)
        cards = frame.header, frame.primary_header
        return cls(frame.frame_id, key, frame.image.shape, stars, *cards, frame.exptime)


def first_reference(
    frames: ScoredFrames, places: Sequence[ScoredPlace], *, masked: bool = True, mesh: int = 0
) -> Reference:
    """Return the first of some frames, the best first, that can be a reference; of at most `ATTEMPTS`.

    Raises
    ------
    FrameError
        If none can, with the reason of each.
    """
    reasons = []
    for place in places[:ATTEMPTS]:
        try:
            return Reference.of(frames, place, masked=masked, mesh=mesh)
        except FrameError as error:
            reasons.append(f"{printable(place.frame.path)}: {error}")
    raise FrameError("; ".join(reasons))


def sky_mesh(shape: tuple[int, ...]) -> int:
    """Return the side of a cell of the sky's mesh that fits frames of a shape ``(y, x)``, px.

    A sixteenth of the smaller side: vignetting scales with the frame.
    """
    return int(np.clip(min(shape) // 16, *MESHES))


def _light(frame: ScoredFrame, masked: bool, mesh: int) -> SkySubtracted:
    bad = frame.masked if masked else frame.invalid
    found = subtract_sky(frame.image, bad, mesh or sky_mesh(frame.image.shape))
    if found is None:
        raise FrameError("no measurable sky outside of its mask")
    return found


def aligned_with(reference: Reference, frame: ScoredFrame, stars: Stars) -> ScaledAlignment:
    """Align a frame by its WCS where its stars are found there, else by matching them.

    Raises
    ------
    FrameError
        Without enough stars in common.
    """
    by_wcs = None
    if reference.wcs is not None and frame.wcs is not None:
        by_wcs = wcs_transform(reference.wcs, frame.wcs.wcs)
    return align(stars, reference.stars, by_wcs)


@dataclass(frozen=True, eq=False)
class AlignJob:
    """Task that aligns frames with a reference.

    Parameters
    ----------
    frames : ScoredFrames
        Reads the frames.
    reference : Reference
        The reference.
    masked : bool
        Leave out masked pixels; False leaves out those without data only.
    mesh : int
        Side of a cell of the sky's mesh, px; 0: that of `sky_mesh`.
    folder : str
        An existing folder for the resampled frames; empty: they are only measured.
    """

    frames: ScoredFrames
    reference: Reference
    masked: bool = True
    mesh: int = 0
    folder: str = ""

    def __call__(self, places: Sequence[ScoredPlace]) -> list[Aligned]:
        """Align some frames."""
        results = []
        for place in places:
            with at_work(str(place)):
                try:
                    results.append(self._kept(place) or self._one(place))
                except FrameError as error:
                    results.append(Aligned(place.frame.row, problem=str(error)))
        return results

    def _path(self, place: ScoredPlace) -> Path:
        kind = "masked" if self.masked else "plain"
        return Path(self.folder) / f"{kind}-{place.frame.row:08d}.npy"

    def key(self, place: ScoredPlace) -> str:
        """Hash all that the resampled frame depends on."""
        known = [__version__, self.reference.key, place.frame.crc32c, place.maps, self.masked, self.mesh,
                 Aligned._fields]  # fmt: skip
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _kept(self, place: ScoredPlace) -> Aligned | None:
        """Return the result of an earlier run; None without one."""
        path = self._path(place)
        try:
            about = json.loads(path.with_suffix(".json").read_text()) if self.folder else {}
        except (FileNotFoundError, ValueError):
            return None
        return Aligned(**about["result"]) if about.get("key") == self.key(place) and path.exists() else None

    def _one(self, place: ScoredPlace) -> Aligned:
        frame = self.frames.read(place)
        bad = frame.masked if self.masked else frame.invalid
        share = float(np.mean(frame.masked))
        if np.mean(bad) > MAX_MASKED:
            return Aligned(frame.row, masked=share, left_out=f"{np.mean(bad):.0%} of its pixels are masked")
        light = _light(frame, self.masked, self.mesh)
        stars = find_stars(frame.image, light)
        found = aligned_with(self.reference, frame, stars)
        result = Aligned(
            frame.row, found.scale, found.stars, found.offset, found.method, stars.fwhm,
            float(np.median(light.rms)), share, time=frame.time, exptime=frame.exptime, gain=frame.gain,
        )  # fmt: skip
        return self._write(place, frame, light, found, result) if self.folder else result

    def _write(
        self,
        place: ScoredPlace,
        frame: ScoredFrame,
        light: SkySubtracted,
        found: ScaledAlignment,
        result: Aligned,
    ) -> Aligned:
        """Resample the frame and write it, then the result."""
        weight, source = self._weight(frame)
        planes = resample_weighted(
            light.pixels, weight, weight == 0, self.reference.shape, found.transform, found.scale
        )
        path = self._path(place)
        result = result._replace(weight=source, file=path.name)
        if not planes[1].any():
            return result._replace(file="", left_out="nothing of it overlaps the reference")
        partial_path = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            with open(partial_path, "wb") as stream:
                np.save(stream, planes)
            partial_path.replace(path)
            about = {"key": self.key(place), "result": result._asdict()}
            write_file(path.with_suffix(".json"), json.dumps(about).encode())
        except OSError as error:
            raise place_failed(path, error) from error
        finally:
            partial_path.unlink(missing_ok=True)
        return result

    def _weight(self, frame: ScoredFrame) -> tuple[np.ndarray, str]:
        """Return the weights of its pixels; without the mask also where a masked patch has no sky."""
        where, bad = self.frames, frame.masked if self.masked else frame.invalid
        bundle = quality_bundle(where.archive, where.quality, where.run)
        weight, source = weight_map(
            bundle, frame.camera, frame.band, frame.maps, bad.view(np.uint8), frame.grid,
            lambda: frame.image,
        )  # fmt: skip
        unknown = (weight == 0) & ~bad
        if not self.masked and unknown.any() and not unknown.all():
            weight[unknown] = np.median(weight[weight > 0])
        return weight, source


def align_all(
    job: AlignJob, places: Sequence[ScoredPlace], executor: Executor, reporter: Reporter
) -> list[Aligned]:
    """Align frames on the workers; results in the order of the archive."""
    reporter.start("align", len(places))

    def failed(place: ScoredPlace, error: Exception) -> Aligned:
        return Aligned(place.frame.row, problem=blame(error))

    found: list[Aligned] = []
    shape = layout.read_spec(layout.open_root(job.frames.archive)).shape
    work = seconds("align", len(places), shape)
    batches = [(place,) for place in places]
    for part, results in collect(executor, job, batches, stage="align", failed=failed, work=work):
        found += results
        reporter.advance(len(part), sum(bool(result.problem) for result in results))
    reporter.finish()
    return sorted(found)


def measure_all(
    archive: str | os.PathLike[str],
    quality: str,
    alpha: float,
    table: pa.Table,
    executor: Executor,
    reporter: Reporter,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure noise (counts), FWHM (px) and transparency of the frames of a table, NaN where unknown.

    Transparency is relative to the most transparent frame of a camera and filter; stars are compared with
    those of the frame with the smallest share of masked patches.
    """
    places = {place.frame.row: place for place in scored_places(archive, quality)[0]}
    rows, masked = table["row"].to_numpy(), table["masked_patches"].to_numpy(zero_copy_only=False)
    frames = ScoredFrames(absolute(archive), quality, alpha)
    noise, size, transparency = np.full((3, table.num_rows), np.nan)
    for group in groups(table):
        order = group[np.argsort(np.nan_to_num(masked[group], nan=1), kind="stable")]
        try:
            reference = first_reference(frames, [places[int(row)] for row in rows[order]])
        except FrameError as error:
            reporter.say(f"note: nothing is measured on {plural(len(group), 'frame')}: {error}")
            continue
        job = AlignJob(frames, reference)
        found = {
            one.row: one for one in align_all(job, [places[int(r)] for r in rows[group]], executor, reporter)
        }
        for place in group:
            one = found[int(rows[place])]
            noise[place], size[place], transparency[place] = one.noise, one.fwhm, 1 / one.scale
            if reason := one.problem or one.left_out:
                reporter.say(f"note: {table['frame_id'][place.item()]}: {reason}")
        transparency[group] /= np.nanmax(transparency[group], initial=0) or np.nan
    return noise, size, transparency


def groups(table: pa.Table) -> Iterator[np.ndarray]:
    """Yield the places of the frames of each camera and filter."""
    pairs = zip(*(table[name].to_pylist() for name in ("camera", "filter")), strict=True)
    keys = np.array(["|".join(pair) for pair in pairs])
    for key in np.unique(keys):
        yield np.flatnonzero(keys == key)
