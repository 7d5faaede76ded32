"""Choosing reference frames and training on them: `aqdask.select` and `aqdask.train`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aqdask.archive import layout
from aqdask.archive.frames import ChosenFrames, FrameStore, Place
from aqdask.archive.ledger import DONE, open_ledger
from aqdask.archive.manifest import match_frames
from aqdask.engine import plan
from aqdask.engine.clusters import Cluster, executor_of
from aqdask.engine.replicas import default_device
from aqdask.engine.reporter import Reporter, Silent
from aqdask.engine.runner import blame, collect
from aqdask.errors import ModelError, UnlikeFramesError, UsageError, place_failed
from aqdask.escape import printable
from aqdask.kernels.measures import FrameMeasures
from aqdask.models.bundle import Bundle
from aqdask.models.fit import TrainProgress
from aqdask.models.settings import TrainSpec
from aqdask.models.shipped import SHIPPED, load_shipped
from aqdask.models.train import train as _train
from aqdask.places import check_local
from aqdask.sky.reference import Proposal, propose
from aqdask.sky.tasks import MeasureJob

PathLike = str | os.PathLike[str]
MOST_UNLIKE = 0.25  # of the proposed reference frames: so many may be left out without asking


def select(
    archive: PathLike,
    *,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> list[Proposal]:
    """Propose reference frames from classical measures, for each camera and filter apart.

    ``keep`` and ``drop`` are frame ids or patterns (``L/*``) that always win. Errors: `UsageError` for a
    pattern without a frame, and as `ingest`.
    """
    check_local(archive)
    frames = FrameStore.open(archive)
    ledger = open_ledger(layout.open_root(archive))
    places = [entry.place for entry in ledger.rows() if entry.state == DONE]
    report = reporter or Silent()
    measures: dict[Place, FrameMeasures] = {}

    def failed(place: Place, error: Exception) -> FrameMeasures:
        report.say(f"warning: {printable(place.path)} could not be measured: {blame(error)}")
        return FrameMeasures()

    report.start("select", len(places))
    with executor_of(cluster) as executor:
        job = MeasureJob(str(Path(archive).absolute()))
        parts = plan.slices(places, 1)
        for part, found in collect(executor, job, parts, stage="select", failed=failed):
            measures |= dict(zip(part, found, strict=True))
            report.advance(len(part))
    report.finish()
    chosen = ChosenFrames.of(frames, places)
    groups = [(card.camera, card.filter) for card in chosen.cards]
    kept, dropped = (match_frames(chosen.ids, _listed(patterns)) for patterns in (keep, drop))
    return propose(chosen.ids, [measures[place] for place in places], groups, kept, dropped)


def load_model(model: Bundle | PathLike) -> Bundle:
    """Read a model bundle; ``"wide-field"`` is the one that comes with the package.

    Raises
    ------
    UsageError
        If there is no such file.
    ModelError
        If it cannot be read, is corrupt, foreign or of another version.
    """
    if isinstance(model, Bundle):
        return model
    if model == SHIPPED:
        return load_shipped()
    check_local(model)
    if not Path(model).exists():
        raise UsageError(
            f"no model file {model}",
            expected=f"a bundle that `aqdask train` or `calibrate` wrote, or {SHIPPED!r}",
            consequence="Nothing was done",
            remedy="check the path, or calibrate or train a model first",
        )
    return Bundle.load(Path(model))


def train(
    archive: PathLike,
    *,
    frames: Sequence[str] | None = None,
    out: PathLike | None = None,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
    device: str | None = None,
    **settings: Any,
) -> Bundle:
    """Train and calibrate a model on reference frames of an archive.

    Parameters
    ----------
    archive : path
        The archive.
    frames : sequence of str, optional
        Ids or patterns (``L/*``) of the reference frames; None: what `select` proposes.
    out : path, optional
        Where the bundle is written; training that was cut short continues from ``<out>.checkpoint``.
    progress : callable, optional
        Called with `aqdask.models.fit.TrainProgress`.
    device : str, optional
        'cpu' or 'cuda'; None: CUDA where there is one.
    **settings
        Fields of `aqdask.models.settings.TrainSpec`: ``method``, ``name``, ``steps``, ``seed``, ...

    Raises
    ------
    UsageError
        For too few frames, a pattern without a frame, or a setting out of range.
    """
    check_local(archive, out)
    spec = TrainSpec(archive=printable(Path(archive).name), **settings)
    if out:
        _check_out(Path(out))
    chosen = _references(archive, frames, cluster, reporter)
    checkpoint = Path(f"{out}.checkpoint") if out else None
    place = device or default_device()
    bundle = _train(chosen, spec, progress=progress, checkpoint=checkpoint, device=place)
    if out:
        bundle.save(Path(out))
    return bundle


def calibrate(
    archive: PathLike,
    model: Bundle | PathLike,
    *,
    frames: Sequence[str] | None = None,
    out: PathLike | None = None,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
    device: str | None = None,
    **settings: Any,
) -> Bundle:
    """Adapt a model to the cameras and filters of good frames, without training.

    Noise model, hot pixels, sky templates and the calibration of p-values are learnt anew; weights stay. A
    minute on 10 to 40 frames of 4096 x 4096 px.

    Parameters
    ----------
    archive : path
        The archive.
    model : Bundle, path, or name of a shipped model
        Of the method 'aqdask'.
    frames : sequence of str, optional
        Ids or patterns (``L/*``) of good frames; None: what `select` proposes, less those that turn out to
        be unlike the others (at most a quarter).
    out : path, optional
        Where the adapted copy is written.
    progress : callable, optional
        Called with `aqdask.models.fit.TrainProgress`.
    device : str, optional
        'cpu' or 'cuda'; None: CUDA where there is one.
    **settings
        ``name`` (the model's unless given), ``seed``, ``alpha``, ``two_sided``, ``centred``.

    Raises
    ------
    UsageError
        For too few frames, frames that disagree among themselves, or noise far from the noise model's.
    """
    from aqdask.models.adapt import adapt

    check_local(archive, out)
    bundle = load_model(model)
    if out:
        _check_out(Path(out))
    spec = TrainSpec(archive=printable(Path(archive).name), **({"name": bundle.name} | settings))
    chosen = _references(archive, frames, cluster, reporter)
    tell = progress or _silent

    def make(references: ChosenFrames) -> Bundle:
        return adapt(bundle, references, spec, tell, device or default_device())

    adapted = make(chosen) if frames is not None else _agreeing(chosen, make, tell)
    if out:
        adapted.save(Path(out))
    return adapted


def _agreeing(
    chosen: ChosenFrames, make: Callable[[ChosenFrames], Bundle], tell: Callable[[TrainProgress], None]
) -> Bundle:
    """What ``make`` gives without the frames that it finds unlike the others, if those are few.

    `select` looks at frames as a whole; a cloud in a corner shows only when patches are compared.
    """
    first = len(chosen.ids)
    while True:
        try:
            return make(chosen)
        except UnlikeFramesError as error:
            named = zip(chosen.places, chosen.ids, strict=True)
            left = [place for place, name in named if name not in error.frames]
            if len(left) < (1 - MOST_UNLIKE) * first:
                raise
            tell(TrainProgress("note", note=f"{error.got}; left out of the references"))
            chosen = ChosenFrames.of(chosen.store, left)


def adapted(
    archive: PathLike,
    model: Bundle,
    folder: Path,
    alpha: float,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> Bundle:
    """A shipped model adapted to the best frames of an archive; kept in ``folder``, taken from there again.

    So a run that is repeated, or to which frames were added, goes on with one and the same model.
    """
    path = folder / f"{model.name}.safetensors"
    if path.exists():
        found = Bundle.load(path)
        if found.provenance.get("adapted_from") == model.digest:
            return found
    listener = reporter or Silent()

    def progress(found: TrainProgress) -> None:
        if found.stage == "note":
            listener.say(f"note: {found.note}")

    listener.say(f"{archive}: adapting {model.name} to the best frames, which `select` proposes")
    place: dict[str, Any] = {"cluster": cluster, "reporter": listener, "progress": progress}
    return calibrate(archive, model, out=path, alpha=min(alpha, 0.01), **place)


def _silent(progress: TrainProgress) -> None:
    """Tell nobody."""


def _references(
    archive: PathLike, frames: Sequence[str] | None, cluster: Cluster, reporter: Reporter | None
) -> ChosenFrames:
    """The frames that are named, or that `select` proposes, in the order of their rows."""
    store = FrameStore.open(archive)
    ledger = open_ledger(layout.open_root(archive))
    done = {entry.frame_id: entry.place for entry in ledger.rows() if entry.state == DONE}
    if frames is None:
        proposals = select(archive, cluster=cluster, reporter=reporter)
        ids = [proposal.id for proposal in proposals if proposal.proposed]
        if not ids:
            why = f", such as {proposals[0].id}: {proposals[0].reason}" if proposals else ""
            raise UsageError(
                f"none of the {len(proposals)} frames of {archive} is proposed as a reference{why}",
                expected="frames whose sky, noise and stars can be measured",
                consequence="Nothing is known to be good",
                remedy="see `aqdask select` and `aqdask info`, or name good frames",
            )
    else:
        ids = match_frames(list(done), _listed(frames))
    return ChosenFrames.of(store, sorted(done[frame_id] for frame_id in ids))


def _check_out(path: Path) -> None:
    """Refuse, before anything is trained, a place that will not take the bundle or holds something else."""
    if path.exists():
        try:
            Bundle.load(path)
        except ModelError as error:
            raise UsageError(
                f"{path} exists and is no model bundle",
                expected="a new file, or an earlier bundle, which is replaced",
                consequence="Nothing was trained",
                remedy="choose another name",
            ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise place_failed(path, error) from error


def _listed(names: str | Sequence[str]) -> list[str]:
    """A single pattern is one pattern, not its letters."""
    return [names] if isinstance(names, str) else list(names)
