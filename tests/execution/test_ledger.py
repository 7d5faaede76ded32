"""The ledger: the union of its segments is the state, whatever was cut off."""

import os
import time
from dataclasses import asdict

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore, StorePath

from aqdask.store import entry_table
from aqdask.store import ledger as module
from aqdask.store.entry_table import STATES as LISTED
from aqdask.store.entry_table import decoded, encoded
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, Ledger

IDS = st.sampled_from(["a", "b", "c", "été.fits", "night/\udcff.fits"])
STATES = st.sampled_from([PENDING, DONE, QUARANTINED])
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
COUNT = st.integers(0, 2**40)


def register(frame_id, row=0, **changes):
    known = {
        "path": f"/{frame_id}", "hdu": 0, "row": row, "size": 1, "mtime_ns": 1, "suffix": "",
        "state": PENDING, "reason": "",
    }  # fmt: skip
    return {"event": "register", "frame_id": frame_id, **known, **changes}


registers = st.builds(register, IDS, st.integers(-1, 9), state=STATES, reason=TEXT, size=COUNT)
ingests = st.fixed_dictionaries(
    {"event": st.just("ingest"), "frame_id": IDS, "state": STATES},
    optional={"reason": TEXT, "sha256": TEXT, "crc32c": TEXT, "invalid_pixels": COUNT},
)
scores = st.fixed_dictionaries(
    {"event": st.just("score"), "frame_id": IDS, "state": STATES, "quality": st.sampled_from(["m-1", "n-2"])},
    optional={"reason": TEXT, "source": TEXT, "crc32c": TEXT},
)
touches = st.fixed_dictionaries(
    {"event": st.just("touch"), "frame_id": IDS, "size": COUNT, "mtime_ns": COUNT}
)
histories = st.lists(
    st.lists(st.one_of(registers, ingests, scores, touches), min_size=1, max_size=6), max_size=8
)


def sound(history):
    """The same without records of frames that were never registered."""
    known, segments = set(), []
    for segment in history:
        kept = []
        for record in segment:
            if record["event"] == "register":
                known.add(record["frame_id"])
            if record["frame_id"] in known:
                kept.append(record)
        segments.append(kept)
    return segments


def new_group():
    return zarr.create_group(MemoryStore())


def state(ledger):
    return {name: asdict(entry) for name, entry in ledger.entries.items()}


def write(group, segments):
    ledger = Ledger(group)
    for segment in segments:
        ledger.append(segment)
        ledger.flush()
    return ledger


@given(histories.map(sound))
@settings(max_examples=60, deadline=None)
def test_what_is_read_again_is_what_was_written(segments):
    group = new_group()
    assert state(write(group, segments)) == state(Ledger(group))


@given(histories.map(sound), st.data())
@settings(max_examples=40, deadline=None)
def test_where_the_segments_are_cut_does_not_matter(segments, data):
    whole = [record for segment in segments for record in segment]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    one, two = new_group(), new_group()
    assert state(write(one, segments)) == state(write(two, pieces))
    assert state(Ledger(one)) == state(Ledger(two))


