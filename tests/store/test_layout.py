"""Writing of whole shards: the bytes that zarr itself stores, and what a killed writer left."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from aqdask.methods.noise_aware.variables import VARIABLES
from aqdask.store import layout
from aqdask.store.codecs import CODECS

SHAPE, CHUNK = (5, 7), (1, 2, 4)


def made(store, codec: str, dtype: str, fill: float, frames: int = 1) -> zarr.Array:
    return zarr.create_array(
        store, shape=(4, *SHAPE), chunks=CHUNK, shards=(frames, 6, 8), dtype=dtype, fill_value=fill,
        compressors=layout.compressors(codec, dtype),
    )  # fmt: skip


def stored(array: zarr.Array) -> dict[str, bytes]:
    """Objects of an array in memory, by key."""
    held = array.store._store_dict  # type: ignore[attr-defined]
    return {key: value.to_bytes() for key, value in held.items()}


@given(
    st.sampled_from(sorted(CODECS)),
    st.sampled_from([("uint16", 0), ("float32", np.nan), ("bool", False), ("uint8", 0)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.02, 1.0]),
    st.integers(1, 3),
)
@settings(deadline=None)
def test_a_shard_has_the_bytes_that_zarr_stores(codec, kind, seed, share, frames):
    """Frames that are no multiple of the chunk, the last shard cut short, and chunks of fill values only."""
    (dtype, fill), rng = kind, np.random.default_rng(seed)
    ours, theirs = (made(MemoryStore(), codec, dtype, fill, frames) for _ in range(2))
    values = np.full((4, *SHAPE), fill, dtype)
    chosen = rng.random(values.shape) < share
    values[chosen] = rng.integers(0, 4, chosen.sum())
    for index, start in enumerate(range(0, 4, frames)):
        part = values[start : start + frames]
        theirs[start : start + frames] = part
        layout.write_shards((index, 0, 0), [(ours, part)])
    assert stored(ours) == stored(theirs)
    np.testing.assert_array_equal(ours[:], values)


@pytest.mark.parametrize("former", [b"", b"half a shard", None])
def test_a_damaged_shard_is_replaced(tmp_path, former):
    array = made(tmp_path / "a", "lz4", "uint16", 0)
    place = tmp_path / "a" / "c" / "1" / "0" / "0"
    if former is not None:
        place.parent.mkdir(parents=True)
        place.write_bytes(former)
        place.with_name("0.77.partial").write_bytes(b"half")
    values = np.arange(35, dtype="uint16").reshape(1, *SHAPE)
    layout.write_shards((1, 0, 0), [(array, values)])
    np.testing.assert_array_equal(array[1], values[0])
    assert [path.name for path in place.parent.iterdir()] == ["0"]
    layout.write_shards((1, 0, 0), [(array, None)])
    assert not layout.has_shard(array, (1, 0, 0))


def test_opening_does_not_look_into_the_folders_of_shards(tmp_path):
    places = [tmp_path / "image" / "c" / "3" / "0" / "0.1.partial", tmp_path / "filter" / "c" / "0.1.partial"]
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_bytes(b"half")
    layout.sweep_partials(tmp_path, shards=False)
    assert [place.exists() for place in places] == [True, False]
    layout.sweep_partials(tmp_path, shards=True)
    assert not places[0].exists()


def test_arrays_with_the_words_of_earlier_releases_are_those_of_today():
    words = {variable.name: variable.attributes["long_name"] for variable in VARIABLES}
    assert set(layout.REWORDED.values()) <= set(words.values())
    assert not set(layout.REWORDED) & set(layout.REWORDED.values())
    for earlier, now in layout.REWORDED.items():
        about = {
            "shape": (3,),
            "dtype": "float32",
            "chunks": (3,),
            "fill_value": 0,
            "dimension_names": ("frame",),
        }
        group = zarr.create_group(MemoryStore())
        group.create_array("a", **about, attributes={"long_name": earlier})
        assert layout.array_problem(group, "a", about | {"attributes": {"long_name": now}}, 3) == ""
        other = about | {"attributes": {"long_name": "other"}}
        assert "other metadata" in layout.array_problem(group, "a", other, 3)
    assert "masked fraction" in words["frame_score"]
