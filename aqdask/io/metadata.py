"""What the headers of any camera say, mapped to the archive's coordinates; unknown rather than an error.

The tables below are tried in order; a keyword is looked for in the image's own header first, then in the
primary one. FITS 4.0, section 9.5 for the standard's time keywords; the rest is what cameras write.
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

from aqdask.io.cards import Cards, Unreadable, as_number, quiet, words
from aqdask.io.observation_time import absence, named_time, start_time
from aqdask.specs import Card, FrameInfo

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
# spellings of the same wheels: the first that holds glass is taken
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
SKY = ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
SATURATE = ("SATURATE",)
GAIN = ("EGAIN", "GAIN", "CCDGAIN", "DETGAIN")
# CLEAR2L of ACS, CLEARP of NIRISS and open1-6 of GMOS are no glass; NaD, AirGlow and OpenCaT are
EMPTY_SLOT = re.compile(
    r"(CLEAR|OPEN|EMPTY|AIR|NONE|FREE|NO[ _-]?FILTER|NOT[ _-]?PRESENT|UNUSED|NULL)"
    r"([ _-]?(FILTER|SLOT|GLASS|HOLE|POSITION))?([ _-]?\d+)*[LSP]?|N/A|-+|0",
    re.IGNORECASE,
)
SAYS_NOTHING = re.compile(  # of a detector: its kind, or that nobody filled the card in
    r"CCD|S?CMOS|EMCCD|DETECTOR|SENSOR|CAMERA|CHIP|DEFAULT|UNKNOWN|UNDEFINED|NOT ?SET|NOT ?PRESENT|NONE|NULL"
    r"|N/?A|-+|\?+",
    re.IGNORECASE,
)
GENERIC_NAME = re.compile(  # of an extension: its content, not its detector
    r"(SCI(ENCE)?|IMA?GE?|DATA|FLUX|RAW|PRIMARY|COMPRESSED_IMAGE|FRAME|\d+|)(,\d+)?", re.IGNORECASE
)
CHIP_NAME = re.compile(r"(IM|CCD|CHIP|AMP|DET|DETECTOR|SENSOR|QUAD)[ ._-]?\d+(\.[A-Z]+\d*)?", re.IGNORECASE)

KNOWN_HEADERS = 2**14  # about 10 MB
Noted = tuple[str, tuple[str, ...]]
P = ParamSpec("P")


def once_a_header(function: Callable[P, Card]) -> Callable[P, Card]:
    """Remember what a function of headers returned, by a digest of its arguments.

    A frame's header is read when its source is looked into and again with its pixels; a file of many images
    is described whole for each of them. The headers themselves are not kept.
    """
    known: dict[bytes, Card] = {}

    @wraps(function)
    def once(*arguments: P.args, **options: P.kwargs) -> Card:
        key = blake2b(repr((arguments, options)).encode(), digest_size=16).digest()
        found = known.get(key)
        if found is None:
            if len(known) >= KNOWN_HEADERS:
                known.clear()
            found = known[key] = function(*arguments, **options)
        return found

    return once


@once_a_header
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
        Unknown or senseless entries are None, NaN or empty, and ``notes`` say which cards are the matter;
        never an exception.
    """
    with quiet():
        cards = Cards(header, primary_header)
        named = dict(overrides)
        exptime, about_exptime = _exposure(cards, named.get("exptime"))
        exposure = 0.0 if math.isnan(exptime) else exptime
        time, about_time = (
            named_time(cards, named["time"]) if "time" in named else start_time(cards, exposure)
        )
        glass, about_filter = (
            _named(cards, named["filter"], "filter") if "filter" in named else _filter(cards)
        )
        camera, about_camera = _camera(cards, named.get("camera"), is_extension=bool(primary_header))
        levels = (*_unreadable(cards, [SATURATE], "saturation"), *_unreadable(cards, [GAIN], "gain"))
        notes = (*about_time, *about_exptime, *about_filter, *about_camera, *levels, *_sky(cards))
    return Card(time=time, exptime=exptime, filter=glass, camera=camera, notes=notes)


