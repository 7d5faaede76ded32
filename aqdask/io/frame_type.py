"""Frame type (light, bias, dark, flat, arc, focus, calibration) and colour mosaic, from the headers.

Keywords and values are those of MaxIm DL, NINA, SGP, SharpCap, KStars, ASIAIR, IRAF, ESO (DPR), LCO, Gemini,
Keck (KOA), Subaru, ING, CFHT, Rubin, HST and JWST. Frames without a type count as lights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from aqdask.io.cards import Headers, Unreadable, as_text, quiet
from aqdask.specs import LIGHT

Noted = tuple[str, tuple[str, ...]]

TYPE = (
    "IMAGETYP", "IMAGTYPE", "IMAGE-TY", "IMGTYPE", "IMTYPE", "PICTTYPE", "FRAMETYP", "FRAMETYPE",
    "HIERARCH FRAMETYPE", "FRMTYPE", "OBSTYPE", "OBS_TYPE", "OBSTYP", "DATA-TYP", "KOAIMTYP",
    "HIERARCH ESO DPR TYPE",
)  # fmt: skip
# used for other things as well: only values that name a type count
MODE = "OBSMODE"  # a dark may have the mode 'IMAGING': lights do not count
PERHAPS_TYPE = ("FRAME", "OBJTYPE", "EXPTYPE", "EXP_TYPE", "FLAVOR", "HIERARCH ESO DPR CATG", MODE)
# The first type of which a value holds a word is taken: a dark flat is a dark, a sky flat is no sky.
WORDS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "bias": "BIAS BIASES ZERO ZEROS OFFSET OFFSETS BIASFRAME",
        "dark": "DARK DARKS DARKFRAME DARKFLAT DARKFLATS FLATDARK FLATDARKS DARKIMG DARKALL DARKMRS",
        "flat": "FLAT FLATS FLATFIELD FLATFRAME FLATLAMP FLATLAMPSKY LAMPFLAT SKYFLAT DOMEFLAT TWIFLAT DOME "
        "TWILIGHTFLAT AUTOFLAT INTFLAT FLATIMAGE FLATMRS TWILIGHT DFLAT DMFLAT SFLAT TFLAT PFLAT "
        "QUARTZ",
        "arc": "ARC ARCS ARCLAMP COMP COMPARISON WAVE AUTOWAVE LAMP THAR CUAR CUNE FEAR HEAR HENE "
        "HENEAR THNE",
        "focus": "FOCUS FOCUSING FOC AUTOFOCUS",
        "calibration": "CAL BPM BADPIXEL BADPIXELMAP BADPIXELMASK FRINGE FRINGES ILLUMINATION",
        LIGHT: "LIGHT LIGHTS LIGHTFRAME OBJECT OBJ SCIENCE SCI TARGET EXPOSE STANDARD STD SKY SNAPSHOT EXT "
        "TRICOLOR IMAGE IMAGING SPECTROSCOPIC SPECTRUM ACQUISITION ACQUIRE ACQ EXPERIMENTAL CALSTAR",
    }.items()
}
# words that may stand beside one of the above; the last ones are instruments of JWST
BESIDE = frozenset({
    "FRAME", "FRAMES", "FIELD", "MASTER", "EXPOSURE", "STAR", "SUPER", "NRC", "NRS", "MIR", "NIS", "FGS",
})  # fmt: skip
KNOWN = BESIDE.union(*WORDS.values())
# at the beginning or end of a value these decide, whatever the other words
DECISIVE = frozenset({
    "BIAS", "BIASES", "ZERO", "ZEROS", "DARK", "DARKS", "FLAT", "FLATS", "FLATFIELD", "FOCUS", "FOCUSING",
    "AUTOFOCUS", "ARC", "ARCS", "BPM", "FRINGE", "FRINGES", "ILLUMINATION",
})  # fmt: skip
# what was done to a frame, or was not: 'dark and flat-field corrected', 'bias subtracted', 'no dark'
DONE_TO_IT = re.compile(
    r"\b(?:(?:(?:MASTER|SUPER)?(?:BIAS|ZERO|DARK|FLAT|FRINGE|ILLUMINATION|AND|FIELD|FRAME|CURRENT|LEVEL)) )+"
    r"(?:SUBTRACTED|SUB|FIELDED|CORRECTED|CORR|DIVIDED|REMOVED|CALIBRATED|REDUCED|APPLIED)\b"
    r"|\b(?:NO|NOT|WITHOUT) \w+"
)

MOSAIC = ("BAYERPAT", "BAYRPAT", "COLORTYP", "CFAPATT", "CFAPAT", "CFATYPE")
PERHAPS_MOSAIC = ("BAYER", "CFA")  # only values that are a pattern count
PATTERN = re.compile(r"(?=.*[RC])[RGBCMYEWL]{4,}", re.IGNORECASE)
NO_MOSAIC = re.compile(
    r"NONE|NO|N/?A|NULL|FALSE|0|-+|MONO(CHROME)?|GR[AE]Y(SCALE)?|INVALID|UNKNOWN|UNDEFINED|LUMINANCE",
    re.IGNORECASE,
)
IS_MOSAIC = "a colour mosaic, which is neither scored nor a reference if its pixels show the pattern"


def type_of(value: str, is_sure: bool = True) -> str:
    """Return the frame type that a value names, a key of `WORDS`; else empty.

    Of a list with commas (ESO) or brackets, parts that are not understood are passed over. A part is
    understood if it is made of known words, or, where the card ``is_sure`` to be about types, if it begins or
    ends with a decisive one: 'Flat B' is a flat, and 'dark subtracted light' no dark.
    """
    known: set[str] = set()
    for words in map(_words, re.split(r"[][,;(){}]", value)):
        joined = "".join(words)
        if joined in KNOWN:  # 'Bad Pixel Map', 'auto focus'
            known.add(joined)
        elif KNOWN.issuperset(words):
            known.update(words)
        elif is_sure:
            known.update(DECISIVE.intersection((words[0], words[-1])))
    return next((name for name, words in WORDS.items() if words & known), "")


def _words(text: str) -> list[str]:
    """Return the words in capitals, without numbers ('300s', the 1 of 'dark1') and what was done."""
    words = [word.rstrip("0123456789") for word in re.findall(r"[^\W_]+", text.upper())]
    plain = DONE_TO_IT.sub("", " ".join(word for word in words if word and not word[0].isdigit())).split()
    return [re.sub("^(?:MASTER|SUPER)(?=.)", "", word) for word in plain]


def read_type(cards: Headers, keyword: str | None = None) -> Noted:
    """Return the frame type of a header, empty where it has none, and notes.

    Parameters
    ----------
    cards : Headers
        Image header, then primary header.
    keyword : str, optional
        The only card to read, as named by the user.

    Returns
    -------
    str
        As `type_of`. A value that is not known counts as a light, with a note; so does an unreadable card. Of
        cards that contradict each other the first decides.
    tuple of str
        Notes, one clause each.
    """
    notes: list[str] = []
    if keyword and (reason := cards.absence(keyword)):
        return "", (f"{reason}: taken as a light",)
    found: dict[str, str] = {}
    sure = (keyword,) if keyword else TYPE
    for name, value in cards.items((*sure, *(() if keyword else PERHAPS_TYPE))):
        if isinstance(value, Unreadable):
            notes += [f"the card {name} {value.reason}: frame type unknown"] if name in sure else []
            continue
        kind = type_of(text := as_text(value), name in sure)
        if kind and (name, kind) != (MODE, LIGHT):
            found.setdefault(f"{name} = {text!r}", kind)
        elif name in sure:
            notes.append(f"{name} = {text!r} is no frame type that is known")
    first = next(iter(found.values()), "")
    if len(set(found.values())) > 1:
        other = next(card for card, kind in found.items() if kind != first)
        notes = [f"{next(iter(found))} and {other} contradict each other: taken as {_named(first)}"]
    elif not first:
        notes = [f"{note}: taken as a light" for note in notes]
    else:  # another card says it
        notes = [note for note in notes if note.startswith("the card ")]
    return first, tuple(dict.fromkeys(notes))


def _named(kind: str) -> str:
    return f"an {kind}" if kind == "arc" else f"a {kind}"


def header_type(header: str, primary_header: str, overrides: tuple[tuple[str, str], ...] = ()) -> str:
    """Return the frame type of a stored header, empty where it has none; ``overrides`` as `read_metadata`."""
    with quiet():
        return read_type(Headers(header, primary_header), dict(overrides).get("type"))[0]


def read_mosaic(cards: Headers) -> Noted:
    """Return the card that states a colour mosaic, as in ``BAYERPAT = 'RGGB'``, else empty; and notes."""
    for name, value in cards.items((*MOSAIC, *PERHAPS_MOSAIC)):
        if isinstance(value, Unreadable):
            card = f"{name}, which {value.reason}" if name in MOSAIC else ""
        else:
            text = as_text(value)
            is_one = PATTERN.fullmatch(text) if name in PERHAPS_MOSAIC else not NO_MOSAIC.fullmatch(text)
            card = f"{name} = {text!r}" if is_one else ""
        if card:
            return card, (f"{card}: {IS_MOSAIC}",)
    return "", ()


def header_mosaic(header: str, primary_header: str) -> str:
    """Return the card of a stored header that states a colour mosaic; empty where there is none."""
    if not _mentions((*MOSAIC, *PERHAPS_MOSAIC), header, primary_header):
        return ""
    with quiet():
        return read_mosaic(Headers(header, primary_header))[0]


def _mentions(keywords: Iterable[str], *texts: str) -> bool:
    """Return True if a text contains a keyword anywhere: parsing a header takes a hundred times longer."""
    return any(keyword in text for text in texts for keyword in keywords)
