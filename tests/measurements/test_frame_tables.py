"""Tables of measurements: what is measured, resumed, and refused."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from astropy import units

import aqdask as aq
from aqdask.errors import ArchiveError, FrameError
from aqdask.execution.executors import SerialExecutor
from aqdask.execution.reporter import Silent
from aqdask.measurements import frame_tables, rank, stack, star_photometry, transients
from aqdask.measurements.ensemble_tables import CURVE_SCHEMA, FRAME_SCHEMA, STAR_SCHEMA
from aqdask.measurements.frame_tables import measure_frames
from aqdask.measurements.scored_frame import ScoredFrame, ScoredFrames, scored_places
from aqdask.measurements.source_tables import SourceDetection
from aqdask.photometry.source_catalogue import DetectSpec
from aqdask.products import table
from aqdask.products.columns import described_schema
from aqdask.products.open import quality_name
from aqdask.store.quality_store import QualityStore

ALPHA = 0.2


@dataclass(frozen=True)
class Medians:
    """Median of each row of pixels; a measurement that counts its calls."""

    settings: dict
    fails: int = -1
    calls: ClassVar[list[int]] = []

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("y", pa.int64()), ("median", pa.float64())])

    def __call__(self, frame: ScoredFrame) -> pa.Table:
        self.calls.append(frame.row)
        if frame.row == self.fails:
            raise FrameError("nothing to be seen")
        y = np.arange(len(frame.image))
        return pa.table({"y": y, "median": np.median(frame.image, axis=1)}, schema=self.schema)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(frame_tables, "FRAMES_PER_PART", 4)
    Medians.calls.clear()


def measured(
    archive: Path, folder: Path, *, fails: int = -1, alpha: float = ALPHA, rows: list[int] | None = None,
    **settings,
):  # fmt: skip
    medians = Medians(settings, fails)
    quality = quality_name(archive)
    places = None if rows is None else [scored_places(archive, quality)[0][row] for row in rows]
    return measure_frames(
        archive, quality, alpha, medians, folder, SerialExecutor(), Silent(), stage="mask", places=places
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_row_group_for_each_frame_and_a_file_for_each_part(night, tmp_path):
    found, without = measured(night, tmp_path / "out")
    assert [(one.row, one.rows, one.file) for one in found] == [
        (row, 130, f"part-{row // 4 * 4:08d}.parquet") for row in range(6)
    ]
    assert without == []
    table = pyarrow.dataset.dataset(tmp_path / "out").to_table().to_pandas()
    images = aq.open_frames(night)["image"]
    expected = images.median("x").values.ravel()
    np.testing.assert_array_equal(table["median"], expected)
    np.testing.assert_array_equal(table["time"].dt.tz_localize(None)[::130], images["time"].values)


def test_run_again_it_measures_what_is_missing_alone_and_ends_with_the_same_bytes(night, tmp_path):
    measured(night, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "part-00000004.parquet").write_bytes(before["part-00000004.parquet"][:100])  # cut
    (tmp_path / "part-00000000.parquet.0123.partial").write_bytes(b"killed")
    (tmp_path / "part-00000017.parquet").write_bytes(before["part-00000000.parquet"])  # of an earlier archive
    Medians.calls.clear()
    measured(night, tmp_path)
    assert Medians.calls == [4, 5]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("change", [{"alpha": 0.1}, {"radius": 3}])
def test_another_setting_measures_again(night, tmp_path, change):
    measured(night, tmp_path)
    Medians.calls.clear()
    measured(night, tmp_path, **change)
    assert Medians.calls == list(range(6))


def test_a_frame_that_fails_is_named_and_tried_again(night, tmp_path):
    found, without = measured(night, tmp_path, fails=1)
    assert found[1].problem == "nothing to be seen"
    assert without == [(str(aq.open_frames(night)["frame_id"].values[1]), "nothing to be seen")]
    assert set(pyarrow.dataset.dataset(tmp_path).to_table()["row"].to_pylist()) == {0, 2, 3, 4, 5}
    Medians.calls.clear()
    measured(night, tmp_path)
    assert Medians.calls == [0, 1, 2, 3]


def test_some_frames_alone_do_not_replace_a_table_of_all(night, tmp_path):
    measured(night, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ArchiveError, match="holds 5 frames that this call does not choose"):
        measured(night, tmp_path, rows=[2])
    assert contents(tmp_path) == before
    found, _ = measured(night, tmp_path / "one", rows=[2])
    assert [(one.row, one.file) for one in found] == [(2, "part-00000002.parquet")]


def test_a_folder_of_something_else_is_left_alone(night, tmp_path):
    (tmp_path / "part-0.parquet").write_bytes(b"")
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ArchiveError, match=r"letters\.txt is no part of a table"):
        measured(night, tmp_path)


def test_a_scored_frame_has_the_mask_and_maps_of_the_archive(night):
    quality = aq.open_quality(night)
    places, _ = scored_places(night, quality_name(night))
    frames = ScoredFrames(str(night), quality_name(night), ALPHA)
    masks = aq.mask(quality, ALPHA)
    for row, place in enumerate(places):
        frame = frames.read(place)
        np.testing.assert_array_equal(frame.masked, masks[row])
        np.testing.assert_array_equal(frame.invalid, quality["invalid"][row])
        for name, stored in frame.maps.items():
            np.testing.assert_array_equal(stored, quality[name][row])
        assert frame.values == {name: float(quality[name][row]) for name in frame.values}
        assert frame.wcs is not None
    patch_y, patch_x = frame.patch_of(np.array([-0.5, 31.4, 31.6, 199.4]), np.array([0, 127.4, 128, 129]))
    assert (patch_y.tolist(), patch_x.tolist()) == ([0, 3, 4, 4], [0, 0, 1, 6])


def test_damaged_maps_are_a_problem_of_their_frames(night, tmp_path):
    archive = Path(shutil.copytree(night, tmp_path / "night.zarr"))
    store = QualityStore.open(archive, quality_name(archive))
    for shard in (archive / "quality" / quality_name(archive) / "mae" / "c" / "1").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"damaged")
    assert store.frames_per_shard == 4
    found, _ = measured(archive, tmp_path / "out")
    assert [bool(one.problem) for one in found] == [False] * 4 + [True] * 2


SCHEMAS = {
    "sources": SourceDetection(DetectSpec()).schema, "fluxes": star_photometry.SCHEMA, "curves": CURVE_SCHEMA,
    "frames of light curves": FRAME_SCHEMA, "stars": STAR_SCHEMA, "candidates": transients.SCHEMA,
    "rank": rank.SCHEMA, "frames of a stack": described_schema(stack.FRAME_COLUMNS, stack.UNITS),
    "frames": described_schema(table.COLUMNS, table.UNITS),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_units_are_those_of_astropy_and_each_column_is_described(name):
    for field in SCHEMAS[name]:
        assert field.metadata[b"description"]
        units.Unit(field.metadata.get(b"unit", b"").decode())


def test_missing_values_are_null(night, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Medians, "__call__", lambda self, frame: pa.table(
            {"y": [0, 1], "median": [np.nan, 1.0]}, schema=self.schema))  # fmt: skip
        measured(night, tmp_path)
    found = pyarrow.dataset.dataset(tmp_path).to_table()["median"].to_pylist()
    assert set(found) == {None, 1.0}
