"""Frames that are no lights, and colour mosaics: ingested, told, and neither scored nor references."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from night import OPTIONS, files, ledger_of, same_bytes, sky, to_layout, write_frame

import aqdask as aq
from aqdask.errors import UsageError
from aqdask.execution.executors import SerialExecutor
from aqdask.execution.reference_frames import choose_frames
from aqdask.execution.reporter import Silent
from aqdask.store import layout, ledger
from aqdask.store.frame_store import FrameStore

TYPES = ("Light Frame", "Dark Frame", "LIGHT", "Bias", "object", "Dark Frame", "flat", "Light Frame", "dark")
LIGHTS = [row for row, name in enumerate(TYPES) if name.lower() in ("light frame", "light", "object")]
ABOUT = {"INSTRUME": "tinycam", "FILTER": "L", "EXPTIME": 60.0}
COUNTS = {"bias": 1, "dark": 3, "flat": 1}


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Nine frames of several types in one camera and filter."""
    folder = tmp_path_factory.mktemp("mixed")
    for number, name in enumerate(TYPES):
        write_frame(folder / f"f{number}.fits", sky(number), IMAGETYP=name, **ABOUT)
    return folder


@pytest.fixture
def taken_in(mixed, tmp_path):
    aq.ingest(mixed, tmp_path / "a.zarr", cluster="serial", **OPTIONS)
    return tmp_path / "a.zarr"


def scored_rows(archive):
    return np.flatnonzero(np.isfinite(aq.open_quality(archive)["pvalue"].values).any(axis=(1, 2))).tolist()


def as_of_layout_2(archive):
    """Rewrite the ledger of an archive as an earlier release did, without frame types."""
    to_layout(archive, 2)
    root = layout.open_root(archive)
    assert {e.frame_type for e in ledger.Ledger(layout.group(root, "ledger"), 2).rows()} == {None}


def test_an_ingest_takes_every_type_and_counts_them(mixed, tmp_path):
    (summary,) = aq.ingest(mixed, tmp_path / "a.zarr", cluster="serial", **OPTIONS)
    assert (summary.done, summary.quarantined, summary.pending) == (9, 0, 0)
    assert summary.not_lights == COUNTS
    types = aq.open_frames(tmp_path / "a.zarr")["frame_type"].values.tolist()
    assert types == ["light", "dark", "light", "bias", "light", "dark", "flat", "light", "dark"]


def test_only_lights_are_scored_and_the_others_are_not_missing(taken_in, bundle):
    summary = aq.score(taken_in, bundle, cluster="serial")
    assert (summary.done, summary.quarantined, summary.pending, summary.worked) == (4, 0, 0, 4)
    assert summary.not_lights == COUNTS
    assert scored_rows(taken_in) == LIGHTS
    states = aq.open_quality(taken_in)["state"].values.tolist()
    assert states == ["done" if row in LIGHTS else "skipped" for row in range(9)]
    found = aq.verify(taken_in, cluster="serial")
    assert found.sound
    assert found.counts == {"done": 9, "quarantined": 0, "pending": 0}
    again = aq.score(taken_in, bundle, cluster="serial", retry=True)
    assert (again.done, again.worked) == (4, 0)


def test_a_fused_run_writes_the_same(mixed, taken_in, bundle, tmp_path):
    aq.score(taken_in, bundle, cluster="serial")
    (summary,) = aq.run(mixed, tmp_path / "fused.zarr", bundle, cluster="serial", **OPTIONS)
    assert (summary.done, summary.worked, summary.not_lights) == (4, 9, COUNTS)
    same_bytes(taken_in, tmp_path / "fused.zarr")
    (again,) = aq.run(mixed, tmp_path / "fused.zarr", bundle, cluster="serial", **OPTIONS)
    assert (again.done, again.worked, again.pending) == (4, 0, 0)


def test_all_types_are_scored_where_asked_and_stay_scored(mixed, taken_in, bundle, tmp_path):
    aq.score(taken_in, bundle, cluster="serial")
    before = aq.open_quality(taken_in)["pvalue"].values[LIGHTS]
    summary = aq.score(taken_in, bundle, all_types=True, cluster="serial")
    assert (summary.done, summary.worked, summary.not_lights) == (9, 5, {})
    assert scored_rows(taken_in) == list(range(9))
    np.testing.assert_array_equal(aq.open_quality(taken_in)["pvalue"].values[LIGHTS], before)
    assert aq.score(taken_in, bundle, cluster="serial").done == 9
    (fused,) = aq.run(mixed, tmp_path / "f.zarr", bundle, all_types=True, cluster="serial", **OPTIONS)
    assert fused.done == 9
    same_bytes(taken_in, tmp_path / "f.zarr")


