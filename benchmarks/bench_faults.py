"""Faults in real processes: how a command ends, how it is recovered, and that no frame is lost.

    python benchmarks/bench_faults.py [--only REGEX] [--every 1] [--out FILE [--update]]

Every fault has a night of its own, is let loose on `aqdask` as users call it, and is recovered by the command
that the message names. Lost is a frame whose stored pixels or maps are not, byte for byte, those of one
undisturbed serial process. The exit code is 1 where a frame is lost, an archive is not sound afterwards, or
anything ends otherwise than the table of faults below says. See README.md here.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import helpers
import psutil
import trial as trials
from machine_faults import of_machines
from trial import Trial, Undisturbed, by_hand, kill_group, workers_of

import aqdask as aq

sys.path.append(str(trials.HERE.parent / "tests/execution"))  # for kill points, and the tiny model

SLOW = "sleep=0.3 .fits read_frame"  # every reading of a source, so that a run can be caught in the middle
SLOW_SCORE = "sleep=0.3 image/c/"
AGAIN = r"run the same command again"
ONE = "frame_003.fits"
IMPATIENT = ("env", "DASK_AQDASK__WORKER_TIMEOUT=6s")
MEMORY = 1024  # MiB that a worker may take
Fault = Callable[[Trial], None]


# --- death of processes -------------------------------------------------------------------------------------


def caught(trial: Trial, stage: str) -> tuple[subprocess.Popen, float]:
    """A stage on two workers, in the middle of it."""
    if stage == "score":
        aq.ingest(trial.night, trial.archive, cluster="serial", **trials.SETTINGS)
    if stage == "ingest":
        trial.expected = trial.undisturbed.pixels
    since = time.monotonic()
    process = trial.start(*trial.words(stage), fault=SLOW_SCORE if stage == "score" else SLOW)
    trial.wait(process, "image" if stage == "ingest" else "pvalue", 2)
    return process, since


def killed(trial: Trial, stage: str) -> None:
    """SIGKILL of client and workers."""
    process, since = caught(trial, stage)
    kill_group(process)
    trial.expect(trial.end(process, since), -signal.SIGKILL)
    trial.recover(*trial.words(stage), told="same command")


def worker_killed(trial: Trial) -> None:
    """SIGKILL of one of two workers: the run goes on by itself."""
    process, _ = caught(trial, "run")
    workers_of(process)[0].kill()
    ended = trial.end(process, time.monotonic())
    trial.expect(ended, 0, "ALL done, 0 quarantined, 0 pending")
    trial.note("by itself", ended.seconds)


def asked_to_end(trial: Trial, number: signal.Signals) -> None:
    """SIGTERM or SIGHUP of the client, as batch systems and lost terminals send them."""
    process, since = caught(trial, "run")
    process.send_signal(number)
    ended = trial.end(process, since)
    trial.expect(ended, 130, f"(interrupted).*?({AGAIN})")
    if left := [p for p in psutil.process_iter(["cmdline"]) if str(trial.folder) in str(p.info["cmdline"])]:
        trial.findings.append(f"processes are left: {left}")
    trial.same_command(ended)


# --- sources ------------------------------------------------------------------------------------------------


def moved_away(trial: Trial, stored: bool) -> None:
    """The folder of the sources vanishes in mid-run, or after everything was stored."""
    away = trial.night.with_name("away")
    since = time.monotonic()
    if stored:
        trial.stored()
        trial.night.rename(away)
        trial.expect(
            trial.command(*trial.words("run@")), 1, "kept as stored.*?cannot|ALL of them kept as stored"
        )
    else:
        process = trial.start(*trial.words("run@"), fault=SLOW)
        trial.wait(process, "pvalue", 2)
        trial.night.rename(away)
        trial.expect(trial.end(process, since), 1, "source unreachable: the file is not there")
    away.rename(trial.night)
    trial.recover(*trial.words("run@"), told="folder back, same command")


def truncated(trial: Trial) -> None:
    """A source loses its second half after it was stored."""
    trial.stored()
    source = trial.night / ONE
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    trial.expect(
        trial.command(*trial.words("run")),
        1,
        "(truncated: HDU 0 needs .*? are there).*?(1 of them kept as stored)",
    )
    source.write_bytes(whole)
    trial.recover(*trial.words("run"), told="source back, same command")


def replaced(trial: Trial) -> None:
    """A source becomes another one, with another header, between the look at it and its reading."""
    new = trial.night / f"{ONE}.new"
    shutil.copy(trial.sources()[7], new)
    ended = trial.command(*trial.words("run"), fault=f"replace {ONE} read_frame")
    trial.expect(ended, 0, "ALL done, 0 quarantined, 0 pending")
    if new.exists():
        trial.findings.append("the source was not replaced")
    trial.expect_as_now()
    trial.note("the new content, nothing to mend", 0)


def failing_disk(trial: Trial, part: str, code: int, words: str, stored: bool = False) -> None:
    """EIO whenever a source is read."""
    if stored:
        trial.stored()
        for source in trial.sources():
            os.utime(source)
    trial.expect(trial.command(*trial.words("run"), fault=f"EIO {part} read_frame"), code, words)
    trial.recover(*trial.words("run"), told="disk back, same command")


def pipe(trial: Trial) -> None:
    """A named pipe among the sources: reading it would wait for ever."""
    os.mkfifo(trial.night / "frame_099.fits")
    ended = trial.command(*trial.words("run"))
    trial.expect(ended, 1, "frame_099.fits not a regular file")
    trial.note("the others are done, nothing to mend", 0)


def strikes(trial: Trial, fault: str, where: str, command: str, code: int, words: str, how: str) -> None:
    """One file hangs or kills whatever reads it; the others are finished, and it is done when it is well."""
    if command in ("verify", "export"):
        trial.stored()
    if "probe" in fault:
        trial.expect_as_now(last=ONE)
    ended = trial.command(*trial.words(command), "--frame-timeout", "5s", fault=fault, cluster=where)
    trial.expect(ended, code, words)
    again = (*trial.words("run"), "--retry") if how == "run --retry" else trial.words(how)
    trial.recover(*again, told=f"file well, {how}")


def long_tail(trial: Trial) -> None:
    """A .gz whose frame is followed by 2 GB, and a kill while it is read."""
    frame = (trial.night / ONE).read_bytes()
    packer, zeros = zlib.compressobj(1, wbits=31), bytes(2**24)
    packed = [packer.compress(frame), *(packer.compress(zeros) for _ in range(128)), packer.flush()]
    (trial.night / ONE).unlink()
    (trial.night / f"{ONE}.gz").write_bytes(b"".join(packed))
    since, peak = time.monotonic(), 0.0
    for fault in ("sleep=3 .gz read_frame", ""):
        process = trial.start(*trial.words("run"), fault=fault)
        while process.poll() is None and not (fault and trials.shards(trial.archive, "pvalue") >= 5):
            peak = max([peak, *map(peak_of, workers_of(process))])
            time.sleep(0.02)
        if fault:
            time.sleep(1)
            kill_group(process)
            trial.expect(trial.end(process, since), -signal.SIGKILL)
            since = time.monotonic()
    ended = trial.end(process, since)
    trial.note(f"same command (exit {ended.code}), peak of a worker {peak:.0f} MiB", ended.seconds)
    trial.expect_as_now()
    if ended.code or not 0 < peak < MEMORY:
        trial.findings.append(f"exit {ended.code}, peak {peak:.0f} MiB: {ended.text[-600:]}")


def peak_of(process: psutil.Process) -> float:
    """Peak memory in MiB; 0 for a process that has ended."""
    try:
        return helpers.peak_memory(process.pid)
    except (OSError, StopIteration):
        return 0.0


# --- clusters -----------------------------------------------------------------------------------------------


def blind_worker(trial: Trial) -> None:
    """One of two workers does not see the sources."""
    hide = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', trial.night)
    how = {"before": hide} if may_mount() else {"fault": "ENOENT night/"}
    with by_hand(trial.folder, 1) as cluster:
        cluster.worker(2, **how)
        ended = trial.command(*trial.words("run"), cluster=cluster.address)
    trial.expect(ended, 0, "cannot read .*?, which is there: it gets no further tasks")
    trial.note("by itself, by the other worker", ended.seconds)


def other_package(trial: Trial) -> Path:
    """A folder with an aqdask that differs in a comment."""
    folder = trial.folder / "other"
    shutil.copytree(trials.HERE.parent / "aqdask", folder / "aqdask")
    with (folder / "aqdask/flags.py").open("a") as file:
        file.write("# another state of the source\n")
    return folder


def stranger(trial: Trial) -> None:
    """A worker of another version is there from the start."""
    with by_hand(trial.folder, 1) as cluster:
        other = cluster.worker(2, package=other_package(trial))
        ended = trial.command(*trial.words("run"), cluster=cluster.address)
        trial.expect(ended, 3, r"has aqdask \S+ \(here \S+\)")
        cluster.kill(other)
        trial.recover(*trial.words("run"), cluster=cluster.address, told="without that worker, same command")


def late_stranger(trial: Trial) -> None:
    """A worker of another version joins in mid-run."""
    with by_hand(trial.folder, 0) as cluster:
        cluster.worker(1, fault="sleep=2 .fits read_frame")
        since = time.monotonic()
        process = trial.start(*trial.words("run"), cluster=cluster.address)
        trial.wait(process, "pvalue", 1)
        cluster.worker(2, package=other_package(trial))
        trial.expect(trial.end(process, since), 0, r"has aqdask \S+ \(here .*?: it gets no further tasks")
    trial.note("by itself, by the other worker", time.monotonic() - since)


def no_workers(trial: Trial, in_mid_run: bool) -> None:
    """No worker comes, or all of them go."""
    with by_hand(trial.folder, 0) as cluster:
        workers = [cluster.worker(number, fault=SLOW) for number in (1, 2) if in_mid_run]
        since = time.monotonic()
        process = trial.start(*trial.words("run"), cluster=cluster.address, before=IMPATIENT)
        if in_mid_run:
            trial.wait(process, "pvalue", 1)
            cluster.kill(*workers)
        words = "all workers are gone" if in_mid_run else "provided no worker within 6s"
        trial.expect(trial.end(process, since), 3, words)
        cluster.worker(1)
        trial.recover(*trial.words("run"), cluster=cluster.address, told="a worker, same command")


def scheduler_killed(trial: Trial) -> None:
    """SIGKILL of the scheduler in mid-run."""
    with by_hand(trial.folder, 0) as cluster:
        cluster.worker(1, fault=SLOW)
        since = time.monotonic()
        process = trial.start(*trial.words("run"), cluster=cluster.address)
        trial.wait(process, "pvalue", 1)
        cluster.kill(cluster.processes[0])
        trial.expect(
            trial.end(process, since), 3, r"aqdask: (the (?:connection to the )?Dask scheduler [^.]*)"
        )
    with by_hand(trial.folder, 1) as cluster:
        trial.recover(*trial.words("run"), cluster=cluster.address, told="a new cluster, same command")


# --- storage ------------------------------------------------------------------------------------------------


def may_mount() -> bool:
    """Tell whether this user may mount file systems."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True).returncode


