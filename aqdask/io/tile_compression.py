"""Tile-compressed images (FITS 4.0, section 10), decoded by astropy; blank values of single tiles, too."""

from __future__ import annotations

import io

import numpy as np
from astropy.io import fits

from aqdask.errors import FrameError
from aqdask.io.cards import CARD, quiet, split_cards
from aqdask.io.hdus import BLOCK, Hdu, tile_shape

# A table extension alone is not a FITS file: astropy gets each compressed image after this primary HDU.
PRIMARY = fits.PrimaryHDU().header.tostring().encode()


def image_header(hdu: Hdu) -> str:
    """Return the cards of the image instead of those of the table that holds it."""
    with quiet(), fits.open(io.BytesIO(_as_file(hdu.text, b""))) as file:
        return file[1].header.tostring(endcard=False, padding=False)


def decode_tiles(hdu: Hdu, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Decompress an image to its stored values, without BSCALE and BZERO.

    Parameters
    ----------
    hdu : Hdu
        A compressed image.
    data : bytes
        Data of its table.

    Returns
    -------
    stored : ndarray, (y, x)
        Blank pixels of integer images hold the BLANK of `image_header`; those of float images are NaN.
    blank : ndarray of bool, (y, x), or None
        Pixels with the value of their tile in a ZBLANK column; None without such a column.

    Raises
    ------
    FrameError
        For a scaling that astropy would ignore, or a table without data.
    """
    assert hdu.shape is not None
    columns = _check_columns(hdu)
    text, blanks = hdu.text, None
    if hdu.bitpix > 0 and "ZBLANK" in columns:
        # astropy would replace all blank values by one number, which may be data in another tile
        text, blanks = _without_column(hdu, columns["ZBLANK"]), _column(hdu, data, columns["ZBLANK"])
    whole = io.BytesIO(_as_file(text, data))
    with quiet(), fits.open(whole, memmap=False, do_not_scale_image_data=True) as file:
        stored = file[1].data
    if stored is None:
        raise FrameError(f"HDU {hdu.index} is a compressed image without any compressed tile")
    if blanks is None:
        return stored.reshape(hdu.shape), None
    blank = _equal_by_tile(stored.reshape(hdu.axes), tile_shape(hdu), blanks).reshape(hdu.shape)
    stored = stored.reshape(hdu.shape)
    numbers = (hdu.cards.get("BLANK"), hdu.cards.get("ZBLANK"), -(1 << (hdu.bitpix - 1)))
    number = next(number for number in numbers if number is not None)
    if np.iinfo(stored.dtype).min <= number <= np.iinfo(stored.dtype).max:  # type: ignore[operator]
        stored[blank] = number
    return stored, blank


def _check_columns(hdu: Hdu) -> dict[str, int]:
    """Return the numbers of the table's columns by name; `FrameError` for a scale that astropy ignores."""
    count = hdu.cards.get("TFIELDS")
    numbers = range(1, count + 1) if isinstance(count, int) and 0 <= count <= 999 else ()
    columns = {str(hdu.cards.get(f"TTYPE{n}")).strip().upper(): n for n in numbers}
    hdu.cards.get("ZBLANK")  # raises if it cannot be read
    for keyword in ("ZSCALE", "ZZERO"):
        if hdu.cards.get(keyword) is not None and keyword not in columns:
            raise FrameError(
                f"HDU {hdu.index} is compressed with one {keyword} for all tiles, which is not supported"
            )
        if hdu.bitpix > 0 and keyword in columns:
            raise FrameError(f"HDU {hdu.index} is a compressed image of integers with a column {keyword}")
    return columns


def _as_file(text: str, data: bytes) -> bytes:
    """Return a FITS file with one extension only."""
    cards = text.encode("latin-1") + b"END".ljust(CARD)
    return b"".join((PRIMARY, cards, b" " * (-len(cards) % BLOCK), data, bytes(-len(data) % BLOCK)))


def _without_column(hdu: Hdu, column: int) -> str:
    """Return the header with another name for a column, which hides the column from astropy."""
    key = f"TTYPE{column}".ljust(8)
    unused = f"{key}= 'UNUSED  '".ljust(CARD)
    return "".join(unused if card.upper().startswith(key) else card for card in split_cards(hdu.text))


def _column(hdu: Hdu, data: bytes, column: int) -> np.ndarray:
    whole = io.BytesIO(_as_file(hdu.text, data))
    with quiet(), fits.open(whole, memmap=False, disable_image_compression=True) as file:
        return np.array(file[1].data.field(column - 1))


def _equal_by_tile(stored: np.ndarray, shape: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """Compare each tile with a value of its own; tiles are in C order."""
    equal = np.zeros(stored.shape, bool)
    counts = [-(-axis // side) for axis, side in zip(stored.shape, shape, strict=True)]
    for place, value in zip(np.ndindex(*counts), values, strict=False):
        at = tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, shape, strict=True))
        equal[at] = stored[at] == int(value)
    return equal