def test_products_leave_them_out_and_name_the_type(taken_in, bundle, tmp_path):
    aq.score(taken_in, bundle, cluster="serial")
    table = aq.export(taken_in, tmp_path / "out", alpha=0.2, cluster="serial").to_pydict()
    assert len(list((tmp_path / "out" / "dq").iterdir())) == 4
    for row in range(9):
        is_light = row in LIGHTS
        assert (table["state"][row], bool(table["dq_file"][row])) == (
            ("done", True) if is_light else ("skipped", False)
        )
        assert (table["masked_fraction"][row] is not None) is is_light
        assert (table["frame_score"][row] is not None) is is_light
    assert table["frame_type"][:3] == ["light", "dark", "light"]
    assert table["reason"][1] == "not a light: dark"
    assert aq.mask(aq.open_quality(taken_in), 0.2).values[1].all()


def test_other_cameras_of_calibration_frames_are_nothing_to_warn_of(bundle, tmp_path):
    folder, said = tmp_path / "night", Said()
    write_frame(folder / "a.fits", sky(1), IMAGETYP="Light", **ABOUT)
    write_frame(folder / "b.fits", sky(2), IMAGETYP="Dark", INSTRUME="another")
    aq.run(folder, tmp_path / "a.zarr", bundle, strict=True, cluster="serial", reporter=said, **OPTIONS)
    assert not any("calibrated" in line for line in said.lines)
    assert "uncalibrated" not in aq.open_quality(tmp_path / "a.zarr").attrs


def test_an_archive_without_recorded_types_reads_them_from_its_headers(
    taken_in, bundle, tmp_path, monkeypatch
):
    new = shutil.copytree(taken_in, tmp_path / "new.zarr")
    as_of_layout_2(taken_in)
    assert aq.open_frames(taken_in)["frame_type"].values.tolist()[:2] == ["light", "dark"]
    assert [p.reason for p in aq.select(taken_in, cluster="serial")][1] == "not a light: dark"
    assert layout.version_of(layout.open_root(taken_in)) == 2  # who only reads raises nothing
    for archive in (taken_in, new):
        summary = aq.score(archive, bundle, cluster="serial")
        assert (summary.done, summary.pending, summary.not_lights) == (4, 0, COUNTS)
        assert aq.verify(archive, cluster="serial").sound
    same_bytes(taken_in, new)
    root = layout.open_root(taken_in)
    assert layout.version_of(root) == layout.LAYOUT_VERSION
    monkeypatch.setattr(ledger, "header_type", None)  # they are recorded now
    assert ledger.open_ledger(root).not_lights() == COUNTS


def test_scores_of_earlier_releases_stay(taken_in, bundle, monkeypatch):
    """Darks that a release scored as lights keep their maps; a dark that is added is left out."""
    aq.score(taken_in, bundle, all_types=True, cluster="serial")
    as_of_layout_2(taken_in)
    before = files(taken_in, "quality")
    assert aq.score(taken_in, bundle, cluster="serial").done == 9
    maps = {name: data for name, data in before.items() if not name.endswith("zarr.json")}
    assert {name: files(taken_in, "quality")[name] for name in maps} == maps


def test_a_corrected_header_is_noticed(bundle, tmp_path):
    path, archive = tmp_path / "night" / "a.fits", tmp_path / "a.zarr"
    write_frame(path, sky(1), IMAGETYP="Dark", **ABOUT)
    aq.run(path.parent, archive, bundle, cluster="serial", **OPTIONS)
    write_frame(path, sky(1), IMAGETYP="Light Frame", NOTE="longer", **ABOUT)
    aq.ingest(path.parent, archive, rehash=True, cluster="serial", **OPTIONS)
    assert ledger_of(archive).entries["a.fits"].frame_type == "light"
    assert aq.score(archive, bundle, cluster="serial").worked == 1


def test_compaction_and_lost_records_keep_the_types(taken_in):
    root = layout.open_root(taken_in, writable=True)
    found = ledger.open_ledger(root)
    found.compact()
    assert ledger.open_ledger(layout.open_root(taken_in)).not_lights() == COUNTS
    (segment,) = (path for path in (taken_in / "ledger").iterdir() if path.is_dir())
    shutil.rmtree(segment)
    assert aq.verify(taken_in, repair=True, cluster="serial").sound
    assert ledger.open_ledger(layout.open_root(taken_in)).not_lights() == COUNTS