@given(histories.map(sound))
@settings(max_examples=40, deadline=None)
def test_compaction_keeps_the_state_and_leaves_one_segment(segments):
    group = new_group()
    before = state(write(group, segments))
    ledger = Ledger(group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COMPACT_SEGMENTS", 0)
        ledger.close()
    assert state(Ledger(group)) == before
    assert len(list(group.array_keys())) == (1 if before else 0)


def test_many_segments_are_merged_when_a_run_ends():
    group = new_group()
    ledger = write(group, [[register("a", size=n)] for n in range(module.COMPACT_SEGMENTS + 1)])
    ledger.close()
    assert len(list(group.array_keys())) == 1
    ledger.append([register("b", row=1)])
    ledger.close()
    assert list(Ledger(group).entries) == ["a", "b"]


@pytest.mark.parametrize("kill", ["no chunk", "empty chunk", "half a chunk", "flipped bit"])
def test_a_segment_that_a_kill_cut_short_is_void_and_its_number_is_not_used_again(kill, tmp_path):
    group = zarr.create_group(tmp_path / "ledger")
    write(group, [[register("a")], [register("b", row=1)]])
    chunk = tmp_path / "ledger" / "000002" / "c" / "0"
    data = chunk.read_bytes()
    if kill == "no chunk":
        chunk.unlink()
    else:
        cut = {"empty chunk": b"", "half a chunk": data[: len(data) // 2]}
        chunk.write_bytes(cut.get(kill, data[:20] + bytes([data[20] ^ 1]) + data[21:]))
    ledger = Ledger(group)
    assert list(ledger.entries) == ["a"]
    ledger.append([register("c", row=1)])
    ledger.flush()
    assert list(Ledger(group).entries) == ["a", "c"]


def test_records_are_kept_for_the_next_flush_where_one_fails(tmp_path, monkeypatch):
    ledger = Ledger(zarr.create_group(tmp_path / "ledger"))
    ledger.append([register("a")])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StorePath, "set", full)
        with pytest.raises(OSError, match="No space"):
            ledger.flush()
    ledger.flush()
    assert list(Ledger(zarr.open_group(tmp_path / "ledger")).entries) == ["a"]


def test_counts_rows_and_rejected_divide_the_entries():
    ledger = write(
        new_group(), [[register("b", 1), register("a", 0, state=DONE), register("z", -1, state=QUARANTINED)]]
    )
    assert ledger.counts() == {DONE: 1, QUARANTINED: 1, PENDING: 1}
    assert [entry.frame_id for entry in ledger.rows()] == ["a", "b"]
    assert [entry.frame_id for entry in ledger.rejected()] == ["z"]


def test_other_pixels_make_a_score_pending():
    ledger = write(
        new_group(),
        [
            [register("a"), {"event": "ingest", "frame_id": "a", "state": DONE, "crc32c": "1"}],
            [
                {
                    "event": "score",
                    "frame_id": "a",
                    "quality": "m",
                    "state": DONE,
                    "source": "1",
                    "crc32c": "x",
                }
            ],
        ],
    )
    assert ledger.entries["a"].standing("m") == (DONE, "")
    ledger.append([{"event": "ingest", "frame_id": "a", "state": DONE, "crc32c": "2"}])
    assert ledger.entries["a"].standing("m") == (PENDING, "")
    assert ledger.entries["a"].standing() == (DONE, "")


def test_an_event_of_another_release_is_refused():
    with pytest.raises(ValueError, match="unknown ledger event 'merge'"):
        Ledger(new_group()).append([register("a"), {"event": "merge", "frame_id": "a"}])


def test_reading_ten_thousand_records_takes_under_two_seconds():
    group = new_group()
    write(group, [[register(f"f{n}", n) for n in range(10_000)]])
    start = time.perf_counter()
    assert len(Ledger(group)) == 10_000
    assert time.perf_counter() - start < 2
    assert [entry.row for entry in Ledger(group).rows()] == list(range(10_000))


def test_records_are_merged_during_a_run_before_they_are_many(monkeypatch):
    monkeypatch.setattr(module, "COMPACT_RECORDS", 20)
    monkeypatch.setattr(module, "COMPACT_LATEST", 3)
    group, most = new_group(), 0
    ledger = Ledger(group)
    for row in range(60):
        ledger.append([register(f"f{row}", row)])
        ledger.flush()
        most = max(most, len(list(group.array_keys())))
    assert most <= 4
    assert state(Ledger(group)) == state(ledger)
    assert [entry.row for entry in Ledger(group).rows()] == list(range(60))


def test_what_must_come_first_is_written_before_the_records():
    group = new_group()
    ledger, order = Ledger(group), []
    ledger.before_flush.append(lambda: order.append(len(list(group.array_keys()))))
    ledger.append([register("a")])
    ledger.flush()
    assert order[-1] == 0
    assert len(list(group.array_keys())) == 1


@given(histories.map(sound), st.sampled_from(["", "m-1", "n-2"]))
@settings(max_examples=60, deadline=None)
def test_columns_say_what_the_entries_say(segments, quality):
    segments = [[{"crc32c": "", **r} if r["event"] == "ingest" else r for r in s] for s in segments]
    rows = write(new_group(), segments).table.all()
    entries = list(rows)
    assert [LISTED[code] for code in rows.standing(quality)] == [e.standing(quality)[0] for e in entries]
    assert [decoded(text) for text in rows.reasons(quality)] == [e.standing(quality)[1] for e in entries]
    names = ["m-1", "n-2"]
    assert [LISTED[code] for code in rows.worst(names)] == [e.worst(names)[0] for e in entries]


def test_texts_of_a_large_table_are_read_around_the_rows_that_are_asked_for(monkeypatch):
    monkeypatch.setattr(entry_table, "SNAPSHOT_ROWS", 4)
    group = new_group()
    written = write(group, [[register(f"f{row:02d} \udcff", row) for row in range(23)]])
    written.compact()
    table = Ledger(group).table
    rows, expected = table.all(), written.table.all().texts("path")
    assert "path" not in table._arrays
    for part in (np.arange(3), np.arange(2, 7), np.arange(20, 23), np.array([11, 13, 12]), np.arange(0)):
        assert rows.take(part).texts("path") == [expected[at] for at in part]
    assert rows[4:9].texts("path") == expected[4:9]
    assert "path" not in table._arrays
    assert len(table._recent["path"]) == entry_table.RECENT_GROUPS
    assert rows.texts("path") == expected
    assert "path" in table._arrays
    table.set(4, "path", "/elsewhere")
    assert rows[3:5].texts("path") == [expected[3], "/elsewhere"]


@given(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.binary(max_size=12).map(os.fsdecode)
)
def test_any_file_name_can_stand_in_a_column(text):
    assert decoded(encoded(text)) == text
    encoded(text).encode()  # valid UTF-8
