"""Cost of `aqdask calibrate`: seconds and peak memory by the number of frames of an archive."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import helpers
import output
import torch
from seeds import SEEDS

import aqdask as aq

FRAMES = (10, 20, 40)
GOAL_SECONDS = 60.0  # for 10 to 40 frames of 4096 x 4096 px


def calibrating(quick: bool = False) -> list[dict[str, Any]]:
    """A row for each number of frames, each in a fresh process with as many threads as there are cores."""
    size, counts = (512, (12,)) if quick else (4096, FRAMES)
    with helpers.scratch(None) as folder:
        sources = helpers.source_frames(folder / "sources", max(counts), size, SEEDS["cost"])
        archive = folder / "a.zarr"
        aq.ingest(sources, archive, cluster="serial")
        rows = []
        for count in counts:
            ids = [Path(name).name for name in sources[:count]]
            with helpers.new_process() as call:
                rows.append({"frames": count, "size": size, **call(_timed, str(archive), ids)})
    return rows


def _timed(archive: str, ids: Sequence[str]) -> dict[str, Any]:
    """One calibration in this process."""
    torch.set_num_threads(os.cpu_count() or 1)
    started, begin, processor = helpers.peak_memory(), time.monotonic(), time.process_time()
    bundle = aq.calibrate(archive, "wide-field", frames=list(ids))
    return {
        "threads": torch.get_num_threads(),
        "wall": time.monotonic() - begin,
        "processor": time.process_time() - processor,
        "started_mib": started,
        "peak_mib": helpers.peak_memory(),
        "bytes": len(bundle.contents),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the Markdown table."""
    cells = [
        (
            row["frames"],
            row["threads"],
            f"{row['wall']:.0f}",
            f"{row['processor']:.0f}",
            f"{row['started_mib']:.0f} / {row['peak_mib']:.0f}",
            f"{row['bytes'] / 1e6:.2f}",
            ("reached" if row["wall"] <= GOAL_SECONDS else "MISSED") if row["size"] == 4096 else "-",
        )
        for row in rows
    ]
    columns = ("frames", "threads", "wall s", "processor s", "peak MiB: imports / all", "bundle MB", "60 s")
    title = f"`calibrate` on frames of {rows[0]['size']} px a side, streamed from an archive"
    return output.markdown(title, columns, cells)
