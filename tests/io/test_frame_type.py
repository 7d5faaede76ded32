"""Frame types and colour mosaics from the cards of many programs; doubts are said."""

from __future__ import annotations

import pytest
from header_text import cards, described, raw

from aqdask.io.frame_type import WORDS, header_mosaic, header_type, type_of
from aqdask.io.metadata import read_metadata
from aqdask.specs import LIGHT, is_light

VALUES = {
    "light": [
        "Light Frame", "LIGHT", "Light", "Master Light", "masterLight", "object", "OBJECT", "STD", "SCIENCE",
        "OBJECT,SKY", "STD,TELLURIC", "EXPOSE", "STANDARD", "SNAPSHOT", "EXT", "IMAGING", "NRC_IMAGE", "SKY",
        "Tricolor Image", "TARGET", "STANDARD_STAR", "SPECTRUM", "Light, dark subtracted", "acq",
        "Dark subtracted Light", "flat fielded light", "dark and flat-field corrected light",
        "Light 300s", "Light (bias subtracted)", "cal star", "object 12",
    ],
    "bias": ["Bias Frame", "BIAS", "zero", "Zero", "Offset", "Master Bias", "masterBias", "BIAS,READGAIN",
        "zero level", "superbias", "bias (overscan corrected)"],
    "dark": [
        "Dark Frame", "DARK", "dark", "Master Dark", "masterDark", "MASTERDARK", "DARKFLAT", "Dark Flat",
        "Flat Dark", "NRC_DARK", "MIR_DARKIMG", "FLAT,DARK",
        "DARK 300s", "Dark_300s", "Dark (bin 2)", "dark1", "dark current",
        "bias subtracted dark",
        "combined dark",
    ],
    "flat": [
        "Flat Field", "Flat Frame", "FLAT", "flat", "FLAT,SKY", "FLAT,LAMP", "LAMP,FLAT", "SKY,FLAT",
        "SKYFLAT", "LAMPFLAT", "dome flat", "sky flat", "Twilight Flat", "flatlampsky", "Flat-Field",
        "masterFlat", "SkyFlat", "Flat B", "FLAT R", "dflat", "sflat", "tflat", "DmFlat", "flat panel",
        "panel flat", "projector flat", "internal flat", "morning flat", "evening sky flat", "quartz",
        "Flat (dark subtracted)", "corrected flat",
    ],
    "arc": ["ARC", "comp", "COMPARISON", "WAVE", "LAMP,WAVE", "arclamp", "ThAr", "WAVE,LAMP,ThAr", "CuAr",
            "arc 2"],
    "focus": ["focus", "FOCUS", "FOCUSING", "NRC_FOCUS", "Autofocus", "AUTO FOCUS", "focus sequence"],
    "calibration": ["Bad Pixel Map", "BPM", "illumination", "illumination correction", "fringe", "cal"],
    "": ["", "undefined", "12", "Frame", "FK5", "CALIB", "no dark", "flat-fielded", "dark subtracted",
         "darkness", "INTERNAL", "()", "a dark cloud"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, values in VALUES.items() for v in values])
def test_values_of_common_programs(kind: str, value: str) -> None:
    assert type_of(value) == type_of(value.upper()) == type_of(value.lower()) == kind


def test_no_word_names_two_types() -> None:
    words = [word for words in WORDS.values() for word in words]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    "keyword",
    ["IMAGETYP", "IMAGTYPE", "IMGTYPE", "OBSTYPE", "FRAME", "FRAMETYP", "OBJTYPE", "EXPTYPE", "EXP_TYPE",
     "DATA-TYP", "KOAIMTYP", "FLAVOR", "HIERARCH ESO DPR TYPE", "HIERARCH FRAMETYPE", "OBS_TYPE", "OBSTYP",
     "IMAGE-TY", "PICTTYPE", "OBSMODE"],
)  # fmt: skip
def test_each_keyword_says_it_in_either_header(keyword: str) -> None:
    header = cards({keyword: "DARK"})
    assert read_metadata(header, "").frame_type == "dark"
    assert read_metadata(cards({"EXTNAME": "SCI"}), header).frame_type == "dark"
    assert header_type(header, "") == "dark"
    assert read_metadata(header, "").notes == ()


def test_no_card_is_no_type_and_nothing_to_say() -> None:
    assert (described({}).frame_type, described({}).notes) == ("", ())
    assert all(map(is_light, ("", None, LIGHT)))
    assert not is_light("arc")


