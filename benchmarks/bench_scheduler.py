"""Feeding of a real Dask scheduler: a thousand stub workers, the feeding code of aqdask, one process each.

    python benchmarks/bench_scheduler.py [--workers 1000] [--seconds 5] [--frames 200000] [--json FILE]

`aqdask.score` runs over an archive without pixels (that of bench_million.py, no frame scored). The scheduler
is real. The workers are one asyncio process that speaks the protocol of distributed: it registers, takes
tasks, and answers each after so many seconds with the records that a worker would return, computing nothing.
A shorter archive than a million frames extrapolates: tasks a second and the slope of the memory are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import bench_million
import helpers
from distributed.comm import CommClosedError, connect, listen
from distributed.core import rpc
from distributed.protocol import to_serialize
from distributed.versions import get_versions

from aqdask.execution.versions import versions

METRICS = {
    "bandwidth": {"total": 1e8, "workers": {}, "types": {}}, "digests_total_since_heartbeat": {},
    "memory": 2e8, "spilled_bytes": {"memory": 0, "disk": 0}, "cpu": 100.0, "managed_bytes": 0,
    "task_counts": {}, "event_loop_interval": 0.02, "time": 0.0, "transfer": {}, "num_fds": 10,
}  # fmt: skip
VALUES = {"frame_score": 0.5}
KIND = pickle.dumps(list)
TIMES: dict[str, float] = {}  # of all stub workers: start of the first task, end of the last, number of tasks


class StubWorker:
    """Worker of one thread that waits instead of computing."""

    def __init__(self, number: int, seconds: float) -> None:
        self.name, self.seconds = f"stub-{number:04d}", seconds
        self.ready: deque[dict[str, Any]] = deque()
        self.running: dict[str, Any] | None = None
        self.data: dict[str, Any] = {}
        self.outgoing: list[dict[str, Any]] = []
        self.wake = asyncio.Event()

    async def start(self, scheduler: str, about: dict[str, Any]) -> None:
        """Listen, register, and follow the stream of the scheduler."""
        self.listener = await listen("tcp://127.0.0.1:0", self.serve)
        self.address = self.listener.contact_address
        self.stream = await connect(scheduler)
        await self.stream.write({
            "op": "register-worker", "reply": False, "address": self.address, "status": "running",
            "nthreads": 1, "name": self.name, "now": time.time(), "resources": {}, "memory_limit": 2**30,
            "local_directory": "/nowhere", "services": {}, "nanny": None, "pid": os.getpid(),
            "versions": about, "metrics": METRICS, "extra": {}, "stimulus_id": self.name,
            "server_id": self.name,
        }, serializers=["msgpack"])  # fmt: skip
        answer = await self.stream.read()
        assert answer["status"] == "OK", answer
        self.tasks = [asyncio.create_task(job) for job in (self.listen_to_scheduler(), self.send())]

    async def serve(self, comm: Any) -> None:
        """Answer requests for data, and those that go to all workers."""
        try:
            while True:
                message = await comm.read()
                operation = message.get("op")
                if operation == "get_data":
                    data = {key: to_serialize(self.data[key]) for key in message["keys"]}
                    await comm.write({"status": "OK", "data": data})
                    await comm.read()  # the acknowledgement
                elif operation == "run":
                    await comm.write({"status": "OK", "result": to_serialize(versions())})
                else:
                    await comm.write({"status": "OK"})
                if message.get("close"):
                    break
        except (CommClosedError, OSError):
            pass
        finally:
            await comm.close()

    async def listen_to_scheduler(self) -> None:
        """Take tasks, and forget results."""
        while True:
            for message in await self.stream.read():
                operation = message["op"]
                if operation == "compute-task":
                    self.ready.append(message)
                    self.begin()
                elif operation == "free-keys":
                    for key in message["keys"]:
                        self.data.pop(key, None)
                        self.ready = deque(task for task in self.ready if task["key"] != key)
                elif operation == "steal-request":
                    waiting = [task for task in self.ready if task["key"] == message["key"]]
                    for task in waiting:
                        self.ready.remove(task)
                    state = "ready" if waiting else "executing"
                    self.tell({"op": "steal-response", "key": message["key"], "state": state,
                               "stimulus_id": message["stimulus_id"]})  # fmt: skip

    def begin(self) -> None:
        """Start the next task, if none is running."""
        if self.running is None and self.ready:
            self.running = self.ready.popleft()
            TIMES.setdefault("first", time.time())
            asyncio.get_running_loop().call_later(self.seconds, self.finish, time.time())

    def finish(self, start: float) -> None:
        """Send the answer of the running task."""
        task, self.running = self.running, None
        key = task["key"]
        self.data[key] = result_of(task["run_spec"], self.seconds)
        self.tell({
            "op": "task-finished", "status": "OK", "key": key, "run_id": task["run_id"], "nbytes": 2000,
            "type": KIND, "typename": "list", "metadata": {}, "thread": 1, "stimulus_id": f"finished-{key}",
            "startstops": ({"action": "compute", "start": start, "stop": time.time()},),
        })  # fmt: skip
        TIMES["last"] = time.time()
        TIMES["tasks"] = TIMES.get("tasks", 0) + 1
        self.begin()

    def tell(self, message: dict[str, Any]) -> None:
        """Queue a message to the scheduler."""
        self.outgoing.append(message)
        self.wake.set()

    async def send(self) -> None:
        """Send queued messages."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            batch, self.outgoing = self.outgoing, []
            await self.stream.write(batch, serializers=["msgpack"])


