"""Telemetry of a run in this process, small pictures of its frames, rates and times."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from night import OPTIONS, tiny_bundle, write_night
from PIL import Image

import aqdask as aq
from aqdask import timing
from aqdask.execution import preview
from aqdask.execution.reporter import FrameFacts, Silent
from aqdask.monitor import rate, telemetry
from aqdask.monitor.rate import Rate, duration, rounded
from aqdask.monitor.strict_json import strict_json
from aqdask.monitor.telemetry import Telemetry


@pytest.fixture(scope="module")
def run_of_six(tmp_path_factory):
    """Snapshot after a fused run over six frames and a file that is none, and what another reporter heard."""

    class Heard(Silent):
        calls: list[tuple] = []  # noqa: RUF012

        def frame_done(self, frame_id, facts):
            self.calls.append((frame_id, facts.masked))

        def frame_failed(self, frame_id, reason):
            self.calls.append((frame_id, reason))

    folder = tmp_path_factory.mktemp("night")
    write_night(folder, 6)
    (folder / "text.fits").write_text("no FITS")
    kept = Telemetry(Heard(), "run")
    preview._next = 0.0
    model, archive = tiny_bundle(), folder / "a.zarr"
    aq.run(folder, archive, model, cluster="serial", reporter=kept, products=folder / "p", **OPTIONS)
    kept.close()
    return kept.snapshot(), Heard.calls


def test_every_frame_is_counted_timed_and_passed_on(run_of_six):
    found, heard = run_of_six
    run = next(stage for stage in found["stages"] if stage["stage"] == "run")
    assert (run["done"], run["total"], run["quarantined"]) == (6, 6, 0)
    assert (found["state"], found["quarantined"]) == ("finished", 1)
    (failure,) = found["failures"]
    assert failure["frame_id"].endswith("text.fits")
    assert failure["reason"]
    assert [row["frame_id"] for row in found["latest"]] == [name for name, _ in reversed(heard)][0::2][:6]
    assert found["frames_timed"] == 6
    parts = found["seconds_a_frame"]
    assert all(parts[name] > 0 for name in ("read", "store", "network", "decision", "write"))
    assert sum(found["latest"][0]["seconds"].values()) > 0


def test_masked_fraction_and_reason_are_those_of_the_stored_maps(run_of_six):
    found, _ = run_of_six
    blank = next(row for row in found["latest"] if row["frame_id"] == "L/f04.fits")
    assert 0 < blank["masked"] < 1
    assert blank["reason"] == "no_data"


def test_a_snapshot_is_standard_json_with_a_picture(run_of_six):
    found, _ = run_of_six
    again = json.loads(strict_json(found))
    assert again["pictures"][0]["picture"].startswith("data:image/jpeg;base64,")


def test_few_pictures_are_made(monkeypatch):
    monkeypatch.setattr(preview, "_next", 0.0)
    image = np.ones((300, 200), np.uint16)
    assert preview.preview_now(image, None, None, 0, np.inf) == b""
    made = [preview.preview_now(image, None, None, 0, 60.0) for _ in range(20)]
    assert [bool(picture) for picture in made] == [True] + 19 * [False]


def test_bad_frames_have_pictures_sooner_and_come_first(monkeypatch):
    now = [1.0]
    monkeypatch.setattr(preview, "_next", 0.0)
    monkeypatch.setattr(preview, "_next_bad", 0.0)
    monkeypatch.setattr(preview.time, "monotonic", lambda: now[0])
    image, kept = np.ones((30, 20), np.uint16), Telemetry(Silent(), "score")
    kept.start("score", 40)
    for number in range(40):
        is_bad = number in (3, 4, 20)
        picture = preview.preview_now(image, None, None, 0, 60.0, is_bad=is_bad)
        kept.frame_done(f"{number}", FrameFacts(1.0, 0.1, "size", {"read": 1.0}, picture, is_bad))
        now[0] += 1
    assert [row["frame_id"] for row in kept.snapshot()["pictures"]] == ["20", "4", "3", "0"]


def test_times_are_those_of_one_stage():
    kept = Telemetry(Silent(), "run")
    for stage, seconds in (("ingest", 4.0), ("score", 1.0)):
        kept.start(stage, 1)
        kept.frame_done("a", FrameFacts(1.0, 0.1, "size", {"read": seconds}))
    kept.start("report", 1)
    found = kept.snapshot()
    assert (found["timed_stage"], found["frames_timed"]) == ("score", 1)
    assert found["seconds_a_frame"]["read"] == 1.0


def test_a_picture_costs_at_most_its_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(preview, "_next", 0.0)
    monkeypatch.setattr(preview.time, "monotonic", lambda: now[0])

    def slow(*args):
        now[0] += 1.0
        return b"picture"

    monkeypatch.setattr(preview, "preview", slow)
    assert preview.preview_now(np.ones((2, 2)), None, None, 0, 2.0)
    assert preview._next == pytest.approx(1 / preview.SHARE)


@pytest.mark.parametrize("shape", [(130, 200), (1, 700), (4096, 9), (5, 3)])
@pytest.mark.parametrize("dtype", ["uint16", "float32", ">i2"])
def test_a_picture_shows_bad_patches_in_red_and_no_data_in_blue(shape, dtype):
    image = np.full(shape, 7, dtype)
    n_y, n_x = (-(-n // 32) for n in shape)
    pvalue = np.full((n_y, n_x), 0.5)
    pvalue[0] = 0.0001
    if n_y > 1:
        pvalue[-1] = np.nan
    shown = np.asarray(Image.open(io.BytesIO(preview.preview(image, None, pvalue, 32)))).astype(int)
    assert max(shown.shape) <= preview.SIDE
    red = shown[-1, 0]  # the first row is at the bottom
    assert red[0] > red[2] + 30
    if n_y > 1:
        assert shown[0, 0, 2] > shown[0, 0, 0] + 30


def test_a_picture_of_nothing_is_a_picture():
    assert preview.preview(np.full((40, 50), np.nan)).startswith(b"\xff\xd8")
    assert preview.preview(np.ones((40, 50)), np.ones((40, 50), bool)).startswith(b"\xff\xd8")


def test_parts_of_the_time_do_not_overlap(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    with timing.stopwatch() as seconds, timing.timed("network"), timing.timed("statistics"):
        pass
    assert seconds == {"network": 2, "statistics": 1}
    with timing.timed("nothing listens"):
        pass


def test_a_rate_forgets_the_start_and_states_no_time_left_at_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(rate.time, "monotonic", lambda: now[0])
    measured = Rate()
    assert measured.per_second() == 0
    now[0] = 10.0  # workers were started
    measured.add(1)
    assert measured.seconds_left(5) is None
    for now[0] in (11.0, 12.0):
        measured.add(2)
    assert measured.per_second() == pytest.approx(2)
    assert measured.seconds_left(10) == pytest.approx(5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (150, "2 min"), (12_000, "3 h 20 min")]
)
def test_a_duration_in_words(seconds, text):
    assert duration(seconds) == text


def test_telemetry_is_bounded():
    kept = Telemetry(Silent(), "score")
    kept.start("score", 10_000)
    for number in range(500):
        kept.frame_done(f"{number}", FrameFacts(1.0, 0.1, "size", {"read": 0.1}, b"x"))
        kept.frame_failed(f"bad {number}", "why")
        kept.say("note")
        kept.advance(1)
        kept.snapshot()
    found = kept.snapshot()
    lengths = {name: len(found[name]) for name in ("latest", "pictures", "failures", "messages")}
    assert lengths == {
        "latest": telemetry.LATEST, "pictures": telemetry.PICTURES, "failures": telemetry.FAILURES,
        "messages": telemetry.MESSAGES,
    }  # fmt: skip
    assert found["quarantined"] == 500
    assert len(found["history"]) <= telemetry.HISTORY


@pytest.mark.parametrize(
    ("rate", "text"), [(0.05412, "0.0541"), (9.84, "9.84"), (999.4, "999"), (2400.0, "2,400")]
)
def test_a_rate_in_three_digits_without_an_exponent(rate, text):
    assert rounded(rate) == text
