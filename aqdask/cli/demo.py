"""``aqdask simulate`` and ``demo``: frames with known defects, and the whole way over them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from aqdask.cli.common import Session, command
from aqdask.errors import EXIT_DONE
from aqdask.text import printable

if TYPE_CHECKING:
    from aqdask.execution.executors import Executor
    from aqdask.methods.bundle import Bundle
    from aqdask.simulate.demo import DemoFrame

UNSEEN_FRACTION = 0.15  # of the good frames: the test of false masks; the others calibrate
FIRST_ALPHA = 0.01  # what `aqdask run` calibrates for; smaller where a smaller alpha is asked for
ROUGH = 10  # expected false masks on the threshold frames below which the demonstration warns
PICTURES = 3


def plan_options(function: Any) -> Any:
    """The size of the simulated archive."""
    for option in reversed((
        click.option("--frames", default=30, show_default=True, type=click.IntRange(8), help="How many."),
        click.option("--size", default=4096, show_default=True, type=click.IntRange(128), help="Side in px."),
        click.option("--seed", default=20240507, show_default=True, help="Draws everything."),
    )):  # fmt: skip
        function = option(function)
    return function


@click.command()
@click.argument("out")
@plan_options
@command
def simulate(session: Session, out: str, frames: int, size: int, seed: int) -> int:
    """Write simulated FITS frames, good ones and ones with known defects, and their truth into OUT."""
    with session.executor() as executor:
        plan = _simulate(session, executor, Path(out), frames, size, seed)
    bad = sum(not frame.good for frame in plan)
    session.emit(f"{out}: {len(plan)} frames, {bad} of them with defects; truth in {out}/truth",
                 event="simulate", folder=out, frames=len(plan), bad=bad)  # fmt: skip
    return EXIT_DONE


@click.command()
@click.argument("out", default="demo")
@plan_options
@click.option("--alpha", default=0.01, show_default=True, help="False-mask rate on good patches.")
@command
def demo(session: Session, out: str, frames: int, size: int, seed: int, alpha: float) -> int:
    """The main job on a small simulated archive: simulate, ingest, calibrate, score, mask, compare to truth.

    Everything goes into the folder OUT. Two thirds of the frames are good; the shipped model is calibrated on
    most of these, without training, and recall and false-mask rate are counted on all other frames.
    """
    from aqdask import api
    from aqdask.cli.evaluation import evaluate_frames, show, write
    from aqdask.simulate.demo import demo_plan
    from aqdask.stats.masking import check_alpha

    check_alpha(alpha)
    references = _references(demo_plan(frames, size, seed))
    least = min(alpha, FIRST_ALPHA)
    _check_enough(session, len(references), size, least)
    began, folder = time.monotonic(), Path(out)
    sources, archive, model = folder / "frames", folder / "demo.zarr", folder / "model.safetensors"
    with session.executor() as executor:
        where: dict[str, Any] = {"cluster": executor, "reporter": session.reporter}
        plan = _simulate(session, executor, sources, frames, size, seed)
        api.ingest([str(sources / frame.name) for frame in plan], archive, **where)
        _check_frames(archive, sources, plan)
        bundle = _model(session, archive, model, f"demo-{size}-{seed}", references, least, where)
        api.score(archive, bundle, **where)
        api.export(archive, folder / "products", alpha=alpha, model=bundle.digest, **where)
    unseen = [frame for frame in plan if frame.name not in references]
    findings = evaluate_frames(archive, bundle.digest, sources, unseen, alpha)
    show(session, findings)
    outputs = {
        "frames (FITS)": sources, "archive (zarr)": archive, "model": model,
        "masks (FITS DQ)": folder / "products" / "dq", "table of frames": folder / "products" / "frames.ecsv",
        "evaluation": write(folder / "evaluation.json", findings),
    }  # fmt: skip
    outputs |= _pictures(session, archive, bundle.digest, plan, folder, alpha)
    lines = (f"  {what:18} {place}" for what, place in outputs.items())
    session.emit("", f"outputs, in {time.monotonic() - began:.0f} s:", *lines, event="demo",
                 outputs={what: str(place) for what, place in outputs.items()})  # fmt: skip
    return EXIT_DONE


def _references(plan: tuple[DemoFrame, ...]) -> list[str]:
    """The good frames that calibrate: all but the last few, which are the test of false masks."""
    good = [frame.name for frame in plan if frame.good]
    return good[: len(good) - max(1, round(UNSEEN_FRACTION * len(good)))]


def _check_enough(session: Session, references: int, size: int, alpha: float) -> None:
    """Refuse, before anything is drawn, so few patches that no p-value could be as small as ``alpha``.

    Where they are just enough, say how far the numbers can be trusted.
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
            f"note: {threshold} good frames with {patches} patches set the threshold, too few for a rate of "
            f"{alpha:g}: recall and false masks below are rough; a larger --size or more --frames help"
        )


