"""``aqdask simulate`` and ``demo``: frames with known defects, and the whole way over them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from aqdask.cli.common import Session, command
from aqdask.errors import EXIT_DONE

if TYPE_CHECKING:
    from aqdask.engine.executors import Executor
    from aqdask.models.bundle import Bundle
    from aqdask.sky.demo import DemoFrame
    from aqdask.sky.truth import Evaluation, FrameVerdict

REFERENCES = 6  # of the good frames; the others are the test of false masks
PICTURES = 3


def plan_options(function: Any) -> Any:
    """The size of the simulated archive."""
    for option in reversed((
        click.option("--frames", default=15, show_default=True, type=click.IntRange(8), help="How many."),
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
@click.option("--steps", default=1000, show_default=True, type=click.IntRange(1), help="Steps of training.")
@command
def demo(session: Session, out: str, frames: int, size: int, seed: int, alpha: float, steps: int) -> int:
    """The main job on a small simulated archive: simulate, ingest, train, score, mask, compare with truth.

    Everything goes into the folder OUT. The model is trained on the first six good frames; recall and
    false-mask rate are counted on the others.
    """
    from aqdask import api

    began, folder = time.monotonic(), Path(out)
    sources, archive, model = folder / "frames", folder / "demo.zarr", folder / "model.safetensors"
    with session.executor() as executor:
        where: dict[str, Any] = {"cluster": executor, "reporter": session.reporter}
        plan = _simulate(session, executor, sources, frames, size, seed)
        api.ingest([str(sources / frame.name) for frame in plan], archive, **where)
        references = [frame.name for frame in plan if frame.good][:REFERENCES]
        session.reporter.say(f"training on {len(references)} good frames: {', '.join(references)}")
        bundle = _model(session, archive, model, f"demo-{size}-{seed}", references, steps, where)
        api.score(archive, bundle, **where)
        api.export(archive, folder / "products", alpha=alpha, model=bundle.digest, **where)
    evaluation = _evaluate(archive, bundle.digest, sources, plan, references, alpha)
    _show(session, evaluation, alpha)
    outputs = {
        "frames (FITS)": sources, "archive (zarr)": archive, "model": model,
        "masks (FITS DQ)": folder / "products" / "dq", "table of frames": folder / "products" / "frames.ecsv",
        "evaluation": _write(folder / "evaluation.json", evaluation, alpha),
    }  # fmt: skip
    outputs |= _pictures(session, archive, bundle.digest, plan, folder, alpha)
    lines = "\n".join(f"  {what:18} {place}" for what, place in outputs.items())
    session.emit(f"\noutputs, in {time.monotonic() - began:.0f} s:\n{lines}", event="demo",
                 outputs={what: str(place) for what, place in outputs.items()})  # fmt: skip
    return EXIT_DONE


def _simulate(
    session: Session, executor: Executor, folder: Path, frames: int, size: int, seed: int
) -> tuple[DemoFrame, ...]:
    """Write the frames of the plan, unless all of them are there."""
    from aqdask.engine.runner import collect
    from aqdask.sky.demo import demo_plan, is_written, write_truth_table
    from aqdask.sky.tasks import SimulateJob

    plan = demo_plan(frames, size, seed)
    if is_written(folder, plan):
        session.reporter.say(f"using the {len(plan)} frames that are in {folder}")
        return plan
    session.reporter.start("simulate", len(plan))
    batches = [(frame,) for frame in plan]
    for batch, _ in collect(executor, SimulateJob(str(folder.absolute())), batches, stage="simulate"):
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
    steps: int,
    where: dict[str, Any],
) -> Bundle:
    """The model of an earlier demonstration of the same frames, references and steps, else a new one."""
    from aqdask import api, training
    from aqdask.cli.model import TrainTeller
    from aqdask.errors import ModelError, UsageError

    try:
        found = api.load_model(path)
        used = {frame_id for part in found.provenance["frames"].values() for frame_id in part}
        if (found.name, found.provenance["settings"]["steps"], used) == (name, steps, set(references)):
            session.reporter.say(f"using the model that is there: {path}")
            return found
    except (ModelError, UsageError, KeyError):
        pass  # none yet, or of something else
    teller = TrainTeller(session)
    return training.train(
        archive, frames=references, out=path, progress=teller, steps=steps, name=name, **where
    )


def _verdicts(
    archive: Path, model: str, sources: Path, plan: tuple[DemoFrame, ...], alpha: float
) -> Iterator[FrameVerdict]:
    from aqdask import api
    from aqdask.kernels.masking import bad_patches
    from aqdask.sky.demo import read_truth, truth_path
    from aqdask.sky.truth import FrameVerdict

    quality = api.open_quality(archive, model)
    rows = {str(name): row for row, name in enumerate(quality["frame_id"].values)}
    for frame in plan:
        pvalue = quality["pvalue"][rows[frame.name]].values
        yield FrameVerdict(bad_patches(pvalue, alpha), read_truth(truth_path(sources, frame.name)))


def _evaluate(
    archive: Path, model: str, sources: Path, plan: tuple[DemoFrame, ...], references: list[str], alpha: float
) -> Evaluation:
    """Recall and false masks on the frames that the model has not seen."""
    from aqdask.sky.truth import evaluate
    from aqdask.specs import PatchGrid

    unseen = tuple(frame for frame in plan if frame.name not in references)
    spec = unseen[0].spec
    return evaluate(_verdicts(archive, model, sources, unseen, alpha), PatchGrid(spec.height, spec.width))


def _show(session: Session, evaluation: Evaluation, alpha: float) -> None:
    rows = [(kind, rate.patches, rate.masked, rate.rate) for kind, rate in evaluation.recall.items()]
    title = f"recall of known defects at alpha = {alpha} (patches of unseen frames):"
    session.table(title, ("defect", "affected", "masked", "recall"), rows)
    false = (
        ("good frames", evaluation.good_frames),
        ("untouched patches of bad frames", evaluation.untouched),
    )
    session.table(f"false masks, alpha = {alpha} promised on good frames:",
                  ("where", "patches", "masked", "rate"),
                  [(where, rate.patches, rate.masked, rate.rate) for where, rate in false])  # fmt: skip


def _write(path: Path, evaluation: Evaluation, alpha: float) -> Path:
    def numbers(rate: Any) -> Mapping[str, int]:
        return {"patches": rate.patches, "masked": rate.masked}

    found = {
        "alpha": alpha,
        "recall": {kind: numbers(rate) for kind, rate in evaluation.recall.items()},
        "good_frames": numbers(evaluation.good_frames),
        "untouched": numbers(evaluation.untouched),
    }
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


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
