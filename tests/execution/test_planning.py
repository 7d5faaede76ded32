"""Plans: every frame that needs work once, finished ones never, one writer a shard."""

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import pytest
from distributed import KilledWorker
from hypothesis import given
from hypothesis import strategies as st

from aqdask.errors import ArchiveError, ClusterError
from aqdask.execution import planning
from aqdask.execution.executors import TASK_SECONDS, BatchGroups, SerialExecutor
from aqdask.execution.pipeline import run_batches
from aqdask.execution.planning import Batch, FrameTask
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, Entry, Rows, Score

MODEL = "m-00000000"
SCORES = {
    "none": None,
    "fresh": Score(DONE, source="pixels", crc32c="maps"),
    "stale": Score(DONE, source="other pixels", crc32c="maps"),
    "pending": Score(PENDING),
}


def entry(row: int, state: str, score: str) -> Entry:
    found = Entry(f"f{row}", f"/{row}", 0, row, 1, 1, state=state, crc32c="pixels" if state == DONE else "")
    if SCORES[score]:
        found.scores[MODEL] = SCORES[score]
    return found


archives = st.lists(
    st.tuples(st.sampled_from((PENDING, DONE, QUARANTINED)), st.sampled_from(sorted(SCORES))), max_size=60
).map(lambda kinds: [entry(row, *kind) for row, kind in enumerate(kinds)])


def rows_of(batches):
    return [task.row for batch in batches for task in batch.frames]


@given(archives)
def test_an_ingest_takes_each_pending_frame_once_in_row_order(rows):
    batches = list(planning.plan_ingest(Rows.of(rows)))
    assert rows_of(batches) == [e.row for e in rows if e.state == PENDING]
    assert all(1 <= len(batch.frames) <= planning.INGEST_FRAMES for batch in batches)
    assert all(task.ingest and not task.score for batch in batches for task in batch.frames)


def needs_score(found: Entry, ingest: bool, redo: frozenset[int]) -> bool:
    if found.state == PENDING:
        return ingest
    if found.state == DONE:
        return found.row in redo or found.scores.get(MODEL) is not SCORES["fresh"]
    return MODEL in found.scores and found.scores[MODEL].state == DONE  # its stale maps are cleared


@given(archives, st.integers(1, 20), st.booleans(), st.frozensets(st.integers(0, 59), max_size=5))
def test_a_score_takes_each_unfinished_frame_once_and_no_finished_one(rows, per_shard, ingest, redo):
    batches = list(planning.plan_score(Rows.of(rows), MODEL, per_shard, ingest=ingest, redo=redo))
    todo = [task.row for batch in batches for task in batch.frames if not task.stored]
    assert todo == [e.row for e in rows if needs_score(e, ingest, redo)]


@given(archives, st.integers(1, 20), st.booleans())
def test_a_batch_owns_one_whole_shard_and_no_other_batch_writes_it(rows, per_shard, ingest):
    batches = list(planning.plan_score(Rows.of(rows), MODEL, per_shard, ingest=ingest))
    for batch in batches:
        assert batch.start % per_shard == 0
        assert batch.stop == min(batch.start + per_shard, len(rows))
        assert all(batch.start <= task.row < batch.stop for task in batch.frames)
    assert all(one.stop <= two.start for one, two in pairwise(batches))


@given(archives, st.integers(1, 20))
def test_finished_maps_of_a_shard_that_is_rewritten_are_named_with_their_checksum(rows, per_shard):
    for batch in planning.plan_score(Rows.of(rows), MODEL, per_shard, ingest=True):
        finished = [
            r
            for r in rows[batch.start : batch.stop]
            if r.state == DONE and not needs_score(r, True, frozenset())
        ]
        assert [t.row for t in batch.frames if t.stored] == [r.row for r in finished]


@given(st.integers(1, 40))
def test_halves_of_a_batch_hold_all_its_frames_in_order(count):
    batch = Batch(0, 0, count, tuple(FrameTask(n, f"f{n}", "", 0) for n in range(count)))
    halves = batch.split()
    assert rows_of(halves) == list(range(count))
    assert len(halves) == min(count, 2)
    assert all(
        half.keep and (half.start, half.stop) == (0, count)
        for half in halves[: len(halves) if count > 1 else 0]
    )


@pytest.mark.parametrize("frames", [1, 5, 16, 100, 256, 1000, 10**6])
def test_a_small_archive_still_gives_several_workers_something_to_do(frames):
    per_shard = planning.frames_per_shard(frames)
    assert 1 <= per_shard <= 16
    assert -(-frames // per_shard) >= min(frames, 16)


@dataclass
class Job:
    """Fails on a batch that holds one of ``bad``, as a task does whose frame kills its worker."""

    bad: frozenset[int]
    quality: str = MODEL
    ran: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, group):
        answers = []
        for batch in group:
            self.ran.append(tuple(task.row for task in batch.frames))
            if self.bad & set(self.ran[-1]):
                raise RuntimeError("worker died")
            records = [{"event": "score", "frame_id": task.frame_id, "state": DONE} for task in batch.frames]
            answers.append((0.1, records))
        return answers


