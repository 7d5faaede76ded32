"""Sections of an image that the header names: exposed pixels (DATASEC, TRIMSEC) and overscan (BIASSEC).

The keywords are those of the NOAO image data structures (Mosaic keyword dictionary) and of IRAF's ``ccdred``
and ``quadred``: one section an image, or one an amplifier with a number or letter behind (DATASECA, TSEC12),
in the form ``[x1:x2,y1:y2]``, 1-based, both ends included, or in the other notations of IRAF. A section
that does not fit the image is not believed, and the reason is noted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aqdask.io.cards import HeaderCards, Unreadable, split_cards

FAMILIES = {
    "DATASEC": ("DATASEC", "DSEC"),
    "TRIMSEC": ("TRIMSEC", "TSEC"),
    "BIASSEC": ("BIASSEC", "BSEC", "PRESEC", "POSTSEC", "ORSEC"),
    "CCDSEC": ("CCDSEC", "CSEC"),
}
EXPOSED = ("DATASEC", "TRIMSEC")
_KEYWORDS = "|".join(f"(?P<{name}>{'|'.join(keywords)})" for name, keywords in FAMILIES.items())
SECTION_CARD = re.compile(rf"(?:{_KEYWORDS})(?P<amplifier>\d{{0,2}}|[A-H]?) *=")
BARE = re.compile(r"[\[(]?([\d\s:]+:[\d\s]+,[\d\s]+:[\d\s]+)[\])]?")  # brackets may lack
_PIXEL = r"\+?(\d+)(?:\.0*)?"
_AXIS = rf"\s*(?:(-?\*)|{_PIXEL}(?:\s*:\s*{_PIXEL})?(?:\s*:\s*\+?1)?)\s*"  # the last number is a step
SECTION = re.compile(rf"[\[(]{_AXIS},{_AXIS}[\])][\s,;]*")
UNUSED = re.compile(r"\[?0*:0*,0*:0*\]?|\[\]|UNKNOWN|UNDEFINED|N/?A|NONE|NULL|-*", re.IGNORECASE)
# Of the image, or of what the overscan leaves where both divide the image exactly: a smaller section belongs
# to another image of the detector, or to one amplifier of several.
SMALLEST_EXPOSED = 0.5
LARGEST_BINNING = 8


@dataclass(frozen=True)
class Section:
    """Rectangle of pixels in 0-based array order, ``stop`` excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def parse(cls, text: str, shape: tuple[int, int]) -> list[Section]:
        """Parse one or more ``[x1:x2,y1:y2]`` of an image ``(y, x)``; empty for anything else.

        Either axis may be reversed, a single pixel, or ``*`` for all pixels.
        """
        bare = BARE.fullmatch(text := text.strip())
        text = f"[{bare[1]}]" if bare else text
        parts = [*SECTION.finditer(text)]
        if "".join(part[0] for part in parts) != text:
            return []
        axes = [(_ends(part, 4, shape[0]), _ends(part, 1, shape[1])) for part in parts]
        return [cls(*rows, *columns) for rows, columns in axes]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of an image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def is_inside(self, shape: tuple[int, int]) -> bool:
        """Return True if all pixels are those of an image of this shape."""
        return min(self.top, self.left) >= 0 and self.bottom <= shape[0] and self.right <= shape[1]


def _ends(section: re.Match[str], group: int, length: int) -> tuple[int, int]:
    """Return start and stop, counted from 0, of the axis of a section that begins with this group."""
    whole, first, last = (section[group + k] for k in range(3))
    if whole:
        return 0, length
    ends = int(first), int(last or first)
    return min(ends) - 1, max(ends)


@dataclass(frozen=True)
class Sections:
    """Believed sections of one image.

    Parameters
    ----------
    exposed : dict of str to list of Section
        Sections with data, by family of keywords (`EXPOSED`).
    overscan : list of Section
    notes : list of str
        Reasons for which sections are not believed.
    """

    exposed: dict[str, list[Section]] = field(default_factory=dict)
    overscan: list[Section] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def unexposed(self, shape: tuple[int, int]) -> tuple[np.ndarray | None, str]:
        """Mark the pixels without data, bool ``(y, x)``, and name the cards; None where all have data."""
        outside = [name for name, sections in self.exposed.items() if coverage(sections, shape) < 1]
        if not outside and not self.overscan:
            return None, ""
        mask = np.zeros(shape, bool)
        for name in outside:
            beyond = np.ones(shape, bool)
            for section in self.exposed[name]:
                beyond[section.slices] = False
            mask |= beyond
        for section in self.overscan:
            mask[section.slices] = True
        places = [("outside", outside), ("inside", ["BIASSEC"] if self.overscan else [])]
        return mask, " or ".join(f"{place} {' and '.join(names)}" for place, names in places if names)


def coverage(sections: Sequence[Section], shape: tuple[int, int]) -> float:
    """Return the fraction of an image that sections without overlap cover."""
    return sum(math.prod(section.shape) for section in sections) / math.prod(shape)


