"""Commands on simulated frames with known defects: ``simulate`` writes them, ``demo`` masks them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from aqdask.cli.common import Session, command
from aqdask.errors import EXIT_DONE
from aqdask.text import plural, printable

if TYPE_CHECKING:
    from aqdask.execution.executors import Executor
    from aqdask.methods.bundle import Bundle
    from aqdask.simulate.demo import DemoFrame

TEST_FRACTION = 0.15  # of the good frames, for the false-mask rate; the others calibrate
DEFAULT_ALPHA = 0.01  # smallest rate of the calibration, unless a smaller alpha is asked for
ROUGH = 10  # expected false masks on the threshold frames, below which a note warns
PICTURES = 3


def simulation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that set number, size and seed of the simulated frames."""
    frames = click.option(
        "--frames", default=30, show_default=True, type=click.IntRange(8), help="Number of frames."
    )
    size = click.option(
        "--size", default=4096, show_default=True, type=click.IntRange(128), help="Side of a frame in px."
    )
    seed = click.option("--seed", default=20240507, show_default=True, help="Seed of all random numbers.")
    return frames(size(seed(function)))


@click.command()
@click.argument("out")
@simulation_options
@command
def simulate(session: Session, out: str, frames: int, size: int, seed: int) -> int:
    """Write simulated FITS frames, good ones and ones with known defects, and their truth into OUT."""
    from aqdask.simulate.demo import demo_plan

    plan = demo_plan(frames, size, seed)
    with session.executor() as executor:
        _simulate(session, executor, Path(out), plan)
    bad = sum(not frame.good for frame in plan)
    session.emit(f"{out}: {len(plan)} frames, {bad} of them with defects; truth in {out}/truth",
                 event="simulate", folder=out, frames=len(plan), bad=bad)  # fmt: skip
    return EXIT_DONE


@dataclass(frozen=True)
class Demo:
    """Files and settings of a demonstration.

    Parameters
    ----------
    folder : Path
        Parent of all files.
    plan : tuple of DemoFrame
        The simulated frames.
    name : str
        Name of the model.
    alpha : float
        False-mask rate of the masks, in (0, 1).
    """

    folder: Path
    plan: tuple[DemoFrame, ...]
    name: str
    alpha: float

    @property
    def sources(self) -> Path:
        """Folder of the FITS frames."""
        return self.folder / "frames"

    @property
    def archive(self) -> Path:
        """Path of the zarr archive."""
        return self.folder / "demo.zarr"

    @property
    def model(self) -> Path:
        """File of the calibrated model."""
        return self.folder / "model.safetensors"

    @property
    def references(self) -> list[str]:
        """Names of the good frames that calibrate; the last few good frames test the false-mask rate."""
        good = [frame.name for frame in self.plan if frame.good]
        return good[: len(good) - max(1, round(TEST_FRACTION * len(good)))]

    @property
    def min_alpha(self) -> float:
        """Smallest false-mask rate of the calibration."""
        return min(self.alpha, DEFAULT_ALPHA)


@click.command()
@click.argument("out", default="demo")
@simulation_options
@click.option("--alpha", default=0.01, show_default=True, help="False-mask rate on good patches, in (0, 1).")
@command
def demo(session: Session, out: str, frames: int, size: int, seed: int, alpha: float) -> int:
    """Run the whole pipeline on a small simulated archive and compare the masks with the truth.

    The steps are simulate, ingest, calibrate, score, export and report; everything is written into
    the folder OUT.
    Two thirds of the frames are good. The shipped model is calibrated on most of them, without training;
    recall and false-mask rate are measured on all other frames.
    """
    from aqdask import api
    from aqdask.cli.evaluation import evaluate_frames, show, write
    from aqdask.simulate.demo import demo_plan
    from aqdask.stats.masking import check_alpha

    check_alpha(alpha)
    files = Demo(Path(out), demo_plan(frames, size, seed), f"demo-{size}-{seed}", alpha)
    _check_enough(session, len(files.references), size, files.min_alpha)
    began, products = time.monotonic(), files.folder / "products"
    with session.executor() as executor:
        where: dict[str, Any] = {"cluster": executor, "reporter": session.reporter}
        _simulate(session, executor, files.sources, files.plan)
        api.ingest([str(files.sources / frame.name) for frame in files.plan], files.archive, **where)
        _check_frames(files)
        bundle = _model(session, files, where)
        api.score(files.archive, bundle, **where)
        api.export(files.archive, products, alpha=alpha, model=bundle.digest, **where)
    page = api.report(
        files.archive, products / "report.html", alpha=alpha, model=bundle.digest, reporter=session.reporter
    )
    unseen = [frame for frame in files.plan if frame.name not in files.references]
    results = evaluate_frames(files.archive, bundle.digest, files.sources, unseen, alpha)
    show(session, results)
    outputs = {
        "frames (FITS)": files.sources, "archive (zarr)": files.archive, "model": files.model,
        "masks (FITS DQ)": products / "dq", "table of frames": products / "frames.ecsv",
        "report (HTML)": page.path,
        "evaluation": write(files.folder / "evaluation.json", results),
    }  # fmt: skip
    outputs |= _pictures(session, files, bundle.digest)
    lines = (f"  {what:18} {place}" for what, place in outputs.items())
    session.emit("", f"outputs, in {time.monotonic() - began:.0f} s:", *lines, event="demo",
                 outputs={what: str(place) for what, place in outputs.items()})  # fmt: skip
    return EXIT_DONE


