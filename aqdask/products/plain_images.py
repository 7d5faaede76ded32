"""Plain FITS images for programs that read no tile compression: weights and flags of one frame each."""

from __future__ import annotations

from pathlib import Path

from astropy.io import fits

from aqdask import flags
from aqdask.io.frame_ids import safe_name
from aqdask.products.dq import FrameMask, add_provenance, wcs_cards, write_whole


def write_weight(mask: FrameMask, folder: Path) -> str:
    """Write ``<frame>.weight.fits``, the inverse variance of each pixel, 0 where masked: float32.

    SWarp and SExtractor take it as ``MAP_WEIGHT``.
    """
    weight, source = mask.weight()
    cards = wcs_cards(mask.header, mask.primary_header)
    cards["BUNIT"] = ("1 / count**2", "inverse variance of the counts of the source")
    cards["WEIGHTOF"] = source
    return _write(mask, fits.PrimaryHDU(weight, cards), folder, "weight")


def write_flags(mask: FrameMask, folder: Path) -> str:
    """Write ``<frame>.flags.fits``, the bits of the DQ image, 0 = good: SExtractor's ``FLAG_IMAGE``."""
    cards = wcs_cards(mask.header, mask.primary_header)
    for flag in flags.DQ:
        cards[f"DQBIT{flag.value.bit_length() - 1}"] = (flag.value, flag.name)
    return _write(mask, fits.PrimaryHDU(mask.dq, cards), folder, "flags")


def _write(mask: FrameMask, hdu: fits.PrimaryHDU, folder: Path, kind: str) -> str:
    add_provenance(hdu.header, mask)
    name = f"{safe_name(mask.frame_id)}.{kind}.fits"
    write_whole(folder / name, fits.HDUList([hdu]))
    return name
