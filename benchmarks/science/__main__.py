"""The methods side by side: ``python benchmarks/science [--quick] [--parts ...] [--out FOLDER]``.

Trains `aqdask` and `paper` on the same simulated reference frames, fits the classical baseline, and prints
tables as Markdown; numbers as JSON, models and pictures go to the output folder. Seeds are in `seeds`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for `helpers`

import archive
import conditions
import evaluate
import experiments
import helpers
import output
import plots
import torch
from draws import reference_frames
from evaluate import Scale
from methods import Contest, Task, prepare
from seeds import SEEDS

PARTS = ("conditions", "false", "sizes", "experiments", "photometry", "gwac", "ablation", "cost", "real")
QUICK = Scale(
    size=512,
    reference=12,
    clean=2,
    spoilt=2,
    false=2,
    sizes=4,
    steps={"aqdask": 10, "paper": 10},
    conditions=conditions.QUICK,
)


class Run:
    """Results so far, written after every part; an earlier run of the same models is continued."""

    def __init__(self, folder: Path, task: Task, scale: Scale, gwac: tuple[int, int]) -> None:
        self.folder, self.task, self.scale, self.gwac = folder, task, scale, gwac
        self.contest = Contest(task)
        self.clean = evaluate.clean_frames(self.contest, scale)
        facts = {
            "scale": json.loads(json.dumps(asdict(scale))),
            "seeds": SEEDS,
            "models": {name: bundle.digest for name, bundle in task.bundles.items()},
        }
        path = folder / "results.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        same = all(before.get(name) == value for name, value in facts.items())
        self.results: dict[str, Any] = (before if same else {"tables": {}}) | facts
        self.results["environment"] = helpers.environment()

    def add(self, name: str, found: Any, *tables: str) -> None:
        """Keep, print and write."""
        self.results[name] = found
        self.results["tables"][name] = list(tables)
        print("\n".join(tables), flush=True)
        (self.folder / "results.json").write_text(json.dumps(self.results, indent=1) + "\n")
        every = [table for part in self.results["tables"].values() for table in part]
        (self.folder / "tables.md").write_text("\n".join(every))


def run_conditions(run: Run) -> None:
    """The table of conditions, and untouched patches beside defects."""
    collected: evaluate.ScoredConditions = []
    rows = evaluate.table_of_conditions(run.contest, run.scale, run.clean, collected)
    rows += evaluate.means(rows)
    run.add("conditions", rows, output.conditions(rows))
    beside = evaluate.untouched(collected)
    if beside:
        run.add("untouched", beside, output.untouched(beside))


def run_false(run: Run) -> None:
    """False masks on good frames."""
    rows = evaluate.false_masks(run.contest, run.scale)
    run.add("false", rows, output.false_masks(rows))


def run_sizes(run: Run) -> None:
    """Size against FWHM."""
    rows = evaluate.sizes(run.contest, run.scale)
    run.add("sizes", rows, output.sizes(rows))


def run_experiments(run: Run) -> None:
    """The published experiments."""
    found = experiments.fwhm_sweep(run.contest, run.scale, run.clean)
    title = f"FWHM from {found['steps'][0]['fwhm_arcsec']} to {found['steps'][-1]['fwhm_arcsec']} arcsec"
    columns = ("fwhm_arcsec", "fwhm_px")
    run.add("fwhm", found, output.sweep(title, found["steps"], columns), output.trends(found["trends"]))
    rows = experiments.background_sweep(run.contest, run.scale, run.clean)
    run.add("background", rows, output.sweep("Complex background", rows, ("scale_px", "level")))
    _draw(run)


def _draw(run: Run) -> None:
    """Pictures of what there is so far."""
    for path in plots.pictures(run.results, run.folder):
        print(f"picture: {path.name}")


def run_photometry(run: Run) -> None:
    """Photometry behind masks, on frames of the prior."""
    rows = archive.photometry(run.contest, run.scale)
    run.add("photometry", rows, output.photometry("Photometry and detections", rows))


def run_gwac(run: Run) -> None:
    """Photometry and difference images on an archive of GWAC-like frames."""
    quick = run.scale == QUICK
    count, size, references = (2, 512, 12) if quick else (*run.gwac, archive.REFERENCES)
    rows, differences = archive.gwac(run.folder, count, size, references, run.scale.steps)
    run.add("gwac", rows, output.photometry("GWAC-like archive", rows))
    run.add("differences", differences, output.differences(differences))
    _draw(run)


def run_ablation(run: Run) -> None:
    """The ablation."""
    from ablation import ablation

    rows = ablation(run.task, run.scale)
    run.add("ablation", rows, output.ablation(rows))


def run_cost(run: Run) -> None:
    """Seconds, multiply-accumulates and memory."""
    from cost import cost

    quick = run.scale == QUICK
    found = cost(run.task.bundles["aqdask"], size=512 if quick else 4096, repeat=1 if quick else 3)
    run.add("cost", found, output.cost(found))


def run_real(run: Run) -> None:
    """Real frames."""
    from real import real

    found, tables = real(run.folder, quick=run.scale == QUICK)
    run.add("real", found, *tables)


RUN: dict[str, Callable[[Run], None]] = {
    "conditions": run_conditions,
    "false": run_false,
    "sizes": run_sizes,
    "experiments": run_experiments,
    "photometry": run_photometry,
    "gwac": run_gwac,
    "ablation": run_ablation,
    "cost": run_cost,
    "real": run_real,
}


def alone_references(folder: Path, scale: Scale, quick: bool) -> list[str]:
    """Detection of bad reference frames."""
    from references import references

    return references(folder, quick)


def alone_strata(folder: Path, scale: Scale, quick: bool) -> list[str]:
    """References under two skies."""
    import strata

    return [strata.table(strata.strata(quick))]


def alone_lines(folder: Path, scale: Scale, quick: bool) -> list[str]:
    """Lines of whole frames."""
    import lines

    return lines.lines(quick)


def alone_calibrate(folder: Path, scale: Scale, quick: bool) -> list[str]:
    """Cost of `aqdask calibrate`."""
    import calibrating

    return [calibrating.table(calibrating.calibrating(quick))]


def alone_training(folder: Path, scale: Scale, quick: bool) -> list[str]:
    """Held-out losses, and cost of `aqdask train`."""
    from training import training

    return training(folder, reference_frames(scale.reference, scale.size), quick)


def alone_nights(folder: Path, scale: Scale, quick: bool) -> list[str]:
    """Few references, and tests of whole frames."""
    import nights

    rows = nights.first_nights(quick)
    return nights.tables(rows, nights.slopes(quick), nights.spreads(rows, quick))


def alone_photutils(folder: Path, scale: Scale, quick: bool) -> list[str]:
    """Frames of another simulator."""
    import photutils_frames

    return [photutils_frames.table(photutils_frames.photutils_frames(quick))]


ALONE: dict[str, Callable[[Path, Scale, bool], list[str]]] = {
    "references": alone_references,
    "strata": alone_strata,
    "nights": alone_nights,
    "photutils": alone_photutils,
    "lines": alone_lines,
    "calibrate": alone_calibrate,
    "training": alone_training,
}
"""Parts that need no model of the benchmark's; their tables are printed."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(prog="benchmarks/science", description=__doc__.partition("\n")[0])
    result.add_argument("--parts", default=",".join((*PARTS, *ALONE)), help="comma-separated (%(default)s)")
    result.add_argument("--out", type=Path, default=Path("build/science"), help="folder (%(default)s)")
    result.add_argument("--quick", action="store_true", help="little of everything, under a minute")
    result.add_argument("--frames", type=int, help="frames a condition (4)")
    result.add_argument(
        "--gwac-frames", type=int, help="frames of the GWAC-like archive (24; 600 in a Slurm job)"
    )
    result.add_argument("--gwac-size", type=int, default=4096, help="their side in px (%(default)s)")
    result.add_argument("--steps", type=int, help="optimiser steps of aqdask (its default)")
    result.add_argument("--fresh", action="store_true", help="train even where the folder has the models")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the parts."""
    given = parser().parse_args(arguments)
    parts = [part for part in given.parts.split(",") if part]
    if unknown := set(parts) - {*PARTS, *ALONE}:
        parser().error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join((*PARTS, *ALONE))}")
    torch.set_num_threads(1)
    scale = QUICK if given.quick else Scale()
    if given.frames:
        scale = replace(scale, spoilt=given.frames)
    if given.steps:
        scale = replace(scale, steps={"aqdask": given.steps})
    given.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    for part in ALONE:
        if part in parts:
            print("\n".join(ALONE[part](given.out, scale, given.quick)))
            print(f"{part}: {time.monotonic() - begin:.0f} s", flush=True)
    if set(parts) <= set(ALONE):
        return 0
    frames = reference_frames(scale.reference, scale.size)
    task = prepare(frames, scale.steps, given.out, fresh=given.fresh)
    print(f"models ready after {time.monotonic() - begin:.0f} s", flush=True)
    run = Run(given.out, task, scale, (given.gwac_frames or archive.FRAMES, given.gwac_size))
    for part in PARTS:
        if part in parts:
            RUN[part](run)
            print(f"{part}: {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