def result_of(task: Any, seconds: float) -> list[tuple[float, list[dict[str, Any]]]]:
    """Records of a task, as a worker that scored would return them."""
    job, group = task.args[0], task.args[1]
    return [
        (seconds / len(group), [
            {"event": "score", "frame_id": frame.frame_id, "quality": job.quality, "row": frame.row,
             "state": "done", "source": frame.crc32c, "crc32c": "0badcafe", "values": VALUES}
            for frame in batch.frames
        ])
        for batch in group
    ]  # fmt: skip


def tell_times() -> None:
    """Print the times, and end the process."""
    print(json.dumps(TIMES), flush=True)
    os._exit(0)


async def stub(scheduler: str, workers: int, seconds: float) -> None:
    """Run the stub workers until the process is ended."""
    about = get_versions()
    stubs = [StubWorker(number, seconds) for number in range(workers)]
    for start in range(0, workers, 50):
        await asyncio.gather(*(worker.start(scheduler, about) for worker in stubs[start : start + 50]))
    print("ready", flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, tell_times)
    caller = rpc(scheduler)
    for worker in itertools.cycle(stubs):  # one heartbeat a worker in ten seconds
        metrics = METRICS | {"time": time.time()}
        await caller.heartbeat_worker(
            address=worker.address, now=time.time(), metrics=metrics, executing={}, extensions={}
        )
        await asyncio.sleep(10 / workers)


class Watch(threading.Thread):
    """Samples of the memory of scheduler and client and of the tasks on the scheduler."""

    def __init__(self, executor: Any, pid: int, every: float = 2.0) -> None:
        super().__init__(daemon=True)
        self.executor, self.pid, self.every = executor, pid, every
        self.samples: list[tuple[float, float, float, int]] = []
        self.over = threading.Event()

    def run(self) -> None:
        """Sample until it is over."""
        begun = time.perf_counter()
        while not self.over.wait(self.every):
            tasks = self.executor.client.run_on_scheduler(_tasks_there)
            self.samples.append((time.perf_counter() - begun, _rss(self.pid), _rss(os.getpid()), tasks))


