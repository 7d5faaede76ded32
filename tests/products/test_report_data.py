"""Data of a report: of a scored night, of archives with hardly anything in them, and its parts one by one."""

from __future__ import annotations

import numpy as np
import pytest
from night import OPTIONS, sky, tiny_bundle, write_frame, write_night

import aqdask as aq
from aqdask import flags
from aqdask.errors import UsageError
from aqdask.products.flagged import VARIABLE_REASONS
from aqdask.products.mask_summaries import GOOD, MaskBlock
from aqdask.products.report.data import Band, report_data
from aqdask.products.report.detector import MaskSums
from aqdask.products.report.drift import drifts
from aqdask.products.report.sentences import (
    BEYOND,
    flag_sentence,
    flags_told,
    local_sentence,
    standings,
    state_sentences,
)
from aqdask.specs import ArchiveSpec, PatchGrid
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import open_ledger

NAMES = [flag.name for flag in flags.REASONS]


def ingested(folder, place, **options):
    aq.ingest(folder, place, cluster="serial", **OPTIONS, **options)
    return place


# --- archives ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(archive):
    return report_data(archive, alpha=0.2)


def test_columns_are_of_equal_length_in_the_order_of_time_and_each_has_a_meaning(data, archive):
    assert {len(column) for column in data.frames.values()} == {6} == {len(data)}
    assert set(data.frames) <= {*data.labels, "row"}
    assert (np.diff(data.frames["time"].astype(int)) > 0).all()
    quality = aq.open_quality(archive)
    rows = data.frames["row"]
    np.testing.assert_array_equal(data.frames["frame_score"], quality["frame_score"].values[rows])
    np.testing.assert_array_equal(data.frames["frame_id"], quality["frame_id"].values[rows].astype(object))
    masked = ~(quality["pvalue"].values > 0.2)
    np.testing.assert_allclose(data.frames["masked_patches"], masked.mean(axis=(1, 2))[rows])
    shares = sum(data.frames[f"share_{name}"] for name in NAMES)
    np.testing.assert_allclose(shares, data.frames["masked_patches"])
    np.testing.assert_array_equal(data.frames["is_flagged"], data.frames["masked_patches"] > 0.2)
    assert set(data.frames["flag_reason"][data.frames["is_flagged"]]) == {"residual"}


def test_maps_of_reasons_are_those_of_the_rows_that_are_asked_for(data, archive):
    quality, rows = aq.open_quality(archive), data.frames["row"][[3, 0]]
    found = data.patch_reasons(rows)
    bad = ~(quality["pvalue"].values[rows] > 0.2)
    np.testing.assert_array_equal(found, np.where(bad, quality["reason"].values[rows], GOOD))


def test_the_mean_mask_is_the_mean_of_the_masks(data, archive):
    quality = aq.open_quality(archive)
    bad, good = ~(quality["pvalue"].values > 0.2), ~data.frames["is_flagged"][np.argsort(data.frames["row"])]
    mean = data.mean_masks["tinycam"]
    np.testing.assert_allclose(mean.fraction, bad.mean(axis=0))
    np.testing.assert_allclose(mean.of_good, bad[good].mean(axis=0))
    assert (mean.frames, mean.good) == (6, np.count_nonzero(good))
    counted = np.histogram(quality["pvalue"].values[good], data.pvalues.edges)[0]
    np.testing.assert_array_equal(data.pvalues.counts, counted)


def test_the_summary_counts_flagged_frames_and_says_what_was_quarantined(data):
    assert data.summary[0].startswith(
        "3 of 6 frames are flagged: 3 between 01:00 and 01:04 on 2024-05-07 for unusual structure"
    )
    assert data.summary[0].endswith(" (UTC).")
    assert any(
        "1 of 7 frames is quarantined (could not be used): 1 not a FITS file" in s for s in data.summary
    )
    assert [(s.state, s.count) for s in data.standings] == [("done", 6), ("quarantined", 1)]
    provenance = dict(data.provenance)
    assert provenance["model"] == "tiny"
    assert provenance["calibrated for tinycam L"] == "70 reference patches"
    assert provenance["alpha"] == "0.2"


