"""Calibrations for spans of time: which one a frame gets, and bundles that hold several."""

import numpy as np
import pytest
from click.testing import CliRunner

from aqdask.cli.main import aqdask
from aqdask.errors import ModelError, UsageError
from aqdask.methods.bundle import LATER_VERSION, VERSION, Bundle, Calibration
from aqdask.methods.calibration_spans import CalibrationSpans, TimeSpan, times_of
from aqdask.methods.container import pack, unpack
from aqdask.methods.dispatch import train
from aqdask.methods.noise_aware.calibrate import _of_span
from aqdask.methods.paper.scorer import calibration_of
from aqdask.methods.training.settings import TrainSpec

SUMMER = "2024-06-01T00:00:00/2024-09-01T00:00:00"
LATER = "2024-11-01T00:00:00/.."
NO_TIME = np.iinfo(np.int64).min


def at(text):
    return int(np.datetime64(text, "us").astype(np.int64))


def bundle(*spans, plain=True):
    made = calibration_of(np.arange(9.0))
    own = {f"cam|L@{span}": made.with_span(span) for span in spans}
    return Bundle("m", "paper", 64, "minmax", {}, {"a": np.ones(2, np.float32)},
                  {"": made} | ({"cam|L": made} if plain else {}) | own)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("2024-06-01/2024-09-01", SUMMER),
        ("2024-06-01T02:00:00+02:00/2024-09-01T00:00Z", SUMMER),
        ("2024-11-01/..", LATER),
        ("../2024-11-01T12:30:00.5", "../2024-11-01T12:30:00.500000"),
    ],
)
def test_spans_are_read_as_iso_8601_in_utc(given, read):
    assert str(TimeSpan.parse(given)) == read
    assert TimeSpan.parse(read) == TimeSpan.parse(given)
    assert TrainSpec(span=given).span == read


BAD = (
    "",
    "2024",
    "../..",
    "2024-09-01/2024-06-01",
    "2024-06-01/2024-06-01",
    "now/..",
    "2024-06-01/2024-09-01/..",
)


@pytest.mark.parametrize("given", BAD)
def test_other_texts_are_refused(given):
    with pytest.raises(UsageError, match=r"the span of time.*Expected: two ISO 8601 times.*What to do: "):
        TimeSpan.parse(given)


def test_a_span_is_half_open():
    span = TimeSpan.parse(SUMMER)
    assert at("2024-06-01") in span
    assert at("2024-09-01") - 1 in span
    assert at("2024-09-01") not in span
    assert (span.distance(at("2024-07-01")), span.distance(at("2024-09-01"))) == (0, 1)
    assert times_of([None, at("2024-06-01"), at("2024-06-02T00:00:00.25")]) == [
        "2024-06-01T00:00:00", "2024-06-02T00:00:01",
    ]  # fmt: skip
    assert times_of([None]) == []


@pytest.mark.parametrize(
    ("time", "with_plain", "without"),
    [
        ("2024-07-01", SUMMER, SUMMER),
        ("2024-12-01", LATER, LATER),
        ("2024-05-01", None, SUMMER),  # the nearest
        ("2024-10-20", None, LATER),
        (None, None, LATER),  # the latest
    ],
)
def test_a_frame_gets_the_calibration_of_its_time(time, with_plain, without):
    stamp = None if time is None else at(time)
    for plain, wanted in ((True, with_plain), (False, without)):
        spans = bundle(SUMMER, LATER, plain=plain).spans
        assert spans.filter_at("cam", "L", stamp) == ("L" if wanted is None else f"L@{wanted}")
        assert spans.filter_at("cam", "R", stamp) == "R"
        assert spans.holds("cam", "L", stamp) == (plain or time in ("2024-07-01", "2024-12-01"))
        known = np.array([NO_TIME if stamp is None else stamp])
        assert spans.filters_at(["cam"], ["L"], known) == [spans.filter_at("cam", "L", stamp)]


def test_of_spans_that_overlap_the_one_that_begins_last_counts():
    spans = bundle("2024-06-01T00:00:00/..", "2024-08-01T00:00:00/..", plain=False).spans
    assert spans.filter_at("cam", "L", at("2024-07-01")) == "L@2024-06-01T00:00:00/.."
    assert spans.filter_at("cam", "L", at("2024-09-01")) == "L@2024-08-01T00:00:00/.."


def test_a_model_without_spans_is_as_before():
    plain = bundle()
    assert not plain.spans
    assert plain.spans.filter_at("cam", "L", 0) == "L"
    assert unpack(plain.contents, "aqdask-bundle", (VERSION,))
    assert not CalibrationSpans({})


def test_a_bundle_with_spans_comes_back_and_is_refused_by_earlier_releases():
    made = bundle(SUMMER, plain=False)
    loaded = Bundle.from_bytes(made.contents)
    assert loaded.calibrations[f"cam|L@{SUMMER}"].facts["span"] == SUMMER
    assert loaded.calibrated_for("cam", "L")
    assert not loaded.calibrated_for("cam", "R")
    with pytest.raises(ModelError, match=rf"{LATER_VERSION}"):
        unpack(made.contents, "aqdask-bundle", (2, VERSION))


@pytest.mark.parametrize("span", ["soon", "2024-06-01/..", 5, "../.."])
def test_a_bundle_with_another_span_is_unsound(span):
    tensors, document = unpack(bundle(SUMMER).contents, "aqdask-bundle", (LATER_VERSION,))
    document["calibrations"][f"cam|L@{SUMMER}"]["span"] = span
    del document["checksum"]
    with pytest.raises(ModelError, match="a bundle with the calibrations"):
        Bundle.from_bytes(pack(tensors, document))


def test_a_calibration_is_stored_under_its_span():
    times = ["2024-06-01T20:00:00", "2024-06-02T03:00:01"]
    made = Calibration({}, {"about": {"times": times}})
    assert _of_span("cam|L", made, "") == ("cam|L", made)
    assert _of_span("", made, SUMMER) == ("", made)  # the pooled one serves all times
    key, found = _of_span("cam|L", made, SUMMER)
    assert (key, found.facts["span"]) == (f"cam|L@{SUMMER}", SUMMER)
    key, found = _of_span("cam|L", made, "frames")
    assert (key, found.facts["span"]) == (f"cam|L@{times[0]}/{times[1]}", f"{times[0]}/{times[1]}")
    with pytest.raises(UsageError, match=r"frames of cam L have no time.*What to do: name the span"):
        _of_span("cam|L", Calibration({}, {"about": {}}), "frames")


def test_requests_that_contradict_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"a training for the span of time.*--from TIME"):
        train(None, TrainSpec(span=SUMMER))
    words = ["calibrate", str(tmp_path), "--model", "wide-field", "--out", str(tmp_path / "m.safetensors")]
    for more, why in (
        (["--span", "--from", "2024-06-01"], "--span beside --from"),
        (["--from", "soon"], "'soon/..'"),
    ):
        ended = CliRunner().invoke(aqdask, [*words, *more])
        assert ended.exit_code == 2
        assert why in ended.output
