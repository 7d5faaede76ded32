"""Celestial WCS of a frame, read from its image header, its primary header, or both."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import pixel_to_pixel

from aqdask.io.cards import HeaderCards, Unreadable, parse, quiet, split_cards

REQUIRED = ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
MATRIX_CARD = re.compile(r"(CD|PC)\d_\d|CDELT\d|CROTA\d")
# FITS 4.0, section 8, with the SIP convention; alternate WCS descriptions (a final letter) are not exported.
WCS_CARD = re.compile(
    r"WCSAXES|C(TYPE|RVAL|RPIX|UNIT|DELT|ROTA)\d|(CD|PC)\d_\d|P[VS]\d_\d+|LONPOLE|LATPOLE|RADE(SYS|CSYS)|EQUINOX|EPOCH|"
    r"[AB]P?_(ORDER|\d_\d)|WAT\d_\d+|DATE-OBS|MJD-OBS"
)
# Distortions by look-up table (WCS paper IV): astropy needs the tables, which an archive does not hold.
LOOKUP_CARD = re.compile(r"(CPDIS|CPERR|CQDIS|CQERR|DP|DQ|D2IMDIS|D2IMERR|D2IM)\d|D2IMARR|D2IMEXT|AXISCORR")


class Celestial(NamedTuple):
    """Celestial WCS; ``is_partial`` if the source file corrects it by look-up tables, which are left out."""

    wcs: WCS
    is_partial: bool


def celestial_wcs(header: str, primary_header: str) -> Celestial | None:
    """Return the celestial WCS of a frame; None if the headers have none, or have it with an unreadable card.

    Cards that the image header lacks are taken from the primary header: often all, sometimes a part.

    Parameters
    ----------
    header, primary_header : str
        Cards as in `aqdask.specs.FrameInfo`.
    """
    parts = [HeaderCards(cards) for cards in (header, primary_header) if cards]
    if any(isinstance(part.value(keyword), Unreadable) for part in parts for keyword in REQUIRED):
        return None
    text = "".join(card for card in split_cards(header) if not LOOKUP_CARD.match(card))
    rest = "".join(card for card in split_cards(primary_header) if not LOOKUP_CARD.match(card))
    is_partial = len(text) + len(rest) < len(header) + len(primary_header)
    with quiet():
        image, primary = parse(text), parse(rest)
        for cards in (_merged(image, primary), primary):
            try:
                wcs = WCS(cards, naxis=2)
                if wcs.has_celestial:
                    return Celestial(wcs, is_partial)
            except Exception:  # refused by wcslib
                continue
    return None


def sky_coordinates(
    header: str, primary_header: str, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return ICRS coordinates of pixels.

    Parameters
    ----------
    header, primary_header : str
        Cards as in `aqdask.specs.FrameInfo`.
    y, x : ndarray
        Pixel coordinates from 0, of any shapes that broadcast.

    Returns
    -------
    tuple of ndarray, float64, or None
        Right ascension and declination in degrees, NaN outside the projection; None without a celestial WCS
        that transforms to ICRS.
    """
    found = celestial_wcs(header, primary_header)
    if found is None:
        return None
    try:
        with quiet():
            sky = found.wcs.celestial.pixel_to_world(*np.broadcast_arrays(x, y)).icrs
            return np.asarray(sky.ra.deg, dtype=float), np.asarray(sky.dec.deg, dtype=float)
    except Exception:  # no transformation from its reference frame
        return None


def pixel_positions(found: Celestial, ra: np.ndarray, dec: np.ndarray) -> np.ndarray | None:
    """Return pixels of ICRS coordinates.

    Parameters
    ----------
    found : Celestial
        WCS of the frame.
    ra, dec : ndarray (n,)
        Degrees; NaN gives NaN.

    Returns
    -------
    ndarray (n, 2), float64, or None
        x, y from 0; None for a WCS that cannot be inverted there, or that does not transform from ICRS.
    """
    try:
        with quiet():
            pixels = found.wcs.celestial.world_to_pixel(SkyCoord(ra, dec, unit="deg"))
    except Exception:  # a distortion without inverse, or an unknown reference frame
        return None
    return np.column_stack([np.asarray(axis, dtype=float) for axis in pixels])


def _merged(cards: fits.Header, primary: fits.Header) -> fits.Header:
    """Add the WCS cards that an image header lacks from the primary header, unless its WCS is complete."""
    has_matrix = any(MATRIX_CARD.fullmatch(keyword) for keyword in cards)
    if has_matrix and all(keyword in cards for keyword in REQUIRED):
        return cards
    cards = cards.copy()
    for card in primary.cards:
        is_second = card.keyword in cards or (has_matrix and MATRIX_CARD.fullmatch(card.keyword))
        if WCS_CARD.fullmatch(card.keyword) and not is_second:
            cards.append(card, end=True)
    return cards


def wcs_transform(source: WCS, target: WCS) -> Callable[[np.ndarray], np.ndarray]:
    """Return the transform of positions ``(n, 2)`` in the pixels of one WCS to those of another.

    It gives NaN where there are none, and its errors are astropy's.
    """

    def transform(positions: np.ndarray) -> np.ndarray:
        if not len(positions):  # astropy takes none
            return np.empty((0, 2))
        with quiet():
            return np.column_stack(pixel_to_pixel(source, target, *positions.T))

    return transform
