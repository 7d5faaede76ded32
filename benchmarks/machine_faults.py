"""Faults of machines for bench_faults.py: signals, memory, networks, clocks, ports, local disks, bombs."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import helpers
import psutil
from trial import Trial, by_hand, kill_group, until, workers_of

DONE = "ALL done, 0 quarantined, 0 pending"
EVERY = 5.0  # seconds between two kills
KILLS = 7  # at most: a frame on which eight workers die counts as one that kills them
SHORT = (
    "env", "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP=12s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=12s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=12s",
)  # fmt: skip
IMPATIENT = ("env", "DASK_AQDASK__WORKER_TIMEOUT=6s")
MEMORY = 1024  # MiB that a worker may take for a bomb
CONTAINER = 700  # MiB of a container that holds a worker and a frame, but not twice as much
GROUPS = Path("/sys/fs/cgroup")
LEASE = 8  # seconds after which the lock of another host is stale; renewed six times in them


def slow(seconds: float) -> str:
    """Fault that makes every reading of a source take a while, so that a run can be caught in the middle."""
    return f"sleep={seconds} .fits read_frame"


# --- signals ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def load() -> Iterator[None]:
    """Keep every core busy."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def killed_at_random(trial: Trial) -> None:
    """SIGKILL of one of two workers every few seconds, on a machine whose cores are busy."""
    draw, kills, since = random.Random(helpers.SEED), 0, time.monotonic()
    with load():
        process = trial.start(*trial.words("run"), fault=slow(2))
        trial.wait(process, "image", 1)
        while process.poll() is None:
            if (victims := workers_of(process)) and kills < KILLS:
                with contextlib.suppress(psutil.NoSuchProcess):
                    draw.choice(victims).kill()
                    kills += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(EVERY)
        ended = trial.end(process, since)
    trial.expect(ended, 0, DONE)
    trial.note(f"by itself, {kills} kills", ended.seconds)
    if kills < 2:
        trial.findings.append(f"only {kills} kills")


def stopped(trial: Trial, seconds: float) -> None:
    """SIGSTOP of one of two workers, for a while or (0) for good."""
    with by_hand(trial.folder, 0, before=SHORT) as cluster:
        workers = [cluster.worker(number, fault=slow(1)) for number in (1, 2)]
        since = time.monotonic()
        process = trial.start(*trial.words("run"), cluster=cluster.address)
        trial.wait(process, "pvalue", 1)
        (victim,) = workers_of(workers[0])
        victim.suspend()
        if seconds:
            time.sleep(seconds)
            victim.resume()
        ended = trial.end(process, since)
        trial.expect(ended, 0, DONE)
    trial.note("by itself", ended.seconds)


def worker_told_to_end(trial: Trial) -> None:
    """SIGTERM of one of two workers and its nanny, as batch systems send it before they take a node back."""
    with by_hand(trial.folder, 0) as cluster:
        workers = [cluster.worker(number, fault=slow(0.5)) for number in (1, 2)]
        since = time.monotonic()
        process = trial.start(*trial.words("run"), cluster=cluster.address)
        trial.wait(process, "pvalue", 1)
        os.killpg(workers[0].pid, signal.SIGTERM)
        ended = trial.end(process, since)
        trial.expect(ended, 0, DONE)
    trial.note("by itself, by the other worker", ended.seconds)


def client_killed(trial: Trial) -> None:
    """SIGKILL of the client alone; the same command runs while its workers still work for the first."""
    with by_hand(trial.folder, 0) as cluster:
        for number in (1, 2):
            cluster.worker(number, fault=slow(1))
        since = time.monotonic()
        process = trial.start(*trial.words("run"), cluster=cluster.address)
        trial.wait(process, "pvalue", 1)
        process.kill()
        trial.expect(trial.end(process, since), -signal.SIGKILL)
        trial.recover(*trial.words("run"), cluster=cluster.address, told="same command at once")


# --- two hosts ----------------------------------------------------------------------------------------------


def on_host(name: str, locks: bool) -> tuple[object, ...]:
    """Words before a command that give it a host name and process numbers of its own, as another host has.

    Without ``locks``, flock fails as on NFS that is mounted without them.
    """
    lock = (f"DASK_AQDASK__LOCK_TIMEOUT={LEASE}s", *(() if locks else ("AQDASK_NO_FLOCK=1",)))
    spaces = ("unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
    return ("env", *lock, *spaces, "sh", "-c", 'hostname "$0" && exec "$@"', name)


def may_unshare() -> bool:
    """Tell whether this user may make name spaces."""
    command = [*map(str, on_host("node-a", True)), "true"]
    return shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True).returncode