def test_named_frames_that_are_no_lights_are_left_out_aloud(taken_in):
    said = Said()
    chosen = choose_frames(taken_in, ["*"], SerialExecutor(), said)
    assert list(chosen.ids) == [f"f{row}.fits" for row in LIGHTS]
    assert said.lines == [
        "note: 5 frames are not lights (bias 1, dark 3, flat 1): left out of the references"
    ]
    with pytest.raises(UsageError, match=r"of the named frames 1 frame is not a light \(dark 1\).*--keyword"):
        choose_frames(taken_in, ["f1.fits"], SerialExecutor(), said)
    with pytest.raises(UsageError, match=r"2 frames are not lights \(bias 1, dark 1\)"):
        aq.calibrate(taken_in, "wide-field", frames=["f1.fits", "f3*"], cluster="serial")


def test_select_measures_and_keeps_no_dark(taken_in, monkeypatch):
    said, read = Said(), []
    kept = FrameStore.read_checked
    monkeypatch.setattr(
        FrameStore, "read_checked", lambda store, row, crc: read.append(row) or kept(store, row, crc)
    )
    found = aq.select(taken_in, keep=["f*"], cluster="serial", reporter=said)
    assert read == LIGHTS
    assert [row for row, proposal in enumerate(found) if proposal.proposed] == LIGHTS
    assert [proposal.id for proposal in found] == [f"f{row}.fits" for row in range(9)]
    assert "note: 5 frames are not lights (bias 1, dark 3, flat 1): no references" in said.lines
    assert "note: 5 to keep cannot serve, such as f1.fits: not a light: dark" in said.lines


def test_another_card_may_say_the_type(mixed, tmp_path):
    keyword = (("type", "WHATEVER"),)
    (summary,) = aq.ingest(mixed, tmp_path / "a.zarr", keywords=keyword, cluster="serial", **OPTIONS)
    assert summary.not_lights == {}


def mosaic(seed):
    image = sky(seed).astype(float)
    image[::2, ::2] *= 0.6
    image[1::2, 1::2] *= 0.5
    return image.astype("int16")


@pytest.fixture
def colour(tmp_path):
    """A mosaic, a plane that kept the card, and a mono frame."""
    folder, archive = tmp_path / "colour", tmp_path / "c.zarr"
    write_frame(folder / "a.fits", mosaic(1), BAYERPAT="RGGB", **ABOUT)
    write_frame(folder / "b.fits", sky(2), BAYERPAT="RGGB", **ABOUT)
    write_frame(folder / "c.fits", sky(3), BAYERPAT="NONE", **ABOUT)
    return folder, archive


def test_a_mosaic_is_quarantined_by_that_word(colour, bundle, tmp_path):
    folder, archive = colour
    said = Said()
    aq.ingest(folder, archive, cluster="serial", reporter=said, **OPTIONS)
    assert any(line.startswith("note: BAYERPAT = 'RGGB': a colour mosaic, ") for line in said.lines)
    summary = aq.score(archive, bundle, cluster="serial", reporter=said)
    assert (summary.done, summary.quarantined) == (2, 1)
    ((frame_id, reason),) = summary.problems
    assert frame_id == "a.fits"
    assert reason.startswith(
        "BAYERPAT = 'RGGB': a colour mosaic; split the colour planes into four half-size"
    )
    assert (
        "note: BAYERPAT = 'RGGB', but the pixels show no mosaic: scored as one image (b.fits)" in said.lines
    )
    assert aq.verify(archive, cluster="serial").sound
    (fused,) = aq.run(folder, tmp_path / "f.zarr", bundle, cluster="serial", **OPTIONS)
    assert fused.problems == summary.problems
    same_bytes(archive, tmp_path / "f.zarr")


def test_a_mosaic_is_no_reference(colour):
    folder, archive = colour
    aq.ingest(folder, archive, cluster="serial", **OPTIONS)
    for function in (aq.calibrate, aq.train):
        model = ("wide-field",) if function is aq.calibrate else ()
        with pytest.raises(UsageError, match=r"a\.fits with BAYERPAT = 'RGGB'.*four half-size frames first"):
            function(archive, *model, frames=["*"], cluster="serial")
    found = aq.select(archive, keep=["a.fits"], cluster="serial")
    assert not found[0].proposed
    assert found[0].reason.startswith("BAYERPAT = 'RGGB': a colour mosaic; split the colour planes into four")
    assert "mosaic" not in found[1].reason


def test_a_merged_ledger_of_json_lines_is_read_and_raised(scored, bundle):
    before = ledger_of(scored).entries
    to_layout(scored, 3)
    assert ledger_of(scored).entries == before
    assert aq.verify(scored, cluster="serial").sound
    aq.score(scored, bundle, cluster="serial")
    assert layout.version_of(layout.open_root(scored)) == layout.LAYOUT_VERSION
    assert ledger_of(scored).entries == before
