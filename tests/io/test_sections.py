"""Sections of the header: pixels outside DATASEC and TRIMSEC and inside BIASSEC are no data."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits
from fits_files import write
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from aqdask.io.reader import probe, read_frame
from aqdask.io.sections import Section, read_sections
from aqdask.specs import ReadSpec

SHAPE = (512, 602)
DECAM = {
    "DATASEC": "[57:558,1:512]", "DATASECA": "[57:300,1:512]", "DATASECB": "[301:558,1:512]",
    "TRIMSECA": "[57:300,1:512]", "TRIMSECB": "[301:558,1:512]", "BIASSECA": "[7:56,1:512]",
    "BIASSECB": "[559:596,1:512]", "PRESECA": "[1:6,1:512]", "POSTSECB": "[597:602,1:512]",
    "CCDSEC": "[1:502,1:512]",
}  # fmt: skip
QUAD = {
    "DSEC11": "[11:300,1:256]", "DSEC12": "[11:300,257:512]", "DSEC21": "[301:590,1:256]",
    "DSEC22": "[590:301,512:257]", "ASEC11": "[1:301,1:256]", "BSEC11": "[1:10,1:256]",
}  # fmt: skip


def header(**cards: str) -> str:
    return "".join(f"{key:8}= '{value}'".ljust(80) for key, value in cards.items())


def invalid(shape=SHAPE, primary="", **cards: str):
    """Mask, cards in words, and notes."""
    sections = read_sections(header(**cards), primary, shape)
    return *sections.unexposed(shape), sections.notes


@st.composite
def sections(draw):
    """An image, a section that holds most of it, and the text of the section, either axis maybe reversed."""
    shape, ends, text = [], [], []
    for _ in range(2):
        length = draw(st.integers(4, 60))
        start = draw(st.integers(0, length // 8))
        stop = draw(st.integers(length - length // 8, length))
        shape.append(length)
        ends.append((start, stop))
        pair = [start + 1, stop]
        text.append(":".join(map(str, pair[:: draw(st.sampled_from((1, -1)))])))
    return tuple(shape), ends, f"[{text[1]},{text[0]}]"


@given(sections())
def test_a_section_counts_from_one_with_both_ends_in_fits_order(drawn):
    shape, ((top, bottom), (left, right)), text = drawn
    expected = np.ones(shape, bool)
    expected[top:bottom, left:right] = False
    assert Section.parse(text, shape) == [Section(top, bottom, left, right)]
    mask, words, notes = invalid(shape, DATASEC=text)
    if not expected.any():
        assert (mask, words) == (None, "")
    else:
        assert_array_equal(mask, expected)
        assert words == "outside DATASEC"
    assert notes == []


@given(sections())
def test_an_image_that_was_trimmed_is_not_cut_again(drawn):
    _, ((top, bottom), (left, right)), text = drawn
    trimmed = (bottom - top, right - left)
    mask, _, notes = invalid(trimmed, DATASEC=text, TRIMSEC=text, BIASSEC=f"[1:1,1:{trimmed[0]}]")
    assert mask is None
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("cards", "columns", "words"),
    [
        (DECAM, (56, 558), "outside DATASEC and TRIMSEC or inside BIASSEC"),
        (QUAD, (10, 590), "outside DATASEC or inside BIASSEC"),
        ({"BIASSEC": "[ 541 : 602 , 1:512 ]"}, (0, 540), "inside BIASSEC"),
        ({"TRIMSEC": "[21:602,1:512]", "BIASSEC": "UNKNOWN"}, (20, 602), "outside TRIMSEC"),
        ({"DATASEC": "[21:602,1:512]", "CCDSEC": "[1001:1582,1:512]"}, (20, 602), "outside DATASEC"),
    ],
)
def test_sections_of_cameras_with_one_or_several_amplifiers(cards, columns, words):
    expected = np.ones(SHAPE, bool)
    expected[:, slice(*columns)] = False
    mask, found, notes = invalid(**cards)
    assert_array_equal(mask, expected)
    assert (found, notes) == (words, [])


@pytest.mark.parametrize(
    ("cards", "note"),
    [
        ({"DATASEC": "[21:1204,1:1024]"}, r"DATASEC is beyond the image .*: no section was believed"),
        ({"DATASEC": "[21:121,1:512]"}, "DATASEC covers less than half of the image: no section was"),
        ({"DATASEC": "[21:602,1:512]", "CCDSEC": "[1:1204,1:1024]"}, "DATASEC is smaller than the image"),
        ({"BIASSEC": "[1:602,1:512]"}, "BIASSEC covers more than half of the image: it was not believed"),
        ({"BIASSEC": "[600:660,1:512]"}, "BIASSEC is beyond the image .*: it was not believed"),
        ({"DATASEC": "[1:602,1:512]", "BIASSEC": "[1:20,1:512]"}, "BIASSEC lies within the section"),
        ({"DATASEC": "[21:5o2,1:512]"}, "a card DATASEC cannot be read as a section"),
        ({"DATASEC": "[1:1,1:512]", "BIASSEC": "[1:602,1:512]"}, "DATASEC covers less than half of the"),
        ({"DATASEC": "[1:602:2,1:512]"}, "a card DATASEC cannot be read as a section"),
        ({"DATASEC": "*,1:512"}, "a card DATASEC cannot be read as a section"),
    ],
)  # fmt: skip
def test_sections_that_do_not_fit_are_not_believed_and_said(cards, note):
    mask, _, notes = invalid(**cards)
    assert mask is None
    assert len(notes) == 1
    assert re.match(note, notes[0])


@pytest.mark.parametrize(
    "text",
    ["[1:256,*]", "[1:256,-*]", "[1:256:1,1:512:1]", "[1.0:256.0,1.:512.]", "[+1:+256,1:512]",
     "(1:256,1:512)", "1:256,1:512", "[256:1, 512:1]", "[1:128,*][129:256,*]", "[1:128,*], [129:256,1:512]"],
)  # fmt: skip
def test_notations_of_sections(text):
    mask, _, notes = invalid(BIASSEC=text)
    assert notes == []
    assert_array_equal(np.flatnonzero(mask.all(axis=0)), np.arange(256))
    assert mask.sum() == 256 * 512


def test_a_section_of_one_column_or_all_rows():
    assert Section.parse("[257,1:256]", SHAPE) == [Section(0, 256, 256, 257)]
    assert Section.parse("[*,1:256]", SHAPE) == [Section(0, 256, 0, 602)]
    for text in ("[1:2,3:4][", "[1:2][3:4]", "[,1:2]", "[-1:2,1:2]", "[1.5:2,1:2]"):
        assert Section.parse(text, SHAPE) == []


@pytest.mark.parametrize(
    ("cards", "columns"),
    [
        ({"DATASEC": "[1:202,1:512]", "BIASSEC": "[203:602,1:512]"}, (0, 202)),
        ({"TRIMSEC": "[401:602,*]", "BIASSEC": "[1:400,*]"}, (400, 602)),
        ({"DATASEC": "[1:202,*]", "TRIMSEC": "[11:202,*]", "BIASSEC": "[203:602,*]"}, (10, 202)),
        ({"DATASEC": "[1:301,*]", "BIASSEC": "[302:602,*]", "CCDSEC": "[1:602,1:512]"}, (0, 301)),
        ({"DSEC1": "[101:150,*]", "DSEC2": "[151:200,*]", "BSEC1": "[1:100,*]", "BSEC2": "[201:602,*]"},
         (100, 200)),
    ],
)  # fmt: skip
def test_data_and_overscan_that_divide_the_image_are_believed_at_any_width(cards, columns):
    expected = np.ones(SHAPE, bool)
    expected[:, slice(*columns)] = False
    mask, _, notes = invalid(**cards)
    assert notes == []
    assert_array_equal(mask, expected)


@pytest.mark.parametrize("overscan", ["[204:602,*]", "[202:602,*]", "[203:603,*]", "[203:602,1:511]"])
def test_data_and_overscan_that_nearly_divide_the_image_are_not(overscan):
    mask, _, notes = invalid(DATASEC="[1:202,*]", BIASSEC=overscan)
    assert mask is None
    assert notes == ["DATASEC covers less than half of the image: no section was believed"]


@pytest.mark.parametrize(
    "cards", [{}, {"DATASEC": "[0:0,0:0]"}, {"DATASEC": ""}, {"DATASEC": "[1:602,1:512]"}]
)
def test_cards_that_cut_nothing_need_no_note(cards):
    assert invalid(**cards) == (None, "", [])


def test_the_primary_header_serves_where_the_image_has_no_section():
    assert invalid(primary=header(DATASEC="[21:602,1:512]"))[0].sum() == 20 * 512
    assert invalid(primary=header(DATASEC="[21:602,1:512]"), DATASEC="[1:602,1:512]")[0] is None


def test_contradicting_cards_are_said():
    text = header(DATASEC="[21:602,1:512]") + header(DATASEC="[1:532,1:512]")
    found = read_sections(text, "", SHAPE)
    assert (found.exposed, len(found.notes)) == ({}, 1)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_frame_is_read_with_the_overscan_invalid_and_its_pixels_as_they_are(tmp_path, compressed):
    image = np.random.default_rng(1).integers(0, 60000, (64, 80)).astype("u2")
    cards = fits.Header([("DATASEC", "[11:80,1:64]"), ("BIASSEC", "[1:10,1:64]")])
    kind = fits.CompImageHDU if compressed else fits.ImageHDU
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(), kind(image, cards))
    frame = read_frame(path, 1, ReadSpec())
    expected = np.zeros(image.shape, bool)
    expected[:, :10] = True
    assert_array_equal(frame.invalid, expected)
    assert_array_equal(frame.image, image)
    assert "12% of the pixels are outside DATASEC or inside BIASSEC: no data" in frame.info.notes
    assert read_frame(path, 1, ReadSpec(sections=False)).invalid is None
    assert probe(path, ReadSpec()) == (read_frame(path, 1, ReadSpec(sections=False)).info,)


def test_a_frame_whose_sections_are_not_believed_says_so_when_it_is_looked_at(tmp_path):
    image = np.random.default_rng(1).integers(0, 60000, (64, 80)).astype("u2")
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(image, fits.Header([("DATASEC", "[11:90,1:64]")])))
    note = "DATASEC is beyond the image (trimmed or binned since?): no section was believed"
    assert note in probe(path, ReadSpec())[0].notes
    frame = read_frame(path, 0, ReadSpec())
    assert note in frame.info.notes
    assert frame.invalid is None
    assert note not in probe(path, ReadSpec(sections=False))[0].notes