@given(st.integers(1, 17), st.frozensets(st.integers(0, 16), max_size=4), st.booleans())
def test_a_failing_batch_is_halved_until_only_the_frame_to_blame_is_blamed(count, bad, ingest):
    tasks = tuple(FrameTask(n, f"f{n}", "", 0, ingest=ingest, score=True) for n in range(count))
    job = Job(bad)
    found = run_batches(SerialExecutor(), job, [Batch(0, 0, count, tasks)], stage="score")
    by_id = {}
    for records in found:
        for record in records:
            assert record["frame_id"] not in by_id
            by_id[record["frame_id"]] = record
    assert sorted(by_id) == sorted(task.frame_id for task in tasks)
    blamed = {name for name, record in by_id.items() if record["state"] == QUARANTINED}
    assert blamed == {f"f{n}" for n in bad if n < count}
    assert all("worker died" in by_id[name]["reason"] for name in blamed)
    assert all(by_id[name]["event"] == ("ingest" if ingest else "score") for name in blamed)


def test_an_error_about_the_place_ends_the_run_and_blames_no_frame():
    def full(batch):
        raise ArchiveError("the disk is full")

    batches = [Batch(0, 0, 2, (FrameTask(0, "a", "", 0), FrameTask(1, "b", "", 0)))]
    with pytest.raises(ArchiveError, match="the disk is full"):
        list(run_batches(SerialExecutor(), full, batches, stage="score"))


@dataclass
class Slots:
    """Executor of some slots, of which only the number is asked."""

    slots: int


def test_short_batches_are_grouped_once_they_are_measured_and_the_end_is_spread():
    groups = BatchGroups(range(1000), Slots(2))
    found = iter(groups)
    first = [next(found) for _ in range(6)]
    groups.measured(6, 0.6)
    rest = list(found)
    assert [len(group) for group in first] == [1] * 6
    assert len(rest[0]) == TASK_SECONDS / 0.1
    assert [n for group in (*first, *rest) for n in group] == list(range(1000))
    assert [len(group) for group in rest[-12:]] == [1] * 12


def test_long_batches_stay_alone():
    groups = BatchGroups(range(50), Slots(2))
    found = iter(groups)
    next(found)
    groups.measured(1, 60.0)
    assert {len(group) for group in found} == {1}


def test_one_process_groups_to_the_end():
    groups = BatchGroups(range(50), Slots(1))
    found = iter(groups)
    next(found)
    groups.measured(1, TASK_SECONDS / 20)
    assert [len(group) for group in found] == [20, 20, 9]


def test_a_group_that_fails_is_run_batch_by_batch(monkeypatch):
    monkeypatch.setattr(BatchGroups, "_size", lambda groups: 3)
    tasks = [tuple(FrameTask(n, f"f{n}", "", 0, score=True) for n in (2 * k, 2 * k + 1)) for k in range(4)]
    batches = [Batch(k, 2 * k, 2 * k + 2, part) for k, part in enumerate(tasks)]
    answers = run_batches(SerialExecutor(), Job(frozenset({3})), batches, stage="x")
    found = [record for records in answers for record in records]
    states = {record["frame_id"]: record["state"] for record in found}
    assert len(found) == 8
    assert {name for name, state in states.items() if state == QUARANTINED} == {"f3"}


def singles(count: int) -> list[Batch]:
    return [Batch(n, n, n + 1, (FrameTask(n, f"f{n}", "", 0, score=True),)) for n in range(count)]


def test_a_run_in_which_every_frame_fails_ends_and_blames_none():
    job = Job(frozenset(range(20)))
    found = []
    with pytest.raises(ClusterError, match=r"first 5 frames failed, and none was finished: .*worker died"):
        found += run_batches(SerialExecutor(), job, singles(20), stage="score")
    assert len(job.ran) == 5
    assert found == []


@pytest.mark.parametrize("good", [0, 3])
def test_once_a_frame_is_finished_every_other_may_fail(good):
    job = Job(frozenset(range(20)) - {good})
    found = [
        record
        for records in run_batches(SerialExecutor(), job, singles(20), stage="score")
        for record in records
    ]
    assert [record["state"] for record in found].count(QUARANTINED) == 19
    assert sorted(record["frame_id"] for record in found) == sorted(f"f{n}" for n in range(20))


class Unlucky(SerialExecutor):
    """Workers of the first frame die ``deaths`` times, for reasons of their own."""

    def __init__(self, deaths: int) -> None:
        self.left = deaths

    def run(self, function, queue, *, stage):
        for item, result in super().run(function, queue, stage=stage):
            if item[0].number == 0 and self.left:
                self.left -= 1
                yield item, KilledWorker("score-0", SimpleNamespace(address="tcp://a"), 3)
            else:
                yield item, result


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_frame_whose_workers_died_is_tried_once_more_alone(deaths):
    found = run_batches(Unlucky(deaths), Job(frozenset()), singles(2), stage="score")
    states = {record["frame_id"]: record["state"] for records in found for record in records}
    assert states == {"f0": DONE if deaths == 1 else QUARANTINED, "f1": DONE}
