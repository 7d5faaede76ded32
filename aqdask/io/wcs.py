"""The celestial WCS of a frame, wherever in its headers it stands."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from aqdask.io.cards import CARD, Part, Unreadable, parse, quiet

REQUIRED = ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
MATRIX_CARD = re.compile(r"(CD|PC)\d_\d|CDELT\d|CROTA\d")
# FITS 4.0, section 8, with the SIP convention; alternate descriptions (a letter behind) are not exported.
WCS_CARD = re.compile(
    r"WCSAXES|C(TYPE|RVAL|RPIX|UNIT|DELT|ROTA)\d|(CD|PC)\d_\d|P[VS]\d_\d+|LONPOLE|LATPOLE|RADE(SYS|CSYS)|EQUINOX|EPOCH|"
    r"[AB]P?_(ORDER|\d_\d)|WAT\d_\d+|DATE-OBS|MJD-OBS"
)
# Distortions by look-up table (WCS paper IV): their tables are not in the archive, and astropy asks for them.
LOOKUP_CARD = re.compile(r"(CPDIS|CPERR|CQDIS|CQERR|DP|DQ|D2IMDIS|D2IMERR|D2IM)\d|D2IMARR|D2IMEXT|AXISCORR")


class Celestial(NamedTuple):
    """A celestial WCS; ``is_partial`` where the source corrects it by look-up tables that are not kept."""

    wcs: WCS
    is_partial: bool


def celestial_wcs(header: str, primary_header: str) -> Celestial | None:
    """The celestial WCS of a frame; None where neither header has one, or a card of it cannot be read.

    What the image's header leaves open of it stands in the primary one: often all, sometimes a part.
    """
    parts = [Part(cards) for cards in (header, primary_header) if cards]
    if any(isinstance(part.value(keyword), Unreadable) for part in parts for keyword in REQUIRED):
        return None
    text = "".join(card for card in _split(header) if not LOOKUP_CARD.match(card))
    rest = "".join(card for card in _split(primary_header) if not LOOKUP_CARD.match(card))
    is_partial = len(text) + len(rest) < len(header) + len(primary_header)
    with quiet():
        image, primary = parse(text), parse(rest)
        for cards in (_merged(image, primary), primary):
            try:
                wcs = WCS(cards, naxis=2)
                if wcs.has_celestial:
                    return Celestial(wcs, is_partial)
            except Exception:  # a WCS that wcslib refuses is none
                continue
    return None


def wcs_centres(
    header: str, primary_header: str, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """ICRS right ascension and declination in degrees at pixels ``y, x`` (0-based, any shape, broadcast).

    None where neither header has a celestial WCS that can be turned into ICRS; NaN outside its projection.
    """
    found = celestial_wcs(header, primary_header)
    if found is None:
        return None
    try:
        with quiet():
            sky = found.wcs.celestial.pixel_to_world(*np.broadcast_arrays(x, y)).icrs
            return np.asarray(sky.ra.deg, dtype=float), np.asarray(sky.dec.deg, dtype=float)
    except Exception:  # a frame that the transformations refuse
        return None


def _merged(cards: fits.Header, primary: fits.Header) -> fits.Header:
    """The image's cards with those of a WCS from the primary header that it lacks, unless it is complete."""
    has_matrix = any(MATRIX_CARD.fullmatch(keyword) for keyword in cards)
    if has_matrix and all(keyword in cards for keyword in REQUIRED):
        return cards
    cards = cards.copy()
    for card in primary.cards:
        is_second = card.keyword in cards or (has_matrix and MATRIX_CARD.fullmatch(card.keyword))
        if WCS_CARD.fullmatch(card.keyword) and not is_second:
            cards.append(card, end=True)
    return cards


def _split(text: str) -> list[str]:
    return [text[at : at + CARD] for at in range(0, len(text), CARD)]