def test_an_archive_without_scores(archive, tmp_path):
    write_night(tmp_path / "n", 2)
    found = report_data(ingested(tmp_path / "n", tmp_path / "a.zarr"))
    assert found.summary[0] == "Nothing is scored yet: run `aqdask score` (or `aqdask run`) first."
    assert not any("done" in sentence for sentence in found.summary)
    assert len(found) == 2
    assert np.isnan(found.frames["masked_patches"]).all()
    assert not found.frames["is_flagged"].any()
    assert found.pvalues.is_sound is None
    assert found.mean_masks == {}
    with pytest.raises(UsageError):
        found.patch_reasons([0])


def test_an_archive_without_frames(tmp_path):
    root = layout.create(tmp_path / "a.zarr", ArchiveSpec((64, 64), "int16"), created_by="a test")
    FrameStore.create(root)
    found = report_data(tmp_path / "a.zarr")
    assert found.summary == ("The archive is empty: run `aqdask ingest` first.",)
    assert len(found) == 0
    assert found.drifts == found.repeated_places == found.standings == ()


@pytest.fixture(scope="module")
def odd(tmp_path_factory, model):
    """One scored frame without time or WCS, with markup in its names."""
    folder = tmp_path_factory.mktemp("odd")
    write_frame(folder / "n" / "<img src=x>.fits", sky(1), INSTRUME="<b>cam</b>", FILTER="'\"&")
    place = ingested(folder / "n", folder / "a.zarr")
    aq.score(place, model, cluster="serial")
    return place


def test_one_frame_without_time_position_or_calibration(odd):
    found = report_data(odd, alpha=0.999)
    assert found.summary[0] == "1 of 1 frame is flagged: 1 for unusual structure."
    assert "The only frame is done." in found.summary
    assert "No frame has a time: plots over time are in the order of the archive." in found.summary
    assert any("not calibrated for <b>cam</b> '\"& (1)" in sentence for sentence in found.summary)
    assert found.frames["frame_id"].tolist() == ["<img src=x>.fits"]
    assert np.isnat(found.frames["time"]).all()
    assert np.isnan([found.frames[name] for name in ("airmass", "ra", "dec")]).all()
    assert found.drifts == ()
    assert report_data(odd, alpha=1e-6).summary[0] == "The only scored frame is not flagged."


def test_an_archive_of_which_everything_is_quarantined(tmp_path, model):
    for number in range(2):
        path = write_frame(tmp_path / "n" / f"f{number}.fits.gz", sky(number))
        path.write_bytes(path.read_bytes()[:-9000])
    place = ingested(tmp_path / "n", tmp_path / "a.zarr")
    aq.score(place, model, cluster="serial")
    found = report_data(place)
    assert found.summary[0] == "No frame is scored."
    assert found.summary[1].startswith("All 2 frames are quarantined (could not be used): 2 ")
    assert found.pvalues.is_sound is None
    assert found.pvalues.counts.sum() == 0


def test_scores_of_other_pixels_are_not_shown(tmp_path, model):
    write_night(tmp_path / "n", 2)
    place = ingested(tmp_path / "n", tmp_path / "a.zarr")
    aq.score(place, model, cluster="serial")
    write_night(tmp_path / "n", 1)  # the same file again, with other bytes
    path = tmp_path / "n" / "L" / "f00.fits"
    write_frame(path, sky(99), INSTRUME="tinycam", FILTER="L", **{"DATE-OBS": "2024-05-07T01:00:00"})
    ingested(tmp_path / "n", place)
    found = report_data(place)
    assert found.frames["state"].tolist() == ["pending", "done"]
    assert np.isnan(found.frames["frame_score"]).tolist() == [True, False]
    assert any("1 of 2 frames is pending" in sentence for sentence in found.summary)


def test_several_models_are_told_apart(tmp_path, model):
    write_night(tmp_path / "n", 1)
    place = ingested(tmp_path / "n", tmp_path / "a.zarr")
    for bundle in (model, tiny_bundle("other", seed=1)):
        aq.score(place, bundle, cluster="serial")
    with pytest.raises(UsageError, match="holds several quality groups"):
        report_data(place)
    assert report_data(place, "other").quality.startswith("other-")
    with pytest.raises(UsageError, match="alpha = 0"):
        report_data(place, "other", alpha=0)


def test_airmass_and_position_survive_the_merging_of_the_ledger(tmp_path):
    write_night(tmp_path / "n", 2)
    path = tmp_path / "n" / "L" / "f00.fits"
    write_frame(path, sky(0), INSTRUME="tinycam", AIRMASS=1.5)
    root = layout.open_root(ingested(tmp_path / "n", tmp_path / "a.zarr"), writable=True)
    open_ledger(root).compact()
    known = open_ledger(root).rows()
    np.testing.assert_array_equal(known.column("airmass"), [1.5, np.nan])
    np.testing.assert_allclose(known.column("ra"), [np.nan, 150.0], atol=1e-3)


