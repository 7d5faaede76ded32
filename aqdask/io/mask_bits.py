"""Input masks: where they stand, and which of their bits are defects.

A mask plane names its bits in its header, or its pixels are zero and non-zero. Planes whose names say that a
bit is no defect (DETECTED) are never taken whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aqdask.errors import FrameError
from aqdask.io.cards import parse, quiet
from aqdask.specs import ReadSpec
from aqdask.text import printable

COMPRESSED = re.compile(r"\.(gz|bz2|xz|zip|z|fz)$", re.IGNORECASE)
FITS = re.compile(r"\.(fits?|fts|ftz|fits?\.fz)$", re.IGNORECASE)
# Bits of pixels that are as good as others: a source was found there, or stands there.
HARMLESS = re.compile(r"(.*_)?(DETECTED|DETECTION|DETECTIONS|DEBLENDED|OBJECT|OBJECTS|SOURCE|SOURCES)(_.*)?")
BIT_CARD = re.compile(r"[A-Z]{0,5}BIT_?(\d+)")  # DQBIT2 of aqdask, BIT01 of ZTF: the name is text or comment
NAMED_PAIR = re.compile(r"([A-Z]+?)(NAM|NAME|N)_?(\d+)")  # MSKNAM03 with MSKVAL03 of Pan-STARRS
# jwst.datamodels, dqflags.pixel: bit numbers 0, 1, 2, ...
JWST = re.split(
    r"\s+",
    "DO_NOT_USE SATURATED JUMP_DET DROPOUT OUTLIER PERSISTENCE AD_FLOOR CHARGELOSS UNRELIABLE_ERROR "
    "NON_SCIENCE DEAD HOT WARM LOW_QE RC TELEGRAPH NONLINEAR BAD_REF_PIXEL NO_FLAT_FIELD NO_GAIN_VALUE "
    "NO_LIN_CORR NO_SAT_CHECK UNRELIABLE_BIAS UNRELIABLE_DARK UNRELIABLE_SLOPE UNRELIABLE_FLAT OPEN ADJ_OPEN "
    "FLUX_ESTIMATED MSA_FAILED_OPEN OTHER_BAD_PIXEL REFERENCE_PIXEL",
)
# Data-quality flags of calwf3 and calacs; where UVIS and IR name a bit differently, both names mean it.
HST = {
    "SOFTERR": 0x1, "DATALOST": 0x2, "DETECTORPROB": 0x4, "DATAMASKED": 0x8, "BADZERO": 0x8, "HOTPIX": 0x10,
    "CTETAIL": 0x20, "UNSTABLE": 0x20, "WARMPIX": 0x40, "BADBIAS": 0x80, "SATPIXEL": 0x100, "BADFLAT": 0x200,
    "TRAP": 0x400, "SPIKE": 0x400, "ATODSAT": 0x800, "DATAREJECT": 0x2000,
}  # fmt: skip
# Bits of DECam masks of the Dark Energy Survey (despyfits, BADPIX_*); the Community Pipeline's are codes.
DES = re.split(
    r"\s+",
    "BPM SATURATE INTERP BADAMP CRAY STAR TRAIL EDGEBLEED SSXTALK EDGE STREAK SUSPECT FIXED NEAREDGE "
    "TAPEBUMP",
)
# Masks whose headers do not name their bits: a card that tells whose they are, and the values by name.
KNOWN: tuple[tuple[re.Pattern[str], dict[str, int]], ...] = (
    (re.compile(r"(.{80})*TELESCOP= 'JWST", re.DOTALL), {n: 1 << bit for bit, n in enumerate(JWST)}),
    (re.compile(r"(.{80})*INSTRUME= '(WFC3|ACS) *'", re.DOTALL), HST),
    (re.compile(r"(.{80})*DES_EXT = 'MASK", re.DOTALL), {n: 1 << bit for bit, n in enumerate(DES)}),
)


@dataclass(frozen=True)
class Mask:
    """Choice of input masks of a `ReadSpec`.

    Parameters
    ----------
    hdu : str
        Name or index of the mask's HDU, in the frame's file or with ``files`` in the mask's; may be empty.
    bits : tuple of str
        Names, bit numbers (``3``) or values (``0x8``) of the bits that are defects; empty for all.
    files : str
        Pattern of mask files; empty for none.
    """

    hdu: str
    bits: tuple[str, ...]
    files: str

    @classmethod
    def of(cls, read: ReadSpec) -> Mask:
        hdu, _, bits = read.mask_hdu.partition(":")
        return cls(hdu.strip(), tuple(bit.strip() for bit in bits.split(",") if bit.strip()), read.mask_files)

    def file_of(self, frame: str | Path) -> Path:
        """The mask file of a frame's file."""
        frame = Path(frame)
        stem = FITS.sub("", COMPRESSED.sub("", frame.name)) or frame.name
        place = self.files.replace("{name}", stem).replace("{folder}", str(frame.parent))
        return frame.parent / place