def divides(exposed: Sequence[Section], overscan: Sequence[Section], shape: tuple[int, int]) -> bool:
    """Return True if sections with data and overscan hold each pixel of an image exactly once."""
    parts = [*dict.fromkeys(exposed), *dict.fromkeys(overscan)]
    if not (exposed and overscan and all(part.is_inside(shape) for part in parts)):
        return False
    count = np.zeros(shape, np.uint8)
    for part in parts:
        count[part.slices] += 1
    return bool((count == 1).all())


def read_sections(header: str, primary_header: str, shape: tuple[int, int]) -> Sections:
    """Read the sections of an image of ``shape`` ``(y, x)`` from its header, or else the primary one.

    Sections are in coordinates of the image as it was read out, so an image that was trimmed, cropped or
    binned since must not be cut again: no section is believed if one with data is beyond the image or covers
    less than half of it, or if CCDSEC, the place on the chip, says that all pixels are exposed. An overscan
    section is not believed if it is beyond the image, large, or within the section with data. Sections with
    data and overscan that divide the image exactly are believed whatever their size.
    """
    cards = _section_cards(header) or _section_cards(primary_header)
    found: dict[str, list[Section]] = {name: [] for name in FAMILIES}
    notes = []
    for family, value in cards:
        sections = Section.parse(value, shape) if isinstance(value, str) else []
        found[family] += sections
        if not sections:
            notes.append(f"a card {family} cannot be read as a section: no pixel was left out for it")
    notes = [*dict.fromkeys(notes)]
    exposed = {name: found[name] for name in EXPOSED if found[name]}
    overscan = found["BIASSEC"]
    is_divided = any(divides(sections, overscan, shape) for sections in exposed.values())
    chip, room = ([], 1 - coverage(overscan, shape)) if is_divided else (found["CCDSEC"], 1.0)
    for name, sections in exposed.items():
        if doubt := _doubt(name, sections, chip, shape, room):
            return Sections(notes=[*notes, f"{doubt}: no section was believed"])
    if not is_divided and (doubt := _overscan_doubt(overscan, exposed, shape)):
        return Sections(exposed, notes=[*notes, f"{doubt}: it was not believed"])
    return Sections(exposed, overscan, notes)


def _section_cards(header: str) -> list[tuple[str, object]]:
    """Return family and value of the section cards of a header, as text or `Unreadable`.

    Where amplifiers have sections of their own, the one without amplifier is left out.
    """
    known = [card for card in split_cards(header) if SECTION_CARD.match(card)]
    cards = HeaderCards("".join(known))
    found = []
    for keyword in cards.raw:
        match, value = SECTION_CARD.match(f"{keyword}="), cards.value(keyword)
        if match is None or value is None or (isinstance(value, str) and UNUSED.fullmatch(value.strip())):
            continue
        family = next(name for name in FAMILIES if match[name])
        found.append((family, match["amplifier"], value if isinstance(value, Unreadable) else str(value)))
    divided = {family for family, amplifier, _ in found if amplifier}
    return [(family, value) for family, amplifier, value in found if amplifier or family not in divided]


def _doubt(
    name: str, sections: Sequence[Section], chip: Sequence[Section], shape: tuple[int, int], room: float
) -> str:
    """Return the reason why sections with data are not those of this image; empty for none.

    ``room`` is the fraction of the image that can have data.
    """
    if not all(section.is_inside(shape) for section in sections):
        return f"{name} is beyond the image (trimmed or binned since?)"
    share = coverage(sections, shape)
    if share < SMALLEST_EXPOSED * room:
        return f"{name} covers less than half of {'the image' if room == 1 else 'what has data'}"
    if len(chip) == 1 and share < 1 and _is_binned(chip[0].shape, shape):
        return f"{name} is smaller than the image, CCDSEC is not"
    return ""


def _overscan_doubt(
    overscan: Sequence[Section], exposed: Mapping[str, Sequence[Section]], shape: tuple[int, int]
) -> str:
    """Return the reason why overscan sections are not those of this image; empty for none."""
    if not all(section.is_inside(shape) for section in overscan):
        return "BIASSEC is beyond the image (trimmed or binned since?)"
    if coverage(overscan, shape) > 1 - SMALLEST_EXPOSED:
        return "BIASSEC covers more than half of the image"
    if overscan and any(coverage(sections, shape) >= 1 for sections in exposed.values()):
        return "BIASSEC lies within the section with data, which is the whole image (trimmed since?)"
    return ""


def _is_binned(chip: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Return True if a rectangle of a chip gives an image of this shape, whole or binned."""
    factors = [length // size for length, size in zip(chip, shape, strict=True)]
    exact = all(length == f * size for length, f, size in zip(chip, factors, shape, strict=True))
    return exact and max(factors) <= LARGEST_BINNING
