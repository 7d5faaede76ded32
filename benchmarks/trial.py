"""A place for one fault: a night of its own, commands as real processes, and a count of lost frames."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from distributed import Client

import aqdask as aq
from aqdask.execution.pipeline import group_name

HERE = Path(__file__).resolve().parent
SHARD = 2  # frames a shard of the maps
SETTINGS = {"chunk": 128, "frames_per_shard": SHARD}
OPTIONS = ("--chunk", 128, "--frames-per-shard", SHARD)
PATIENCE = 300  # seconds until a process counts as one that hangs
LONG = 30  # seconds that a command takes before the table says so
PENDING = "pending_fault_"  # beginning of the names of files
QUIET = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}


@dataclass
class Ended:
    """Output of a process, and its exit code; negative where a signal ended it."""

    code: int
    text: str
    seconds: float


@dataclass
class Undisturbed:
    """The night as one serial process takes it in and scores it."""

    night: Path
    pixels: Path
    scored: Path
    model: Path


@dataclass
class Trial:
    """One fault.

    ``night`` is its own copy of the sources, ``archive`` is where commands work; ``expected`` is the archive
    that must come out. What goes otherwise than stated is a finding.
    """

    folder: Path
    undisturbed: Undisturbed
    outcome: str = ""
    recovered: list[str] = field(default_factory=list)
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.night = Path(shutil.copytree(self.undisturbed.night, self.folder / "night"))
        self.archive, self.expected = self.folder / "a.zarr", self.undisturbed.scored
        self.list = self.folder / "list.txt"
        self.list.write_text("".join(f"{path}\n" for path in self.sources()))

    def sources(self) -> list[Path]:
        """Files of the night in the order of their rows."""
        return sorted(self.night.glob("*.fits"))

    def stored(self, archive: Path | None = None) -> None:
        """Let the night be taken in and scored already, in this process."""
        archive = archive or self.archive
        aq.ingest(self.night, archive, cluster="serial", **SETTINGS)
        aq.score(archive, str(self.undisturbed.model), cluster="serial")

    def expect_as_now(self, last: str = "") -> None:
        """Expect what an undisturbed process makes of the sources as they are, ``last`` in the last row."""
        self.expected = self.folder / "expected.zarr"
        if last:
            others = [path for path in self.sources() if path.name != last]
            aq.ingest(others, self.expected, cluster="serial", **SETTINGS)
        self.stored(self.expected)

    def words(self, name: str) -> tuple[object, ...]:
        """The command line of ingest, score, run, verify, repair or export; ``name@``: from the list."""
        source = f"@{self.list}" if name.endswith("@") else self.night
        model = ("--model", self.undisturbed.model)
        return {
            "ingest": ("ingest", source, self.archive, *OPTIONS),
            "score": ("score", self.archive, *model),
            "run": ("run", source, self.archive, *model, *OPTIONS),
            "verify": ("verify", self.archive),
            "repair": ("verify", self.archive, "--repair"),
            "export": ("export", self.archive, self.folder / "products"),
        }[name.rstrip("@")]

    # --- processes ---------------------------------------------------------------------------------------

    def start(
        self, *words: object, cluster: str = "local:2", fault: str = "", before: tuple[object, ...] = ()
    ) -> subprocess.Popen:
        """`aqdask` in a session of its own; ``fault`` as in faults/sitecustomize.py."""
        command = ["-W", "ignore", "-m", "aqdask", *words, "--cluster", cluster, "--quiet"]
        return spawn([*before, sys.executable, *command], self.folder, fault=fault)

    def end(self, process: subprocess.Popen, since: float) -> Ended:
        """Wait for a process; one that does not end is killed, and a finding."""
        try:
            text, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            kill_group(process)
            text, _ = process.communicate()
            self.findings.append(f"no end after {PATIENCE} s")
        return Ended(process.returncode, text, time.monotonic() - since)

    def command(self, *words: object, **how) -> Ended:
        """`start` and `end`."""
        since = time.monotonic()
        return self.end(self.start(*words, **how), since)

    def wait(self, process: subprocess.Popen, what: str, count: int) -> None:
        """Wait until ``count`` shards of a variable are stored."""
        deadline = time.monotonic() + PATIENCE
        while shards(self.archive, what) < count:
            if process.poll() is not None or time.monotonic() > deadline:
                self.findings.append(f"the fault came too late: {what} of {count} shards were not seen")
                return
            time.sleep(0.005)

    # --- verdicts ----------------------------------------------------------------------------------------

    def expect(self, ended: Ended, code: int, words: str = "") -> None:
        """Note how the fault ended, with the part of the message that ``words`` (or its groups) match.

        ALL in ``words`` stands for the number of frames of a night.
        """
        words = words.replace("ALL", str(len(list(self.undisturbed.night.glob("*.fits")))))
        flat = " ".join(ended.text.replace(str(self.folder), "").split())
        found = re.search(words, flat)
        shown = f"exit {ended.code}" if ended.code >= 0 else f"killed ({signal.Signals(-ended.code).name})"
        shown += f" after {ended.seconds:.0f} s" if ended.seconds > LONG else ""
        said = f': "{" ... ".join(found.groups() or [found[0]])}"' if found and words else ""
        self.outcome += ("; " if self.outcome else "") + shown + said
        if "Traceback" in ended.text:
            by = re.search(r"[\w.]+ - (?:ERROR|CRITICAL)", flat)
            self.findings.append(f"a traceback is shown{f' ({by[0]})' if by else ''}")
        if ended.code != code or not found:
            self.findings.append(f"expected exit {code} with /{words}/, got exit {ended.code}: {flat[-600:]}")

    def recover(self, *words: object, code: int = 0, says: str = "", told: str = "", **how) -> Ended:
        """Run the command that mends it, timed; ``told`` is how the table names it."""
        ended = self.command(*words, **how)
        self.note(told or " ".join(str(word) for word in words[:1]), ended.seconds)
        flat = " ".join(ended.text.split())
        if ended.code != code or not re.search(says, flat):
            self.findings.append(f"recovery: expected exit {code}, got {ended.code}: {flat[-600:]}")
        return ended

    def note(self, told: str, seconds: float) -> None:
        """One step of the recovery."""
        self.recovered.append(told)
        self.seconds += seconds

    def same_command(self, ended: Ended, **how) -> None:
        """Run, word by word, the command that an interrupted one says resumes it."""
        line = re.search(r"run the same command again: aqdask (.*)", ended.text)
        if line is None:
            self.findings.append("no command to resume with was named")
            return
        self.recover(*shlex.split(line[1].split(" --cluster")[0]), told="the command it names", **how)

    def conclude(self) -> list[str]:
        """Frames that are lost; an archive that is not sound, or a fault that hit nothing, is a finding."""
        self.findings += [f"the fault hit nothing: {path.read_text()}" for path in pending(self.folder)]
        found = aq.verify(self.archive, cluster="serial")
        if not found.sound:
            self.findings.append(f"not sound: {(found.damage + found.incomplete)[:3]}")
        return frames_lost(self.archive, self.expected)


def spawn(
    command: list[object],
    folder: Path,
    *,
    fault: str = "",
    package: Path = HERE.parent,
    output: int = subprocess.PIPE,
) -> subprocess.Popen:
    """Start a process in a session of its own, with the package of one folder.

    It starts in the root folder: ``python -m`` would take the package of the folder that it starts in.
    A fault that has not struck yet is `pending` in ``folder``.
    """
    path = os.pathsep.join([str(HERE / "faults"), str(package)])
    variables = os.environ | QUIET | {"PYTHONPATH": path}
    if fault:
        mark = folder / f"{PENDING}{zlib.crc32(fault.encode())}"  # one for all processes with this fault
        mark.write_text(fault)
        variables |= {"AQDASK_FAULT": fault, "AQDASK_FAULT_PENDING": str(mark)}
    return subprocess.Popen(
        [str(word) for word in command], start_new_session=True, text=True, stdout=output,
        stderr=subprocess.STDOUT, cwd="/", env=variables,
    )  # fmt: skip


def pending(folder: Path) -> list[Path]:
    """Files of the faults that processes were started with, and that have struck in none of them."""
    return sorted(folder.glob(f"{PENDING}*"))


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL for a process and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Worker processes of a local cluster."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    """Tell a worker process from others that its client started; False for one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "spawn_main" in " ".join(process.cmdline())
    return False


