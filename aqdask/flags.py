"""Codes and bits in products: reasons of patches, data-quality (DQ) bits of pixels, and bits of frames.

Every product, attribute and document takes names and values from these tables. `REASONS` are stored per patch
in ``quality/<model>/reason``: the feature group with the smallest p-value. `DQ` bits are those of exported
masks; 0 is a good pixel. Stored values must never change.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """One code or bit: stored ``value``, ``name`` (a CF flag meaning), and ``meaning`` in words.

    ``cause`` follows "flagged for" in a report, where the name does not say it.
    """

    value: int
    name: str
    meaning: str
    cause: str = ""


REASONS: tuple[Flag, ...] = (
    Flag(0, "no_data", "the patch has no valid pixel (or too few), so there is no score", "missing data"),
    Flag(
        1,
        "residual",
        "the reconstruction differs from the patch more than on reference patches",
        "unusual structure",
    ),
    Flag(2, "noise", "the noise of the pixels differs from the camera's noise model at this brightness"),
    Flag(3, "background", "structure of 4 to 64 px in the sky", "structure in the sky"),
    Flag(
        4,
        "sky",
        "the sky of the patch is not that of the rest of the frame, or of the patches around it",
        "the sky (its level or shape)",
    ),
    Flag(
        5,
        "size",
        "stars are wider than on reference frames (or sharper, with `two_sided`)",
        "wide stars (focus or seeing?)",
    ),
    Flag(6, "ellipticity", "stars are more elongated than on reference frames", "elongated stars (guiding?)"),
    Flag(7, "latent", "the content of the patch differs from that of reference patches", "unusual content"),
    Flag(8, "spike", "single pixels stand out: cosmic rays, hot pixels", "single bright pixels"),
    Flag(9, "line", "a row, a column or a straight track stands out", "lines or trails"),
    Flag(
        10,
        "stars",
        "fewer stars than in the rest of the frame: something obscures them",
        "missing stars (clouds?)",
    ),
    Flag(11, "saturated", "most pixels are saturated, so there is no score", "saturation"),
)

DQ: tuple[Flag, ...] = (
    Flag(1, "low_quality", "p-value of the patch at or below alpha"),
    Flag(2, "no_data", "the patch has no score: no valid pixels, or the frame was not scored"),
    Flag(
        4,
        "invalid",
        "the pixel itself is not data: NaN, BLANK, input mask, bad-pixel map, overscan or constant fill",
    ),
)

OUTSIDE = {"density": 1, "sky": 2, "gain": 4}
"""Bits of ``out_of_reference``: quantities of a frame outside the range of the reference frames."""


def code(table: tuple[Flag, ...], name: str) -> int:
    """Return the stored value of ``name``; ``KeyError`` for a name that the table does not have."""
    for flag in table:
        if flag.name == name:
            return flag.value
    raise KeyError(name)


def cause(name: str) -> str:
    """Return the words for a reason after "flagged for"; those for no reason where the name is empty."""
    found = next((flag.cause for flag in REASONS if flag.name == name), "")
    return found or name or "no reason that the maps show"


def cf_values(table: tuple[Flag, ...]) -> dict[str, object]:
    """Return the attributes ``flag_values`` and ``flag_meanings`` (CF conventions 1.11, section 3.5)."""
    return {"flag_values": [f.value for f in table], "flag_meanings": " ".join(f.name for f in table)}


def markdown(table: tuple[Flag, ...]) -> str:
    """Return a table as Markdown, for documents; a test compares them."""
    rows = [f"| {flag.value} | `{flag.name}` | {flag.meaning} |" for flag in table]
    return "\n".join(["| value | name | meaning |", "| --: | --- | --- |", *rows])
