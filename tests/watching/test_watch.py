"""The watch in this process: frames come one by one, change, break, and come again."""

from __future__ import annotations

import errno
import json
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from night import ledger_of, same_bytes, sky, states, touch_later, write_frame
from short_watch import FRAMES, TIMES, frames_of

import aqdask as aq
from aqdask.errors import ArchiveError, UsageError
from aqdask.execution.open_archive import writing
from aqdask.monitor.progress import LineReporter
from aqdask.store.quality_store import QualityStore
from aqdask.watching import watch as module
from aqdask.watching.journal import NAME


def products(archive):
    return archive.with_name("a-products")


def feed(night, inbox):
    """A function that copies the next frame into the inbox whenever one has been reported."""
    waiting = list(night)

    def more(record=None):
        if waiting:
            shutil.copy2(waiting.pop(0), inbox)

    return more


@pytest.fixture
def hook(tmp_path):
    """Command that appends its arguments to a file, and a function that reads them."""
    script, log = tmp_path / "hook script.sh", tmp_path / "hook.log"
    script.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" -- >> '{log}'\n")
    script.chmod(0o755)

    def calls():
        words = log.read_text().split("\n") if log.exists() else []
        runs = "\n".join(words).split("\n--\n")[:-1]
        return [tuple(run.split("\n")) for run in runs]

    return f"'{script}'", calls


# --- what is stored ------------------------------------------------------------------------------------


def test_frames_that_come_one_by_one_give_the_bytes_of_one_run(
    watch, night, inbox, archive, bundle, tmp_path
):
    more = feed(night, inbox)
    more()
    events = watch(FRAMES, more)
    assert frames_of(events, "verdict") == [(path.name, "good") for path in night]
    assert all(0 < seconds < 5 for _, seconds in frames_of(events, "seconds"))
    whole = tmp_path / "whole.zarr"
    aq.run(inbox, whole, bundle, cluster="serial", chunk=64, frames_per_shard=16)
    same_bytes(archive, whole)
    assert aq.verify(archive, cluster="serial").sound


def test_a_backlog_is_taken_in_whole_shards(watch, night, inbox, archive, monkeypatch):
    for path in night:
        shutil.copy2(path, inbox)
    sizes = []
    take = module.Watch._take
    monkeypatch.setattr(
        module.Watch, "_take", lambda self, held, a: (sizes.append(len(a)), take(self, held, a))[1]
    )
    events = watch(FRAMES, options={"frames_per_shard": 2})
    assert sorted(frames_of(events)) == [(path.name,) for path in night]
    assert sizes == [2, 2, 1, 1]
    assert aq.verify(archive, cluster="serial").sound


def test_the_journal_the_ledger_and_in_the_end_the_table_hold_every_frame(watch, night, inbox, archive):
    seen = []

    def look(record):
        lines = (products(archive) / NAME).read_text().splitlines()
        assert json.loads(lines[-1])["frame_id"] == record["frame_id"]
        seen.append(states(archive)[record["frame_id"]])
        more()

    more = feed(night[:3], inbox)
    more()
    events = watch(3, look)
    assert seen == ["done"] * 3
    table = pq.read_table(products(archive) / "frames.parquet").to_pylist()
    assert [row["frame_id"] for row in table] == [path.name for path in night[:3]]
    assert [row["masked_fraction"] for row in table] == [e["masked_fraction"] for e in events]
    assert not (products(archive) / ".partial").exists()


def test_the_first_watch_of_an_archive_reports_no_frame_that_was_scored_before(
    watch, night, inbox, archive, bundle
):
    for path in night[:2]:
        shutil.copy2(path, inbox)
    aq.run(inbox, archive, bundle, cluster="serial", chunk=64)
    shutil.copy2(night[2], inbox)
    assert frames_of(watch(1)) == [("f02.fits",)]


# --- files ---------------------------------------------------------------------------------------------


def test_a_short_file_is_quarantined_and_scored_once_it_is_whole(watch, night, inbox, archive):
    shutil.copy2(night[0], inbox)
    content = night[1].read_bytes()
    (inbox / "f01.fits").write_bytes(content[:20000])

    def complete(record):
        if record["verdict"] == "bad":
            assert states(archive)["f01.fits"] == "quarantined"
            (inbox / "f01.fits").write_bytes(content)

    events = watch(3, complete)
    assert frames_of(events, "verdict", "state") == [
        ("f00.fits", "good", "done"), ("f01.fits", "bad", "quarantined"), ("f01.fits", "good", "done"),
    ]  # fmt: skip
    assert "truncated" in events[1]["reason"]
    assert states(archive) == {"f00.fits": "done", "f01.fits": "done"}


