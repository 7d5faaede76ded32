"""The lock of an archive: who holds it, when it is stale, and what others are told."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aqdask.errors import ArchiveError
from aqdask.io import places
from aqdask.store import lease
from aqdask.store.lease import Lease, sole_writer

SHORT = 0.4  # seconds after which a lease of another machine is stale


@pytest.fixture
def archive(tmp_path) -> Path:
    """A folder."""
    (tmp_path / "a.zarr").mkdir()
    return tmp_path / "a.zarr"


def said(archive: Path) -> dict:
    return json.loads((archive / lease.NAME).read_text())


def write(archive: Path, **about) -> None:
    known = {
        "host": "node7",
        "user": "eve",
        "pid": 4711,
        "machine": "another",
        "since": "2024-05-07T01:00:00",
    }
    (archive / lease.NAME).write_text(json.dumps(known | {"token": "theirs", "beat": 1} | about))


def another_machine(monkeypatch) -> None:
    """Do what follows on another machine, which sees no process of this one and no flock of it."""
    monkeypatch.setattr(lease, "_machine", lambda: "this machine, from elsewhere")
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)


def test_it_is_there_while_it_is_held_and_gone_afterwards(archive):
    with sole_writer(archive):
        assert said(archive)["pid"] == os.getpid()
    assert list(archive.iterdir()) == []


def test_the_second_is_told_who_holds_it(archive):
    with sole_writer(archive):
        since = re.escape(said(archive)["since"])
        words = rf"another aqdask process is writing to .*: process {os.getpid()} of .* on .*, since {since}"
        with (
            pytest.raises(ArchiveError, match=rf"{words}.*What to do: wait for it to finish"),
            sole_writer(archive),
        ):
            pass
        assert said(archive)["pid"] == os.getpid()


@pytest.mark.parametrize("error", [OSError(9, "flock of a folder over NFS"), None])
def test_where_flock_says_nothing_the_lease_does(archive, monkeypatch, error):
    def flock(*arguments):
        if error:
            raise error

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        sole_writer(archive),
        pytest.raises(ArchiveError, match="another aqdask process"),
        sole_writer(archive),
    ):
        pass


def test_another_machine_sees_it_renewed_and_refuses(archive, monkeypatch):
    with sole_writer(archive, SHORT):
        with monkeypatch.context() as elsewhere:
            another_machine(elsewhere)
            with pytest.raises(ArchiveError, match=rf"process {os.getpid()} of"), sole_writer(archive, 30):
                pass
        first = said(archive)["beat"]
        time.sleep(SHORT)
        assert said(archive)["beat"] > first


@pytest.mark.parametrize("ahead", [-1e6, 1e6])
def test_a_lease_that_nobody_renews_is_taken_over_whatever_the_clocks_say(archive, ahead):
    write(archive, since=f"in {ahead} s")
    os.utime(archive / lease.NAME, (time.time() + ahead,) * 2)
    started = time.monotonic()
    with sole_writer(archive, SHORT):
        assert said(archive)["pid"] == os.getpid()
    assert time.monotonic() - started >= SHORT


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(archive):
    code = (
        "import sys, time; from aqdask.store.lease import sole_writer\n"
        "with sole_writer(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(archive)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ArchiveError, match=f"process {process.pid} of"), sole_writer(archive):
            pass
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # all its threads, which share the flock
        with sole_writer(archive, 3600):  # a zombie, which nobody has waited for yet, holds nothing
            assert said(archive)["pid"] == os.getpid()
    assert not (archive / lease.NAME).exists()


def test_another_process_with_the_number_of_the_dead_one_does_not_hold_it(archive):
    write(archive, machine=lease._machine(), pid=os.getpid(), began=1e9)
    with sole_writer(archive, 3600):
        assert said(archive)["began"] != 1e9


def test_a_holder_that_stood_still_stops_when_it_was_taken_over(archive, monkeypatch):
    one = Lease(archive, 30)
    one.acquire()
    one.check()
    one.seconds = SHORT  # awakes from now on
    with monkeypatch.context() as elsewhere:
        another_machine(elsewhere)
        other = Lease(archive, SHORT)
        elsewhere.setattr(one, "_renew", lambda: None)
        other.acquire()
    one._stopped.set()
    one._thread.join()
    one._stopped.clear()
    one._renew()
    with pytest.raises(ArchiveError, match="not renewed in time and was taken over by process"):
        one.check()
    one.release()  # leaves what is another's
    assert said(archive)["token"] == other._about["token"]
    other.release()
    assert list(archive.iterdir()) == []


def test_of_many_that_find_a_stale_lease_one_gets_it(archive, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)
    monkeypatch.setattr(lease, "_is_running_here", lambda holder: None)
    write(archive)
    held, refused = [], []

    def take() -> None:
        try:
            with sole_writer(archive, SHORT):
                held.append(1)
                time.sleep(2 * SHORT)
        except ArchiveError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 3)


@pytest.mark.parametrize("contents", [b"", b"{", b"[1]", b"\xff"])
def test_a_lease_that_is_half_written_is_watched_as_any_other(archive, contents):
    (archive / lease.NAME).write_bytes(contents)
    with sole_writer(archive, SHORT):
        assert said(archive)["pid"] == os.getpid()


def test_an_answer_that_was_lost_does_not_lock_out_the_holder(archive, monkeypatch):
    create, replace = places.create, places.replace

    def written_but_unanswered(real):
        def call(*arguments):
            real(*arguments)

        return call

    with monkeypatch.context() as unlucky:
        unlucky.setattr(places, "create", written_but_unanswered(create))
        one = Lease(archive, SHORT)
        one.acquire()
    with monkeypatch.context() as unlucky:
        unlucky.setattr(places, "replace", written_but_unanswered(replace))
        time.sleep(SHORT)
    one.check()
    first = said(archive)["beat"]
    time.sleep(SHORT)
    assert said(archive)["beat"] > first
    one.release()