class Cluster:
    """A scheduler and workers started by hand."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", before: tuple[object, ...] = ()) -> None:
        self.processes: list[subprocess.Popen] = []
        self.folder, self.file, self.host, self.before = folder, folder / "scheduler.json", host, before

    def scheduler(self) -> None:
        """Start the scheduler, and wait for its address."""
        self.file.unlink(missing_ok=True)
        self._start(
            "scheduler", "--host", self.host, "--port", 0, "--dashboard-address", "127.0.0.1:0",
            "--scheduler-file", self.file, before=self.before,
        )  # fmt: skip
        until(lambda: self.file.exists() and self.file.read_text().endswith("}"))

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return re.search(r"tcp://[\d.:]+", self.file.read_text())[0]

    def worker(
        self, count: int, *options: object, before: tuple[object, ...] = (), **how
    ) -> subprocess.Popen:
        """Start one worker, and wait until there are ``count``."""
        place = ("--local-directory", self.folder / "dask", "--nthreads", 1, *options)
        process = self._start("worker", "--scheduler-file", self.file, *place, before=before, **how)
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=PATIENCE)
        return process

    def count(self) -> int:
        """Number of workers that the scheduler knows."""
        with Client(self.address, set_as_default=False) as client:
            return len(client.nthreads())

    def _start(self, *words: object, before: tuple[object, ...] = (), **how) -> subprocess.Popen:
        command = [*before, sys.executable, "-m", "dask", *words]
        process = spawn(command, self.folder, output=subprocess.DEVNULL, **how)
        self.processes.append(process)
        return process

    def kill(self, *processes: subprocess.Popen) -> None:
        """SIGKILL for some of the processes, or for all."""
        for process in processes or self.processes:
            kill_group(process)
            process.wait()


@contextlib.contextmanager
def by_hand(folder: Path, workers: int, **how) -> Iterator[Cluster]:
    """A cluster that is killed afterwards; ``how`` as of `Cluster`."""
    cluster = Cluster(folder, **how)
    try:
        cluster.scheduler()
        for number in range(workers):
            cluster.worker(number + 1)
        yield cluster
    finally:
        cluster.kill()


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a benchmark waited in vain")
        time.sleep(0.02)


# --- archives from outside ---------------------------------------------------------------------------------


def shards(archive: Path, what: str) -> int:
    """Stored shards of a variable."""
    return sum(path.is_file() for path in archive.glob(f"*/{what}/c/**/*")) + sum(
        path.is_file() for path in archive.glob(f"quality/*/{what}/c/**/*")
    )


def stored(archive: Path) -> dict[str, bytes]:
    """Bytes of stored pixels and maps, by name.

    Coordinates are left out, since they hold paths, and what a killed writer left half written.
    """
    places = ("frames/image/c", "frames/invalid/c", "quality")
    found = (path for place in places for path in (archive / place).rglob("*") if path.is_file())
    names = ((path, path.relative_to(archive).as_posix()) for path in found)
    whole = ((path, name) for path, name in names if "/c/" in name and not name.endswith(".partial"))
    return {name: path.read_bytes() for path, name in whole}


def frames_lost(archive: Path, expected: Path) -> list[str]:
    """Frames whose stored pixels or maps are not those of the expected archive, by id."""
    here, there = stored(archive), stored(expected)
    ids = [str(name) for name in aq.open_frames(expected)["frame_id"].values]
    if not archive.exists() or not there:
        return ids
    rows: set[int] = set()
    for name in {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}:
        position = [int(part) for part in name.partition("/c/")[2].split("/") if part.isdecimal()]
        if name.startswith("frames/"):
            rows.add(position[0])
        elif len(position) == 3:
            rows.update(range(position[0] * SHARD, (position[0] + 1) * SHARD))
        else:  # one object for all frames
            rows.update(range(len(ids)))
    return [ids[row] for row in sorted(rows) if row < len(ids)]


def prepare(folder: Path, frames: int, size: int, seed: int, model: aq.Bundle) -> Undisturbed:
    """Draw the night, all frames different, and take it in and score it serially."""
    from aqdask.simulate.demo import demo_plan, write_demo_frame

    night = folder / "night"
    for frame in demo_plan(frames, size, seed):
        write_demo_frame(night, frame)
    for other in night.iterdir():  # the truth is for others
        if other.suffix != ".fits":
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    pixels, scored = folder / "pixels.zarr", folder / "scored.zarr"
    model.save(folder / "model.safetensors")
    for archive in (pixels, scored):
        aq.ingest(night, archive, cluster="serial", **SETTINGS)
    aq.score(scored, model, cluster="serial")
    assert any(group_name(model) in name for name in stored(scored))
    return Undisturbed(night, pixels, scored, folder / "model.safetensors")
