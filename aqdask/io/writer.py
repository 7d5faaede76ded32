"""FITS files from stored frames: equal pixels, and verbatim cards apart from those of the data layout."""

from __future__ import annotations

import re

import numpy as np
from astropy.io import fits

from aqdask.io.cards import parse, quiet

# Cards of data layout and checksums, which astropy writes anew for the pixels.
# FITS 4.0, sections 4.4.1 and 10 (tile compression).
STRUCTURE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|EXTEND|BSCALE|BZERO|CHECKSUM|DATASUM|END|"
    r"Z(IMAGE|SIMPLE|TENSION|EXTEND|BITPIX|NAXIS\d*|TILE\d+|CMPTYPE|NAME\d+|VAL\d+|QUANTIZ|DITHER0|SCALE|ZERO|BLANK|"
    r"MASKCMP|PCOUNT|GCOUNT|HECKSUM|DATASUM)"
)


def frame_to_fits(image: np.ndarray, header: str, primary_header: str) -> fits.HDUList:
    """Build a FITS file in memory from one stored frame.

    Parameters
    ----------
    image : ndarray, (y, x)
        Integer or float; unsigned integers and int8 get the BZERO of the standard.
    header, primary_header : str
        Cards as in `aqdask.specs.FrameInfo`; with a ``primary_header`` the image becomes an extension.

    Returns
    -------
    HDUList
        Ready for ``writeto``. A card that violates the standard beyond repair becomes a COMMENT.
    """
    with quiet():
        cards = _cards(header, keep_blank=image.dtype.kind in "iu")
        if not primary_header:
            return fits.HDUList([fits.PrimaryHDU(image, cards)])
        primary = fits.PrimaryHDU(header=_cards(primary_header, keep_blank=False))
        return fits.HDUList([primary, fits.ImageHDU(image, cards)])


def _cards(text: str, keep_blank: bool) -> fits.Header:
    """Return the descriptive cards; BLANK only for integer pixels, as the standard asks."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in text.replace("\0", " "))
    header = fits.Header()
    for card in parse(printable).cards:
        if not STRUCTURE.fullmatch(card.keyword) and (keep_blank or card.keyword != "BLANK"):
            header.append(_writable(card), end=True)
    return header


def _writable(card: fits.Card) -> fits.Card:
    image = card.image  # unparsed cards are checked here, and repaired where possible
    try:
        card.verify("exception")
        _ = card.value, card.comment
    except (fits.VerifyError, ValueError):
        return fits.Card("COMMENT", image[:72].rstrip())
    return card
