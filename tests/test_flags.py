"""Tables of codes: sound, and the same in attributes and documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aqdask import flags

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guide" / "flags.md"


@pytest.mark.parametrize("table", [flags.REASONS, flags.DQ])
def test_values_and_names_are_unique_and_fit_their_variables(table):
    assert len({flag.value for flag in table}) == len({flag.name for flag in table}) == len(table)
    assert all(0 <= flag.value < 256 for flag in table)  # uint8
    assert all(re.fullmatch(r"[a-z_]+", flag.name) for flag in table)  # CF: single words


def test_dq_values_are_bits():
    assert all(flag.value & (flag.value - 1) == 0 for flag in flags.DQ)


def test_codes_and_attributes_come_from_the_table():
    table = (flags.Flag(3, "cloud", "clouds"), flags.Flag(7, "moon", "moonlight"))
    assert flags.code(table, "moon") == 7
    assert flags.cf_values(table) == {"flag_values": [3, 7], "flag_meanings": "cloud moon"}
    with pytest.raises(KeyError, match="sun"):
        flags.code(table, "sun")


@pytest.mark.parametrize("name", ["REASONS", "DQ"])
def test_the_page_shows_the_table(name):
    """Else: ``python -c "from aqdask import flags; print(flags.markdown(flags.REASONS))"``."""
    assert flags.markdown(getattr(flags, name)) in PAGE.read_text(encoding="utf-8")
