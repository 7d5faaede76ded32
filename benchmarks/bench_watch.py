"""Watch of an inbox: seconds from arrival to score, a burst, and what a night costs.

    python benchmarks/bench_watch.py [--frames 12 --size 4096] [--network]

The command runs as a process. A frame arrives when it is renamed into the inbox; its score is there when its
line is printed, after which its maps, its row of the journal and its state can be read. With ``--network``
the inbox is another folder mounted by sshfs, and frames arrive in that folder, as from another machine.
See README.md here.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from bench_overhead import write_sources
from helpers import environment, peak_memory, scratch, source_frames

MODEL = "wide-field"
BURST = 8
LATER = 5  # small frames that arrive one by one after a whole night
IDLE_SECONDS = 20.0


class Watched:
    """A running ``aqdask watch`` and the frames that it reports."""

    def __init__(self, folder: Path, options: Sequence[str] = (), seen_as: Path | None = None) -> None:
        self.inbox, self.archive = folder / "inbox", folder / "night.zarr"
        self.inbox.mkdir(parents=True, exist_ok=True)
        words = ["watch", seen_as or self.inbox, self.archive, "--model", MODEL, "--json", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aqdask", *map(str, words)], stdout=subprocess.PIPE, text=True
        )
        self.ps = psutil.Process(self.process.pid)
        self.settled()

    def settled(self) -> None:
        """Wait until the command only waits itself."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "watching" in line:
                return
        raise SystemExit("the watch ended")

    def place(self, source: str | Path) -> float:
        """Copy a frame beside the inbox and rename it into place; return when."""
        partial = self.inbox.with_name("partial")
        shutil.copyfile(source, partial)
        partial.rename(self.inbox / Path(source).name)
        return time.time()

    def write_slowly(self, source: str | Path, pieces: int = 6, pause: float = 0.5) -> float:
        """Write a frame into the inbox, piece by piece; return when its last byte was written."""
        data = Path(source).read_bytes()
        step = -(-len(data) // pieces)
        with open(self.inbox / Path(source).name, "wb", buffering=0) as file:
            for start in range(0, len(data), step):
                time.sleep(pause)
                file.write(data[start : start + step])
        return time.time()

    def reported(self, count: int) -> dict[str, float]:
        """When each of the next ``count`` frames was reported, by name."""
        assert self.process.stdout is not None
        found: dict[str, float] = {}
        while len(found) < count:
            record = json.loads(self.process.stdout.readline())
            if record["event"] == "frame":
                found[record["frame_id"]] = time.time()
        return found

    def close(self) -> None:
        """End it by SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=120)
        if self.process.returncode:
            raise SystemExit(f"the watch ended with exit code {self.process.returncode}")


@contextlib.contextmanager
def watched(folder: Path, *options: str, seen_as: Path | None = None) -> Iterator[Watched]:
    """A watch that is ended."""
    found = Watched(folder, options, seen_as)
    try:
        yield found
        found.close()
    finally:
        found.process.kill()


def one_by_one(found: Watched, sources: Sequence[str | Path]) -> list[float]:
    """Seconds from arrival to score of frames, each of which arrives when the one before is done."""
    times = []
    for source in sources:
        placed = found.place(source)
        times.append(found.reported(1)[Path(source).name] - placed)
    return times


def large(folder: Path, sources: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of frames that arrive one by one, and at once."""
    alone, burst = sources[:-BURST], sources[-BURST:]
    with watched(folder / "plain") as found:
        plain = one_by_one(found, alone)
        before = found.ps.cpu_times()
        placed = {Path(source).name: found.place(source) for source in burst}
        ends = found.reported(BURST)
        cpu = found.ps.cpu_times()
        memory = peak_memory(found.process.pid)
    with watched(folder / "hooks", "--on-good", "true", "--on-bad", "true") as found:
        hooks = one_by_one(found, alone)
    spent = cpu.user + cpu.system - before.user - before.system
    together = (max(ends.values()) - min(placed.values())) / BURST
    return {
        "first": plain[:1], "plain": plain[1:], "hooks": hooks[1:], "burst": [together],
        "cpu": [spent / BURST], "memory": [memory],
    }  # fmt: skip


def night(folder: Path, frames: int) -> dict[str, float]:
    """Cost of a night of small frames: files, merged at the end, and time of frames after it."""
    write_sources(folder / "small", frames + LATER, 64)
    sources = sorted((folder / "small").iterdir())
    with watched(folder / "night") as found:
        began = time.time()
        for source in sources[:frames]:
            os.link(source, found.inbox / source.name)
        found.reported(frames)
        seconds = (time.time() - began) / frames
        later = one_by_one(found, sources[frames:])
        time.sleep(2.0)
        running = count(found.archive)
        before = found.ps.cpu_times()
        time.sleep(IDLE_SECONDS)
        cpu = found.ps.cpu_times()
        idle = (cpu.user + cpu.system - before.user - before.system) / IDLE_SECONDS
    variables = len(list((found.archive / "quality").glob("*/*/zarr.json")))
    return {
        "seconds": seconds, "later": statistics.median(later), "running": running,
        "files": count(found.archive), "variables": variables, "idle": idle,
    }  # fmt: skip


@contextlib.contextmanager
def mounted(folder: Path, place: Path, *options: str) -> Iterator[None]:
    """A folder mounted elsewhere by sshfs, from a server of one's own on loopback."""
    keys, port = place.with_name("keys"), free_port()
    keys.mkdir(mode=0o700, exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], input=b"y\n",
                       capture_output=True, check=True)  # fmt: skip
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys}/host\nPidFile none\nUsePAM no\n"
    settings += f"AuthorizedKeysFile {keys}/user.pub\nStrictModes no\nSubsystem sftp internal-sftp\n"
    (keys / "sshd_config").write_text(settings)
    place.mkdir()
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", keys / "sshd_config"])
    login = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", f"IdentityFile={keys}/user")
    words = [word for option in (*login, *options) for word in ("-o", option)]
    try:
        time.sleep(1.0)
        remote = f"{getpass.getuser()}@127.0.0.1:{folder}"
        subprocess.run(["sshfs", "-p", str(port), *words, remote, place], check=True)
        try:
            yield
        finally:
            subprocess.run(["fusermount3", "-u", "-z", place], check=True)
    finally:
        server.kill()


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def over_network(folder: Path, sources: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of frames that another machine renames into the inbox or writes there slowly, by way."""
    times: dict[str, list[float]] = {}
    for way, options in (("attributes not cached", ("dir_cache=no",)), ("as sshfs mounts by default", ())):
        base, place = folder / f"network{len(times)}", folder / f"mount{len(times)}"
        (base / "inbox").mkdir(parents=True)
        with mounted(base / "inbox", place, *options), watched(base, seen_as=place) as found:
            one_by_one(found, sources[:1])
            times[f"renamed into place, {way}"] = one_by_one(found, sources[1:-2])
            times[f"written in 3 s, {way}"] = []
            for source in sources[-2:]:
                ended = found.write_slowly(source)
                times[f"written in 3 s, {way}"].append(found.reported(1)[Path(source).name] - ended)
    return times


def count(folder: Path) -> int:
    """Number of files below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))


