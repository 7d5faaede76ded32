"""One process or many, in one go or in two: the same bytes, and the same numbers from the lazy API."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import get_task_stream
from night import OPTIONS, SHAPE, files, ledger_of, night_frame, same_bytes, tiny_aqdask

import aqdask as aq
from aqdask.execution.executors import DaskExecutor
from aqdask.io import reader as reader
from aqdask.methods.dispatch import load_scorer
from aqdask.methods.paper.scorer import PaperScorer
from aqdask.specs import PatchGrid

MAPS = ("score", "pvalue", "reason", "mae")


@pytest.mark.cluster
def test_two_workers_write_the_bytes_of_one_process(client, night, undisturbed, bundle, tmp_path):
    archive, executor = tmp_path / "a.zarr", DaskExecutor(client)
    (taken,) = aq.ingest(night, archive, cluster=executor, **OPTIONS)
    scored = aq.score(archive, bundle, cluster=executor)
    assert taken.worked == scored.worked == 10
    same_bytes(archive, undisturbed)


@pytest.mark.cluster
def test_a_fused_run_on_two_workers_writes_the_bytes_of_ingest_and_score(
    client, night, undisturbed, bundle, tmp_path
):
    aq.run(night, tmp_path / "a.zarr", bundle, cluster=DaskExecutor(client), **OPTIONS)
    same_bytes(tmp_path / "a.zarr", undisturbed)


@pytest.mark.cluster
def test_the_client_of_the_process_is_used_where_no_cluster_is_named(client, night, undisturbed, tmp_path):
    with client.as_current(), get_task_stream(client=client) as stream:
        aq.ingest(night, tmp_path / "a.zarr", **OPTIONS)
    same_bytes(files(tmp_path / "a.zarr", "frames"), files(undisturbed, "frames"))
    names = {str(task["key"]).rsplit("-", 1)[0] for task in stream.data}
    assert names >= {"look-000000", "ingest-000000", "ingest-000001", "ingest-000002"}


def test_a_fused_run_reads_each_source_once_and_writes_the_same_bytes(
    night, undisturbed, bundle, tmp_path, monkeypatch
):
    opened, load_file = [], reader.load_file
    monkeypatch.setattr(reader, "load_file", lambda path: opened.append(str(path)) or load_file(path))
    aq.run(night, tmp_path / "a.zarr", bundle, cluster="serial", **OPTIONS)
    assert sorted(opened) == sorted(str(path) for path in night.rglob("*.fits"))
    same_bytes(tmp_path / "a.zarr", undisturbed)
    assert (tmp_path / "a-products" / "frames.parquet").is_file()


def test_the_ledger_tells_the_same_whoever_did_the_work(night, undisturbed, bundle, tmp_path):
    aq.run(night, tmp_path / "a.zarr", bundle, cluster="serial", **OPTIONS)

    def told(archive):
        return {
            name: (e.row, e.state, e.sha256, e.crc32c, [(n, s.state, s.crc32c) for n, s in e.scores.items()])
            for name, e in ledger_of(archive).entries.items()
        }

    assert told(tmp_path / "a.zarr") == told(undisturbed)


# --- our own method, whose verdict needs the whole frame --------------------------------------------------


@pytest.fixture(scope="module")
def ours():
    return tiny_aqdask()


@pytest.fixture(scope="module")
def ours_alone(night, ours, tmp_path_factory):
    """The night, scored with our method in one process."""
    archive = tmp_path_factory.mktemp("ours") / "night.zarr"
    aq.ingest(night, archive, cluster="serial", **OPTIONS)
    assert aq.score(archive, ours, cluster="serial").worked == 10
    return archive


@pytest.mark.cluster
def test_two_workers_score_with_our_method_to_the_same_bytes(client, night, ours, ours_alone, tmp_path):
    aq.run(night, tmp_path / "a.zarr", ours, cluster=DaskExecutor(client), **OPTIONS)
    same_bytes(tmp_path / "a.zarr", ours_alone)
    assert aq.verify(tmp_path / "a.zarr", cluster="serial").sound


@pytest.mark.parametrize("chunks", [(10, 130, 200), (3, 50, 61), (1, 64, 64)])
def test_quality_of_with_our_method_gives_the_stored_maps_bit_for_bit(ours, ours_alone, stack, chunks):
    image, invalid = stack
    bands = xr.DataArray(["L"] * 5 + ["R"] * 5, dims="frame")
    frames = xr.DataArray(
        da.from_array(image, chunks=chunks), dims=("frame", "y", "x"),
        coords={"filter": bands, "camera": ("frame", ["tinycam"] * 10)},
    )  # fmt: skip
    with dask.config.set(scheduler="synchronous"):
        (found,) = dask.compute(aq.quality_of(frames, ours, invalid=invalid))
    stored = aq.open_quality(ours_alone)
    names = [variable.name for variable in load_scorer(ours).variables]
    assert {"frame_flag", "out_of_reference", "size_ratio"} <= set(names)
    for name in names:
        assert found[name].values.tobytes() == stored[name].values.tobytes(), name
    assert np.isfinite(stored["score"].values).any()
    assert np.isnan(stored["score"].values).sum() < stored["score"].size / 2


# --- the lazy API --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack():
    """All frames of the night in the archive's order, and which pixels are BLANK."""
    order = [*range(0, 10, 2), *range(1, 10, 2)]
    image = np.stack([night_frame(number) for number in order])
    return image, image == -32768