# --- parts ---------------------------------------------------------------------------------------------


def block(pvalue, reason=1):
    """Frames with these p-values, masked for one reason."""
    reasons = np.where(pvalue > 0.01, GOOD, reason).astype(np.uint8)
    reasons[np.isnan(pvalue)] = 0
    return MaskBlock(np.arange(len(pvalue)), pvalue, reasons, np.zeros(len(pvalue), bool))


def summed(pvalue, is_flagged=None):
    count = len(pvalue)
    sums = MaskSums(pvalue.shape[1:], np.zeros(count, int), ["cam"], 0.01)
    sums.add(block(pvalue), np.zeros(count, bool) if is_flagged is None else is_flagged)
    return sums


@pytest.mark.parametrize(
    ("power", "is_sound", "words"),
    [(1, True, "the calibration is sound"), (2, False, "more than"), (0.4, False, "less than")],
)
def test_the_verdict_on_the_pvalues(power, is_sound, words):
    found = summed(np.random.default_rng(1).random((40, 16, 16)) ** power).pvalues()
    assert found.is_sound is is_sound
    assert words in found.text
    assert found.counts.sum() == 40 * 256


def test_boxes_labelled_bad_are_no_good_pvalues():
    pvalue = np.random.default_rng(1).random((40, 16, 16))
    box = np.zeros((16, 16), bool)
    box[3:5, 3:9] = True
    pvalue[7, box] = 1e-4
    sums = MaskSums((16, 16), np.zeros(40, int), ["cam"], 0.01, bad_boxes={7: box})
    sums.add(block(pvalue), np.zeros(40, bool))
    found = sums.pvalues()
    assert found.counts.sum() == 40 * 256 - 12
    assert "(boxes in 1 frame labelled bad left out)" in found.text


def test_a_place_that_is_masked_again_and_again_is_found_and_nothing_else():
    pvalue = np.random.default_rng(2).random((60, 16, 16))
    pvalue[::2, 3:5, 7] = 1e-4
    pvalue[:, 15, 0] = np.nan
    column, corner = summed(pvalue).repeated_places(PatchGrid(16 * 64, 16 * 64))
    assert (column.rows, column.columns, column.reason) == ((192, 320), (448, 512), "residual")
    assert column.patches == 2
    assert column.fraction == pytest.approx(0.5, abs=0.05)
    assert "2 patches in rows 192 to 319, columns 448 to 511 of cam, masked in 5" in column.text
    assert (corner.rows, corner.reason, corner.fraction) == ((960, 1024), "no_data", 1.0)


def test_a_hot_column_is_one_place_although_it_is_much_of_what_is_masked():
    pvalue = np.random.default_rng(1).uniform(0.02, 1, (23, 8, 8))
    pvalue[-6:, :, 5] = 1e-4
    pvalue[-6:, 3, 5] = 1.0
    pvalue[[2, 9], 4] = 1e-4  # two trails
    (column,) = summed(pvalue).repeated_places(PatchGrid(512, 512))
    assert column.text.startswith(
        "7 patches above one another in rows 0 to 511, columns 320 to 383 of cam, masked"
    )
    assert column.expected < 0.02
    (row,) = summed(pvalue.swapaxes(1, 2)).repeated_places(PatchGrid(512, 512))
    assert row.text.startswith("7 patches side by side in rows 320 to 383, columns 0 to 511 of cam, masked")


COLUMN_NOTE = "cam L: column 345 is darker than beside it in 8 of 23 sound frames, and not in the others"


