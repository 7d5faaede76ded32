"""Stack of the frames of one filter: aligned on the workers, combined band by band, with its depth.

Resampled frames lie beside the result while it is made, 8 bytes a pixel, so that memory does not grow with
the number of frames, and a stack that was interrupted goes on.
"""

from __future__ import annotations

import glob
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from astropy.io import fits

from aqdask.errors import ArchiveError, FrameError, UsageError, place_failed
from aqdask.execution import planning
from aqdask.execution.executors import Executor
from aqdask.execution.pipeline import collect
from aqdask.execution.reporter import Reporter
from aqdask.execution.work_estimate import seconds
from aqdask.io.cards import quiet
from aqdask.io.frame_ids import match_one
from aqdask.io.places import absolute, sweep
from aqdask.measurements.align import Aligned, AlignJob, Reference, align_all, first_reference, sky_mesh
from aqdask.measurements.rank import STACK, rank_frames, reference_order
from aqdask.measurements.scored_frame import ScoredFrames, ScoredPlace, scored_places
from aqdask.measurements.stack_cards import set_exposure
from aqdask.photometry.coadd import Coadd, Depth, combine, depth, occupied_sky
from aqdask.products.columns import described_schema, nulls_for_nan
from aqdask.products.dq import ascii_text, quality_bundle, wcs_cards, write_whole
from aqdask.store import layout
from aqdask.text import plural
from aqdask.version import __version__

BAND_VALUES = 2**22  # float32 of one plane of all frames in a band: 16 MiB, of which a task holds about 15
PARTS = ".parts"  # end of the name of the folder of resampled frames
MADE_BY = "aqdask stack"
CHECKED = "not dated: same frames, same bytes"
FRAME_COLUMNS = {
    "frame_id": (pa.string(), "id of the frame in the archive"),
    "camera": (pa.string(), "instrument"),
    "filter": (pa.string(), "filter"),
    "time": (pa.timestamp("us", tz="UTC"), "start of the exposure"),
    "exptime": (pa.float64(), "exposure time"),
    "gain": (pa.float64(), "gain of its header"),
    "used": (pa.bool_(), "part of the stack"),
    "reason": (pa.string(), "reason why it is not"),
    "scale": (pa.float64(), "counts of the reference for a count of the frame"),
    "stars": (pa.int64(), "stars in common with the reference"),
    "offset": (pa.float64(), "median distance of these stars after the alignment"),
    "method": (pa.string(), "aligned by its WCS (wcs) or by matching stars (stars)"),
    "fwhm": (pa.float64(), "median FWHM of its stars"),
    "noise": (pa.float64(), "median noise of its sky, on the scale of the frame"),
    "masked": (pa.float64(), "masked fraction of its pixels"),
}
UNITS = {
    "exptime": "s", "gain": "electron/count", "offset": "pixel", "fwhm": "pixel", "noise": "count"
}  # fmt: skip


@dataclass(frozen=True)
class StackOptions:
    """Settings of a stack.

    Parameters
    ----------
    masked : bool
        Leave out masked pixels.
    weighted : bool
        Weight by inverse variance; False for equal weights.
    clip : float
        Standard deviations beyond which a pixel is clipped; 0 for none.
    mesh : int
        Side of a cell of the mesh on which the sky is subtracted, px; 0: that of `sky_mesh`.
    """

    masked: bool = True
    weighted: bool = True
    clip: float = 4.0
    mesh: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.clip < math.inf and (self.mesh == 0 or self.mesh >= 16)):
            raise UsageError(
                f"a stack with clip = {self.clip} and mesh = {self.mesh}",
                expected="clip at least 0, mesh at least 16 px, or 0 to fit the frames",
                consequence="Nothing was stacked",
            )

    def __str__(self) -> str:
        parts = "mask" if self.masked else "no mask", "weights" if self.weighted else "no weights"
        return ", ".join(parts)


@dataclass(frozen=True)
class Stack:
    """Result of `aqdask.stack`.

    Parameters
    ----------
    path : str
        The FITS file.
    reference : str
        Frame whose pixels and counts the stack has.
    depths : mapping of str to Depth
        Depth of the reference frame alone, of the stack, and of those it is compared with.
    frames : pyarrow.Table
        A row each, see `FRAME_COLUMNS`.
    problems : list
        Id and reason of frames that could not be used.
    """

    path: str
    reference: str
    depths: Mapping[str, Depth]
    frames: pa.Table
    problems: list[tuple[str, str]]