def test_an_unknown_value_counts_as_a_light_and_is_said() -> None:
    found = described({"IMAGETYP": "Wobble"})
    assert found.frame_type == ""
    assert found.notes == ("IMAGETYP = 'Wobble' is no frame type that is known: taken as a light",)


def test_an_unknown_value_beside_a_known_one_is_passed_over() -> None:
    found = described({"IMAGETYP": "DARK", "OBSTYPE": "INTERNAL"})
    assert (found.frame_type, found.notes) == ("dark", ())


@pytest.mark.parametrize(
    "values",
    [
        {"FRAME": 17},
        {"FRAME": "FK5"},
        {"OBJTYPE": "GALAXY"},
        {"EXPTYPE": "A"},
        {"OBJTYPE": "dark nebula"},
        {"OBSMODE": "IMAGING"},
    ],
)
def test_cards_with_another_meaning_are_no_types(values: dict) -> None:
    assert (described(values).frame_type, described(values).notes) == ("", ())


def test_contradictory_cards_are_said() -> None:
    found = described({"IMAGETYP": "Light Frame", "FRAME": "Dark"})
    assert found.frame_type == "light"
    (note,) = found.notes
    assert note == "IMAGETYP = 'Light Frame' and FRAME = 'Dark' contradict each other: taken as a light"
    assert described({"IMAGETYP": "zero", "OBSTYPE": "BIAS"}).notes == ()
    (twice,) = read_metadata(raw("IMAGETYP= 'Light'", "IMAGETYP= 'Dark'"), "").notes
    assert "IMAGETYP appears twice with different values" in twice


def test_a_mode_does_not_contradict_a_type() -> None:
    found = described({"IMAGETYP": "Dark", "OBSMODE": "IMAGING"})
    assert (found.frame_type, found.notes) == ("dark", ())


def test_an_unreadable_card_is_said() -> None:
    found = read_metadata(raw("IMAGETYP= 'Dark"), "")
    assert found.frame_type == ""
    assert found.notes == ("the card IMAGETYP cannot be read: frame type unknown: taken as a light",)


def test_a_keyword_named_by_the_user_is_the_only_one() -> None:
    header = cards({"IMAGETYP": "Dark", "MYTYPE": "object"})
    assert read_metadata(header, "", (("type", "MYTYPE"),)).frame_type == "light"
    assert header_type(header, "", (("type", "MYTYPE"),)) == "light"
    absent = read_metadata(header, "", (("type", "NOTHING"),))
    assert absent.frame_type == ""
    assert absent.notes == ("the card NOTHING of --keyword is missing: taken as a light",)


@pytest.mark.parametrize(
    ("keyword", "value", "is_one"),
    [
        ("BAYERPAT", "RGGB", True), ("BAYERPAT", "gbrg", True), ("COLORTYP", "BGGR", True),
        ("COLORTYP", "CMYG", True), ("CFATYPE", "RGGB", True), ("BAYERPAT", "GBGGRGRGRBGB", True),
        ("CFA", "RGGB", True), ("CFA", "Cambridge", False), ("BAYER", True, False), ("BAYERPAT", True, True),
        ("BAYERPAT", "NONE", False), ("BAYERPAT", "", False), ("BAYERPAT", "MONO", False),
        ("COLORTYP", "Monochrome", False), ("BAYERPAT", False, False), ("BAYERPAT", 0, False),
        ("XBAYROFF", 0, False),
    ],
)  # fmt: skip
def test_mosaics(keyword: str, value: object, is_one: bool) -> None:
    found = described({keyword: value})
    card = f"{keyword} = {str(value)!r}" if is_one else ""
    assert found.mosaic == header_mosaic(cards({keyword: value}), "") == card
    assert [note.startswith(f"{card}: a colour mosaic") for note in found.notes] == [True] * is_one


def test_an_unreadable_pattern_is_a_mosaic_until_the_pixels_say_otherwise() -> None:
    found = read_metadata(raw("BAYERPAT= 'RGGB"), "")
    assert found.mosaic == "BAYERPAT, which cannot be read"
    assert found.notes[0].startswith("BAYERPAT, which cannot be read: a colour mosaic")


def test_the_first_card_that_states_a_mosaic_counts() -> None:
    assert described({"BAYERPAT": "NONE", "COLORTYP": "RGGB"}).mosaic == "COLORTYP = 'RGGB'"
