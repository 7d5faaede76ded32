"""Reason codes of patches, DQ bits of pixels, bits of frames: the one table that every product reads.

``REASONS`` are stored per patch in ``quality/<model>/reason`` (CF ``flag_values``): which evidence was
worst. ``DQ`` bits are written to exported masks: why a pixel is bad, 0 = good.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """One code: its stored ``value``, its ``name`` (a CF flag meaning), and what it says."""

    value: int
    name: str
    meaning: str


REASONS: tuple[Flag, ...] = (
    Flag(0, "no_data", "the patch has no valid pixel (or too few), so there is no score"),
    Flag(1, "residual", "the reconstruction differs from the patch more than on reference patches"),
    Flag(2, "noise", "the pixels are noisier (or smoother) than the camera is at this brightness"),
    Flag(3, "background", "structure of 4 to 64 px in the sky"),
    Flag(4, "sky", "the sky differs from that of the frame, or from that of the patches around"),
    Flag(5, "size", "stars are wider than on reference frames (or sharper, where asked)"),
    Flag(6, "ellipticity", "stars are longer than on reference frames"),
    Flag(7, "latent", "the patch is made of other things than reference patches"),
    Flag(8, "spike", "single pixels stand out: cosmic rays, hot pixels"),
    Flag(9, "line", "a row, a column or a straight track stands out"),
    Flag(10, "stars", "fewer stars than in the rest of the frame: something is before them"),
    Flag(11, "saturated", "most pixels are full, so there is no score"),
)

DQ: tuple[Flag, ...] = (
    Flag(1, "low_quality", "p-value of the patch at or below alpha"),
    Flag(2, "no_data", "the patch has no score: no valid pixels, or the frame was not scored"),
    Flag(4, "invalid", "the pixel itself is not data: NaN, BLANK, input mask or bad-pixel map"),
)

OUTSIDE = {"density": 1, "sky": 2, "gain": 4}
"""Bits of ``out_of_reference``: what of a frame lies outside the range of the reference frames."""


def code(table: tuple[Flag, ...], name: str) -> int:
    """The value stored for ``name``; ``KeyError`` for a name that the table does not have."""
    for flag in table:
        if flag.name == name:
            return flag.value
    raise KeyError(name)


def cf_values(table: tuple[Flag, ...]) -> dict[str, object]:
    """CF attributes of an enumerated variable (``flag_values``, ``flag_meanings``)."""
    return {"flag_values": [f.value for f in table], "flag_meanings": " ".join(f.name for f in table)}
