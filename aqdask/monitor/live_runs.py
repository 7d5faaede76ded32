"""Snapshots of the commands that run on one scheduler, as they sent them."""

from __future__ import annotations

import time
from typing import Any

from distributed import Scheduler

RUNS = 4  # commands that are remembered, the latest ones


class LiveRuns:
    """Snapshots of the commands that run on a scheduler, by run, the latest last."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.runs: dict[str, dict[str, Any]] = {}
        self.version = 0

    def receive(self, run: str, snapshot: dict[str, Any]) -> None:
        """Take in the snapshot of a run."""
        before = self.runs.pop(run, None)
        self.runs[run] = snapshot | {"received": time.time()}
        if before is None:
            for old in list(self.runs)[:-RUNS]:
                del self.runs[old]
        self.version += 1

    def latest(self) -> list[dict[str, Any]]:
        """Return the snapshots, running commands first, then by their start, the latest first."""
        ordered = sorted(self.runs.values(), key=lambda run: run["started"], reverse=True)
        return sorted(ordered, key=lambda run: run["state"] != "running")

    def workers(self) -> list[dict[str, Any]]:
        """Describe the workers."""
        return [
            {
                "name": str(worker.name), "address": worker.address, "status": worker.status.name,
                "threads": worker.nthreads, "tasks": len(worker.processing),
                "cpu_percent": worker.metrics.get("cpu"), "memory_bytes": worker.metrics.get("memory"),
                "memory_limit_bytes": worker.memory_limit,
            }
            for worker in self.scheduler.workers.values()
        ]  # fmt: skip

    def report(self) -> dict[str, Any]:
        """Return what ``/aqdask.json`` gives."""
        return {"runs": self.latest(), "workers": self.workers()}