@pytest.mark.parametrize(
    ("notes", "axes", "place"),
    [
        ([COLUMN_NOTE], (0, 1, 2), "column 345 (pixel), all rows (8 patches) of cam"),
        (["The row 345 differs from its neighbours in 2 of the 9 reference frames."], (0, 2, 1),
         "row 345 (pixel), all columns (8 patches) of cam"),
        ([COLUMN_NOTE, COLUMN_NOTE.replace("345", "350")], (0, 1, 2), "8 patches above one another in rows"),
        ([COLUMN_NOTE.replace("345", "384")], (0, 1, 2), "8 patches above one another in rows 0"),
        (["other" + COLUMN_NOTE[3:]], (0, 1, 2), "8 patches above one another in rows 0"),
    ],
)  # fmt: skip
def test_a_column_that_the_calibration_names_is_told_by_its_pixel(notes, axes, place):
    pvalue = np.random.default_rng(1).uniform(0.02, 1, (23, 8, 8))
    pvalue[-8:, :, 5] = 1e-4
    pvalue = pvalue.transpose(axes)
    times = np.datetime64("2024-05-07T20:00", "us") + np.arange(23) * np.timedelta64(2, "m")
    ids = [f"n{k:02d}.fits" for k in range(23)]
    sums = MaskSums((8, 8), np.zeros(23, int), ["cam", "other"], 0.01, times, ids=ids)
    sums.add(block(pvalue), np.zeros(23, bool))
    (found,) = sums.repeated_places(PatchGrid(512, 512), notes)
    assert found.text.startswith(place)
    assert found.text.endswith(", from n15.fits on (2024-05-07 20:30 UTC)")


def test_places_that_explain_the_masked_patches_are_told():
    pvalue = np.random.default_rng(1).random((60, 16, 16))
    assert "again and again" not in summed(pvalue).pvalues().text
    pvalue[-40:, :, 5] = 1e-4
    found = summed(pvalue).pvalues()
    assert (
        "most of the excess is in places that are masked again and again; elsewhere 1.01% are" in found.text
    )
    assert found.is_sound is False
    assert "more than the calibration promises" not in found.text
    pvalue = np.where(np.random.default_rng(2).random(pvalue.shape) < 0.02, 1e-4, pvalue)
    found = summed(pvalue).pvalues()
    assert "more than the calibration promises" in found.text
    assert (
        "Most of the excess is in places that are masked again and again; elsewhere 3.08% are" in found.text
    )
    pvalue = np.where(np.random.default_rng(2).random(pvalue.shape) < 0.1, 1e-4, pvalue)
    assert "again and again" not in summed(pvalue).pvalues().text


def test_a_rate_above_alpha_everywhere_is_no_repeated_place():
    pvalue = np.random.default_rng(3).random((60, 16, 16)) ** 2  # a tenth is masked
    assert summed(pvalue).repeated_places(PatchGrid(1024, 1024)) == ()


