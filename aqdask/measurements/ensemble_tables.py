"""Tables of light curves, frames and stars, made from measured fluxes by an ensemble.

Fluxes are read frame by frame, so that memory does not grow with the archive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aqdask.io.places import sweep
from aqdask.measurements.frame_tables import ABOUT, FRAME_COLUMNS, replacing_writer
from aqdask.measurements.reference_stars import ReferenceStars
from aqdask.measurements.star_photometry import FRAME_VALUES, STAR_COLUMNS
from aqdask.photometry.aperture_photometry import POGSON
from aqdask.photometry.ensemble import CASES, Ensemble, ZeroPoint
from aqdask.photometry.forced_photometry import instrumental_magnitudes
from aqdask.photometry.quality_weights import quality_weights
from aqdask.products.columns import described
from aqdask.text import plural, printable

FLUXES, CURVES, STARS, FRAMES = "fluxes", "light_curves", "stars.parquet", "frames.parquet"
PASSES, TOLERANCE = 30, 1e-4  # mag: mean magnitudes change by less than that in the last pass
PASS_FRAMES = 2_000  # evenly spaced frames that the passes before the last read
BRIGHTEST = 100  # stars whose median scatter is the result; at most half of all
CASE_WORDS = {
    "no_mask": "the mask not used: all clean measurements",
    "masked": "without the measurements that the mask touches",
    "weighted": "with the mask, and zero points weighted by p-values",
}  # by `CASES`

CURVE_SCHEMA = pa.schema(
    [
        *FRAME_COLUMNS,
        described("star", pa.string(), "name of the star"),
        *STAR_COLUMNS,
        described("mag", pa.float64(), "magnitude: -2.5 log10 flux + zero point; null where flagged", "mag"),
        described("mag_err", pa.float64(), "standard deviation of mag from flux_err", "mag"),
        described("zero_point", pa.float64(), "zero point of the frame, with mask and weights", "mag"),
    ]
)
FRAME_SCHEMA = pa.schema(
    [
        *FRAME_COLUMNS,
        *FRAME_VALUES,
        described("zero_point", pa.float64(), "zero point with mask and weights", "mag"),
        described("zero_point_err", pa.float64(), "its standard error", "mag"),
        described("stars", pa.int64(), "stars that it is made from"),
        described("zero_point_masked", pa.float64(), "zero point with the mask alone", "mag"),
        described("zero_point_no_mask", pa.float64(), "zero point, the mask not used", "mag"),
        described("extinction", pa.float64(), "light lost against the reference frame, exposure time "
                  "allowed for: clouds, airmass, focus; negative: clearer", "mag"),
        described("measurements", pa.int64(), "clean measurements of stars"),
        described("masked_measurements", pa.int64(), "those of them that the mask touches"),
    ]
)  # fmt: skip
STAR_SCHEMA = pa.schema(
    [
        described("star", pa.string(), "name of the star"),
        described("filter", pa.string(), "filter, empty where unknown"),
        described("comparison", pa.bool_(), "zero points are made from it"),
        described("x", pa.float64(), "position in the reference frame, from 0", "pixel"),
        described("y", pa.float64(), "position in the reference frame, from 0", "pixel"),
        described("ra", pa.float64(), "right ascension, ICRS", "deg"),
        described("dec", pa.float64(), "declination, ICRS", "deg"),
        described("mag", pa.float64(), "mean magnitude with mask and weights, on the reference frame's scale",
                  "mag"),
        *(described(f"scatter_{case}", pa.float64(), f"standard deviation of the magnitudes, {words}", "mag")
          for case, words in CASE_WORDS.items()),
        *(described(f"n_{case}", pa.int64(), f"number of magnitudes, {words}")
          for case, words in CASE_WORDS.items()),
    ]
)  # fmt: skip


class ScatterGain(NamedTuple):
    """Median scatter of the brightest stars of a filter.

    Parameters
    ----------
    filter : str
        Filter, empty where unknown.
    frames, stars : int
        Number of frames, and of stars compared, the same in all cases: the brightest half, at most 100, of
        those measured in at least half of the frames, and three times outside of the mask.
    no_mask, masked, weighted : float
        Median over the stars of the standard deviation in magnitudes: of all clean measurements; of those
        that the mask does not touch, with zero points from these; and with zero points weighted by p-values.
        NaN without a star.
    measurements, removed : int
        Clean measurements of the comparison stars, and those that the mask removes.
    """

    filter: str
    frames: int
    stars: int
    no_mask: float
    masked: float
    weighted: float
    measurements: int
    removed: int

    @property
    def ratio(self) -> float:
        """Scatter without the mask over that with mask and weights; NaN without a star."""
        return self.no_mask / self.weighted if self.weighted else math.nan

    def sentence(self) -> str:
        """Return the gain in words."""
        band = f"{printable(self.filter)}: " if self.filter else ""
        if not self.stars:
            return (
                f"{band}no scatter to compare: no star was measured in half of "
                f"{plural(self.frames, 'frame')} and three times outside of the mask"
            )
        share = self.removed / max(self.measurements, 1)
        return (
            f"{band}median scatter of the {plural(self.stars, 'brightest star')} over "
            f"{plural(self.frames, 'frame')}: "
            f"{self.no_mask:.4f} mag without the mask, {self.masked:.4f} with it, {self.weighted:.4f} with "
            f"weights; without the mask over mask and weights: {self.ratio:.2f}; the mask removes "
            f"{self.removed} of {plural(self.measurements, 'measurement')} ({share:.1%})"
        )


class _FrameFluxes(NamedTuple):
    """Measurements of one frame as they are stored, and as an ensemble takes them."""

    file: str
    table: pa.Table
    star: np.ndarray
    mag: np.ndarray
    error: np.ndarray
    kept: np.ndarray
    quality: np.ndarray

    @property
    def filter(self) -> str:
        return self.table["filter"][0].as_py()

    def add_to(self, ensemble: Ensemble) -> list[ZeroPoint]:
        return ensemble.add(self.star, self.mag, self.error, self.kept, self.quality)


def _fluxes(folder: Path, step: int = 1) -> Iterator[_FrameFluxes]:
    """Yield every ``step``-th frame of the dataset, one in memory at a time."""
    position = 0
    for path in sorted(folder.glob("part-*.parquet")):
        with pq.ParquetFile(path) as part:
            for group in range(part.num_row_groups):
                position += 1
                if (position - 1) % step:
                    continue
                table = part.read_row_group(group)
                columns = {
                    name: table[name].to_numpy()
                    for name in ("star", "flux", "flux_err", "masked", "pvalue", "flags")
                }
                flux, kept = columns["flux"], columns["masked"] == 0
                mag = instrumental_magnitudes(flux, columns["flags"])
                error = POGSON * np.abs(columns["flux_err"] / flux)
                quality = quality_weights(columns["pvalue"])
                yield _FrameFluxes(path.name, table, columns["star"], mag, error, kept, quality)


def solve(folder: Path, stars: ReferenceStars) -> list[ScatterGain]:
    """Make light curves, zero points and the table of stars from the fluxes in a folder.

    Parameters
    ----------
    folder : Path
        Holds the dataset ``fluxes``, and receives the rest; what is there is replaced.
    stars : ReferenceStars
        Stars of the fluxes.

    Returns
    -------
    list of ScatterGain
        One a filter, in alphabetic order.
    """
    ensembles: dict[str, Ensemble] = {}
    frames = sum(pq.read_metadata(path).num_row_groups for path in (folder / FLUXES).glob("part-*.parquet"))
    step = -(-frames // PASS_FRAMES)

    def ensemble_of(frame: _FrameFluxes) -> Ensemble:
        return ensembles.setdefault(frame.filter, Ensemble(stars.mag, stars.comparison))

    for _ in range(PASSES):
        for frame in _fluxes(folder / FLUXES, step):
            frame.add_to(ensemble_of(frame))
        if max(ensemble.improve() for ensemble in ensembles.values()) < TOLERANCE:
            break
    counts = _write_curves(folder, stars, ensemble_of)
    tables, gains = [], []
    for name in sorted(ensembles):
        tables.append(_star_table(name, ensembles[name], stars))
        gains.append(_gain(name, ensembles[name], counts[name]))
    with replacing_writer(folder / STARS, STAR_SCHEMA) as writer:
        writer.write_table(pa.concat_tables(tables))
    return gains


def _write_curves(folder: Path, stars: ReferenceStars, ensemble_of: Any) -> Mapping[str, np.ndarray]:
    """Write the light curves and the table of frames; return clean and masked measurements by filter."""
    names = pa.array(stars.names)
    counts: dict[str, np.ndarray] = {}
    written: set[str] = set()
    frames = _fluxes(folder / FLUXES)
    frame = next(frames, None)
    with replacing_writer(folder / FRAMES, FRAME_SCHEMA) as about:
        while frame is not None:
            file, rows = frame.file, []
            with replacing_writer(folder / CURVES / file, CURVE_SCHEMA) as curves:
                while frame is not None and frame.file == file:
                    points = frame.add_to(ensemble_of(frame))
                    clean = np.isfinite(frame.mag) & stars.comparison[frame.star]
                    number = np.array([clean.sum(), (clean & ~frame.kept).sum()])
                    counts[frame.filter] = counts.get(frame.filter, np.zeros(2, int)) + number
                    curves.write_table(_curve_table(frame, points[-1], names))
                    rows.append(_frame_row(frame, points, number, stars.exptime))
                    frame = next(frames, None)
                curves.add_key_value_metadata({ABOUT: b"{}"})
            about.write_table(pa.Table.from_pylist(rows, FRAME_SCHEMA))
            written.add(file)
    for path in (folder / CURVES).glob("part-*.parquet*"):
        if path.name not in written:
            path.unlink(missing_ok=True)
    sweep(folder)
    return counts


def _curve_table(frame: _FrameFluxes, point: ZeroPoint, names: pa.Array) -> pa.Table:
    table, known = frame.table, np.isfinite(frame.mag + point.value)

    def numbers(values: np.ndarray | float) -> pa.Array:
        return pa.array(np.broadcast_to(values, known.shape), mask=~known)

    columns = {name: table[name] for name in (*FRAME_COLUMNS.names, *(f.name for f in STAR_COLUMNS))}
    columns |= {
        "star": names.take(table["star"].combine_chunks()), "mag": numbers(frame.mag + point.value),
        "mag_err": numbers(frame.error),
        "zero_point": pa.repeat(pa.scalar(_known(point.value), pa.float64()), table.num_rows),
    }  # fmt: skip
    return pa.table([columns[name] for name in CURVE_SCHEMA.names], schema=CURVE_SCHEMA)


def _frame_row(
    frame: _FrameFluxes, points: Sequence[ZeroPoint], number: np.ndarray, exptime: float
) -> dict[str, Any]:
    """Row of the table of frames."""
    first = {
        name: frame.table[name][0].as_py() for name in (*FRAME_COLUMNS.names, *(f.name for f in FRAME_VALUES))
    }
    no_mask, masked, weighted = points
    own = np.nan if first["exptime"] is None else first["exptime"]
    extinction = 2.5 * np.log10(own / exptime) - weighted.value
    numbers = {
        "zero_point": weighted.value, "zero_point_err": weighted.error, "zero_point_masked": masked.value,
        "zero_point_no_mask": no_mask.value, "extinction": extinction,
    }  # fmt: skip
    found = {name: _known(value) for name, value in (first | numbers).items()}
    return found | {
        "stars": weighted.stars, "measurements": int(number[0]), "masked_measurements": int(number[1])
    }  # fmt: skip


def _known(value: Any) -> Any:
    """None for NaN and infinite numbers."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _star_table(name: str, ensemble: Ensemble, stars: ReferenceStars) -> pa.Table:
    scatter, mean = ensemble.scatter, ensemble.means[-1]
    columns: dict[str, Any] = {
        "star": stars.names, "filter": [name] * len(stars.names), "comparison": stars.comparison,
        "x": stars.positions[:, 0], "y": stars.positions[:, 1], "ra": stars.sky[:, 0], "dec": stars.sky[:, 1],
        "mag": mean,
    }  # fmt: skip
    for case, label in enumerate(CASES):
        columns |= {f"scatter_{label}": scatter[case], f"n_{label}": ensemble.number[case].astype(np.int64)}
    arrays = [
        pa.array(values, schema.type, from_pandas=True)
        for schema in STAR_SCHEMA
        for values in [columns[schema.name]]
    ]
    return pa.table(arrays, schema=STAR_SCHEMA)


def _gain(name: str, ensemble: Ensemble, counts: np.ndarray) -> ScatterGain:
    """Compare the scatter of the brightest comparison stars, the same in all cases."""
    scatter, number = ensemble.scatter, ensemble.number
    comparable = ensemble.comparison & (number[0] >= ensemble.frames / 2) & np.isfinite(scatter).all(axis=0)
    comparable &= (number >= 3).all(axis=0)
    order = np.argsort(np.where(comparable, ensemble.means[0], np.inf), kind="stable")
    chosen = order[: min(BRIGHTEST, -(-comparable.sum() // 2))]
    median = np.median(scatter[:, chosen], axis=1) if len(chosen) else np.full(len(CASES), np.nan)
    no_mask, masked, weighted = map(float, median)
    return ScatterGain(name, ensemble.frames, len(chosen), no_mask, masked, weighted, *map(int, counts))