def second_host(trial: Trial, locks: bool) -> None:
    """Another host writes to the archive: it is refused, and takes over once the first client is killed."""
    if not may_unshare():
        return not_tried(trial, "no name spaces can be made")
    since, hangs = time.monotonic(), "sleep=3600 frame_004.fits read_frame"
    first = trial.start(*trial.words("run"), before=on_host("node-a", locks), fault=hangs)
    trial.wait(first, "pvalue", 1)
    second = trial.command(*trial.words("run"), before=on_host("node-b", locks))
    trial.expect(second, 3, r"(another aqdask process is writing to) \S+: (process 1 of \S+ on node-a)")
    kill_group(first)
    trial.expect(trial.end(first, since), -signal.SIGKILL)
    told = f"same command on the other host, {LEASE} s of them for the lock"
    ended = trial.recover(*trial.words("run"), before=on_host("node-b", locks), told=told)
    if "is locked by process 1" not in " ".join(ended.text.split()) or ended.seconds < LEASE:
        trial.findings.append(f"the lock was not waited for: {ended.text[-600:]}")


def begun_at_once(trial: Trial) -> None:
    """Two hosts begin one archive at the same moment: one does it, the other one is refused."""
    if not may_unshare():
        return not_tried(trial, "no name spaces can be made")
    since, hosts = time.monotonic(), [on_host(name, False) for name in ("node-a", "node-b")]
    both = [trial.start(*trial.words("run"), before=host, fault=slow(2)) for host in hosts]
    won, refused = sorted((trial.end(process, since) for process in both), key=lambda ended: ended.code)
    trial.expect(won, 0, DONE)
    trial.expect(refused, 3, r"another aqdask process is writing to \S+: (process 1 of \S+ on node-[ab])")
    trial.note("nothing to mend", 0)


# --- memory -------------------------------------------------------------------------------------------------


def out_of_memory(trial: Trial, limit: str, words: str) -> None:
    """Workers with less memory than a frame takes (``--memory-limit``)."""
    with by_hand(trial.folder, 0) as cluster:
        poor = cluster.worker(1, "--memory-limit", limit)
        ended = trial.command(*trial.words("run"), cluster=cluster.address, before=IMPATIENT)
        trial.expect(ended, 3, words)
        cluster.kill(poor)
        cluster.worker(1)
        trial.recover(*trial.words("run"), cluster=cluster.address, told="a worker with memory, same command")


@contextlib.contextmanager
def container(mebibytes: int) -> Iterator[tuple[object, ...] | None]:
    """Words before a command that limit its memory, as batch systems do; None where that is not permitted."""
    version_1 = (GROUPS / "memory").is_dir()
    folder = GROUPS / ("memory" if version_1 else "") / f"aqdask-{os.getpid()}"
    limit = "memory.limit_in_bytes" if version_1 else "memory.max"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(mebibytes * 2**20))
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        yield None
        return
    try:
        yield ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', folder)
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def small_container(trial: Trial) -> None:
    """The kernel kills a worker that takes more than its cgroup may hold; another one does the work."""
    with container(CONTAINER) as before:
        if before is None:
            return not_tried(trial, "no cgroup for memory can be made")
        with by_hand(trial.folder, 0) as cluster:
            poor = cluster.worker(1, before=before, fault=f"memory={CONTAINER} .fits read_frame")
            ended = trial.command(*trial.words("run"), cluster=cluster.address, before=IMPATIENT)
            killed = r"\d workers? died, the last crashed or was killed; Dask allowed it \d+ MiB of memory"
            trial.expect(ended, 3, f"({killed}|all workers are gone)")
            cluster.kill(poor)
            until(lambda: not cluster.count())
            cluster.worker(1)
            trial.recover(*trial.words("run"), cluster=cluster.address, told="a larger job, same command")


def not_tried(trial: Trial, why: str) -> None:
    """Say that a fault could not be let loose here."""
    trial.outcome = f"not tried: {why}"
    shutil.copytree(trial.expected, trial.archive)


# --- network, clocks, ports, local disks --------------------------------------------------------------------