def kinds(image, blank):
    odd = (3, (50, 31, 49), (64, 127, 9))
    names = ("night", "row", "column")
    return {
        "ndarray": (image, blank),
        "DataArray": (xr.DataArray(image, dims=names), xr.DataArray(blank, dims=names)),
        "dask, odd chunks": (da.from_array(image, chunks=odd), da.from_array(blank, chunks=(1, 33, 200))),
        "DataArray of dask": (xr.DataArray(da.from_array(image, chunks=odd), dims=names), blank),
    }


@pytest.mark.parametrize("kind", ["ndarray", "DataArray", "dask, odd chunks", "DataArray of dask"])
def test_quality_of_gives_the_stored_maps_bit_for_bit(undisturbed, bundle, stack, kind):
    image, invalid = kinds(*stack)[kind]
    found = aq.quality_of(image, bundle, invalid=invalid)
    with dask.config.set(scheduler="synchronous"):
        (found,) = dask.compute(found)
    stored = aq.open_quality(undisturbed)
    for name in (*MAPS, "frame_score", "y0", "y1", "x0", "x1"):
        assert found[name].dtype == stored[name].dtype
        assert found[name].values.tobytes() == stored[name].values.tobytes(), name


def test_quality_of_an_opened_archive_and_of_one_frame(undisturbed, bundle):
    stored = aq.open_quality(undisturbed)
    lazy = aq.quality_of(aq.open_frames(undisturbed), bundle)
    np.testing.assert_array_equal(lazy["score"].values, stored["score"].values)
    assert [str(name) for name in lazy["frame_id"].values] == [str(n) for n in stored["frame_id"].values]
    one = aq.quality_of(night_frame(2), bundle)
    assert one["score"].dims == ("patch_y", "patch_x")
    assert float(one["frame_score"]) == float(stored["frame_score"][1])  # L/f02.fits is the second


def test_quality_of_computes_nothing_until_asked(bundle, monkeypatch):
    scored, read = [], []
    measure = PaperScorer.extract_features

    def load(block_info=None):
        read.append(block_info)
        return np.zeros((1, 65, 100), "uint16") + 7

    chunks = ((1, 1), (65, 65), (100, 100))
    pixels = da.map_blocks(load, chunks=chunks, dtype="uint16", meta=np.array((), "uint16"))
    monkeypatch.setattr(
        PaperScorer, "extract_features", lambda self, *a: scored.append(1) or measure(self, *a)
    )
    before = len(read)
    found = aq.quality_of(pixels, bundle)
    mask = aq.mask(found, 0.1)
    assert mask.shape == (2, *SHAPE)
    assert len(read) == before
    assert scored == []
    with dask.config.set(scheduler="synchronous"):
        found["score"][1].compute()
    assert len(read) > before
    assert len(scored) == 1  # 5 x 7 patches are one tile; the other frame is left alone


def test_every_block_is_read_and_every_tile_scored_once_for_all_variables(bundle, monkeypatch):
    scored, read = [], []
    measure = PaperScorer.extract_features

    def load(block_id=None):
        read.append(block_id)
        return np.random.default_rng(block_id).integers(0, 2000, (512, 512), "uint16")

    monkeypatch.setattr(
        PaperScorer, "extract_features", lambda self, *a: scored.append(1) or measure(self, *a)
    )
    chunks = ((512, 512), (512,))
    pixels = da.map_blocks(load, chunks=chunks, dtype="uint16", meta=np.array((), "uint16"))
    read.clear()
    with dask.config.set(scheduler="synchronous"):
        dask.compute(aq.quality_of(pixels, bundle))
    assert sorted(read) == [(0, 0), (1, 0)]
    assert len(scored) == 8  # tiles of 256 px


def test_measuring_knows_where_each_patch_stands_in_the_frame(bundle, monkeypatch):
    def where(self, patches, valid, tops, lefts, camera, filter):
        assert (camera, filter) == ("cam", "L")
        return (1000 * tops + lefts)[:, None].astype("float32")

    monkeypatch.setattr(PaperScorer, "extract_features", where)
    image = da.zeros((600, 330), chunks=(250, 330), dtype="uint16")
    with dask.config.set(scheduler="synchronous"):
        found = aq.quality_of(image, bundle, camera="cam", filter="L")["mae"].values
    grid = PatchGrid(600, 330, bundle.patch)
    np.testing.assert_array_equal(found, 1000 * grid.starts(0)[:, None] + grid.starts(1))


@pytest.mark.cluster
def test_tiles_of_one_frame_are_computed_on_both_workers_with_the_same_bits(client, bundle):
    image = np.random.default_rng(0).integers(0, 2000, (1024, 1024), "uint16")  # 16 tiles of 8 x 8 patches
    with dask.config.set(scheduler="synchronous"):
        (expected,) = dask.compute(aq.quality_of(image, bundle))
    with get_task_stream(client=client) as stream:
        found = client.compute(aq.quality_of(da.from_array(image, chunks=(300, 1024)), bundle), sync=True)
    for name in (*MAPS, "frame_score"):
        assert found[name].values.tobytes() == expected[name].values.tobytes()
    done = [(str(task["key"]), task["worker"]) for task in stream.data]
    tiles = [(key, worker) for key, worker in done if key.startswith("quality-tile-")]
    assert len({key for key, _ in tiles}) == 16
    assert len({worker for _, worker in tiles}) == 2