def full_disk(trial: Trial) -> None:
    """The archive is on a small file system."""
    if not may_mount():
        trial.outcome = "not tried: mounts are not permitted"
        shutil.copytree(trial.expected, trial.archive)
        return
    place = trial.folder / "small"
    place.mkdir()
    trial.archive = place / "a.zarr"
    half = sum(path.stat().st_size for path in trial.expected.rglob("*")) // 2
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={half}", "none", place], check=True)
    try:
        trial.expect(trial.command(*trial.words("run")), 3, "could not be written: No space left on device")
        subprocess.run(["mount", "-o", "remount,size=512m", place], check=True)
        trial.recover(*trial.words("run"), told="space freed, same command")
        trial.archive = Path(shutil.copytree(trial.archive, trial.folder / "copy.zarr"))
    finally:
        subprocess.run(["umount", place], check=True)


def file_limit(trial: Trial) -> None:
    """No file may become larger than 100 kB (RLIMIT_FSIZE)."""
    ended = trial.command(*trial.words("run"), before=("prlimit", "--fsize=100000"))
    trial.expect(ended, 3, "could not be written: File too large")
    trial.recover(*trial.words("run"), told="without the limit, same command")


LOSSES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "of zero bytes": lambda path: path.write_bytes(b""),
    "with a flipped bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
}


