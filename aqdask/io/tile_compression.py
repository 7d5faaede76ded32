"""Tile-compressed images: decoded by astropy, and what astropy leaves undone. FITS 4.0, section 10."""

from __future__ import annotations

import io

import numpy as np
from astropy.io import fits

from aqdask.errors import FrameError
from aqdask.io.cards import CARD, quiet
from aqdask.io.hdus import BLOCK, Hdu, tile_shape

# A table extension alone is no FITS file: astropy gets each compressed image behind this primary HDU.
PRIMARY = fits.PrimaryHDU().header.tostring().encode()


def image_cards(hdu: Hdu) -> str:
    """Cards of the image, not of the table that holds it."""
    with quiet(), fits.open(io.BytesIO(_alone(hdu.text, b""))) as file:
        return file[1].header.tostring(endcard=False, padding=False)


def decode_tiles(hdu: Hdu, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Stored numbers, and which of them are blank by a ZBLANK of their own tile.

    Parameters
    ----------
    hdu : Hdu
        A compressed image.
    data : bytes
        Of its table.

    Returns
    -------
    stored : ndarray, (y, x)
        Blank pixels of integer images hold the BLANK of `image_cards`; those of float images are NaN.
    blank : ndarray of bool, (y, x), or None
        None where no column says it.
    """
    assert hdu.shape is not None
    columns = _check(hdu)
    text, blanks = hdu.text, None
    if hdu.bitpix > 0 and "ZBLANK" in columns:
        # astropy would give all blank values the number that may be data in another tile
        text, blanks = _without_blanks(hdu, columns["ZBLANK"]), _column(hdu, data, columns["ZBLANK"])
    with (
        quiet(),
        fits.open(io.BytesIO(_alone(text, data)), memmap=False, do_not_scale_image_data=True) as file,
    ):
        stored = file[1].data
    if stored is None:
        raise FrameError(f"HDU {hdu.index} is a compressed image without any compressed tile")
    if blanks is None:
        return stored.reshape(hdu.shape), None
    blank = _equal_by_tile(stored.reshape(hdu.axes), tile_shape(hdu), blanks).reshape(hdu.shape)
    stored = stored.reshape(hdu.shape)
    lowest = -(1 << (hdu.bitpix - 1))
    number = hdu.cards.get("ZBLANK") if hdu.cards.get("BLANK") is None else hdu.cards.get("BLANK")
    number = lowest if number is None else number
    if np.iinfo(stored.dtype).min <= number <= np.iinfo(stored.dtype).max:  # type: ignore[operator]
        stored[blank] = number
    return stored, blank


def _check(hdu: Hdu) -> dict[str, int]:
    """Numbers of the table's columns by name; `FrameError` for a scale that astropy would not apply."""
    count = hdu.cards.get("TFIELDS")
    numbers = range(1, count + 1) if isinstance(count, int) and 0 <= count <= 999 else ()
    columns = {str(hdu.cards.get(f"TTYPE{n}")).strip().upper(): n for n in numbers}
    for key in ("ZSCALE", "ZZERO", "ZBLANK"):
        value = hdu.cards.get(key)  # raises where it cannot be read
        if key != "ZBLANK" and value is not None and key not in columns:
            raise FrameError(
                f"HDU {hdu.index} is compressed with one {key} for all tiles, which is not supported"
            )
        if key != "ZBLANK" and hdu.bitpix > 0 and key in columns:
            raise FrameError(f"HDU {hdu.index} is a compressed image of integers with a column {key}")
    return columns


def _alone(text: str, data: bytes) -> bytes:
    """A FITS file of one extension only."""
    cards = text.encode("latin-1") + b"END".ljust(CARD)
    return b"".join((PRIMARY, cards, b" " * (-len(cards) % BLOCK), data, bytes(-len(data) % BLOCK)))


def _without_blanks(hdu: Hdu, column: int) -> str:
    """The header with another name for a column."""
    cards = [hdu.text[at : at + CARD] for at in range(0, len(hdu.text), CARD)]
    key = f"TTYPE{column}".ljust(8)
    return "".join(
        f"{key}= 'UNUSED  '".ljust(CARD) if card.upper().startswith(key) else card for card in cards
    )


def _column(hdu: Hdu, data: bytes, column: int) -> np.ndarray:
    whole = io.BytesIO(_alone(hdu.text, data))
    with quiet(), fits.open(whole, memmap=False, disable_image_compression=True) as file:
        return np.array(file[1].data.field(column - 1))


def _equal_by_tile(stored: np.ndarray, shape: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """Compare every tile with its own value; tiles follow each other as numpy's axes do."""
    equal = np.zeros(stored.shape, bool)
    counts = [-(-axis // side) for axis, side in zip(stored.shape, shape, strict=True)]
    for place, value in zip(np.ndindex(*counts), values, strict=False):
        at = tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, shape, strict=True))
        equal[at] = stored[at] == int(value)
    return equal
