"""Metadata of a frame from the headers of any camera; unknown rather than an error.

Keywords are tried in the order of the tables below, first in the image header, then in the primary header.
The time keywords of the standard are in FITS 4.0, section 9.5; the others are those that cameras write.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from hashlib import blake2b
from typing import ParamSpec

import numpy as np

from aqdask.io.cards import Headers, Unreadable, as_number, as_text, quiet
from aqdask.io.frame_type import read_mosaic, read_type
from aqdask.io.observation_time import named_time, start_time
from aqdask.specs import FrameInfo, FrameMetadata

EXPTIME = (
    "EXPTIME", "EXPOSURE", "EXP_TIME", "XPOSURE", "TEXPTIME", "ITIME", "EXPOSED", "ELAPTIME", "TELAPSE",
)  # fmt: skip
FILTER = ("FILTER", "FILTNAM", "FILTNAME", "FILTERID", "INSFILTE", "INSFLNAM", "FILTERS", "BAND")
# spellings for the same filter wheels: the first with a filter in place is taken
WHEELS = tuple(
    tuple(pattern.format(n) for n in numbers)
    for pattern, numbers in (
        ("FILTNAM{}", range(1, 7)),
        ("FILTER{}", (*range(1, 7), *"AB")),
        ("FILT{}", range(1, 7)),
        ("FILTER0{}", range(1, 7)),
        ("FILTER_{}", (*range(1, 7), *"ABC")),
        ("HIERARCH ESO INS FILT{} NAME", range(1, 7)),
        ("HIERARCH ESO INS FILTER{}", ("", " NAME")),
        ("{}FLTNM", ("AL", "FA", "FB")),  # ALFOSC and FASU at the NOT
    )
)
PUPIL = ("PUPIL",)  # the second wheel of NIRCam and NIRISS
CAMERA = ("INSTRUME", "CAMERA", "CAMNAME", "CAMERAID", "DETECTOR", "DETNAM", "DETNAME", "CCDNAME")
DETECTOR = (
    ("DETECTOR",), ("DETNAM", "DETNAME"), ("DETID", "DET-ID", "DET_ID", "DETNUM"), ("CCDNAME", "CHIPNAME"),
    ("CHIPID", "CHIP", "CHIPNUM", "CHIPNO"), ("CCDID", "CCD_ID", "CCDNUM", "CCDNO", "CCDCHIP", "CCD"),
    ("CAMCOL",), ("QID",), ("HIERARCH ESO DET CHIP ID",), ("AMPNAME", "AMPID"),
)  # fmt: skip
BINNING = (
    ("XBINNING", "YBINNING"), ("CCDXBIN", "CCDYBIN"), ("DETXBIN", "DETYBIN"), ("BINX1", "BINX2"),
    ("BINAXIS1", "BINAXIS2"), ("CCDBIN1", "CCDBIN2"), ("XBIN", "YBIN"), ("BINX", "BINY"),
)  # fmt: skip
BINNING_PAIR = ("CCDSUM", "BINNING", "CCDBIN")
SKY = ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
SATURATE = ("SATURATE",)
UNIT = ("BUNIT",)
GAIN = ("EGAIN", "GAIN", "CCDGAIN", "DETGAIN")
# CLEAR2L of ACS, CLEARP of NIRISS and open1-6 of GMOS are not filters; NaD, AirGlow and OpenCaT are
EMPTY_SLOT = re.compile(
    r"(CLEAR|OPEN|EMPTY|AIR|NONE|FREE|NO[ _-]?FILTER|NOT[ _-]?PRESENT|UNUSED|NULL)"
    r"([ _-]?(FILTER|SLOT|GLASS|HOLE|POSITION))?([ _-]?\d+)*[LSP]?|N/A|-+|0",
    re.IGNORECASE,
)
UNSPECIFIC_DETECTOR = re.compile(  # a type of detector, or a card that was never filled in
    r"CCD|S?CMOS|EMCCD|DETECTOR|SENSOR|CAMERA|CHIP|DEFAULT|UNKNOWN|UNDEFINED|NOT ?SET|NOT ?PRESENT|NONE|NULL"
    r"|N/?A|-+|\?+",
    re.IGNORECASE,
)
GENERIC_EXTENSION = re.compile(  # names the content of an extension, not its detector
    r"(SCI(ENCE)?|IMA?GE?|DATA|FLUX|RAW|PRIMARY|COMPRESSED_IMAGE|FRAME|\d+|)(,\d+)?", re.IGNORECASE
)
CHIP_NAME = re.compile(r"(IM|CCD|CHIP|AMP|DET|DETECTOR|SENSOR|QUAD)[ ._-]?\d+(\.[A-Z]+\d*)?", re.IGNORECASE)

KNOWN_HEADERS = 2**14  # about 10 MB
Noted = tuple[str, tuple[str, ...]]
P = ParamSpec("P")


def once_a_header(function: Callable[P, FrameMetadata]) -> Callable[P, FrameMetadata]:
    """Cache a function of headers by a digest of its arguments.

    The header of a frame is read when its source is looked into and again with its pixels; in a file of many
    images it is read for each of them. The headers themselves are not kept.
    """
    known: dict[bytes, FrameMetadata] = {}

    @wraps(function)
    def once(*arguments: P.args, **options: P.kwargs) -> FrameMetadata:
        key = blake2b(repr((arguments, options)).encode(), digest_size=16).digest()
        found = known.get(key)
        if found is None:
            if len(known) >= KNOWN_HEADERS:
                known.clear()
            found = known[key] = function(*arguments, **options)
        return found

    return once


@once_a_header
def read_metadata(
    header: str, primary_header: str, overrides: tuple[tuple[str, str], ...] = ()
) -> FrameMetadata:
    """Read time, exposure, filter, camera, type and colour mosaic from the headers of an image.

    Parameters
    ----------
    header, primary_header : str
        Cards as in `FrameInfo`.
    overrides : tuple of (str, str)
        ``(coordinate, keyword)``: take 'time', 'exptime', 'filter', 'camera' or 'type' from this keyword
        only. A time may be a date in any notation of `aqdask.io.date_formats`, an MJD, or a JD.

    Returns
    -------
    FrameMetadata
        Unknown or senseless entries are None, NaN or empty, and ``notes`` name the cards at fault. Headers
        never cause an exception.
    """
    with quiet():
        cards = Headers(header, primary_header)
        named = dict(overrides)
        exptime, about_exptime = _exposure(cards, named.get("exptime"))
        exposure = 0.0 if math.isnan(exptime) else exptime
        time, about_time = (
            named_time(cards, named["time"]) if "time" in named else start_time(cards, exposure)
        )
        filter_name, about_filter = (
            _named(cards, named["filter"], "filter") if "filter" in named else _filter(cards)
        )
        camera, about_camera = _camera(cards, named.get("camera"), is_extension=bool(primary_header))
        frame_type, about_type = read_type(cards, named.get("type"))
        mosaic, about_mosaic = read_mosaic(cards)
        levels = (*_unreadable(cards, [SATURATE], "saturation"), *_unreadable(cards, [GAIN], "gain"))
        about = (*about_time, *about_exptime, *about_filter, *about_camera, *about_type, *about_mosaic)
        notes = (*about, *levels, *_sky(cards))
    return FrameMetadata(
        time, exptime, filter_name, camera, notes=notes, frame_type=frame_type, mosaic=mosaic
    )


def distinguish_detectors(
    infos: tuple[FrameInfo, ...], overrides: tuple[tuple[str, str], ...]
) -> tuple[FrameInfo, ...]:
    """Give each detector of one file its own camera name where the cards do not.

    Images of one camera with overlapping exposures come from several detectors: the name of the extension,
    or its number, is added. Successive exposures of one detector keep the camera name, as does the only image
    with a name like 'SCI' (the others are its errors or its mask).
    """
    if "camera" in dict(overrides):
        return infos
    by_camera = defaultdict(list)
    for info in infos:
        by_camera[info.metadata.camera].append(info)
    labels: dict[int, str] = {}
    for group in by_camera.values():
        if len(group) == 1 or _are_successive([info.metadata for info in group]):
            continue
        generic = [info for info in group if GENERIC_EXTENSION.fullmatch(info.suffix.strip("[]"))]
        kept = generic if len(generic) == 1 else []
        labels |= {info.hdu: as_text(info.suffix.strip("[]")) for info in group if info not in kept}
    return tuple(
        replace(info, metadata=_labelled(info.metadata, labels[info.hdu])) if info.hdu in labels else info
        for info in infos
    )


def _labelled(metadata: FrameMetadata, label: str) -> FrameMetadata:
    return replace(metadata, camera=f"{metadata.camera} {label}".strip())


def _are_successive(cards: list[FrameMetadata]) -> bool:
    """Return True if each exposure began after the end of the one before, as those of one detector do."""
    times = sorted(card.time for card in cards if card.time is not None)
    longest = max([2.0, *(card.exptime for card in cards if card.exptime > 0)])
    gaps = np.diff(times) / 1e6
    return len(times) == len(cards) and bool((gaps >= longest).all())


def header_gain(header: str, primary_header: str) -> float:
    """Return the gain in electrons per count; NaN if absent, unreadable or outside 0.01 to 100.

    The first card present decides: GAIN beside an unreadable EGAIN may be an amplifier setting.
    """
    with quiet():
        gain = next((as_number(value) for _, value in Headers(header, primary_header).items(GAIN)), math.nan)
    return gain if 0.01 <= gain <= 100 else math.nan


def header_saturate(header: str, primary_header: str) -> float:
    """Return the saturation level in counts (keyword SATURATE); NaN if absent, unreadable or not above 0."""
    cards = Headers(header, primary_header)
    full = math.nan if cards.unreadable(SATURATE) else cards.number(SATURATE)
    return full if full > 0 else math.nan


def header_unit(header: str, primary_header: str) -> str:
    """Return the unit of the pixels as written (keyword BUNIT); empty if absent or unreadable."""
    cards = Headers(header, primary_header)
    return "" if cards.unreadable(UNIT) else cards.text(UNIT)


def _exposure(cards: Headers, named: str | None) -> tuple[float, tuple[str, ...]]:
    """Return the first exposure time in seconds, NaN if there is none, and notes on other values."""
    wrong: list[str] = [reason] if named and (reason := cards.absence(named)) else []
    for keyword, value in cards.items((named,) if named else EXPTIME):
        seconds = as_number(value)
        if 0 <= seconds < math.inf:
            return seconds, tuple(f"{reason}: exposure time taken from {keyword}" for reason in wrong)
        fault = value.reason if isinstance(value, Unreadable) else "is not an exposure time"
        reason = f"the card {keyword} {fault}"
        wrong += [reason] if reason not in wrong else []
    return math.nan, tuple(f"{reason}: exposure time unknown" for reason in wrong)


def _unreadable(cards: Headers, rows: Iterable[tuple[str, ...]], quantity: str) -> tuple[str, ...]:
    """Return notes on unreadable cards; of the alternative keywords in a row, one readable card is enough."""
    reasons = {keyword: reason for row in rows for keyword, reason in cards.unreadable(row).items()}
    return tuple(f"the card {keyword} {reason}: {quantity} unknown" for keyword, reason in reasons.items())


def _absent(cards: Headers, keyword: str, quantity: str) -> tuple[str, ...]:
    """Return a note if a card named by the user has no value."""
    reason = cards.absence(keyword)
    return (f"{reason}: {quantity} unknown",) if reason else ()


def _sky(cards: Headers) -> tuple[str, ...]:
    """Return notes on unreadable WCS cards; those of the primary header count where the image has none."""
    notes: list[str] = []
    for keyword in SKY if cards.holds("CTYPE1") else ():
        part = next((part for part in cards.parts if keyword in part.raw), None)
        if part is None or part.is_plain(keyword):
            continue
        if isinstance(value := part.value(keyword), Unreadable):
            notes.append(f"the card {keyword} {value.reason}: sky positions unknown")
    return tuple(notes)


def _named(cards: Headers, keyword: str, quantity: str) -> Noted:
    """Return the text of one card named by the user, and notes."""
    notes = _unreadable(cards, [(keyword,)], quantity) or _absent(cards, keyword, quantity)
    return ("" if notes else cards.text([keyword])), notes


def _filter(cards: Headers) -> Noted:
    """Return all filters in the light path, joined with '+': of the filter card, the wheels and the pupil."""
    rows = (FILTER, *((keyword,) for wheel in WHEELS for keyword in wheel), PUPIL)
    if notes := _unreadable(cards, rows, "filter"):
        return "", notes
    summary = _alternatives([cards.text([keyword]) for keyword in FILTER])
    slots: list[str] = []
    for wheel in WHEELS:
        slots += (wheel_slots := [cards.text([keyword]) for keyword in wheel])
        if any(_is_filter(slot) for slot in wheel_slots):
            break
    pupil = cards.text(PUPIL)
    slots += [pupil] if math.isnan(as_number(pupil)) else []  # a number is a diameter
    filters = list(filter(_is_filter, summary))
    named = [name for slot in filters for name in re.split("[+,;/]", slot)]  # in a summary such as 'air,gp'
    for slot in filter(_is_filter, slots):
        if slot in named:
            named.remove(slot)
        else:
            filters.append(slot)
    return "+".join(filters) or next(filter(None, (*summary, *slots)), ""), ()


def _alternatives(slots: list[str]) -> list[str]:
    """Return the first of several names for one wheel, and if it is an empty slot the first other filter."""
    named = [slot for slot in slots if slot]
    others = (slot for slot in named[1:] if _is_filter(slot) and math.isnan(as_number(slot)))
    return named[:1] if not named or _is_filter(named[0]) else [*named[:1], *list(others)[:1]]


def _is_filter(slot: str) -> bool:
    return bool(slot) and not EMPTY_SLOT.fullmatch(slot)


def _camera(cards: Headers, keyword: str | None, is_extension: bool) -> Noted:
    """Return instrument, detector and binning (unless 1 x 1) as one name, and notes."""
    detectors = () if keyword else DETECTOR
    instruments = (keyword,) if keyword else CAMERA
    binning = _binning(cards)
    binning_rows = () if binning else (*((key,) for pair in BINNING for key in pair), BINNING_PAIR)
    if notes := _unreadable(cards, (instruments, *detectors, *binning_rows), "camera"):
        return "", notes
    if keyword and (notes := _absent(cards, keyword, "camera")):
        return "", notes
    name = instrument = cards.text(instruments)
    number = cards.text(["CAMERA"])
    parts = [cards.text(row) for row in detectors] + ([number] if number.isdecimal() and not keyword else [])
    parts = [part for part in parts if part and not UNSPECIFIC_DETECTOR.fullmatch(part)]
    own = next(cards.scopes(), cards)
    if is_extension and not keyword and not any(own.text(row) for row in detectors):
        parts += [extension] if CHIP_NAME.fullmatch(extension := own.text(["EXTNAME"])) else []
    for part in dict.fromkeys(parts):
        # a short part is always added: the 1 of 'Cam 1' is not the number of a chip
        if part != instrument and (len(part) < 3 or not _holds(name, part)):
            name = part if name and _holds(part, name) else f"{name} {part}".strip()
    return (f"{name} {binning}".strip() if binning not in ("", "1x1") else name), ()


def _holds(text: str, name: str) -> bool:
    """Return True if ``text`` contains ``name`` as whole words: 'WFPC2' does not contain 'FPC'."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def _binning(cards: Headers) -> str:
    """Return the binning as in '2x2'; empty if no card has it."""
    pairs = [(cards.number((x,)), cards.number((y,))) for x, y in BINNING]
    numbers = re.findall(r"\d+", cards.text(BINNING_PAIR))
    pairs.append((float(numbers[0]), float(numbers[-1])) if numbers else (math.nan, math.nan))
    for x, y in pairs:
        if 1 <= x < 1000 and 1 <= y < 1000:
            return f"{x:g}x{y:g}"
    return ""