def spread(values: Sequence[float]) -> str:
    """Median and worst."""
    return f"{statistics.median(values):.2f} | {max(values):.2f}"


def print_network(about: Mapping[str, str], times: Mapping[str, Sequence[float]], size: int) -> None:
    """Print the table of an inbox on a network file system."""
    print("".join(f"- {name}: {value}\n" for name, value in about.items()))
    print(f"| frames of {size} px from another machine, s to score | median | worst |\n| --- | --: | --: |")
    for name, values in times.items():
        print(f"| {name} ({len(values)}) | {spread(values)} |")


def main() -> None:
    """Measure and print tables."""
    options = argparse.ArgumentParser(description="Watch of an inbox.")
    options.add_argument("--frames", type=int, default=12, help="frames one by one (%(default)s)")
    options.add_argument("--size", type=int, default=4096, help="side of a frame in px (%(default)s)")
    options.add_argument("--night", type=int, default=1000, help="small frames of a night (%(default)s)")
    options.add_argument("--network", action="store_true", help="only: an inbox mounted by sshfs")
    options.add_argument("--folder", help="scratch space is made in this folder")
    given = options.parse_args()
    about = environment()
    with scratch(given.folder) as folder:
        sources = source_frames(folder / "sources", given.frames + BURST, given.size, 20240507)
        if given.network:
            return print_network(about, over_network(folder, sources[: given.frames]), given.size)
        times = large(folder, sources)
        cost = night(folder, given.night)
    print(f"{given.frames} frames of {given.size} x {given.size} px one by one, then {BURST} at once; model")
    print(f"{MODEL}; --settle 1s, --poll 500ms; one process. Then {given.night} frames of 64 x 64 px.\n")
    for name, value in about.items():
        print(f"- {name}: {value}")
    print("\n| from arrival to score, s | median | worst |\n| --- | --: | --: |")
    print(f"| first frame, which makes the archive | {spread(times['first'])} |")
    print(f"| later frames | {spread(times['plain'])} |")
    print(f"| later frames, mask written and a command run | {spread(times['hooks'])} |")
    burst, cpu, memory = (times[name][0] for name in ("burst", "cpu", "memory"))
    print(f"\nOf {BURST} frames at once one is done every {burst:.2f} s ({cpu:.2f} s of processor time);")
    print(f"peak memory {memory:.0f} MiB.\n\nA night of {given.night} small frames, all there at once:")
    print(f"{cost['seconds'] * 1000:.0f} ms a frame; a frame after it {cost['later']:.2f} s from arrival")
    print(f"(median of {LATER}). {cost['running']:.0f} files while it runs, {cost['files']:.0f} after its")
    print(f"end, {cost['variables']:.0f} arrays of maps and frame-level values. Waiting takes")
    print(f"{cost['idle']:.1%} of a core.")


if __name__ == "__main__":
    main()
