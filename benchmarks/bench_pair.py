"""Ingest, score, export and calibrate of this checkout against another one, in turns, each in a new process.

    git worktree add ../old 5c7905a
    python benchmarks/bench_pair.py ../old [--size 4096 --frames 6 --many 400 --repeat 5] [--only many]

Both sides take the same sources and the same model, serially, and swap places in every repetition. Seconds
are those of the call itself, after a first one on a few frames, so that imports are on neither side.
See README.md here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
FEW = 4  # frames, so that what a run costs however little it does is seen
LEAST = 128  # px, the smallest frame that the simulator draws
FIRST = 3  # frames that warm a process up, and train the model: as few as can
STEPS, SEED = 5, 20240507  # of a model that means nothing, and costs what any of its method costs


STAGES = ("ingest", "score", "export", "calibrate")
SMALLEST = 512  # px, of a frame on which the shipped model is calibrated


def measure(stage: str, sources: str, archive: str, model: str) -> dict[str, float]:
    """Measure wall and processor seconds of one stage in this process, imports done: the child's part."""
    import aqdask as aq

    assert Path(aq.__file__).parent.parent == Path(os.environ["PYTHONPATH"])

    def work(listed: str, place: str) -> None:
        if stage == "ingest":
            aq.ingest(listed, place, cluster="serial")
        elif stage == "score":
            aq.score(place, model, cluster="serial")
        elif stage == "export":
            aq.export(place, f"{place}-products", cluster="serial")
        else:
            aq.calibrate(place, "wide-field", frames=["*"], cluster="serial", alpha=0.1)

    with tempfile.TemporaryDirectory(dir=Path(archive).parent) as folder:
        warm, first = f"{folder}/warm.zarr", f"{sources}.first"
        if stage != "ingest":
            aq.ingest(f"@{first}", warm, cluster="serial")
        if stage == "export":
            aq.score(warm, model, cluster="serial")
        work(f"@{first}", warm)
    wall, processor = time.perf_counter(), time.process_time()
    work(f"@{sources}", archive)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processor}


def child(checkout: Path, *arguments: object) -> dict[str, float]:
    """`measure` with the package of ``checkout``; 'whole' is all processor seconds of the process."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{checkout} failed: {output}")
    return json.loads(output.splitlines()[-1]) | {"whole": usage.ru_utime + usage.ru_stime}


def compare(
    sides: dict[str, Path], sources: Path, model: Path, folder: Path, repeat: int, stages: Sequence[str]
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Measure seconds by stage and side, one entry a repetition; the sides take turns to go first."""
    times: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for number in range(repeat):
        for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                for stage in stages:
                    taken = child(sides[side], stage, sources, Path(place) / "archive.zarr", model)
                    times[stage][side].append(taken)
    return times


def rows_of(name: str, frames: int, times: dict[str, dict[str, list[dict[str, float]]]]) -> list[list[str]]:
    """Medians of both sides in ms a frame, and the paired ratios."""
    rows = []
    for stage, by_side in times.items():
        for what in ("wall", "cpu", "whole"):
            here, there = ([one[what] for one in by_side[side]] for side in ("this", "other"))
            pairs = [a / b for a, b in zip(here, there, strict=True)]
            medians = [f"{statistics.median(side) * 1000 / frames:.1f}" for side in (here, there)]
            ratio = f"{statistics.median(pairs):.3f} ({min(pairs):.3f} - {max(pairs):.3f})"
            rows.append([f"{stage}, {name}", what, *medians, ratio])
    return rows


def commit_of(checkout: Path) -> str:
    """Short name of the commit, with a mark where files of the package differ from it."""
    git = ["git", "-C", str(checkout)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain", "aqdask"], capture_output=True, text=True).stdout
    return (name.strip() or "unknown") + (", changed" if changed.strip() else "")


def prepare(folder: Path, frames: int, size: int) -> Path:
    """A list of sources, and beside it one of the first `FIRST`."""
    import helpers

    sources = helpers.source_frames(folder, frames, size, SEED)
    listed = folder / "sources.txt"
    listed.write_text("".join(f"{source}\n" for source in sources))
    first = [folder / "first" / Path(source).name for source in sources[:FIRST]]
    first[0].parent.mkdir()
    for source, place in zip(sources, first, strict=False):
        os.link(source, place)
    Path(f"{listed}.first").write_text("".join(f"{place}\n" for place in first))
    return listed


def make_model(listed: Path, folder: Path) -> Path:
    """A bundle of the published method after a few steps, as in bench_score.py."""
    import aqdask as aq

    archive, out = folder / "model.zarr", folder / "model.safetensors"
    aq.ingest(f"@{listed}.first", archive, cluster="serial")
    aq.train(archive, frames=["*"], out=out, method="paper", device="cpu", steps=STEPS, seed=0, name="bench")
    return out


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a README."""
    lines = [columns, ["---"] * 2 + ["--:"] * (len(columns) - 2), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--size", type=int, default=4096, help="side of a large frame in px (%(default)s)")
    parser.add_argument("--frames", type=int, default=6, help="large frames (%(default)s)")
    parser.add_argument("--many", type=int, default=400, help="small frames (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs (%(default)s)")
    parser.add_argument("--only", choices=("large", "many", "few"), help="one part of it")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="(all)")
    parser.add_argument(
        "--model", help="name or file of a bundle (the published method, trained for some steps)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results/pair.md", help="(%(default)s)")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
        return 0
    arguments = parse()
    import helpers

    sides = {"this": HERE.parent, "other": arguments.other.resolve()}
    names = [commit_of(checkout) for checkout in sides.values()]
    about = helpers.environment() | {"this": names[0], "other": names[1]}
    about["command"] = (
        f"python benchmarks/bench_pair.py {names[1]} "
        + " ".join(f"--{name} {getattr(arguments, name)}" for name in ("size", "frames", "many", "repeat"))
        + f" --only {arguments.only}" * bool(arguments.only)
        + f" --stages {' '.join(arguments.stages)}" * (arguments.stages != STAGES)
        + f" --model {arguments.model}" * bool(arguments.model)
    )
    cases = {
        "large": (f"{arguments.frames} frames of {arguments.size} px", arguments.frames, arguments.size),
        "many": (f"{arguments.many} frames of {LEAST} px", arguments.many, LEAST),
        "few": (f"{FEW} frames of {LEAST} px", FEW, LEAST),
    }
    rows = []
    with tempfile.TemporaryDirectory(prefix="aqdask-bench-") as name:
        for case, (title, frames, size) in cases.items():
            if arguments.only in (None, case):
                folder = Path(name) / case
                listed = prepare(folder, frames, size)
                stages = [one for one in arguments.stages if size >= SMALLEST or one != STAGES[-1]]
                model = Path(arguments.model) if arguments.model else make_model(listed, folder)
                times = compare(sides, listed, model, folder, arguments.repeat, stages)
                rows += rows_of(title, frames, times)
    columns = ("stage", "seconds", f"{names[0]}, ms a frame", f"{names[1]}, ms a frame", "ratio of pairs")
    header = "".join(f"- {name}: {value}\n" for name, value in about.items())
    text = f"# bench_pair\n\n{header}\n{markdown(columns, rows)}"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