def _tasks_there(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _rss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Score the archive with the stub workers."""
    from aqdask import api
    from aqdask.execution.clusters import connect as cluster
    from aqdask.methods.shipped import SHIPPED

    about = folder / "scheduler.json"
    quiet = os.environ | {
        "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "10",
        "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
    }  # fmt: skip
    words = ["-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
             "--scheduler-file", str(about)]  # fmt: skip
    scheduler = subprocess.Popen([sys.executable, *words], env=quiet, stderr=subprocess.DEVNULL)
    try:
        while not about.exists():
            time.sleep(0.2)
        time.sleep(1)
        address = json.loads(about.read_text())["address"]
        words = [__file__, "--stub", address, "--workers", str(arguments.workers),
                 "--seconds", str(arguments.seconds)]  # fmt: skip
        stubs = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        try:
            assert stubs.stdout.readline().strip() == "ready"
            with cluster(address) as executor:
                watch = Watch(executor, scheduler.pid)
                before = [_cpu(pid) for pid in (os.getpid(), scheduler.pid, stubs.pid)]
                watch.start()
                clock = helpers.Clock()
                with clock:
                    summary = api.score(folder / "night.zarr", api.load_model(SHIPPED), cluster=executor)
                watch.over.set()
                watch.join()
                after = [_cpu(pid) for pid in (os.getpid(), scheduler.pid, stubs.pid)]
            stubs.terminate()
            times = json.loads(stubs.stdout.readline())
        finally:
            stubs.kill()
    finally:
        scheduler.kill()
    assert summary.worked == arguments.frames, summary
    return {"wall": clock.wall, **times, "samples": watch.samples,
            "cpu": [b - a for a, b in zip(before, after, strict=True)]}  # fmt: skip


def show(found: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table."""
    tasks = int(found["tasks"])
    busy = [sample for sample in found["samples"] if sample[3]]
    rounds = -(-tasks // arguments.workers)
    ideal, span = rounds * arguments.seconds, found["last"] - found["first"]
    half = len(busy) // 2
    facts = {
        "frames, tasks": f"{arguments.frames}, {tasks}",
        "ideal wall, s": f"{ideal:.1f}",
        "wall from the first task to the last, s": f"{span:.1f}",
        "wall of aqdask.score, s": f"{found['wall']:.1f}",
        "ideal / wall from first to last": f"{ideal / span:.2f}",
        "tasks a second": f"{tasks / span:.0f}",
        "tasks on the scheduler, most": max(sample[3] for sample in busy),
        "window": 3 * arguments.workers,
        "scheduler, MiB: half-way, end, peak": _memory(busy, half, 1),
        "client, MiB: half-way, end, peak": _memory(busy, half, 2),
        "cpu s: client, scheduler, stubs": ", ".join(f"{cpu:.0f}" for cpu in found["cpu"]),
    }
    helpers.print_table("Feeding", ("", "measured"), list(facts.items()))
    return facts


def _memory(busy: list[tuple[float, ...]], half: int, which: int) -> str:
    return f"{busy[half][which]:.0f}, {busy[-1][which]:.0f}, {max(sample[which] for sample in busy):.0f}"


def main() -> int:
    """Build the archive, run it, print a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workers", type=int, default=1000, help="stub workers (%(default)s)")
    options.add_argument("--seconds", type=float, default=5.0, help="a task takes (%(default)s)")
    options.add_argument("--frames", type=int, default=200_000, help="frames of the archive (%(default)s)")
    options.add_argument("--folder", help="scratch space is made in this folder and removed afterwards")
    options.add_argument("--stub", help=argparse.SUPPRESS)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    arguments = options.parse_args()
    if arguments.stub:
        asyncio.run(stub(arguments.stub, arguments.workers, arguments.seconds))
        return 0
    environment = helpers.print_header("bench_scheduler: stub workers on a real scheduler", arguments)
    with helpers.scratch(arguments.folder) as folder:
        with helpers.new_process() as call:
            call(bench_million.append, folder, folder / "night.zarr", arguments.frames, 0.0, False)
            call(bench_million.merge, folder / "night.zarr")
        found = measure(folder, arguments)
    helpers.write_json(arguments.json, environment, arguments, {**found, "facts": show(found, arguments)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