@dataclass(frozen=True)
class CombineJob:
    """Task that combines a band of rows of aligned frames.

    Parameters
    ----------
    files : tuple of str
        Files of `AlignJob`.
    options : StackOptions
        Clipping and weights.
    """

    files: tuple[str, ...]
    options: StackOptions

    def __call__(self, bands: Sequence[tuple[int, int]]) -> list[Coadd]:
        """Combine some bands, first row and one past the last."""
        return [self._one(*band) for band in bands]

    def _one(self, start: int, stop: int) -> Coadd:
        values, weights = np.stack([_rows(file, start, stop) for file in self.files], axis=1)
        return combine(values, weights, self.options.clip, weighted=self.options.weighted)


def _rows(file: str, start: int, stop: int) -> np.ndarray:
    """Read rows of both planes, ``(2, rows, x)``; pages of a map would count as its memory."""
    with open(file, "rb") as stream:
        np.lib.format.read_magic(stream)
        (_, height, width), _, dtype = np.lib.format.read_array_header_1_0(stream)
        first, planes = stream.tell(), []
        for plane in (0, 1):
            stream.seek(first + (plane * height + start) * width * dtype.itemsize)
            planes.append(np.fromfile(stream, dtype, (stop - start) * width).reshape(-1, width))
    return np.stack(planes)