def test_a_place_has_the_time_in_which_it_is_masked():
    times = np.datetime64("2024-05-07T20:00", "us") + np.arange(200) * np.timedelta64(2, "m")
    pvalue = np.random.default_rng(4).random((200, 16, 16))
    pvalue[90:170, 3, 7] = 1e-4
    pvalue[::4, 9, 9] = 1e-4  # now and then, all the time
    pvalue[5, 3, 7] = 1e-4  # by chance
    sums = MaskSums((16, 16), np.zeros(200, int), ["cam"], 0.01, times)
    sums.add(block(pvalue), np.zeros(200, bool))
    found = {place.rows[0] // 64: place for place in sums.repeated_places(PatchGrid(1024, 1024))}
    step = np.timedelta64(8, "m")  # a period of four frames
    assert abs(found[3].first - times[90]) <= step
    assert abs(found[3].last - times[169]) <= step
    assert "between 2024-05-07 22:5" in found[3].text
    assert "between" not in found[9].text
    assert np.isnat(summed(pvalue).repeated_places(PatchGrid(1024, 1024))[0].first)


@pytest.mark.parametrize(("reason", "is_light"), [(4, True), (3, True), (1, False), (9, False)])
def test_a_place_that_is_masked_in_a_run_of_frames_is_told_with_them(reason, is_light):
    times = np.datetime64("2024-05-07T20:00", "us") + np.arange(60) * np.timedelta64(2, "m")
    pvalue = np.random.default_rng(4).random((60, 16, 16))
    pvalue[30:42, 3, 7] = 1e-4
    ids = [f"n{n:02}.fits" for n in range(60)]
    sums = MaskSums((16, 16), np.zeros(60, int), ["cam"], 0.01, times, ids=ids)
    sums.add(block(pvalue, reason), np.zeros(60, bool))
    (place,) = sums.repeated_places(PatchGrid(1024, 1024))
    assert ", only from n30.fits to n41.fits between 21:00 and 21:22 on 2024-05-07 (UTC)" in place.text
    assert place.text.endswith(": rather light, such as a ghost, than the detector") is is_light


def test_places_of_flagged_frames_count_for_the_mean_mask_only():
    pvalue = np.random.default_rng(3).random((60, 8, 8)) * 0.9 + 0.1
    pvalue[:20, 2, 2] = 1e-4
    sums = summed(pvalue, np.arange(60) < 20)
    assert sums.repeated_places(PatchGrid(512, 512)) == ()
    mean = sums.mean_masks()["cam"]
    assert mean.fraction[2, 2] == pytest.approx(1 / 3)
    assert mean.of_good[2, 2] == 0


def frames(count, **columns):
    start = np.datetime64("2024-05-07T01:00", "us")
    usual = {
        "time": start + np.arange(count) * np.timedelta64(5, "m"),
        "camera": np.full(count, "cam", object), "filter": np.full(count, "L", object),
        "masked_patches": np.zeros(count), "is_flagged": np.zeros(count, bool),
        "flag_reason": np.full(count, "", object),
    }  # fmt: skip
    return usual | columns


def flagged_at(count, places, **columns):
    found = frames(count, **columns)
    for reason, chosen in places.items():
        found["is_flagged"][chosen], found["flag_reason"][chosen] = True, reason
    return found


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (frames(5), "No frame is flagged as a whole, of 5 scored ones."),
        (
            flagged_at(60, {"size": range(2, 19)}),
            "17 of 60 frames are flagged: 17 between 01:10 and 02:30 on 2024-05-07 for wide stars (focus or "
            "seeing?) (UTC).",
        ),
        (
            flagged_at(60, {"size": [2, 3, 5, 6, 40], "noise": [50]}),
            "6 of 60 frames are flagged: 4 between 01:10 and 01:30 on 2024-05-07 for wide stars (focus or "
            "seeing?); 2 at other times for wide stars (focus or seeing?) in 1, noise in 1 (UTC).",
        ),
        (
            flagged_at(
                60, {"size": [20, 21, 23, 25], "line": [22, 24], "noise": [30, 31, 32], "sky": [33, 34, 35]}
            ),
            "12 of 60 frames are flagged: 6 between 02:40 and 03:05 on 2024-05-07 for wide stars (focus or "
            "seeing?) in 4, lines or trails in 2; 3 between 03:30 and 03:40 on 2024-05-07 for noise; 3 "
            "between 03:45 and 03:55 on 2024-05-07 for the sky (its level or shape) (UTC).",
        ),
        (
            flagged_at(60, {"line": [2, 20, 40]}),
            "3 of 60 frames are flagged: 3 scattered in time for lines or trails (UTC).",
        ),
        (
            flagged_at(9, {"": [1]}, time=np.full(9, "NaT", "datetime64[us]")),
            "1 of 9 frames is flagged: 1 for no reason that the maps show.",
        ),
        (
            flagged_at(8, {"size": [0, 2, 4]}, camera=np.array(["a", "b"] * 4, object)),
            "3 of 8 frames are flagged: 3 between 01:00 and 01:20 on 2024-05-07 with a for wide stars (focus "
            "or seeing?) (UTC).",
        ),
    ],
)
def test_flagged_frames_in_words(found, sentence):
    assert flag_sentence(found) == sentence


@pytest.mark.parametrize(
    ("frames", "side", "power", "words"),
    [
        (5, 4, 1, "too few patches"),
        (40, 16, 1.6, "as promised at this alpha, but 47% would be masked at alpha = 0.3"),
    ],
)
def test_a_calibration_is_called_sound_only_where_that_can_be_told(frames, side, power, words):
    pvalues = np.random.default_rng(1).random((frames, side, side))
    found = summed(np.where(pvalues < 0.05, pvalues, pvalues**power)).pvalues()
    assert found.is_sound is not True
    assert words in found.text


