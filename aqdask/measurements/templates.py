"""Templates of difference images: one frame for each camera, filter and field."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.coordinates import angular_separation
from astropy.wcs.utils import proj_plane_pixel_scales

from aqdask.errors import FrameError
from aqdask.io.wcs import celestial_wcs, sky_coordinates
from aqdask.measurements.scored_frame import ScoredFrame, ScoredPlace
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import open_ledger

SAME_FIELD = 0.5  # of the shorter side: largest distance between the centres of frames of one field


@dataclass(frozen=True)
class Template:
    """Frame that others of its camera, filter and field are compared with.

    Parameters
    ----------
    place : ScoredPlace
        Where it is.
    frame_id, camera, filter : str
        As in the archive.
    ra, dec : float
        Of its centre, degrees (ICRS); NaN without a WCS.
    reach : float
        Largest distance of the centre of a frame of its field, degrees.
    members : int
        Scored frames of its field, itself included.
    """

    place: ScoredPlace = field(hash=False, compare=False)
    frame_id: str
    camera: str
    filter: str
    ra: float
    dec: float
    reach: float
    members: int

    @property
    def row(self) -> int:
        """Row of the archive."""
        return self.place.frame.row

    @property
    def key(self) -> list[Any]:
        """Name and checksums, on which results depend."""
        return [self.frame_id, self.row, self.place.frame.crc32c, self.place.maps]


def choose_templates(
    archive: str | os.PathLike[str], places: Sequence[ScoredPlace], order: Sequence[int], *, each_field: bool
) -> tuple[Template, ...]:
    """Choose the template of each camera, filter and field.

    Parameters
    ----------
    archive : path
        A scored archive.
    places : sequence of ScoredPlace
        All its scored frames.
    order : sequence of int
        Rows of the candidates, the best first.
    each_field : bool
        Take the first of each field; False takes all of them.

    Notes
    -----
    Frames belong to one field if their centres are less than half the shorter side apart; those without a
    WCS, of one camera and filter, are taken for one field.
    """
    rows = np.array([place.frame.row for place in places], dtype=np.intp)
    frames, known = FrameStore.open(archive), open_ledger(layout.open_root(archive)).rows()
    about = {name: frames.coordinate(name, rows.tolist()) for name in ("frame_id", "camera", "filter")}
    by_row = np.full((len(frames), 2), np.nan)
    by_row[known.column("row")] = np.column_stack([known.column(axis) for axis in ("ra", "dec")])
    sky = by_row[rows]
    index_of = {row: index for index, row in enumerate(rows.tolist())}
    left, chosen = np.ones(len(rows), dtype=bool), []
    for index in [index_of[row] for row in order if row in index_of]:
        if each_field and not left[index]:
            continue
        header, primary = (
            str(frames.coordinate(name, [rows[index]])[0]) for name in ("header", "primary_header")
        )
        reach = _reach(header, primary, frames.spec.shape)
        field = np.all([column == column[index] for column in (about["camera"], about["filter"])], axis=0)
        field &= _is_near(sky, sky[index], reach)
        left &= ~field
        names = {name: str(column[index]) for name, column in about.items()}
        ra, dec = sky[index].tolist()
        chosen.append(Template(places[index], ra=ra, dec=dec, reach=reach, members=int(field.sum()), **names))
    return tuple(chosen)


def template_of(frame: ScoredFrame, templates: Sequence[Template]) -> Template:
    """Return the template of a frame: the nearest of its camera and filter, or one without a position.

    Raises
    ------
    FrameError
        If there is none.
    """
    same = [one for one in templates if (one.camera, one.filter) == (frame.camera, frame.filter)]
    kind = f"camera {frame.camera or 'unknown'!r} and filter {frame.filter or 'unknown'!r}"
    if not same:
        raise FrameError(f"no template of {kind}")
    y, x = ((length - 1) / 2 for length in frame.image.shape)
    found = sky_coordinates(frame.header, frame.primary_header, np.array(y), np.array(x))
    centre = np.array(found if found is not None else (math.nan, math.nan), dtype=float)
    away = [_separation(np.array([one.ra, one.dec]), centre) for one in same]
    nearest = int(np.argmin(np.nan_to_num(away, nan=np.inf)))
    chosen = same[nearest]
    if not away[nearest] <= chosen.reach:
        unknown = [one for one, far in zip(same, away, strict=True) if math.isnan(far)]
        if not unknown:
            raise FrameError(
                f"no template of its field: the nearest of {kind} is {away[nearest]:.3g} deg away"
            )
        chosen = unknown[0]
    if chosen.row == frame.row and chosen.members == 1:
        raise FrameError(f"no template: it is the only scored frame of its field, {kind}")
    return chosen


def _reach(header: str, primary_header: str, shape: tuple[int, int]) -> float:
    found = celestial_wcs(header, primary_header)
    return SAME_FIELD * min(shape) * min(proj_plane_pixel_scales(found.wcs.celestial)) if found else math.nan


def _is_near(sky: np.ndarray, centre: np.ndarray, reach: float) -> np.ndarray:
    """Flag positions within reach of a centre; those that are unknown, if it is unknown itself."""
    away = _separation(sky, centre)
    return np.isnan(sky).any(axis=1) if np.isnan(centre).any() else away <= reach


def _separation(sky: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Distance on the sphere, degrees."""
    return np.degrees(angular_separation(*np.radians(sky.T), *np.radians(centre)))
