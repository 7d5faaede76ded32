"""The command ``watch`` as a process: its lines, its end by signals, and what is left after SIGKILL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import psutil
import pytest
import screen_reader
from click.testing import CliRunner
from night import states
from short_watch import FRAMES

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.watching.journal import NAME

SCRIPT = Path(sys.executable).parent / "aqdask"
TIMES = ["--settle", "50ms", "--poll", "20ms", "--patience", "400ms", "--chunk", "64"]


def restore_interrupts():
    """Restore the signals that background jobs such as CI runs ignore in their children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def model(bundle, tmp_path) -> Path:
    bundle.save(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def start(inbox, archive, model):
    """``start(*options)``: the command, running; killed at the end of the test."""
    running = []

    def run(*options):
        words = [SCRIPT, "watch", inbox, archive, "--model", model, *TIMES, *options]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def journal(archive, event="frame"):
    path = archive.with_name("a-products") / NAME
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record for record in records if record["event"] == event]


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_watch_with_everything_written_and_exit_code_0(
    start, night, inbox, archive, number
):
    shutil.copy2(night[0], inbox)
    process = start("--on-good", "true")
    wait_for(lambda: journal(archive), process)
    shutil.copy2(night[1], inbox)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert "good" in lines[0]
    assert lines[-1].startswith(f"{archive}: ")
    assert not (archive / "lock.json").exists()
    assert aq.verify(archive, cluster="serial").sound
    assert (archive.with_name("a-products") / "frames.parquet").exists()
    assert "Traceback" not in err


@pytest.mark.slow
def test_after_sigkill_every_frame_is_done_and_every_command_has_run(start, night, inbox, archive, tmp_path):
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\necho \"$1\" >> '{tmp_path}/hook.log'\n")
    hook.chmod(0o755)
    for count in range(FRAMES - 1):  # killed at another moment each time
        shutil.copy2(night[count], inbox)
        process = start("--on-good", str(hook))
        wait_for(lambda: (archive / "frames").exists(), process)
        time.sleep(0.15 * count)
        process.kill()
        process.communicate()
    shutil.copy2(night[FRAMES - 1], inbox)
    process = start("--on-good", str(hook), "--idle", "1s")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert states(archive) == {path.name: "done" for path in night}
    assert aq.verify(archive, cluster="serial").sound
    assert set((tmp_path / "hook.log").read_text().split()) == {path.name for path in night}
    assert {record["frame_id"] for record in journal(archive, "hook")} == {path.name for path in night}


@pytest.mark.slow
def test_a_second_signal_does_not_wait(start, night, inbox, archive, tmp_path):
    shutil.copy2(night[0], inbox)
    (tmp_path / "hangs").write_text("#!/bin/sh\nsleep 99\n")
    (tmp_path / "hangs").chmod(0o755)
    process = start("--on-good", str(tmp_path / "hangs"), "--hook-timeout", "99s")
    wait_for(lambda: journal(archive), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130
    running = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in running if str(tmp_path) in command]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_gives_the_same_results(start, night, inbox, archive, bundle, tmp_path):
    for path in night:
        shutil.copy2(path, inbox)
    process = start("--cluster", "local:2", "--frames-per-shard", "1", "--idle", "1s", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    frames = {r["frame_id"]: r["frame_score"] for r in records if r["event"] == "frame"}
    aq.run(inbox, tmp_path / "whole.zarr", bundle, cluster="serial", chunk=64)
    with dask.config.set(scheduler="synchronous"):
        quality = aq.open_quality(tmp_path / "whole.zarr").load()
    expected = zip(quality["frame_id"].values.tolist(), quality["frame_score"].values.tolist(), strict=True)
    assert frames == dict(expected)


def invoke(*words):
    return CliRunner().invoke(aqdask, ["watch", *map(str, words)])


def test_lines_tell_the_verdict_and_json_the_records(night, inbox, archive, model):
    shutil.copy2(night[0], inbox)
    (inbox / "short.fits").write_bytes(night[1].read_bytes()[:9999])
    found = invoke(inbox, archive, "--model", model, *TIMES, "--idle", "1s")
    assert found.exit_code == 0, found.output
    good, bad, end = found.stdout.splitlines()
    assert " good " in good
    assert "f00.fits  score " in good
    assert "masked 0.0%" in good
    assert " bad " in bad
    assert "short.fits  truncated" in bad
    assert end == f"{archive}: 1 good, 1 bad"
    shutil.copy2(night[2], inbox)
    found = invoke(inbox, archive, "--model", model, *TIMES, "--idle", "1s", "--json")
    records = [json.loads(line) for line in found.stdout.splitlines()]
    (record,) = [r for r in records if r["event"] == "frame"]
    assert (record["frame_id"], record["verdict"], record["mask"]) == ("f02.fits", "good", "")
    assert {"event": "end", "good": 1, "bad": 0}.items() <= records[-1].items()


def test_quiet_shows_warnings_and_the_end_only(night, inbox, archive, model):
    shutil.copy2(night[0], inbox)
    found = invoke(inbox, archive, "--model", model, *TIMES, "--idle", "1s", "--quiet", "--on-good", "false")
    assert found.stdout.splitlines() == [f"{archive}: 1 good, 0 bad, 1 command failed"]
    assert found.stderr.splitlines() == ["warning: --on-good on f00.fits ended with exit code 1"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--bad-if", "masked > 1"], "no column of the frame table"),
        (["--settle", "soon"], "no time above 0"),
        (["--on-bad", "'"], "No closing quotation"),
        (["--retry"], "No such option"),
    ],
)
def test_options_that_cannot_be_are_usage_errors(options, why, inbox, archive, model):
    found = invoke(inbox, archive, "--model", model, *options)
    assert found.exit_code == 2
    assert why in found.output
    assert "live page" not in found.output
    assert not archive.exists()


@pytest.mark.browser
def test_the_live_page_shows_frames_as_they_come(start, night, inbox, archive, require):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    require(chromium, "no chromium on PATH")
    name = "<img src=x onerror=alert(1)>.fits"
    shutil.copy2(night[0], inbox / name)
    process, problems = start("--json"), []
    messages = (json.loads(line).get("text", "") for line in process.stdout)
    address = next(text for text in messages if text.startswith("live page: ")).removeprefix("live page: ")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page()
        view.on("console", lambda message: message.type == "error" and problems.append(message.text))
        view.on("pageerror", lambda error: problems.append(str(error)))
        view.on("dialog", lambda box: (problems.append(f"executed: {box.message}"), box.dismiss()))
        view.goto(address)
        view.get_by_role("heading", name="aqdask watch").wait_for(timeout=60_000)
        view.get_by_role("cell", name=name).first.wait_for(timeout=60_000)
        view.get_by_role("img", name="with its mask").first.wait_for(timeout=60_000)
        shutil.copy2(night[1], inbox)
        view.get_by_role("cell", name="f01.fits").first.wait_for(timeout=60_000)
        images = {name for role, name, _ in screen_reader.check(view) if role == "image"}
        assert "milliseconds a frame, by part of the work" in images
        assert "rate over time" not in images  # that of files that come one by one
        if folder := os.environ.get("AQDASK_SCREENSHOTS"):
            view.screenshot(path=Path(folder) / "watch.png", full_page=True)
        browser.close()
    assert problems == []
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 0
