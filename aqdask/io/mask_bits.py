"""Bits of mask planes: their names and values from headers, and the pixels that selected bits mark as bad.

A mask plane names its bits in its header, or has zero and non-zero pixels. A plane with bits that mark no
defect (DETECTED) is never taken as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from aqdask.errors import FrameError
from aqdask.io.cards import parse, quiet
from aqdask.specs import ReadSpec
from aqdask.text import printable

# Bits of pixels that are as good as others, because a source was found there.
HARMLESS = re.compile(r"(.*_)?(DETECTED|DETECTION|DETECTIONS|DEBLENDED|OBJECT|OBJECTS|SOURCE|SOURCES)(_.*)?")
BIT_CARD = re.compile(r"[A-Z]{0,5}BIT_?(\d+)")  # DQBIT2 of aqdask, BIT01 of ZTF: the name is text or comment
NAME_CARD = re.compile(r"([A-Z]+?)(NAM|NAME|N)_?(\d+)")  # MSKNAM03 with MSKVAL03 of Pan-STARRS
VALUE_OF_NAME = {"NAM": "VAL", "NAME": "VALUE", "N": "V"}


def _numbered(names: str) -> dict[str, int]:
    """Return the values of bits that are listed in order from bit 0."""
    return {name: 1 << bit for bit, name in enumerate(names.split())}


# jwst.datamodels, dqflags.pixel
JWST = _numbered("""
    DO_NOT_USE SATURATED JUMP_DET DROPOUT OUTLIER PERSISTENCE AD_FLOOR CHARGELOSS UNRELIABLE_ERROR
    NON_SCIENCE DEAD HOT WARM LOW_QE RC TELEGRAPH NONLINEAR BAD_REF_PIXEL NO_FLAT_FIELD NO_GAIN_VALUE
    NO_LIN_CORR NO_SAT_CHECK UNRELIABLE_BIAS UNRELIABLE_DARK UNRELIABLE_SLOPE UNRELIABLE_FLAT OPEN ADJ_OPEN
    FLUX_ESTIMATED MSA_FAILED_OPEN OTHER_BAD_PIXEL REFERENCE_PIXEL
""")
# Data-quality flags of calwf3 and calacs; where UVIS and IR name a bit differently, both names are known.
HST = {
    "SOFTERR": 0x1, "DATALOST": 0x2, "DETECTORPROB": 0x4, "DATAMASKED": 0x8, "BADZERO": 0x8, "HOTPIX": 0x10,
    "CTETAIL": 0x20, "UNSTABLE": 0x20, "WARMPIX": 0x40, "BADBIAS": 0x80, "SATPIXEL": 0x100, "BADFLAT": 0x200,
    "TRAP": 0x400, "SPIKE": 0x400, "ATODSAT": 0x800, "DATAREJECT": 0x2000,
}  # fmt: skip
# DECam masks of the Dark Energy Survey (despyfits, BADPIX_*); those of the Community Pipeline are codes.
DES = _numbered("""
    BPM SATURATE INTERP BADAMP CRAY STAR TRAIL EDGEBLEED SSXTALK EDGE STREAK SUSPECT FIXED NEAREDGE TAPEBUMP