@pytest.mark.parametrize(
    ("bad", "is_sound", "words"),
    [
        (1, None, "more than expected, but with 1472 patches of 23 frames this can be chance"),
        (8, False, "more than the calibration promises"),
    ],
)
def test_more_masked_patches_than_alpha_are_told_as_chance_or_not_by_the_frames(bad, is_sound, words):
    pvalue = np.random.default_rng(1).uniform(0.02, 1, (23, 8, 8))
    for frame in range(bad):
        pvalue[frame, :, frame * 8 // bad : (frame + 1) * 8 // bad] = 1e-4
    found = summed(pvalue).pvalues()
    assert found.masked > 0.02
    assert found.is_sound is is_sound
    assert words in found.text


def test_parts_of_good_frames_that_stand_out_are_named():
    flagged = np.array([False, False, False, True])
    shares = {"share_line": np.array([0.04, 0.0, 0.01, 0.5]), "share_noise": np.full(4, 0.01)}
    found = frames(4, masked_patches=sum(shares.values()), is_flagged=flagged, **shares)
    found["frame_id"] = np.array(["a.fits", "b.fits", "c.fits", "d.fits"])
    assert local_sentence(found, 400) == (
        "Parts of frames that are not flagged stand out: "
        "1 at 01:00 on 2024-05-07 for lines or trails (a.fits)."
    )
    told = local_sentence(found, 400, lambda many, reason: [(20, "rows 0 to 63")] * len(many))
    assert "for lines or trails (a.fits in rows 0 to 63)" in told
    assert local_sentence(found, 400, lambda many, reason: [(4, "")] * len(many)) == ""  # told elsewhere
    assert local_sentence(found | {"share_line": np.zeros(4)}, 400) == ""


def test_a_flagged_frame_is_told_with_its_values_and_those_of_the_references():
    found = flagged_at(3, {"size": [1], "spike": [2]}, frame_size_ratio=np.array([1.0, 1.62, np.nan]))
    found["masked_patches"] = np.array([0, 0.1, 0.9])
    found["main_reason"] = np.full(3, "line", object)
    bands = {("cam", "L"): {"frame_size_ratio": Band(0.98, 1.0, 1.04)}}
    none, size, spike = flags_told(found, bands)
    assert none == ""
    assert size == (
        "Flagged for wide stars (focus or seeing?): they are 1.62 times as wide as in the reference frames "
        "(these: 0.98 to 1.04)."
    )
    expected = "Flagged since 90% of its patches are masked, most of them for single bright pixels."
    assert spike == expected
    found["masked_patches"][2] = 1.0
    assert flags_told(found, bands)[2].startswith("Flagged since all of its patches are masked, most of them")
    found["masked_patches"] = np.array([0.16, 0.1, 0.9])
    assert flags_told(found, bands)[0] == (
        "Not flagged, but 16% of its patches are masked, most of them for lines or trails "
        "(a frame is flagged above 20%)."
    )


def test_the_words_for_values_fit_every_reason_of_a_variable():
    for reason in VARIABLE_REASONS.values():
        assert BEYOND[reason].format(1.0, 2.0, 3.0).endswith("2 to 3)")


def test_states_in_words():
    states = ["done", "quarantined", "quarantined", "skipped"]
    found = standings(states, ["", "not a FITS file", "truncated", "not a light: dark"], list("abcd"))
    assert list(state_sentences(found)) == [
        "2 of 4 frames are quarantined (could not be used): 1 not a FITS file (b), 1 truncated (c).",
        "1 of 4 frames is left out (no lights): 1 not a light: dark.",
    ]


def monthly(values, per_month=4):
    months = np.datetime64("2024-01") + np.repeat(np.arange(len(values)), per_month)
    count = len(months)
    return frames(count, time=months.astype("datetime64[us]"), frame_sky=np.repeat(values, per_month))


def test_months_outside_the_span_of_the_references_are_named():
    found = monthly([1000.0, 1000.0, 1600.0, 900.0])
    known = {("cam", "L"): {"frame_sky": Band(800.0, 1000.0, 1200.0)}}
    [drift] = drifts(found, ["frame_sky"], known)
    assert drift.medians.tolist() == [1000, 1000, 1600, 900]
    assert drift.counts.tolist() == [4] * 4
    assert drift.text == (
        "The monthly median of sky of cam L left the span of the reference frames (800 to 1200): "
        "1600 in 2024-03."
    )
    assert drifts(monthly([1000.0, 1600.0], per_month=2), ["frame_sky"], known)[0].text == ""


def test_without_references_a_trend_over_half_a_year_is_named_and_one_month_is_none():
    rising = np.linspace(1.0, 1.7, 8)
    assert drifts(monthly(rising), ["frame_sky"], {})[0].text == (
        "The monthly median of sky of cam L rises from 1 to 1.7."
    )
    assert drifts(monthly([1.0, 1.3, 0.9, 1.2, 1.1, 1.0]), ["frame_sky"], {})[0].text == ""
    assert drifts(monthly([1.0]), ["frame_sky"], {}) == ()