def defects(plane: np.ndarray, mask: Mask, header: str, primary_header: str) -> np.ndarray:
    """Pixels of a mask plane that are no data.

    Parameters
    ----------
    plane : ndarray, (y, x)
        Pixels of the mask.
    mask : Mask
        Its ``bits`` are what counts; without any, every non-zero pixel.
    header, primary_header : str
        Cards of the mask's HDU and of its file's primary HDU.

    Returns
    -------
    ndarray of bool, (y, x)

    Raises
    ------
    FrameError
        Bits that the plane does not have; or none were chosen, and its names say that not all are defects.
    """
    names = bit_names(header, primary_header)
    if not mask.bits:
        harmless = [name for name in names if HARMLESS.fullmatch(name)]
        if harmless:
            raise FrameError(
                f"not every bit of it is a defect ({', '.join(harmless)}): choose from {_listed(names)}"
                f" with --mask-hdu {mask.hdu}:{','.join(n for n in names if n not in harmless)}"
            )
        return plane != 0
    if plane.dtype.kind not in "iu":
        raise FrameError(f"its pixels are {plane.dtype}, which has no bits to choose from")
    width = 8 * plane.itemsize
    value = 0
    for bit in mask.bits:
        value |= _value(bit, names, width)
    unsigned = np.dtype(f"u{plane.itemsize}").type
    return (plane.view(unsigned) & unsigned(value)) != 0


def bit_names(header: str, primary_header: str) -> dict[str, int]:
    """Values of the bits that a mask's header names, by name in capitals and underscores.

    Raises
    ------
    FrameError
        For a card of that kind that cannot be read, or one name with two values.
    """
    found: dict[str, int] = {}
    with quiet():
        cards = parse(header)
        for card in cards.cards:
            keyword = card.keyword.upper()
            if not (
                keyword.startswith("MP_") or BIT_CARD.fullmatch(keyword) or NAMED_PAIR.fullmatch(keyword)
            ):
                continue
            try:
                name, value = _named(keyword, card.value, card.comment, cards)
            except Exception as error:  # a damaged card can fail in any of astropy's parsers
                raise FrameError(
                    f"a card that cannot be read: '{printable(str(card.image).rstrip())}'"
                ) from error
            if name and found.setdefault(name, value) != value:
                raise FrameError(f"the bit {name} is named twice with different values")
    known = (names for card, names in KNOWN if card.match(primary_header) or card.match(header))
    return found or dict(next(known, {}))


def _named(keyword: str, value: object, comment: str, cards: object) -> tuple[str, int]:
    """Name and value of the bit that a card names; an empty name where it names none."""
    if keyword.startswith("MP_"):
        return _capitals(keyword[3:]), 1 << _bit_number(value)
    if bit := BIT_CARD.fullmatch(keyword):
        return _capitals(value if isinstance(value, str) else comment), 1 << _bit_number(int(bit[1]))
    pair = NAMED_PAIR.fullmatch(keyword)
    assert pair is not None
    number = cards.get(keyword.replace(pair[2], {"NAM": "VAL", "NAME": "VALUE", "N": "V"}[pair[2]], 1))  # type: ignore[attr-defined]
    if isinstance(value, str) and isinstance(number, int) and not isinstance(number, bool) and number > 0:
        return _capitals(value), number
    return "", 0


def _bit_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 64:
        raise ValueError(value)
    return value


def _capitals(text: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")


def _value(bit: str, names: dict[str, int], width: int) -> int:
    """The value of a bit by its name, number or value."""
    name = _capitals(bit).removeprefix("BADPIX_")
    if name in names:
        value = names[name]
    elif re.fullmatch(r"0[xX][0-9a-fA-F]+", bit):
        value = int(bit, 16)
    elif bit.isdecimal() and int(bit) < width:
        value = 1 << int(bit)
    elif bit.isdecimal():
        hint = f"; the value {bit} is written {int(bit):#x}"
        raise FrameError(f"{bit} is none of its bits 0 to {width - 1}{hint}")
    else:
        known = f"choose from {_listed(names)}" if names else "its header names none"
        raise FrameError(
            f"it has no bit named {printable(bit)!r}: {known}, or give bit numbers or values (3, 0x8)"
        )
    if not 0 < value < 1 << width:
        raise FrameError(f"{bit} is no bit of pixels of {width} bits")
    return value


def _listed(names: dict[str, int]) -> str:
    return ", ".join(names)