class Stacker:
    """Stacks of chosen frames of one archive and filter.

    Parameters
    ----------
    archive : path
        A scored archive.
    quality : str
        Its quality group.
    alpha : float
        False-mask rate, in (0, 1).
    out : path
        The FITS file.
    executor, reporter
        Where tasks run, and who is told of the progress.
    """

    def __init__(
        self,
        archive: str | os.PathLike[str],
        quality: str,
        alpha: float,
        out: str | os.PathLike[str],
        executor: Executor,
        reporter: Reporter,
    ) -> None:
        self.archive, self.quality, self.alpha = archive, quality, alpha
        self.out, self.parts = Path(absolute(out)), Path(absolute(out) + PARTS)
        self.executor, self.reporter = executor, reporter
        self.frames = ScoredFrames(absolute(archive), quality, alpha)
        self.places = {place.frame.row: place for place in scored_places(archive, quality)[0]}

    def stack(
        self,
        options: StackOptions,
        *,
        patterns: Sequence[str] | None = None,
        band: str | None = None,
        best: int | None = None,
        reference: str | None = None,
        compare: bool = False,
    ) -> Stack:
        """Make the stack; see `aqdask.stack`."""
        check_out(self.out)
        if best is not None and best < 2:
            raise UsageError(
                f"a stack of the best {best}",
                expected="at least two frames",
                consequence="Nothing was stacked",
            )
        side = max(layout.read_spec(layout.open_root(self.archive)).shape)
        if options.mesh > side:
            raise UsageError(
                f"a mesh of {options.mesh} px", expected=f"at most {side} px, the side of the frames",
                consequence="Nothing was stacked",
            )  # fmt: skip
        chosen = self._chosen(patterns, band, best)
        named = self._reference(chosen, reference, options)
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise place_failed(self.parts, error) from error
        others = [replace(options, masked=False), replace(options, masked=False, weighted=False)]
        coadds, aligned = {}, {}
        for one in dict.fromkeys([options, *(others if compare else ())]):
            if one.masked not in aligned:
                aligned[one.masked] = self._align(chosen, named, one)
            coadds[str(one)] = self._combine(aligned[one.masked], named, one)
        main = coadds[str(options)]
        depths = self._depths(named, options, coadds)
        used = aligned[options.masked]
        table = frame_table(chosen, used)
        with quiet():  # comments of long values are cut
            self._write(self._hdus(main, named, options, depths[str(options)], table, used))
        shutil.rmtree(self.parts, ignore_errors=True)
        sweep(self.out.parent, f"{glob.escape(self.out.name)}.*")
        ids = dict(zip(chosen["row"].to_pylist(), chosen["frame_id"].to_pylist(), strict=True))
        problems = [(ids[one.row], one.problem) for one in used if one.problem]
        return Stack(str(self.out), named.frame_id, depths, table, problems)

    def _chosen(self, patterns: Sequence[str] | None, band: str | None, best: int | None) -> pa.Table:
        """Rank the frames of one filter, best first."""
        table = rank_frames(
            self.archive, self.quality, self.alpha, self.executor, self.reporter,
            purpose=STACK, patterns=patterns, band=band, needs_rank=best is not None,
        )  # fmt: skip
        bands = sorted(set(table["filter"].to_pylist()))
        if len(bands) > 1:
            raise UsageError(
                f"frames of {len(bands)} filters: {', '.join(map(repr, bands))}",
                expected="frames of one filter",
                consequence="Nothing was stacked",
                remedy="choose one with --filter (filter=), or frames with --frames",
            )
        if best is not None:
            table = table.take(np.lexsort((table["row"], table["rank"]))[:best])
        if table.num_rows < 2:
            raise UsageError(
                f"a stack of {plural(table.num_rows, 'scored frame')}",
                expected="at least two",
                consequence="Nothing was stacked",
                remedy="`aqdask info ARCHIVE --frames` lists the frames",
            )
        return table

    def _reference(self, chosen: pa.Table, name: str | None, options: StackOptions) -> Reference:
        """Prepare the frame of this name, else the best one that can be used."""
        if name is None:
            order = reference_order(chosen, self.alpha)
        else:
            place = match_one(chosen["frame_id"].to_pylist(), name, "--reference")
            order = [chosen["row"][place].as_py()]
        try:
            return first_reference(
                self.frames, [self.places[row] for row in order], masked=options.masked, mesh=options.mesh
            )
        except FrameError as error:
            raise UsageError(
                f"no frame can be the reference ({error})",
                expected="a readable frame with sky outside of its mask",
                consequence="Nothing was stacked",
                remedy="name a good frame with --reference",
            ) from error

    def _align(self, chosen: pa.Table, reference: Reference, options: StackOptions) -> list[Aligned]:
        job = AlignJob(self.frames, reference, options.masked, options.mesh, str(self.parts))
        places: list[ScoredPlace] = [self.places[row] for row in sorted(chosen["row"].to_pylist())]
        found = align_all(job, places, self.executor, self.reporter)
        if sum(bool(one.file) for one in found) < 2:
            reasons = "; ".join(sorted({one.problem or one.left_out for one in found if not one.file}))
            raise UsageError(
                f"fewer than two of {len(found)} frames can be aligned with {reference.frame_id} ({reasons})",
                expected="frames of one field, with a WCS or with stars in common",
                consequence="Nothing was stacked",
                remedy="choose the frames of one field with --frames",
            )
        return found

    def _combine(self, aligned: Sequence[Aligned], reference: Reference, options: StackOptions) -> Coadd:
        """Combine the aligned frames in bands of rows."""
        files = tuple(str(self.parts / one.file) for one in aligned if one.file)
        height, width = reference.shape
        rows = max(1, BAND_VALUES // (len(files) * width))
        bands = [(top, min(top + rows, height)) for top in range(0, height, rows)]
        shape = reference.shape
        result = Coadd(*(np.empty(shape, t) for t in (np.float32, np.float32, np.int32, np.int32)))
        self.reporter.start("combine", len(bands), "bands")

        def failed(band: tuple[int, int], error: Exception) -> Coadd:
            raise error

        job, work = CombineJob(files, options), seconds("combine", len(files), shape)
        batches = planning.slices(bands, 1)
        for part, parts in collect(self.executor, job, batches, stage="combine", failed=failed, work=work):
            for (start, stop), found in zip(part, parts, strict=True):
                for whole, piece in zip(result, found, strict=True):
                    whole[start:stop] = piece
            self.reporter.advance(len(part))
        self.reporter.finish()
        return result

    def _depths(
        self, reference: Reference, options: StackOptions, coadds: Mapping[str, Coadd]
    ) -> dict[str, Depth]:
        """Measure the depth of the reference and of the stacks in the same apertures."""
        fwhm = reference.stars.fwhm
        occupied = occupied_sky(coadds[str(options)].mean, fwhm)
        kind = "masked" if options.masked else "plain"
        own = self.parts / f"{kind}-{reference.key[0]:08d}.npy"
        found = {}
        if own.exists():
            value, weight = _rows(str(own), 0, coadds[str(options)].mean.shape[0])
            found["reference alone"] = depth(np.where(weight > 0, value, np.nan), occupied, fwhm)
        return found | {name: depth(coadd.mean, occupied, fwhm) for name, coadd in coadds.items()}

    def _write(self, hdus: fits.HDUList) -> None:
        """Write the FITS file with checksums."""
        for hdu in hdus:
            hdu.add_checksum(when=CHECKED)
        try:
            write_whole(self.out, hdus, checksum=False)
        except OSError as error:
            raise place_failed(self.out, error) from error

    def _hdus(
        self,
        coadd: Coadd,
        reference: Reference,
        options: StackOptions,
        found: Depth,
        table: pa.Table,
        aligned: Sequence[Aligned],
    ) -> fits.HDUList:
        """Make mean, WEIGHT, COVERAGE, CLIPPED and FRAMES."""
        sky = wcs_cards(reference.header, reference.primary_header)
        used = [one for one in aligned if one.file]
        stacked = table.filter(table["used"])
        about = {"FILTER": stacked["filter"].to_pylist(), "INSTRUME": stacked["camera"].to_pylist()}
        set_exposure(sky, used, reference.exptime, about, weighted=options.weighted)
        cards = sky.copy()
        bundle = quality_bundle(self.frames.archive, self.quality, self.frames.run)
        cards["BUNIT"] = ("count", "of the reference frame, above the sky")
        cards["NCOMBINE"] = (len(used), "frames stacked")
        cards["REFFRAME"] = (ascii_text(reference.frame_id), "frame of these pixels and counts")
        cards["ALPHA"] = (self.alpha, "false-mask rate on good patches")
        cards["MODEL"] = (ascii_text(self.quality), "quality group: model name and digest")
        cards["MODELSHA"] = (bundle.digest if bundle else "", "sha256 of the model bundle")
        cards["MASKED"] = (options.masked, "masked pixels are left out")
        cards["WEIGHTED"] = (options.weighted, "weighted by inverse variance")
        cards["WEIGHTOF"] = "; ".join(sorted({one.weight for one in used}))
        cards["CLIP"] = (options.clip, "sigma beyond which pixels are clipped, 0 = none")
        cards["SKYMESH"] = (
            options.mesh or sky_mesh(reference.shape),
            "px, mesh of the sky that was subtracted",
        )
        if np.isfinite(found.limit):
            cards["MAGLIM"] = (round(found.limit, 3), "5 sigma, -2.5 log10 of counts")
        cards["ORIGIN"] = (f"{MADE_BY} {__version__}", "program that made the stack")
        planes = {"WEIGHT": coadd.weight, "COVERAGE": coadd.frames, "CLIPPED": coadd.clipped}
        hdus = fits.HDUList([fits.PrimaryHDU(coadd.mean, cards)])
        hdus += [fits.ImageHDU(plane, sky, name=name) for name, plane in planes.items()]
        columns = [_column(table, name) for name in FRAME_COLUMNS]
        hdus.append(fits.BinTableHDU.from_columns(columns, name="FRAMES"))
        return hdus


def check_out(out: Path) -> None:
    """Refuse to replace a file that is no stack.

    Raises
    ------
    ArchiveError
        For a path that holds something else.
    """
    if not out.exists():
        return
    try:
        origin = str(fits.getheader(out).get("ORIGIN", ""))
    except (OSError, ValueError):
        origin = ""
    if not origin.startswith(MADE_BY):
        raise ArchiveError(
            f"{out} exists and is no stack that aqdask made",
            expected="a new file, or an earlier stack, which is replaced",
            consequence="Nothing was stacked",
            remedy="choose another --out",
        )


def frame_table(chosen: pa.Table, aligned: Sequence[Aligned]) -> pa.Table:
    """Build the table of `FRAME_COLUMNS` in the order of the archive."""
    known = {row["row"]: row for row in chosen.select(["row", "frame_id", "camera", "filter"]).to_pylist()}
    rows = [
        one._asdict() | known[one.row] | {"used": bool(one.file), "reason": one.problem or one.left_out}
        for one in aligned
    ]
    schema = described_schema(FRAME_COLUMNS, UNITS)
    return nulls_for_nan(
        pa.Table.from_pylist([{name: row[name] for name in FRAME_COLUMNS} for row in rows], schema)
    )


def _column(table: pa.Table, name: str) -> fits.Column:
    values = table[name].to_pylist()
    kind = FRAME_COLUMNS[name][0]
    if pa.types.is_timestamp(kind):
        values = [value.replace(tzinfo=None).isoformat() if value else "" for value in values]
    if pa.types.is_string(kind) or pa.types.is_timestamp(kind):
        texts = [ascii_text(value) for value in values]
        return fits.Column(name, f"{max(1, *map(len, texts))}A", array=np.array(texts))
    code = {pa.bool_(): "L", pa.int64(): "K"}.get(kind, "D")
    array = np.array(values, None if code != "D" else np.float64)  # null is NaN
    unit = UNITS.get(name, "")
    return fits.Column(name, code, unit="" if "electron" in unit else unit, array=array)  # FITS knows none
