"""Report and frame table of an archive of 10,000 frames: time and peak memory, each part in its own process.

    python benchmarks/bench_report.py [--frames 10000] [--folder DIR] [--browser] [--json FILE]

The archive is synthetic: a ledger, one-dimensional arrays, and maps of p-values and reasons (64 x 64
patches, one object for 16 frames), written by the store layer as a run would leave them.
The frames with a panel have pixels (Poisson noise), which are written between the parts and are not timed.
Two cameras, three filters, seven months; six frames of a hundred are flagged (runs out of focus, single ones
for guiding, noise and clouds), one of a thousand has no time, and some patches are masked again and again.
With ``--browser`` the page of the part `report` is opened in headless Chromium (playwright).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_million
import helpers
import numpy as np

SIDE, SHARD = 4096, 16
CAMERAS, FILTERS = ("CAM A", "CAM B"), ("g", "r", "i")
START = int(np.datetime64("2024-01-05T20:00:00", "us").astype(np.int64))
GOALS = {"report data": (20, 1024), "report": (30, 2048)}  # seconds and MiB, for 10,000 frames
SEED = 20240507


def frame_facts(frames: int) -> dict[str, np.ndarray]:
    """Time, camera, filter and trouble (a reason, or empty) of each frame."""
    random, row = np.random.default_rng(SEED), np.arange(frames)
    night, within = np.divmod(row, 100)
    moment = START + (night * 2 * 86400 + within * 240) * 10**6
    moment[random.random(frames) < 0.001] = np.iinfo("int64").min
    trouble = np.full(frames, "", object)
    trouble[(within >= 40) & (within < 60) & (night % 7 == 3)] = "size"
    for reason in ("ellipticity", "noise", "stars"):
        trouble[random.random(frames) < 0.01] = reason
    return {"time": moment, "camera": row % 2, "filter": row // 2 % 3, "trouble": trouble}


def maps(facts: dict[str, np.ndarray], start: int, stop: int, side: int) -> dict[str, np.ndarray]:
    """p-values and reasons of some frames, ``(n, side, side)``."""
    from aqdask import flags

    random = np.random.default_rng([SEED, start])
    shape = (stop - start, side, side)
    pvalue, reason = random.random(shape, np.float32), random.integers(1, 10, shape, np.uint8)
    for at, trouble in enumerate(facts["trouble"][start:stop]):
        if trouble:
            part = slice(None) if trouble == "size" else slice(0, side // 2)
            pvalue[at, part] *= 0.002
            reason[at, part] = flags.code(flags.REASONS, trouble)
    pvalue[:, 3, 5:9] *= 0.02  # masked again and again
    pvalue[:, -1, -1], reason[:, -1, -1] = np.nan, 0
    return {"pvalue": pvalue, "reason": reason}


def frame_values(names: list[str], trouble: str, random: np.random.Generator) -> dict[str, float]:
    """Frame-level values that look like those of a run."""
    usual = {
        "frame_score": 1.0 + 8 * bool(trouble), "frame_flag": float(bool(trouble)), "out_of_reference": 0.0,
        "frame_size_ratio": 1.6 if trouble == "size" else 1.0, "frame_ellipticity": 0.02, "frame_sky": 1200.0,
        "frame_noise_ratio": 1.0, "frame_stars": 8.0,
        "frame_size_pvalue": 0.5, "frame_ellipticity_pvalue": 0.5,
    }  # fmt: skip
    whole = ("frame_flag", "out_of_reference")
    return {n: usual[n] * (1 if n in whole else float(random.normal(1, 0.02))) for n in names}


def make(archive: Path, frames: int) -> dict[str, float]:
    """Write the archive."""
    from aqdask import api
    from aqdask.execution import quality_groups
    from aqdask.methods.shipped import SHIPPED
    from aqdask.specs import ArchiveSpec
    from aqdask.store import layout
    from aqdask.store.frame_store import FrameStore
    from aqdask.store.ledger import open_ledger
    from aqdask.store.quality_store import QualityStore

    bundle, facts = api.load_model(SHIPPED), frame_facts(frames)
    spec = ArchiveSpec((SIDE, SIDE), "uint16", frames_per_shard=SHARD)
    root = layout.create(archive, spec, created_by="bench_report")
    store = FrameStore.create(root)
    store.grow(frames)
    made = quality_groups.spec_of(bundle, spec)
    quality = QualityStore.create(root, made, bundle.contents)
    quality.grow(frames)
    quality_groups.record_versions(quality.group)
    names, random, ledger = list(quality.frame_variables), np.random.default_rng(SEED), open_ledger(root)
    ledger.append([made.record()])
    for start in range(0, frames, layout.ROWS_PER_CHUNK):
        rows = range(start, min(frames, start + layout.ROWS_PER_CHUNK))
        known = [bench_million.registered(archive.parent, row, is_file=False) for row in rows]
        store.write_columns(start, [
            (r["frame_id"], r["path"], 0, int(facts["time"][row]), 60.0, FILTERS[facts["filter"][row]],
             CAMERAS[facts["camera"][row]], bench_million.CARDS, "")
            for row, r in zip(rows, known, strict=True)
        ])  # fmt: skip
        values = {row: frame_values(names, facts["trouble"][row], random) for row in rows}
        quality.write_frame_values(values)
        places = {row: {"airmass": 1 + row % 100 / 100, "ra": row % 360, "dec": row % 90} for row in rows}
        records = known + [bench_million.ingested(r["frame_id"], r["row"]) | places[r["row"]] for r in known]
        records += [
            {"event": "score", "frame_id": r["frame_id"], "quality": made.name, "state": "done",
             "source": f"{r['row'] * 7919 % 2**32:08x}", "crc32c": "0", "values": values[r["row"]]}
            for r in known
        ]  # fmt: skip
        ledger.append(records)
    ledger.close()
    side = made.grid.shape[0]
    arrays = {name: quality.group[name] for name in ("pvalue", "reason")}
    for start in range(0, frames, SHARD):
        block = maps(facts, start, min(start + SHARD, frames), side)
        layout.write_shards((start // SHARD, 0, 0), [(arrays[name], block[name]) for name in arrays])
    layout.consolidate(root)
    return {}


def report_data(archive: Path) -> dict[str, float]:
    """`aqdask.products.report.data.report_data`, and the maps of reasons of 200 frames."""
    from aqdask.products.report.data import report_data as collect

    found = collect(archive)
    found.patch_reasons(found.frames["row"][:200].tolist())
    print(*found.summary, sep="\n", file=sys.stderr)
    return {"flagged": int(found.frames["is_flagged"].sum()), "places": len(found.repeated_places)}


def report(archive: Path) -> dict[str, float]:
    """`aqdask.report`, with as many panels as by default."""
    from aqdask import api

    made = api.report(archive, archive.parent / "report.html")
    if made.problems:
        raise SystemExit(f"{len(made.problems)} panels failed: {made.problems[0]}")
    return {"panels": len(made.panels), "MB": made.path.stat().st_size / 1e6}


def add_pixels(archive: Path) -> dict[str, float]:
    """Write pixels of the frames that get a panel."""
    from aqdask.products.report.data import report_data as collect
    from aqdask.products.report.page import panel_frames
    from aqdask.store import layout
    from aqdask.store.frame_store import FrameStore, checksum
    from aqdask.store.ledger import open_ledger

    data = collect(archive)
    root = layout.open_root(archive, writable=True)
    store, ledger = FrameStore.at(root), open_ledger(root)
    asked, others = panel_frames(data, (SIDE, SIDE))
    for index in (*asked, *others):
        row, frame_id = int(data.frames["row"][index]), str(data.frames["frame_id"][index])
        image = np.random.default_rng(row).poisson(1200, (SIDE, SIDE)).astype(np.uint16)
        store.write(row, image, None)
        entry = ledger.entries[frame_id]
        source = {"crc32c": checksum(image, None)}
        score = {
            "event": "score", "frame_id": frame_id, "quality": data.quality, "state": "done",
            "source": source["crc32c"], "crc32c": "0", "values": dict(entry.scores[data.quality].values),
        }  # fmt: skip
        ledger.append([bench_million.ingested(frame_id, row) | source, score])
    ledger.close()
    return {}


def table(archive: Path, *more: str) -> None:
    """`aqdask export --table`."""
    out = str(archive.parent / "products")
    bench_million.command("export", str(archive), out, "--table", "--cluster", "serial", *more)


def pointings(wcs: bool) -> None:
    """Airmass and position of 1,000 headers, as an ingest finds them."""
    from astropy.io import fits

    from aqdask.io.pointing import pointing
    from aqdask.specs import FrameMetadata

    cards = fits.Header(
        [("SITELAT", 28.3), ("SITELONG", -16.5), ("OBJCTRA", "10 00 00"), ("OBJCTDEC", "+20 00 00")]
    )
    if wcs:
        for axis, kind, value in ((1, "RA---TAN", 150.0), (2, "DEC--TAN", 20.0)):
            cards[f"CTYPE{axis}"], cards[f"CRVAL{axis}"] = kind, value
            cards[f"CRPIX{axis}"], cards[f"CDELT{axis}"] = SIDE / 2, 1e-4
    header = bench_million.CARDS + "".join(card.image for card in cards.cards)
    known = FrameMetadata(time=START, exptime=60.0)
    for _ in range(1000):
        pointing(header, "", (SIDE, SIDE), known)


def renderer(family: list[Any]) -> Any:
    """Return the process that shows a page, of those of Chromium: the largest renderer."""
    found = [one for one in family if "--type=renderer" in " ".join(one.cmdline())]
    return max(found, key=lambda one: one.memory_info().rss)


def browser(archive: Path) -> dict[str, float]:
    """Open the page in Chromium: seconds until it is usable and of single actions, memory, complaints."""
    import psutil
    from playwright.sync_api import sync_playwright

    page_ready = "html[data-ready=yes]"  # all plots are drawn
    found: dict[str, float] = {}
    complaints: list[str] = []
    with sync_playwright() as driver:
        path = shutil.which("chromium")
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(300_000)
        metrics = page.context.new_cdp_session(page)
        metrics.send("Performance.enable")

        def cpu() -> float:
            """Seconds of the process of the page."""
            return float(sum(renderer(psutil.Process().children(recursive=True)).cpu_times()[:2]))

        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        start = time.perf_counter()
        page.goto((archive.parent / "report.html").as_uri(), wait_until="commit")
        page.wait_for_selector(page_ready, state="attached")
        found["all plots"] = time.perf_counter() - start
        found["all plots, CPU of the page"] = cpu()
        found["first text"] = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
        )
        actions = {
            "sort by score": lambda: page.select_option("#f-sort", "score"),
            "search": lambda: page.fill("#f-text", "size"),
            "open a frame": lambda: (
                page.locator("#frames .card").first.click(),
                page.wait_for_selector("#panel[data-shown]"),
            ),
        }
        for name, action in actions.items():
            start, before = time.perf_counter(), cpu()
            action()
            page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            found[name] = time.perf_counter() - start
            found[f"{name}, CPU of the page"] = cpu() - before
        values = {one["name"]: one["value"] for one in metrics.send("Performance.getMetrics")["metrics"]}
        found["JavaScript heap MiB"] = values["JSHeapUsedSize"] / 2**20
        resident = renderer(psutil.Process().children(recursive=True)).memory_info().rss
        found["process of the page MiB"] = resident / 2**20
        opened.close()
    if complaints:
        raise SystemExit(f"{len(complaints)} complaints of the console: {complaints[0]}")
    return found


UNTIMED: dict[str, Callable[[Path], Any]] = {"pixels": add_pixels}
PARTS: dict[str, Callable[[Path], Any]] = {
    "report data": report_data,
    "report": report,
    "table": table,
    "table with reasons": lambda archive: table(archive, "--reasons"),
    "pointings with WCS": lambda archive: pointings(wcs=True),
    "pointings without WCS": lambda archive: pointings(wcs=False),
    "table as ECSV and CSV": lambda archive: table(
        archive, "--reasons", "--format", "ecsv", "--format", "csv"
    ),
}


def run_part(name: str, folder: Path, frames: int) -> dict[str, float]:
    """Run one part in this process."""
    archive, clock = folder / "archive.zarr", helpers.Clock()
    with clock:
        parts = PARTS | UNTIMED | {"browser": browser}
        found = make(archive, frames) if name == "make" else parts[name](archive)
    return {"wall": clock.wall, "cpu": clock.cpu, "peak": helpers.peak_memory(), **(found or {})}


def in_its_own_process(name: str, folder: Path, frames: int) -> dict[str, float]:
    """Run one part in a fresh process, and add its whole wall time, with the start of Python."""
    words = ["--part", name, "--folder", str(folder), "--frames", str(frames)]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    print(done.stderr, end="")
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.perf_counter() - start}


def main() -> int:
    """Build the archive, measure its parts, print a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--frames", type=int, default=10_000, help="frames of the archive (%(default)s)")
    options.add_argument("--folder", help="scratch space is made in this folder and removed afterwards")
    options.add_argument("--keep", help="use this folder, and keep it")
    options.add_argument("--only", help="parts, separated by commas")
    options.add_argument("--browser", action="store_true", help="open the page of `report` in Chromium")
    options.add_argument("--part", help=argparse.SUPPRESS)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    arguments = options.parse_args()
    if arguments.part:
        print(json.dumps(run_part(arguments.part, Path(arguments.folder), arguments.frames)))
        return 0
    environment = helpers.print_header("bench_report: archives without pixels", arguments)
    place = (
        contextlib.nullcontext(Path(arguments.keep)) if arguments.keep else helpers.scratch(arguments.folder)
    )
    found = {}
    with place as folder:
        if not (folder / "archive.zarr").exists():
            for name in ("make", *UNTIMED):
                found[name] = in_its_own_process(name, folder, arguments.frames)
        for name in arguments.only.split(",") if arguments.only else PARTS:
            found[name] = in_its_own_process(name, folder, arguments.frames)
        if arguments.browser:
            found["browser"] = in_its_own_process("browser", folder, arguments.frames)
    for what, value in found.get("browser", {}).items():
        print(f"browser, {what}: {value:.2f}")
    for name, about in found.items():
        seconds, memory = GOALS.get(name, (None, None)) if arguments.frames == 10_000 else (None, None)
        good = seconds is None or (about["wall"] <= seconds and about["peak"] <= memory)
        goal = "" if seconds is None else f"  {'reached' if good else 'MISSED'} ({seconds} s, {memory} MiB)"
        times = f"cpu {about['cpu']:.2f} s, whole process {about['whole']:.2f} s"
        size = f", {about['MB']:.1f} MB with {about['panels']} panels (goal 50 MB)" if "MB" in about else ""
        print(f"{name:24} {about['wall']:8.2f} s {about['peak']:7.0f} MiB  ({times}){goal}{size}")
    helpers.write_json(arguments.json, environment, arguments, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