def test_other_contents_under_the_same_name_are_scored_and_reported_again(watch, night, inbox, archive, hook):
    shutil.copy2(night[0], inbox / "f.fits")
    command, calls = hook
    changes = [lambda: shutil.copy(night[2], inbox / "f.fits"), lambda: touch_later(inbox / "f.fits")]

    def change(record):
        changes[len(scores)]()
        scores.append(record["frame_score"])

    scores: list[float] = []
    events = watch(0, change, on_good=command, idle=1.5)  # only the first change has other pixels
    assert len(frames_of(events)) == 2
    assert scores[0] != scores[1]
    assert [call[0] for call in calls()] == ["f.fits", "f.fits"]
    assert len(ledger_of(archive).entries) == 1


def test_a_stored_frame_that_comes_again_broken_is_kept_and_called_bad(watch, night, inbox, archive):
    shutil.copy2(night[0], inbox / "f.fits")

    def damage(record):
        (inbox / "f.fits").write_bytes(b"no FITS at all")

    events = watch(2, damage)
    assert frames_of(events, "verdict", "state") == [("f.fits", "good", "done"), ("f.fits", "bad", "done")]
    assert events[1]["reason"].startswith("kept as stored: ")


def test_a_file_without_any_frame_waits_for_an_archive(watch, night, inbox, archive):
    (inbox / "a.fits").write_bytes(b"no FITS at all")
    later = threading.Timer(1.2, lambda: shutil.copy2(night[0], inbox))
    later.start()
    events = watch(2)
    assert sorted(frames_of(events, "state")) == [("a.fits", "quarantined"), ("f00.fits", "done")]


def test_frames_of_another_shape_are_bad_and_darks_are_neither(watch, night, inbox, hook):
    command, calls = hook
    shutil.copy2(night[0], inbox)
    watch(1)
    write_frame(inbox / "small.fits", sky(1, (64, 64)))
    write_frame(inbox / "dark.fits", sky(2), IMAGETYP="Dark")
    events = watch(2, on_bad=command, on_good=command)
    assert sorted(frames_of(events, "verdict", "state")) == [
        ("dark.fits", "skipped", "skipped"), ("small.fits", "bad", "quarantined"),
    ]  # fmt: skip
    assert [call[:2] for call in calls()] == [("small.fits", "nan")]


def test_a_mask_file_that_comes_after_its_frame_is_waited_for(watch, night, inbox, archive, tmp_path):
    shutil.copy2(night[0], inbox)
    mask = tmp_path / "f00_mask.fits"
    late = threading.Timer(0.3, lambda: write_frame(mask, sky(0).astype("uint8") * 0 + 1 * (sky(0) > 1050)))
    late.start()
    events = watch(1, options={"mask_files": "../{name}_mask.fits"}, patience=5.0)
    assert frames_of(events, "state") == [("f00.fits", "done")]
    assert ledger_of(archive).entries["f00.fits"].invalid_pixels > 0


# --- inboxes -------------------------------------------------------------------------------------------


def test_several_inboxes_one_of_which_comes_later(watch, night, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "L").mkdir(parents=True)
    shutil.copy2(night[0], one / "L" / "f.fits")

    def mount(record):
        (two / "L").mkdir(parents=True, exist_ok=True)
        shutil.copy2(night[1], two / "L" / "f.fits")

    events = watch(2, mount, inboxes=[one, two])
    assert frames_of(events, "verdict") == [("L/f.fits", "good"), ("two/L/f.fits", "good")]