def flipped(data: bytes) -> bytes:
    """One bit in the middle is another one."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def damaged(trial: Trial, place: str, loss: str) -> None:
    """Something stored is lost or not what was written."""
    trial.stored()
    (path,) = trial.archive.glob(place)
    LOSSES[loss](path)
    ended = trial.command(*trial.words("verify"), cluster="serial")
    trial.expect(ended, 3, r"(NOT sound);.*?(run again with --repair)")
    trial.recover(*trial.words("repair"), cluster="serial", told="verify --repair")


def no_quality_group(trial: Trial) -> None:
    """The maps of a model are removed, its copy in the archive with them."""
    trial.stored()
    shutil.rmtree(next((trial.archive / "quality").glob("tiny-*")))
    trial.expect(
        trial.command(*trial.words("verify"), cluster="serial"),
        3,
        r"(NOT sound);.*?(run again with --repair)",
    )
    ended = trial.recover(
        *trial.words("repair"), cluster="serial", code=3, says="its model is lost: `aqdask score`"
    )
    if "aqdask score" in ended.text:
        trial.recover(*trial.words("score"), cluster="serial")


# --- between two operations ---------------------------------------------------------------------------------


def every_point(trial: Trial, name: str, every: int) -> None:
    """The process dies before the first, second, ... change of its store; each time it resumes."""
    from kill_points import Killed, Scene, _contents, killing
    from night import tiny_bundle

    scene = Scene(name, trial.folder / "scene", tiny_bundle())
    trial.expected = scene.copy("expected")
    with killing(None) as point:
        scene.act(trial.expected)
    numbers, worst = range(0, point.count, every), 0.0
    lost: set[str] = set()
    for at in numbers:
        trial.archive = scene.copy("killed")
        try:
            with killing(at, torn=at % 2 == 1):
                scene.act(trial.archive)
            trial.findings.append(f"not killed at {at}")
        except Killed:
            pass
        since = time.monotonic()
        scene.act(trial.archive)
        worst = max(worst, time.monotonic() - since)
        lost.update(trial.conclude())
        if _contents(trial.archive) != _contents(trial.expected):
            trial.findings.append(f"another ledger after the kill at {at}")
    trial.outcome = f"died at each of {len(numbers)} points" + (f" of {point.count}" if every > 1 else "")
    trial.note("same call, worst", worst)
    if lost:
        trial.findings.append(f"lost at some point: {sorted(lost)}")


# --- the table ----------------------------------------------------------------------------------------------


def of_places() -> dict[str, Fault]:
    """Death of processes, sources and disks that fail, workers that are not there or not the same."""
    faults: dict[str, Fault] = {}
    for stage in ("ingest", "score", "run"):
        faults[f"SIGKILL of client and workers, {stage}"] = partial(killed, stage=stage)
    faults["SIGKILL of one of two workers, run"] = worker_killed
    for number in (signal.SIGTERM, signal.SIGHUP):
        faults[f"{number.name} of the client, run"] = partial(asked_to_end, number=number)
    faults |= {
        "sources moved away in mid-run": partial(moved_away, stored=False),
        "sources moved away when stored": partial(moved_away, stored=True),
        "source truncated when stored": truncated,
        "source replaced between look and read": replaced,
        "EIO of one source": partial(
            failing_disk,
            part=ONE,
            code=3,
            words="source unreachable: the file cannot be read: Input/output error",
        ),
        "EIO of all sources": partial(failing_disk, part=".fits", code=3, words="ALL pending"),
        "EIO of all sources when stored": partial(
            failing_disk, part=".fits", code=1, words="ALL of them kept as stored", stored=True
        ),
        "one of two workers without the sources": blind_worker,
        "worker of another version": stranger,
        "worker of another version joins late": late_stranger,
        "no worker comes": partial(no_workers, in_mid_run=False),
        "all workers gone in mid-run": partial(no_workers, in_mid_run=True),
        "SIGKILL of the scheduler": scheduler_killed,
        "named pipe as source": pipe,
    }
    return faults


def of_files() -> dict[str, Fault]:
    """A single file that hangs or kills whatever reads it."""
    faults: dict[str, Fault] = {}
    hang, dies = f"sleep=3600 {ONE}", f"SEGV {ONE}"
    ended, failed = r"the work on it did not end: no end after \d+ s", "the task failed on this frame"
    for where in ("serial", "local:2"):
        for stage, function in (("look", "probe"), ("read", "read_frame")):
            faults[f"source hangs, {stage}, {where}"] = partial(
                strikes,
                fault=f"{hang} {function}",
                where=where,
                command="run",
                code=1,
                words=ended,
                how="run --retry",
            )
    shard = "image/c/3/"
    for stage, fault, command, code, how in (
        ("look", f"{dies} probe", "run", 1, "run --retry"),
        ("ingest", f"{dies} read_frame", "run", 1, "run --retry"),
        ("verify", f"SEGV {shard}", "verify", 3, "repair"),
        ("export", "SEGV pvalue/c/1/", "export", 1, "export"),
    ):
        faults[f"file kills its reader (SIGSEGV), {stage}"] = partial(
            strikes, fault=fault, where="local:2", command=command, code=code, words=failed, how=how
        )
    return faults


def of_storage(every: int) -> dict[str, Fault]:
    """Full disks, damage of what is stored, and death between two changes of it."""
    faults: dict[str, Fault] = {}
    faults["killed while a .gz with a tail of 2 GB is read"] = long_tail
    faults |= {"disk full": full_disk, "file size limited": file_limit}
    for what, place in (("pixel shard", "frames/image/c/3/0/0"), ("map shard", "quality/*/pvalue/c/1/0/0")):
        for loss in LOSSES:
            faults[f"{what} {loss}"] = partial(damaged, place=place, loss=loss)
    for what, place in (
        ("metadata of an array", "frames/image/zarr.json"),
        ("metadata of maps", "quality/*/score/zarr.json"),
        ("metadata of a group", "frames/zarr.json"),
    ):
        for loss in ("deleted", "of zero bytes"):
            faults[f"{what} {loss}"] = partial(damaged, place=place, loss=loss)
    faults["ledger segment deleted"] = partial(damaged, place="ledger/000001", loss="deleted")
    for loss in LOSSES:
        faults[f"chunk of a ledger segment {loss}"] = partial(damaged, place="ledger/000001/c/0", loss=loss)
    faults["quality group removed"] = no_quality_group
    for name in ("ingest", "run", "compaction", "migrate", "repair pixels", "repair maps", "repair metadata"):
        faults[f"death between two operations, {name}"] = partial(every_point, name=name, every=every)
    return faults


def all_faults(every: int) -> dict[str, Fault]:
    """Every fault by its name in the table."""
    return of_places() | of_machines() | of_files() | of_storage(every)


def tried(name: str, fault: Fault, folder: Path, undisturbed: Undisturbed) -> tuple[list[str], list[str]]:
    """Let one fault happen; its row of the table, and what went otherwise than it should."""
    folder.mkdir()
    trial = Trial(folder, undisturbed)
    try:
        fault(trial)
        lost = str(len(trial.conclude()))
    except Exception as error:
        lost = "?"
        trial.findings.append("".join(traceback.format_exception(error))[-1500:])
    if lost != "0":
        trial.findings.append(f"{lost} frames lost")
    shutil.rmtree(folder, ignore_errors=True)
    outcome = trial.outcome.replace("|", "/") + (" **finding**" if trial.findings else "")
    row = [name, outcome, ", ".join(trial.recovered) or "-", f"{trial.seconds:.1f}", lost]
    return row, trial.findings


COLUMNS = ("fault", "outcome", "recovered by", "seconds to recover", "frames lost", "tried")


def read_rows(page: Path) -> dict[str, list[str]]:
    """Rows of a table that was written before, by fault."""
    lines = page.read_text().splitlines() if page.exists() else []
    rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")][2:]
    return {row[0]: row for row in rows if len(row) == len(COLUMNS)}


def report(about: dict[str, str], rows: Sequence[Sequence[str]], findings: Sequence[str]) -> str:
    """The page with the table."""
    header = "".join(f"- {key}: {value}\n" for key, value in about.items())
    lines = [COLUMNS, ["---"] * 3 + ["--:"] * 2 + ["---"], *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    not_tried = sum(row[1].startswith("not tried") for row in rows)
    last = f"{len(rows)} faults, {not_tried} of them not tried here, {len(findings)} findings."
    text = f"# bench_faults\n\n{header}\n{table}\n{last}\n"
    return text + "".join(f"\n- {one}\n" for one in findings)


def main() -> int:
    """Try every fault, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=12, help="of a night (%(default)s)")
    parser.add_argument("--size", type=int, default=512, help="side of a frame in px (%(default)s)")
    parser.add_argument("--seed", type=int, default=helpers.SEED, help="draws the frames (%(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th kill point (%(default)s)")
    parser.add_argument("--only", default="", metavar="REGEX", help="faults whose names match")
    parser.add_argument("--update", action="store_true", help="keep rows of --out that are not tried now")
    parser.add_argument("--out", type=Path, default=trials.HERE / "results/faults.md", help="(%(default)s)")
    arguments = parser.parse_args()
    from night import tiny_bundle

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, children would be let off
    about = helpers.environment()
    git = ["git", "-C", str(trials.HERE), "log", "-1", "--format=%h"]
    about["commit"] = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    about["command"] = f"python benchmarks/bench_faults.py {shlex.join(sys.argv[1:])}".strip()
    known, findings, text = all_faults(arguments.every), [], ""
    rows = {name: row for name, row in read_rows(arguments.out).items() if arguments.update and name in known}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aqdask-faults-") as name:
        folder = Path(name)
        undisturbed = trials.prepare(folder, arguments.frames, arguments.size, arguments.seed, tiny_bundle())
        for number, (fault, happens) in enumerate(known.items()):
            if not re.search(arguments.only, fault):
                continue
            row, found = tried(fault, happens, folder / f"fault{number}", undisturbed)
            rows[fault] = [*row, f"{about['date'][:10]} {about['commit']}"]
            findings += [f"{fault}: {one}" for one in found]
            print(" | ".join(row), *found, sep="\n    ", flush=True)
            text = report(about, [rows[fault] for fault in known if fault in rows], findings)
            arguments.out.write_text(text)  # also of a run that is cut short
    print(f"\n{text}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