def _check_enough(session: Session, references: int, size: int, alpha: float) -> None:
    """Raise `UsageError` for so few patches that no p-value can be as small as ``alpha``.

    A note warns where the patches are just enough, so that the rates are rough.
    """
    from aqdask.errors import UsageError
    from aqdask.methods.training.settings import TrainSpec
    from aqdask.methods.training.split import split_frames
    from aqdask.specs import PatchGrid

    threshold = len(split_frames(references, TrainSpec()).calibration)
    rows, columns = PatchGrid(size, size).shape
    patches = threshold * rows * columns
    if 1 / (patches + 1) > alpha:
        raise UsageError(
            f"{references} reference frames of {size} x {size} px, {threshold} of which set the threshold "
            f"with {patches} patches",
            expected=f"at least {math.ceil(1 / alpha) - 1} patches for alpha = {alpha:g}",
            consequence="No patch could be masked at that alpha; nothing was drawn",
            remedy="give a larger --size or more --frames",
        )
    if patches * alpha < ROUGH:
        session.reporter.say(
            f"note: the threshold comes from {plural(threshold, 'good frame')} with {patches} patches, too "
            f"few for a rate of {alpha:g}: recall and false masks below are rough; a larger --size or more "
            "--frames help"
        )


def _check_frames(files: Demo) -> None:
    """Raise `UsageError` if the archive holds frames of the same names from another folder."""
    from aqdask import api
    from aqdask.errors import UsageError

    frames = api.open_frames(files.archive)
    ids, stored = (frames[name].values for name in ("frame_id", "path"))
    paths = {str(name): str(path) for name, path in zip(ids, stored, strict=True)}
    expected = {frame.name: printable((files.sources / frame.name).absolute()) for frame in files.plan}
    if any(paths.get(name) != path for name, path in expected.items()):
        raise UsageError(
            f"{files.archive} holds frames of another demonstration",
            expected=f"those of {files.sources}",
            consequence="Truth and masks would be of different frames",
            remedy=f"delete {files.archive}, or choose another folder",
        )


def _simulate(session: Session, executor: Executor, folder: Path, plan: tuple[DemoFrame, ...]) -> None:
    """Write the frames of the plan, unless the folder holds all of them."""
    from aqdask.execution.pipeline import collect, raised
    from aqdask.simulate.demo import SimulateJob, is_written, write_truth_table

    if is_written(folder, plan):
        session.reporter.say(f"using the {len(plan)} frames that are in {folder}")
        return
    session.reporter.start("simulate", len(plan))
    batches = [(frame,) for frame in plan]
    job = SimulateJob(str(folder.absolute()))
    for batch, _ in collect(executor, job, batches, stage="simulate", failed=raised):
        session.reporter.advance(len(batch))
    session.reporter.finish()
    write_truth_table(folder, plan)


def _model(session: Session, files: Demo, where: dict[str, Any]) -> Bundle:
    """Return the shipped model calibrated on the references, from an earlier demonstration if possible."""
    from aqdask import api
    from aqdask.errors import ModelError, UsageError
    from aqdask.execution.reporter import TrainingReporter
    from aqdask.methods.shipped import SHIPPED

    shipped, references = api.load_model(SHIPPED), files.references
    try:
        found = api.load_model(files.model)
        if _calibrated_as(found) == (files.name, shipped.digest, files.min_alpha, set(references)):
            session.reporter.say(f"using the model that is there: {files.model}")
            return found
    except (ModelError, UsageError, KeyError, IndexError):
        pass  # no file, or a model of another kind
    session.reporter.say(f"calibrating {SHIPPED} on {len(references)} good frames: {', '.join(references)}")
    progress = TrainingReporter(session.reporter)
    bundle = api.calibrate(
        files.archive, shipped, frames=references, out=files.model, progress=progress,
        alpha=files.min_alpha, name=files.name, **where,
    )  # fmt: skip
    session.reporter.finish()
    return bundle


def _calibrated_as(bundle: Bundle) -> tuple[str, str, float, set[str]]:
    """Name, origin, alpha and frames of the last calibration; `KeyError` for a bundle without one."""
    last = bundle.provenance["adapted"][-1]
    parts = [bundle.calibrations[key].facts["about"]["frames"] for key in last["calibrated"]]
    frames = {frame_id for sets in parts for members in sets.values() for frame_id in members}
    return bundle.name, bundle.provenance["adapted_from"], last["alpha"], frames


def _pictures(session: Session, files: Demo, model: str) -> dict[str, Path]:
    """Draw the masks over the first bad frames; return their paths, none without matplotlib."""
    from aqdask import api
    from aqdask.errors import UsageError
    from aqdask.products.plots import mask_over_frame

    frames = api.open_frames(files.archive)
    masks = api.mask(api.open_quality(files.archive, model), files.alpha)
    ids = [str(name) for name in frames["frame_id"].values]
    for frame in [frame for frame in files.plan if not frame.good][:PICTURES]:
        row = ids.index(frame.name)
        title = f"{frame.name}: {', '.join(defect.kind for defect in frame.defects)}; red = masked"
        image, mask = (np.asarray(array[row]) for array in (frames["image"], masks))
        try:
            mask_over_frame(image, mask, files.folder / f"{frame.name}.png", title)
        except UsageError as error:
            session.reporter.say(f"no pictures: {error}")
            return {}
    return {"pictures": files.folder / "*.png"}