@pytest.mark.parametrize(
    ("inboxes", "why"),
    [
        ([], "no inbox"),
        (["s3://bucket/night"], "the inbox s3://bucket/night"),
        (["in", "in/L"], "is inside"),
        (["in", "./in"], "is inside"),
        (["in/f.fits"], "is a file"),
    ],
)
def test_inboxes_that_cannot_be_are_refused(inboxes, why, inbox, archive, bundle, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (inbox / "f.fits").touch()
    with pytest.raises(UsageError, match=why):
        aq.watch(inboxes, archive, bundle, cluster="serial")


@pytest.mark.parametrize(
    ("settings", "options", "why"),
    [
        ({"bad_if": "masked > 1"}, {}, "no column"),
        ({"on_bad": "/no/such"}, {}, "no program"),
        ({"alpha": 2.0}, {}, "alpha"),
        ({}, {"by_shape": True}, "by_shape"),
        ({}, {"frobnicate": 1}, "frobnicate"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, options, why, inbox, archive, bundle):
    with pytest.raises(UsageError, match=why):
        aq.watch(inbox, archive, bundle, cluster="serial", settings=aq.WatchSettings(**settings), **options)
    assert not archive.exists()


def test_an_option_that_contradicts_the_archive_is_refused(watch, night, inbox):
    shutil.copy2(night[0], inbox)
    watch(1)
    with pytest.raises(UsageError, match="asks for 32"):
        watch(options={"chunk": 32})


# --- commands ------------------------------------------------------------------------------------------


def test_a_command_gets_frame_score_reason_and_mask_as_they_are(watch, night, inbox, archive, hook):
    command, calls = hook
    name = "a 'b' \"c\" $(touch hacked) <img src=x>;.fits"
    shutil.copy2(night[1], inbox / name)
    events = watch(1, on_bad=f"{command} 'x y'", bad_if="masked_fraction > 0.001 and filter == 'R'")
    ((extra, frame, score, reason, mask),) = calls()
    (record,) = [event for event in events if event["event"] == "frame"]
    assert (extra, frame, reason) == ("x y", name, "no_data")
    assert float(score) == pytest.approx(record["frame_score"], rel=1e-5)
    assert mask == record["mask"]
    with fits.open(mask, checksum=True) as file:
        assert (file["DQ"].data > 0).mean() == pytest.approx(record["masked_fraction"])
        assert file[0].header["FRAMEID"] == name
    assert not Path("hacked").exists()
    exported = archive.with_name("exported")
    aq.export(archive, exported, cluster="serial")
    times = {"ignore_keywords": ["CHECKSUM"], "ignore_comments": ["CHECKSUM", "DATASUM"]}
    assert fits.FITSDiff(exported / "dq" / Path(mask).name, mask, **times).identical


def test_a_condition_may_name_the_reasons_of_a_mask(watch, night, inbox, archive):
    for path in night[:2]:
        shutil.copy2(path, inbox)
    events = watch(2, bad_if="share_no_data > 0 and main_reason == 'no_data'")
    assert sorted(frames_of(events, "verdict", "reason")) == [
        ("f00.fits", "good", ""),
        ("f01.fits", "bad", "no_data"),
    ]
    table = pq.read_table(products(archive) / "frames.parquet").to_pylist()
    assert {row["frame_id"]: row["main_reason"] for row in table} == {"f00.fits": "", "f01.fits": "no_data"}


def test_masks_are_written_for_the_frames_that_a_command_wants_only(watch, night, inbox, archive, hook):
    for path in night[:2]:
        shutil.copy2(path, inbox)
    watch(2, on_bad=hook[0], bad_if="filter == 'R'")
    assert [path.name for path in (products(archive) / "dq").iterdir()] == ["f01.dq.fits"]


def test_commands_that_fail_or_hang_are_told_and_the_watch_goes_on(
    night, inbox, archive, bundle, capsys, tmp_path
):
    for path in night[:2]:
        shutil.copy2(path, inbox)
    (tmp_path / "hangs").write_text("#!/bin/sh\nsleep 99\n")
    (tmp_path / "hangs").chmod(0o755)
    counts = aq.watch(
        inbox, archive, bundle, cluster="serial", chunk=64, reporter=LineReporter(sys.stderr),
        settings=aq.WatchSettings(
            **TIMES, bad_if="filter == 'R'", on_bad="sh -c 'exit 7'", on_good=f"{tmp_path}/hangs",
            hook_timeout=0.5,
        ),
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "warning: --on-bad on f01.fits ended with exit code 7" in said
    assert "warning: --on-good on f00.fits was killed after" in said
    assert (counts.good, counts.bad, counts.hooks_failed, counts.hooks_left) == (1, 1, 2, 0)


def test_a_camera_without_calibration_is_told_once(night, inbox, archive, bundle, capsys):
    model = replace(bundle, calibrations={"": bundle.calibration()})
    more = feed(night[:4], inbox)
    more()
    stop = threading.Event()

    def show(record):
        stop.set() if record["frame_id"] == night[3].name else more()

    aq.watch(
        inbox, archive, model, cluster="serial", chunk=64, reporter=LineReporter(sys.stderr), stop=stop,
        on_event=show, settings=aq.WatchSettings(**TIMES),
    )  # fmt: skip
    said = [line for line in capsys.readouterr().err.splitlines() if "not calibrated for" in line]
    assert [line.partition(" for ")[2].partition(" (")[0] for line in said] == ["tinycam L", "tinycam R"]


# --- ends and restarts ---------------------------------------------------------------------------------


def test_a_restart_does_what_came_meanwhile_and_reports_nothing_twice(watch, night, inbox, hook):
    command, calls = hook
    for path in night[:2]:
        shutil.copy2(path, inbox)
    watch(2, on_good=command)
    for path in night[2:4]:
        shutil.copy2(path, inbox)
    assert sorted(frames_of(watch(2, on_good=command))) == [("f02.fits",), ("f03.fits",)]
    assert watch(on_good=command) == []
    assert sorted(call[0] for call in calls()) == ["f00.fits", "f01.fits", "f02.fits", "f03.fits"]


def test_a_command_that_had_not_ended_runs_again_after_a_restart(watch, night, inbox, archive, hook):
    command, calls = hook
    shutil.copy2(night[0], inbox)
    watch(1, on_good=command)
    journal = products(archive) / NAME
    first, second = journal.read_text().splitlines(keepends=True)
    assert json.loads(second)["event"] == "hook"
    journal.write_text(first + second[:20])  # killed while it wrote
    assert frames_of(watch(1, on_good=command), "verdict") == [("f00.fits", "good")]
    assert [call[0] for call in calls()] == ["f00.fits", "f00.fits"]
    assert watch(on_good=command) == []


def test_a_frame_that_was_scored_but_not_reported_is_reported_after_a_restart(
    watch, night, inbox, archive, hook
):
    command, calls = hook
    shutil.copy2(night[0], inbox)
    watch(1)
    (products(archive) / NAME).write_text("")
    assert frames_of(watch(1, on_good=command), "seconds") == [("f00.fits", None)]
    assert len(calls()) == 1


def test_stop_ends_after_the_frame_in_work_and_the_rest_is_done_next_time(
    night, inbox, archive, bundle, watch
):
    for path in night:
        shutil.copy2(path, inbox)
    stop, seen = threading.Event(), []

    def on_event(record):
        seen.append(record["frame_id"])
        stop.set()

    aq.watch(
        inbox, archive, bundle, cluster="serial", stop=stop, on_event=on_event, chunk=64,
        settings=aq.WatchSettings(**(TIMES | {"idle": None})),
    )  # fmt: skip
    assert len(seen) == 1
    assert aq.verify(archive, cluster="serial").sound
    rest = [frame for (frame,) in frames_of(watch(5))]
    assert sorted(seen + rest) == [path.name for path in night]


def test_a_full_disk_is_waited_for(watch, night, inbox, archive, monkeypatch, hook):
    command, calls = hook
    more = feed(night[:3], inbox)
    more()
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.05, 0.1))
    write, failures = QualityStore.write_shard, []

    def full(self, start, block):
        if len(list(inbox.iterdir())) == 2 and len(failures) < 3:
            failures.append(start)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, start, block)

    monkeypatch.setattr(QualityStore, "write_shard", full)
    events = watch(3, more, on_good=command)
    assert frames_of(events, "verdict") == [(path.name, "good") for path in night[:3]]
    assert len(failures) == 3
    assert len(calls()) == 3
    assert aq.verify(archive, cluster="serial").sound


def test_a_full_disk_of_the_products_is_waited_for(watch, night, inbox, archive, monkeypatch):
    shutil.copy2(night[0], inbox)
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.05, 0.1))
    append, failures = module.Journal.append, []

    def full(self, *records):
        if records and len(failures) < 2:
            failures.append(records)
            raise ArchiveError("watch.jsonl could not be written: No space left on device")
        append(self, *records)

    monkeypatch.setattr(module.Journal, "append", full)
    assert frames_of(watch(1), "verdict") == [("f00.fits", "good")]
    assert len(failures) == 2


def test_an_archive_that_stays_out_of_reach_ends_the_watch_in_the_end(watch, night, inbox, monkeypatch):
    shutil.copy2(night[0], inbox)
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(module, "GIVE_UP_SECONDS", 0.05)

    def full(self, start, block):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(QualityStore, "write_shard", full)
    with pytest.raises(ArchiveError, match="No space left"):
        watch()


def test_an_archive_that_another_process_writes_to_is_refused(watch, night, inbox, archive):
    shutil.copy2(night[0], inbox)
    watch(1)
    with writing(archive), pytest.raises(ArchiveError, match="another aqdask process is writing"):
        watch()