def tell_apart(infos: tuple[FrameInfo, ...], overrides: tuple[tuple[str, str], ...]) -> tuple[FrameInfo, ...]:
    """Give the detectors of one file camera names of their own where their cards do not.

    Images of one camera whose exposures overlap come from several detectors: their extension's name, or
    where that says nothing its number, is added. Successive exposures of one detector keep its name, as
    does the only image of its camera with a name like 'SCI' (others then are its errors or its mask).
    """
    if "camera" in dict(overrides):
        return infos
    alike = defaultdict(list)
    for info in infos:
        alike[info.card.camera].append(info)
    labels: dict[int, str] = {}
    for group in alike.values():
        if len(group) == 1 or _are_successive([info.card for info in group]):
            continue
        generic = [info for info in group if GENERIC_NAME.fullmatch(info.suffix.strip("[]"))]
        kept = generic if len(generic) == 1 else []
        labels |= {info.hdu: words(info.suffix.strip("[]")) for info in group if info not in kept}
    return tuple(
        replace(info, card=replace(info.card, camera=f"{info.card.camera} {labels[info.hdu]}".strip()))
        if info.hdu in labels
        else info
        for info in infos
    )


def _are_successive(cards: list[Card]) -> bool:
    """Tell if each exposure began after the one before had ended, as those of one detector do."""
    times = sorted(card.time for card in cards if card.time is not None)
    longest = max([2.0, *(card.exptime for card in cards if card.exptime > 0)])
    gaps = np.diff(times) / 1e6
    return len(times) == len(cards) and bool((gaps >= longest).all())


def header_gain(header: str, primary_header: str) -> float:
    """Electrons per count as the headers say; NaN where they do not, or not between 0.01 and 100.

    The first card that is there decides: GAIN beside an EGAIN that cannot be read may be a setting.
    """
    with quiet():
        gain = next((as_number(value) for _, value in Cards(header, primary_header).items(GAIN)), math.nan)
    return gain if 0.01 <= gain <= 100 else math.nan


def header_saturate(header: str, primary_header: str) -> float:
    """Counts at which a pixel is full, of the keyword SATURATE; NaN where it is missing or not above 0."""
    cards = Cards(header, primary_header)
    full = math.nan if cards.unreadable(SATURATE) else cards.number(SATURATE)
    return full if full > 0 else math.nan


def _exposure(cards: Cards, named: str | None) -> tuple[float, tuple[str, ...]]:
    """The first statement that is a number of seconds, with a note on those before it that are none."""
    wrong: list[str] = [reason] if named and (reason := absence(cards, named)) else []
    for keyword, value in cards.items((named,) if named else EXPTIME):
        seconds = as_number(value)
        if 0 <= seconds < math.inf:
            return seconds, tuple(f"{reason}: exposure time taken from {keyword}" for reason in wrong)
        what = value.reason if isinstance(value, Unreadable) else "is no exposure time"
        reason = f"the card {keyword} {what}"
        wrong += [reason] if reason not in wrong else []
    return math.nan, tuple(f"{reason}: exposure time unknown" for reason in wrong)


def _unreadable(cards: Cards, rows: Iterable[tuple[str, ...]], what: str) -> tuple[str, ...]:
    """Notes on cards that cannot be read; a row holds keywords of one thing, of which one is enough."""
    reasons = {keyword: reason for row in rows for keyword, reason in cards.unreadable(row).items()}
    return tuple(f"the card {keyword} {reason}: {what} unknown" for keyword, reason in reasons.items())


def _absent(cards: Cards, keyword: str, what: str) -> tuple[str, ...]:
    """A note where a card that the user names says nothing."""
    reason = absence(cards, keyword)
    return (f"{reason}: {what} unknown",) if reason else ()