@contextlib.contextmanager
def network() -> Iterator[tuple[str, str, Callable[[str], None]] | None]:
    """A network namespace joined by one cable: its name, the address outside, and a switch (up or down)."""
    name, cable = f"aqdask-{os.getpid()}", f"aq{os.getpid()}"
    here, there = f"10.213.{os.getpid() % 250}.1", f"10.213.{os.getpid() % 250}.2"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "inside", "netns", name)
        ip("addr", "add", f"{here}/30", "dev", cable)
        ip("link", "set", cable, "up")
        for words in (f"addr add {there}/30 dev inside", "link set inside up", "link set lo up"):
            ip("-n", name, *words.split())
        yield name, here, lambda state: ip("link", "set", cable, state)
    finally:
        ip("netns", "del", name)  # and the cable with it


def cut_off(trial: Trial, others: int, seconds: float) -> None:
    """A worker loses its network, for less time than the time-outs or until it is given up, and returns."""
    with network() as found:
        if found is None:
            return not_tried(trial, "no network namespace can be made")
        name, host, switch = found
        with by_hand(trial.folder, 0, host=host, before=SHORT) as cluster:
            inside = (*SHORT, "ip", "netns", "exec", name)
            cluster.worker(1, before=inside, fault=slow(1))
            for number in range(others):
                cluster.worker(number + 2, fault=slow(4 if not seconds else 1))
            since = time.monotonic()
            process = trial.start(*trial.words("run"), cluster=cluster.address)
            trial.wait(process, "pvalue", 1)
            switch("down")
            if seconds:
                time.sleep(seconds)
            else:
                until(lambda: cluster.count() == others)
            switch("up")
            if not seconds:  # distributed ends a worker that was given up: its supervisor starts another
                cluster.worker(others + 1, before=inside)
            ended = trial.end(process, since)
            trial.expect(ended, 0, DONE)
    trial.note(
        "by itself" if seconds else "by itself, with a worker that its supervisor started", ended.seconds
    )


def other_clocks(trial: Trial, seconds: int) -> None:
    """The clocks of both workers are wrong, one ahead and one behind."""
    with by_hand(trial.folder, 0) as cluster:
        for number, shift in enumerate((seconds, -seconds), 1):
            cluster.worker(number, before=("env", f"AQDASK_CLOCK={shift}"))
        ended = trial.command(*trial.words("run"), cluster=cluster.address)
        trial.expect(ended, 0, DONE)
    trial.note("nothing to mend", 0)


def without_aqdask(trial: Trial) -> None:
    """A worker whose Python finds no aqdask is there from the start."""
    with by_hand(trial.folder, 1) as cluster:
        bare = cluster.worker(2, before=("env", "AQDASK_HIDDEN=1"))
        trial.expect(
            trial.command(*trial.words("run"), cluster=cluster.address), 3, r"tcp://\S+ has aqdask missing"
        )
        cluster.kill(bare)
        trial.recover(*trial.words("run"), cluster=cluster.address, told="without that worker, same command")