def _check_frames(archive: Path, sources: Path, plan: tuple[DemoFrame, ...]) -> None:
    """Refuse an archive that holds frames of the same names from elsewhere: the folder was moved."""
    from aqdask import api
    from aqdask.errors import UsageError

    frames = api.open_frames(archive)
    ids, stored = (frames[name].values for name in ("frame_id", "path"))
    paths = {str(name): str(path) for name, path in zip(ids, stored, strict=True)}
    expected = {frame.name: printable((sources / frame.name).absolute()) for frame in plan}
    if any(paths.get(name) != path for name, path in expected.items()):
        raise UsageError(
            f"{archive} holds frames of another demonstration",
            expected=f"those of {sources}",
            consequence="Truth and masks would be of different frames",
            remedy=f"delete {archive}, or choose another folder",
        )


def _simulate(
    session: Session, executor: Executor, folder: Path, frames: int, size: int, seed: int
) -> tuple[DemoFrame, ...]:
    """Write the frames of the plan, unless all of them are there."""
    from aqdask.execution.pipeline import collect, raised
    from aqdask.simulate.demo import demo_plan, is_written, write_truth_table
    from aqdask.simulate.tasks import SimulateJob

    plan = demo_plan(frames, size, seed)
    if is_written(folder, plan):
        session.reporter.say(f"using the {len(plan)} frames that are in {folder}")
        return plan
    session.reporter.start("simulate", len(plan))
    batches = [(frame,) for frame in plan]
    job = SimulateJob(str(folder.absolute()))
    for batch, _ in collect(executor, job, batches, stage="simulate", failed=raised):
        session.reporter.advance(len(batch))
    session.reporter.finish()
    write_truth_table(folder, plan)
    return plan


def _model(
    session: Session,
    archive: Path,
    path: Path,
    name: str,
    references: list[str],
    alpha: float,
    where: dict[str, Any],
) -> Bundle:
    """The shipped model calibrated on these references: that of an earlier demonstration, else a new one."""
    from aqdask import api
    from aqdask.cli.model import TrainTeller
    from aqdask.errors import ModelError, UsageError
    from aqdask.methods.shipped import SHIPPED

    shipped = api.load_model(SHIPPED)
    wanted = (name, shipped.digest, alpha, set(references))
    try:
        found = api.load_model(path)
        if _calibrated_as(found) == wanted:
            session.reporter.say(f"using the model that is there: {path}")
            return found
    except (ModelError, UsageError, KeyError, IndexError):
        pass  # none yet, or of something else
    session.reporter.say(f"calibrating {SHIPPED} on {len(references)} good frames: {', '.join(references)}")
    teller = TrainTeller(session)
    bundle = api.calibrate(
        archive, shipped, frames=references, out=path, progress=teller, alpha=alpha, name=name, **where
    )
    session.reporter.finish()
    return bundle


def _calibrated_as(bundle: Bundle) -> tuple[str, str, float, set[str]]:
    """Name, origin, alpha and frames of the last calibration; `KeyError` where the bundle has none."""
    last = bundle.provenance["adapted"][-1]
    parts = [bundle.calibrations[key].facts["about"]["frames"] for key in last["calibrated"]]
    used = {frame_id for sets in parts for members in sets.values() for frame_id in members}
    return bundle.name, bundle.provenance["adapted_from"], last["alpha"], used


def _pictures(
    session: Session, archive: Path, model: str, plan: tuple[DemoFrame, ...], folder: Path, alpha: float
) -> dict[str, Path]:
    """Masks over the first bad frames, where matplotlib is installed."""
    from aqdask import api
    from aqdask.errors import UsageError
    from aqdask.products.plots import mask_over_frame

    frames, quality = api.open_frames(archive), api.open_quality(archive, model)
    bad = api.mask(quality, alpha)
    ids = [str(name) for name in frames["frame_id"].values]
    chosen = [frame for frame in plan if not frame.good][:PICTURES]
    for frame in chosen:
        row = ids.index(frame.name)
        title = f"{frame.name}: {', '.join(defect.kind for defect in frame.defects)}; red = masked"
        try:
            mask_over_frame(
                np.asarray(frames["image"][row]), np.asarray(bad[row]), folder / f"{frame.name}.png", title
            )
        except UsageError as error:
            session.reporter.say(f"no pictures: {error}")
            return {}
    return {"pictures": folder / "*.png"}