def _sky(cards: Cards) -> tuple[str, ...]:
    """Notes on cards of a WCS that cannot be read; the primary header's count where the image has none."""
    notes: list[str] = []
    for keyword in SKY if cards.holds("CTYPE1") else ():
        part = next((part for part in cards.parts if keyword in part.raw), None)
        if part is None or part.is_plain(keyword):
            continue
        if isinstance(value := part.value(keyword), Unreadable):
            notes.append(f"the card {keyword} {value.reason}: sky positions unknown")
    return tuple(notes)


def _named(cards: Cards, keyword: str, what: str) -> Noted:
    """The words of one card that the user names."""
    notes = _unreadable(cards, [(keyword,)], what) or _absent(cards, keyword, what)
    return ("" if notes else cards.text([keyword])), notes


def _filter(cards: Cards) -> Noted:
    """All glass in the light's path, joined with '+': of the filter card, its wheels and the pupil wheel."""
    rows = (FILTER, *((keyword,) for wheel in WHEELS for keyword in wheel), PUPIL)
    if notes := _unreadable(cards, rows, "filter"):
        return "", notes
    summary = _alternatives([cards.text([keyword]) for keyword in FILTER])
    slots: list[str] = []
    for wheel in WHEELS:
        slots += (wheel_slots := [cards.text([keyword]) for keyword in wheel])
        if any(_is_glass(slot) for slot in wheel_slots):
            break
    pupil = cards.text(PUPIL)
    slots += [pupil] if math.isnan(as_number(pupil)) else []  # a number is a size
    glass = list(filter(_is_glass, summary))
    named = [name for slot in glass for name in re.split("[+,;/]", slot)]  # by a summary such as 'air,gp'
    for slot in filter(_is_glass, slots):
        if slot in named:
            named.remove(slot)
        else:
            glass.append(slot)
    return "+".join(glass) or next(filter(None, (*summary, *slots)), ""), ()


def _alternatives(slots: list[str]) -> list[str]:
    """The one of several names for the same wheel: the first, or the first of glass that is no number."""
    named = [slot for slot in slots if slot]
    glass = (slot for slot in named[1:] if _is_glass(slot) and math.isnan(as_number(slot)))
    return named[:1] if not named or _is_glass(named[0]) else [*named[:1], *list(glass)[:1]]


def _is_glass(slot: str) -> bool:
    return bool(slot) and not EMPTY_SLOT.fullmatch(slot)


def _camera(cards: Cards, keyword: str | None, is_extension: bool) -> Noted:
    """Instrument, detector, and the binning where it is not 1 x 1."""
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
    parts = [part for part in parts if part and not SAYS_NOTHING.fullmatch(part)]
    own = next(cards.scopes(), cards)
    if is_extension and not keyword and not any(own.text(row) for row in detectors):
        parts += [extension] if CHIP_NAME.fullmatch(extension := own.text(["EXTNAME"])) else []
    for part in dict.fromkeys(parts):
        # a short one is said in any case: the 1 of 'Cam 1' is no chip
        if part != instrument and (len(part) < 3 or not _holds(name, part)):
            name = part if name and _holds(part, name) else f"{name} {part}".strip()
    return (f"{name} {binning}".strip() if binning not in ("", "1x1") else name), ()


def _holds(text: str, name: str) -> bool:
    """Tell if ``name`` stands in ``text`` as whole words: 'FPC' does not in 'WFPC2'."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def _binning(cards: Cards) -> str:
    """Binning as in '2x2'; empty where no card says it."""
    pairs = [(cards.number((x,)), cards.number((y,))) for x, y in BINNING]
    numbers = re.findall(r"\d+", cards.text(BINNING_PAIR))
    pairs.append((float(numbers[0]), float(numbers[-1])) if numbers else (math.nan, math.nan))
    for x, y in pairs:
        if 1 <= x < 1000 and 1 <= y < 1000:
            return f"{x:g}x{y:g}"
    return ""