def port_taken(trial: Trial) -> None:
    """Something else listens where the dashboard should be."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        before = ("env", f"DASK_AQDASK__DASHBOARD_ADDRESS=127.0.0.1:{port}")
        ended = trial.command(*trial.words("run"), before=before)
    trial.expect(ended, 0, f"(port {port} is in use: the dashboard takes a free one).*({DONE})")
    trial.note("by itself", 0)


def full_local_disk(trial: Trial) -> None:
    """The local directory of one of two workers is on a full file system."""
    place = trial.folder / "full"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True
    ).returncode:
        return not_tried(trial, "mounts are not permitted")
    try:
        with contextlib.suppress(OSError):
            (place / "filler").write_bytes(bytes(2**20))
        with by_hand(trial.folder, 1) as cluster:
            cluster.worker(2, "--local-directory", place)
            ended = trial.command(*trial.words("run"), cluster=cluster.address)
            trial.expect(ended, 0, DONE)
    finally:
        subprocess.run(["umount", place], check=True)
    trial.note("nothing to mend", 0)


# --- files that claim too much, and other work between two runs ---------------------------------------------


def header(side: int, bitpix: int = 16) -> bytes:
    """A FITS header of a square image."""
    cards = [
        "SIMPLE  = T",
        f"BITPIX  = {bitpix}",
        "NAXIS   = 2",
        f"NAXIS1  = {side}",
        f"NAXIS2  = {side}",
        "END",
    ]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode()


def bombs(trial: Trial) -> None:
    """Among the sources a header that promises 8 TB, and 3.6 GB of zeros in a .gz of 16 MB."""
    (trial.night / "frame_098.fits").write_bytes(header(2_000_000))
    packer = zlib.compressobj(1, wbits=31)
    pieces = [packer.compress(header(60_000, 8)), *(packer.compress(bytes(2**24)) for _ in range(215))]
    (trial.night / "frame_099.fits.gz").write_bytes(b"".join([*pieces, packer.flush()]))
    process, since, peak = trial.start(*trial.words("run")), time.monotonic(), 0.0
    while process.poll() is None:
        for worker in workers_of(process):
            with contextlib.suppress(OSError, StopIteration):
                peak = max(peak, helpers.peak_memory(worker.pid))
        time.sleep(0.02)
    refused = r"(needs 8000000000000 bytes of data, 0 are there).*(claims 60000 x 60000 px, 3600000000 bytes)"
    trial.expect(trial.end(process, since), 1, refused)
    trial.note(f"the others are done, peak of a worker {peak:.0f} MiB", 0)
    if not 0 < peak < MEMORY:
        trial.findings.append(f"peak of a worker {peak:.0f} MiB")


def source_changed(trial: Trial) -> None:
    """A source has other pixels in the next run."""
    trial.stored()
    shutil.copy(trial.sources()[7], trial.sources()[3])
    trial.expect(trial.command(*trial.words("run")), 0, f"{DONE} .1 done now.")
    trial.expect_as_now()
    trial.note("only that frame is done again", 0)


def model_changed(trial: Trial) -> None:
    """The next run names another model of the same name."""
    import aqdask as aq

    trial.stored()
    other = trial.folder / "other.safetensors"
    bundle = aq.load_model(str(trial.undisturbed.model))
    replace(bundle, notes=(*bundle.notes, "another state")).save(other)
    trial.expected = trial.folder / "expected.zarr"
    trial.stored(trial.expected)
    aq.score(trial.expected, str(other), cluster="serial")
    trial.expect(trial.command("score", trial.archive, "--model", other), 0, f"{DONE} .12 scored now.")
    trial.note("a second group of maps, the first is kept", 0)


def setting_changed(trial: Trial) -> None:
    """The next run asks for other chunks than the archive has."""
    trial.stored()
    words = [64 if word == 128 else word for word in trial.words("run")]
    trial.expect(trial.command(*words), 2, r"aqdask: ([^.]*chunk[^.]*)")
    trial.recover(*trial.words("run"), told="the archive's own setting")


def of_machines() -> dict[str, Callable[[Trial], None]]:
    """Every fault of this module by its name in the table."""
    return {
        "SIGKILL of a worker at random every 5 s, busy cores": killed_at_random,
        "SIGSTOP of one of two workers for 4 s": partial(stopped, seconds=4),
        "SIGSTOP of one of two workers for good": partial(stopped, seconds=0),
        "SIGTERM of one of two workers": worker_told_to_end,
        "SIGKILL of the client alone": client_killed,
        "a second host, flock between them": partial(second_host, locks=True),
        "a second host, no flock": partial(second_host, locks=False),
        "two hosts begin at once, no flock": begun_at_once,
        "memory of a worker too small, all killed": partial(
            out_of_memory,
            limit="320MB",
            words=r"\d workers? died, the last for memory: it held \d+ MiB of \d+ MiB",
        ),
        "memory of a worker too small, all paused": partial(
            out_of_memory,
            limit="400MB",
            words=r"all workers are paused: they hold up to \d+ MiB of at most \d+ MiB",
        ),
        "memory of a container too small": small_container,
        "one of two workers cut off for 4 s": partial(cut_off, others=1, seconds=4),
        "one of two workers cut off until given up": partial(cut_off, others=1, seconds=0),
        "the only worker cut off until given up": partial(cut_off, others=0, seconds=0),
        "clocks of workers a day ahead and behind": partial(other_clocks, seconds=86_400),
        "worker without aqdask": without_aqdask,
        "port of the dashboard taken": port_taken,
        "local disk of one worker full": full_local_disk,
        "bombs among the sources": bombs,
        "source changed between runs": source_changed,
        "model changed between runs": model_changed,
        "setting changed between runs": setting_changed,
    }