""")
# Masks whose headers do not name their bits: a card that identifies them, and the values by name.
KNOWN = (
    (re.compile(r"(.{80})*TELESCOP= 'JWST", re.DOTALL), JWST),
    (re.compile(r"(.{80})*INSTRUME= '(WFC3|ACS) *'", re.DOTALL), HST),
    (re.compile(r"(.{80})*DES_EXT = 'MASK", re.DOTALL), DES),
)


@dataclass(frozen=True)
class MaskSelection:
    """Selection of an input mask, parsed from a `ReadSpec`.

    Parameters
    ----------
    hdu : str
        Name or index of the mask HDU, in the frame's file or with ``files`` in the mask file; may be empty.
    bits : tuple of str
        Names, bit numbers (``3``) or values (``0x8``) of the bits that mark defects; empty for all.
    files : str
        Pattern of mask files; empty for none.
    """

    hdu: str
    bits: tuple[str, ...]
    files: str

    @classmethod
    def of(cls, read: ReadSpec) -> MaskSelection:
        """Parse ``mask_hdu`` and ``mask_files`` of a `ReadSpec`."""
        hdu, _, bits = read.mask_hdu.partition(":")
        return cls(hdu.strip(), tuple(bit.strip() for bit in bits.split(",") if bit.strip()), read.mask_files)


def defects(plane: np.ndarray, mask: MaskSelection, header: str, primary_header: str) -> np.ndarray:
    """Return the pixels of a mask plane that are defects.

    Parameters
    ----------
    plane : ndarray, (y, x)
        Pixels of the mask, of an integer type if bits are selected.
    mask : MaskSelection
        Selected bits; without any, every non-zero pixel is a defect.
    header, primary_header : str
        Cards of the mask HDU and of the primary HDU of its file.

    Returns
    -------
    ndarray of bool, (y, x)

    Raises
    ------
    FrameError
        For bits that the plane does not have, and for a plane with harmless bits but no selection.
    """
    names = bit_names(header, primary_header)
    if not mask.bits:
        harmless = [name for name in names if HARMLESS.fullmatch(name)]
        if harmless:
            others = ",".join(name for name in names if name not in harmless)
            raise FrameError(
                f"not every bit marks a defect ({', '.join(harmless)}): choose from {', '.join(names)}"
                f" with --mask-hdu {mask.hdu}:{others}"
            )
        return plane != 0
    if plane.dtype.kind not in "iu":
        raise FrameError(f"its pixels are {plane.dtype}, which has no bits to choose from")
    width = 8 * plane.itemsize
    value = 0
    for bit in mask.bits:
        value |= _bit_value(bit, names, width)
    unsigned = np.dtype(f"u{plane.itemsize}").type
    return (plane.view(unsigned) & unsigned(value)) != 0


def bit_names(header: str, primary_header: str) -> dict[str, int]:
    """Return the values of the bits of a mask by name, in capitals and underscores.

    Names come from the cards of the mask header, else from `KNOWN`.

    Raises
    ------
    FrameError
        For an unreadable card of this kind, or one name with two values.
    """
    found: dict[str, int] = {}
    with quiet():
        cards = parse(header)
        for card in cards.cards:
            try:
                name, value = _named_bit(card, cards)
            except Exception as error:  # a damaged card can fail in any of astropy's parsers
                raise FrameError(
                    f"a card that cannot be read: '{printable(str(card.image).rstrip())}'"
                ) from error
            if name and found.setdefault(name, value) != value:
                raise FrameError(f"the bit {name} is named twice with different values")
    known = (names for card, names in KNOWN if card.match(primary_header) or card.match(header))
    return found or dict(next(known, {}))


def _named_bit(card: fits.Card, cards: fits.Header) -> tuple[str, int]:
    """Return name and value of the bit that a card names; an empty name for any other card."""
    keyword = card.keyword.upper()
    if keyword.startswith("MP_"):  # LSST
        return _capitals(keyword[3:]), 1 << _bit_number(card.value)
    if bit := BIT_CARD.fullmatch(keyword):
        name = card.value if isinstance(card.value, str) else card.comment
        return _capitals(name), 1 << _bit_number(int(bit[1]))
    if pair := NAME_CARD.fullmatch(keyword):
        number = cards.get(keyword.replace(pair[2], VALUE_OF_NAME[pair[2]], 1))
        is_value = isinstance(number, int) and not isinstance(number, bool) and number > 0
        if isinstance(card.value, str) and is_value:
            return _capitals(card.value), number
    return "", 0


def _bit_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 64:
        raise ValueError(value)
    return value


def _capitals(text: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")


def _bit_value(bit: str, names: dict[str, int], width: int) -> int:
    """Return the value of a bit that is given by name, number or value."""
    name = _capitals(bit).removeprefix("BADPIX_")
    if name in names:
        value = names[name]
    elif re.fullmatch(r"0[xX][0-9a-fA-F]+", bit):
        value = int(bit, 16)
    elif bit.isdecimal() and int(bit) < width:
        value = 1 << int(bit)
    elif bit.isdecimal():
        hint = f"; the value {bit} is written {int(bit):#x}"
        raise FrameError(f"{bit} is not one of its bits 0 to {width - 1}{hint}")
    else:
        known = f"choose from {', '.join(names)}" if names else "its header names none"
        raise FrameError(
            f"it has no bit named {printable(bit)!r}: {known}, or give bit numbers or values (3, 0x8)"
        )
    if not 0 < value < 1 << width:
        raise FrameError(f"{bit} is not a bit of {width}-bit pixels")
    return value
