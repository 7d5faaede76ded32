"""What the headers of any camera say, mapped to the archive's coordinates; unknown rather than an error.

The tables below are tried in order; a keyword is looked for in the image's own header first, then in the
primary one. FITS 4.0, section 9.5 for the standard's time keywords; the rest is what cameras write.
"""

from __future__ import annotations

import math
import re

import numpy as np
from astropy.wcs import WCS

from aqdask.archive.cards import Cards, parse, quiet
from aqdask.archive.obstime import named_time, start_time
from aqdask.specs import Card

EXPTIME = (
    "EXPTIME",
    "EXPOSURE",
    "EXP_TIME",
    "XPOSURE",
    "TEXPTIME",
    "ITIME",
    "EXPOSED",
    "ELAPTIME",
    "TELAPSE",
)
FILTER = ("FILTER", "FILTNAM", "FILTNAME", "FILTERID", "INSFILTE", "INSFLNAM", "FILTERS", "BAND")
WHEELS: tuple[tuple[str, ...], ...] = (
    ("FILTNAM1", "FILTNAM2", "FILTNAM3"),
    ("FILTER1", "FILTER2", "FILTER3"),
    ("FILTER01", "FILTER02"),
    ("HIERARCH ESO INS FILT1 NAME", "HIERARCH ESO INS FILT2 NAME"),
    ("HIERARCH ESO INS FILTER",),
)
CAMERA = ("INSTRUME", "CAMERA", "CAMNAME", "CAMERAID", "DETECTOR", "DETNAM", "DETNAME", "CCDNAME")
BINNING = (
    ("XBINNING", "YBINNING"),
    ("CCDXBIN", "CCDYBIN"),
    ("DETXBIN", "DETYBIN"),
    ("BINX1", "BINX2"),
    ("BINAXIS1", "BINAXIS2"),
    ("CCDBIN1", "CCDBIN2"),
    ("XBIN", "YBIN"),
    ("BINX", "BINY"),
)
BINNING_PAIR = ("CCDSUM", "BINNING", "CCDBIN")
GAIN = ("EGAIN", "GAIN", "CCDGAIN", "DETGAIN")
EMPTY_SLOT = re.compile(r"(CLEAR|OPEN|EMPTY|AIR|NONE|FREE|NOTPRESENT|N/?A|0$|$)", re.IGNORECASE)


def describe(header: str, primary_header: str, overrides: tuple[tuple[str, str], ...] = ()) -> Card:
    """Time, exposure, filter and camera as the headers have them.

    Parameters
    ----------
    header, primary_header : str
        Cards as in `FrameInfo`.
    overrides : tuple of (str, str)
        ``(coordinate, keyword)``: take 'time', 'exptime', 'filter' or 'camera' from this keyword only. A
        time may be a date in any form that `obstime` knows, an MJD, or a JD.

    Returns
    -------
    Card
        Unknown or senseless entries are None, NaN or empty; never an exception.
    """
    cards = Cards(header, primary_header)
    named = dict(overrides)
    slots = [named["filter"]] if "filter" in named else None
    exposure = cards.number((named["exptime"],) if "exptime" in named else EXPTIME)
    return Card(
        time=named_time(cards, named["time"]) if "time" in named else start_time(cards),
        exptime=exposure if 0 <= exposure < math.inf else math.nan,
        filter=cards.text(slots) if slots else _filter(cards),
        camera=_camera(cards, (named["camera"],) if "camera" in named else CAMERA),
    )


def header_gain(header: str, primary_header: str) -> float:
    """Electrons per count as the headers say; NaN where they do not, or not between 0.01 and 100."""
    gain = Cards(header, primary_header).number(GAIN)
    return gain if 0.01 <= gain <= 100 else math.nan


def header_saturate(header: str, primary_header: str) -> float:
    """Counts at which a pixel is full, of the keyword SATURATE; NaN where it is missing or not above 0."""
    full = Cards(header, primary_header).number(("SATURATE",))
    return full if full > 0 else math.nan


def wcs_centres(
    header: str, primary_header: str, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """ICRS right ascension and declination in degrees at pixels ``y, x`` (0-based, any shape, broadcast).

    None where neither header has a celestial WCS that can be turned into ICRS; NaN outside its projection.
    """
    for text in (header, primary_header):
        if not text:
            continue
        try:
            with quiet():
                wcs = WCS(parse(text)).celestial
                if not wcs.has_celestial:
                    continue
                sky = wcs.pixel_to_world(*np.broadcast_arrays(x, y)).icrs
                return np.asarray(sky.ra.deg, dtype=float), np.asarray(sky.dec.deg, dtype=float)
        except Exception:  # a WCS that wcslib or the frame transformations refuse is none
            continue
    return None


def _filter(cards: Cards) -> str:
    """One keyword, or the wheels that hold glass joined with '+'."""
    if one := cards.text(FILTER):
        return one
    for wheel in WHEELS:
        slots = [slot for keyword in wheel if (slot := cards.text([keyword]))]
        if slots:
            glass = [slot for slot in slots if not EMPTY_SLOT.match(slot)]
            return "+".join(glass) or slots[0]
    return ""


def _camera(cards: Cards, keywords: tuple[str, ...]) -> str:
    """Name, with the binning where it is not 1 x 1."""
    binning = _binning(cards)
    return f"{cards.text(keywords)} {binning}".strip() if binning != "1x1" else cards.text(keywords)


def _binning(cards: Cards) -> str:
    pairs = [(cards.number((x,)), cards.number((y,))) for x, y in BINNING]
    numbers = re.findall(r"\d+", cards.text(BINNING_PAIR))
    pairs.append((float(numbers[0]), float(numbers[-1])) if numbers else (math.nan, math.nan))
    for x, y in pairs:
        if 1 <= x < 1000 and 1 <= y < 1000:
            return f"{x:g}x{y:g}"
    return "1x1"
