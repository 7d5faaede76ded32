"""Public functions of the package."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import xarray as xr

from aqdask.errors import ModelError, UsageError, place_failed
from aqdask.execution import config
from aqdask.execution.clusters import Cluster, executor_of
from aqdask.execution.ingest import IngestOptions
from aqdask.execution.ingest import ingest as _ingest
from aqdask.execution.model_cache import default_device
from aqdask.execution.open_archive import writing
from aqdask.execution.pipeline import Summary, process
from aqdask.execution.reference_frames import (
    ArchiveFrames,
    choose_frames,
    propose_frames,
    without_outliers,
)
from aqdask.execution.reporter import NoteKeeper, Reporter, Silent, TrainingReporter
from aqdask.execution.verify import Verification
from aqdask.execution.verify import verify as _verify
from aqdask.io.frame_ids import match_frames
from aqdask.io.places import check_output
from aqdask.measurements.source_tables import Detections, detect_archive
from aqdask.methods import dispatch
from aqdask.methods.bundle import Bundle
from aqdask.methods.calibration_spans import OF_FRAMES, TimeSpan
from aqdask.methods.shipped import SHIPPED, load_shipped
from aqdask.methods.training.progress import Report, TrainProgress
from aqdask.methods.training.settings import TrainSpec
from aqdask.paths import check_local, check_place, check_regular, is_object
from aqdask.photometry.source_catalogue import DetectSpec
from aqdask.products import agreement, lazy
from aqdask.products.agreement import LabelAgreement
from aqdask.products.compare import Comparison, compare
from aqdask.products.drift import ArchiveDrift, find_drift
from aqdask.products.export import DEFAULT_FORMATS, TABLE_FORMATS, check_formats, export_all
from aqdask.products.label_file import label_table, read_label_file
from aqdask.products.open import mask, open_frames, open_quality, quality_name
from aqdask.products.table import frames_without_mask
from aqdask.references.propose import Proposal
from aqdask.stats.masking import check_alpha
from aqdask.store import labels as stored_labels
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import open_ledger
from aqdask.text import plural, printable
from aqdask.watching.watch import Watch, WatchCounts, WatchSettings, inbox_folders

if TYPE_CHECKING:
    from aqdask.measurements.light_curves import LightCurves
    from aqdask.measurements.search import FoundTransients
    from aqdask.measurements.stack import Stack
    from aqdask.products.report.page import ReportPage

__all__ = [
    "Bundle", "Comparison", "Detections", "IngestOptions", "LabelAgreement", "Summary", "Verification",
    "WatchCounts", "WatchSettings", "calibrate", "compare", "detect", "drift", "export", "ingest", "label",
    "label_agreement", "label_from_file", "labels", "light_curves", "load_model", "mask", "open_frames",
    "open_quality", "quality_of", "rank_frames", "reconstruct", "report", "run", "score", "select", "stack",
    "train", "transients", "verify", "watch",
]  # fmt: skip

PathLike = str | os.PathLike[str]


def ingest(
    sources: PathLike | Sequence[PathLike],
    archive: PathLike,
    *,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> list[Summary]:
    """Take FITS frames into a zarr archive, in parallel and resumable.

    Parameters
    ----------
    sources : path or sequence of path
        Files, folders (recursive), globs, each also as ``s3://BUCKET/KEY``, and ``@list.txt``.
    archive : path
        Path or ``s3://BUCKET/KEY``, as everywhere. Made where it is not there; frames are added where it is.
    cluster : str, optional
        Where it runs; None: the current Dask client, else this process.
    reporter : Reporter, optional
        Listens to the progress.
    **options
        Fields of `aqdask.execution.ingest.IngestOptions`: ``hdu``, ``mask_hdu``, ``mask_files``,
        ``bad_pixel_map``, ``sections``, ``fill``, ``keywords``, ``chunk``, ``codec``, ``frames_per_shard``,
        ``pixels``, ``by_shape``, ``rehash``, ``retry``, ``forget``.

    Returns
    -------
    list of Summary
        One an archive: a single one unless ``by_shape``.

    Raises
    ------
    UsageError
        If sources do not exist or hold no image, or an option contradicts the archive.
    ArchiveError
        If the archive is not ours, of a newer layout, held by another process, or cannot be written.
    ClusterError
        If the cluster does not answer.
    """
    settings, paths = IngestOptions.of(options), _listed(sources)
    _check_places(paths, archive, settings)
    with executor_of(cluster) as executor:
        return _ingest(paths, archive, executor, reporter or Silent(), settings)


def run(
    sources: PathLike | Sequence[PathLike],
    archive: PathLike,
    model: Bundle | PathLike,
    *,
    products: PathLike | None = None,
    alpha: float = 0.01,
    strict: bool = False,
    all_types: bool = False,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> list[Summary]:
    """Ingest, score, export and write the report in one go, reading each source once.

    Parameters are those of `ingest`, `score` and `export`; ``products`` is the folder of masks, table and
    ``report.html``, ``<archive>-products`` where it is not given. Archives of more than 50,000 frames have no
    report. Errors are theirs, too. A shipped model (``"wide-field"``)
    is calibrated first, on the frames that `select` proposes.
    """
    check_alpha(alpha)
    settings, paths = IngestOptions.of(options), _listed(sources)
    _check_places(paths, archive, settings)
    check_local(products)
    bundle = load_model(model)
    listener = reporter or Silent()
    if products is not None:
        try:
            Path(products).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise place_failed(products, error) from error
    with executor_of(cluster) as executor:
        shipped = model == SHIPPED
        first = None if shipped else bundle
        summaries = _ingest(
            paths,
            archive,
            executor,
            listener,
            settings,
            first,
            strict=strict and not shipped,
            all_types=all_types,
        )
        where: dict[str, Any] = {"cluster": executor, "reporter": listener}
        for number, summary in enumerate(summaries):
            folder = products_folder(summary.archive) if products is None else Path(products)
            if products is not None and len(summaries) > 1:
                folder = folder / Path(summary.archive).stem
            used = bundle
            if shipped:
                used = _calibrated_on_best(summary.archive, bundle, folder, alpha, executor, listener)
                summaries[number] = score(summary.archive, used, strict=strict, all_types=all_types, **where)
                summaries[number].left_out = summary.left_out
            table = export(summary.archive, folder, alpha=alpha, model=used.digest, **where)
            summaries[number].blame(frames_without_mask(table))
            try:
                report(
                    summary.archive, folder / "report.html", alpha=alpha, model=used.digest, reporter=listener
                )
            except UsageError as error:
                listener.say(f"note: no report: {error}")
    return summaries


def watch(
    inboxes: PathLike | Sequence[PathLike],
    archive: PathLike,
    model: Bundle | PathLike,
    *,
    products: PathLike | None = None,
    stop: threading.Event | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
    settings: WatchSettings | None = None,
    **options: Any,
) -> WatchCounts:
    """Ingest and score frames as they arrive, until ``stop`` is set.

    Parameters
    ----------
    inboxes : path or sequence of path
        Folders of this machine, sub-folders included; they may be absent for a while.
    archive : path
        Made for the first frames where it does not exist.
    model : Bundle or path
        The model.
    products : path, optional
        Folder of the journal ``watch.jsonl``, ``frames.parquet`` and masks; ``<archive>-products`` where it
        is not given.
    stop : threading.Event, optional
        Ends the watch after the frames in work; None: `WatchSettings.idle` or an exception ends it.
    on_event : callable, optional
        Called with the record of each frame and each command.
    cluster : str, optional
        Where it runs; None: the current Dask client, else this process.
    reporter : Reporter, optional
        Receives messages.
    settings : WatchSettings, optional
        Threshold, condition, commands and times.
    **options
        Fields of `aqdask.execution.ingest.IngestOptions` about reading and storing, as in `ingest`.

    Returns
    -------
    WatchCounts
        Frames by verdict, and commands that failed or did not run.

    Raises
    ------
    UsageError
        If an inbox is a file, a URL or inside another one, or a condition, command or option cannot be used.
    ArchiveError, ClusterError
        As `ingest`; an archive that can no longer be written is tried again for ten minutes.
    """
    wanted = settings or WatchSettings()
    check_alpha(wanted.alpha)
    given, folders = IngestOptions.of(options), inbox_folders(_listed(inboxes))
    for name in ("by_shape", "rehash", "retry", "forget"):
        if getattr(given, name):
            raise UsageError(
                f"the option {name} of a watch",
                expected="options about reading and storing frames",
                consequence="Nothing was started",
                remedy="use it with `aqdask ingest` on the same archive, while no watch runs",
            )
    _check_places((), archive, given)
    check_local(products)
    bundle = load_model(model)
    folder = products_folder(archive) if products is None else Path(products)
    with executor_of(cluster) as executor:
        found = Watch(
            folders, str(archive), bundle, folder.absolute(), wanted, given, executor, reporter or Silent(),
            on_event or (lambda record: None),
        )  # fmt: skip
        return found.run(stop or threading.Event())


def products_folder(archive: PathLike) -> Path:
    """Return the default folder of masks and table of `run`: ``<archive>-products`` beside the archive.

    For an archive in a bucket it is in the current folder.
    """
    place = Path(PurePath(archive).name) if is_object(archive) else Path(archive)
    return place.with_name(f"{place.stem}-products")


def select(
    archive: PathLike,
    *,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> list[Proposal]:
    """Propose reference frames by statistics of whole images, for each camera and filter apart.

    All sound lights are proposed, the best 24 where there are more. Frames of other types and colour mosaics
    are neither measured nor proposed. Frames with a streak, and those with a column or row that differs from
    its neighbours there but not in others, are left out; a note names the column.

    Parameters
    ----------
    archive : path
        The archive.
    keep, drop : sequence of str
        Frame ids or patterns (``L/*``) of lights that are proposed, or not, whatever their statistics.
    cluster : str, optional
        Where it runs; None: the current Dask client, else this process.
    reporter : Reporter, optional
        Listens to the progress.

    Returns
    -------
    list of Proposal
        One a frame, in the order of the archive.

    Raises
    ------
    UsageError
        For a pattern without a frame; and as `ingest`.
    """
    check_place(archive)
    with executor_of(cluster) as executor:
        return propose_frames(archive, _listed(keep), _listed(drop), executor, reporter or Silent())


def label(
    archive: PathLike,
    frames: str | Sequence[str],
    verdict: str | None,
    *,
    box: Sequence[int] | None = None,
    note: str = "",
) -> int:
    """Label frames, or a box of them, as good or bad; labels live in the archive and may be changed any time.

    Frames labelled bad are never references (`select`, `calibrate`, `train`), those labelled good are
    proposed first, and boxes labelled bad are no data for a calibration. Labels change no score and no mask.

    Parameters
    ----------
    archive : path
        The archive; also while another process adds frames to it.
    frames : str or sequence of str
        Ids or patterns (``L/*``).
    verdict : str or None
        'good' or 'bad', in place of an earlier verdict on the same frame or box; None takes it back.
    box : sequence of int, optional
        First and one past the last pixel, ``x0, y0, x1, y1``, from 0; None for the frame as a whole.
    note : str
        Remark, at most 1,000 characters; stored with the account's name and the time.

    Returns
    -------
    int
        Number of labels that were written.

    Raises
    ------
    UsageError
        For a pattern without a frame, a box outside of the frame, another verdict, or no label to take back.
    ArchiveError
        If the archive cannot be written, or its labels do not decode.
    """
    check_place(archive)
    rows = open_ledger(layout.open_root(archive), damaged=True).rows()
    ids = match_frames(rows.texts("frame_id"), _listed(frames))
    found = None if box is None else tuple(box)
    given = [stored_labels.Label(name, verdict or stored_labels.REMOVED, found, note) for name in ids]  # type: ignore[arg-type]
    return len(stored_labels.write(archive, given, fsync=config.fsync()))


def label_from_file(archive: PathLike, path: PathLike, *, reporter: Reporter | None = None) -> int:
    """Add the labels of a file that the page of `aqdask report` saved: all of them, or none.

    Labels that were cleared in the page are taken back. The file has checksums of the frames that were
    judged, so that it fits these frames only, whatever the archive is called.

    Parameters
    ----------
    archive : path
        The archive.
    path : path
        The file.
    reporter : Reporter, optional
        Hears of labels without a checksum (of earlier releases, and of frames without pixels).

    Returns
    -------
    int
        Number of labels that were written.

    Raises
    ------
    UsageError
        For a file of another form or another archive, or frames with other pixels; and as `label`.
    """
    check_place(archive)
    check_local(path)
    given = read_label_file(path, archive)
    written = stored_labels.write(archive, given, fsync=config.fsync(), missing_ok=True) if given else []
    if blind := [one.frame_id for one in given if not one.pixels]:
        who = f"{len(blind)} of {plural(len(given), 'label')} {'has' if len(blind) == 1 else 'have'}"
        (reporter or Silent()).say(
            f"note: {who} no checksum of the pixels that were judged, such as that of {printable(blind[0])}: "
            "only the names tie them to this archive"
        )
    return len(written)


def labels(archive: PathLike) -> pa.Table:
    """Return the labels of an archive that count, one row each.

    Returns
    -------
    pyarrow.Table
        ``frame_id``, ``verdict`` ('good' or 'bad'), the box ``x0``, ``y0``, ``x1``, ``y1`` in pixels (null
        for a whole frame), ``note``, ``by``, ``time`` (UTC, ISO 8601), and ``valid``: False where the frame's
        pixels have been replaced since, so that the label is not honoured.
    """
    check_place(archive)
    return label_table(archive)


def label_agreement(archive: PathLike, *, model: str | None = None, alpha: float = 0.01) -> LabelAgreement:
    """Compare the flags and masks of a model with the labels: precision and recall, by reason.

    Parameters
    ----------
    archive : path
        A scored and labelled archive.
    model : str, optional
        Name or digest, where the archive holds maps of several models.
    alpha : float
        False-mask rate of the mask, in (0, 1).

    Raises
    ------
    UsageError
        For alpha outside (0, 1), or no or several models.
    """
    return agreement.label_agreement(archive, quality_name(archive, model), alpha)


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
    progress: Report | None = None,
    device: str | None = None,
    **settings: Any,
) -> Bundle:
    """Train and calibrate a model on reference frames of an archive.

    Parameters
    ----------
    archive : path
        The archive.
    frames : sequence of str, optional
        Ids or patterns (``L/*``) of the reference frames; None: those that `select` proposes. Frames that
        are no lights are left out, with a note.
    out : path, optional
        Where the bundle is written.
    progress : callable, optional
        Called with `aqdask.methods.training.progress.TrainProgress`.
    device : str, optional
        'cpu' or 'cuda'; None: CUDA where there is one.
    **settings
        Fields of `aqdask.methods.training.settings.TrainSpec`: ``method``, ``name``, ``steps``, ``seed``, ...

    Returns
    -------
    Bundle
        Written to ``out`` as well, where it is given.

    Raises
    ------
    UsageError
        For too few frames, a colour mosaic, a pattern without a frame, or a setting out of range.
    """
    check_place(archive)
    check_local(out)
    spec = TrainSpec(archive=printable(Path(archive).name), **settings)
    if out:
        _check_out(Path(out))
    with executor_of(cluster) as executor:
        chosen = choose_frames(archive, _patterns(frames), executor, reporter or Silent())
        spec = replace(spec, labels=chosen.labels())
        bundle = dispatch.train(chosen, spec, progress=progress, device=device or default_device())
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
    progress: Report | None = None,
    device: str | None = None,
    **settings: Any,
) -> Bundle:
    """Calibrate a model for the cameras and filters of good frames, without training.

    Noise, hot pixels, sky templates and p-values are fitted on the workers; each frame is read twice.

    Parameters
    ----------
    archive : path
        The archive.
    model : Bundle, path, or name of a shipped model
        Of the method 'aqdask'.
    frames : sequence of str, optional
        Ids or patterns (``L/*``) of good frames; None: those that `select` proposes, less outliers (at most a
        quarter). Frames that are no lights are left out, with a note.
    out : path, optional
        Where the calibrated copy is written.
    progress : callable, optional
        Called with `aqdask.methods.training.progress.TrainProgress`.
    device : str, optional
        'cpu' or 'cuda'; None: CUDA where there is one.
    **settings
        ``name`` (the model's unless given), ``seed``, ``alpha``, ``two_sided``, and ``span``, the span of
        time whose frames the calibration serves: ``"2024-06-01/2024-09-01"`` (UTC, half open, ``".."`` for an
        open end), or ``"frames"``, that of the reference frames. Calibrations of other spans are kept,
        references are chosen within it, and `score` takes for each frame the calibration of its time.

    Returns
    -------
    Bundle
        A copy; written to ``out`` as well, where it is given.

    Raises
    ------
    UsageError
        For too few frames, inconsistent frames, a colour mosaic, or noise far from the noise model's.
    ModelError
        If the model cannot be read.
    """
    check_place(archive)
    check_local(out)
    bundle = load_model(model)
    if out:
        _check_out(Path(out))
    given = {"name": bundle.name, "method": dispatch.find(bundle).name} | settings
    spec = TrainSpec(archive=printable(Path(archive).name), **given)
    target, keeper = device or default_device(), NoteKeeper(reporter or Silent())

    def tell(stage: TrainProgress) -> None:
        keeper.notes += [stage.note] if stage.note else []
        (progress or _ignore)(stage)

    def make(found: ArchiveFrames) -> Bundle:
        recorded = replace(spec, labels=found.labels())
        return dispatch.calibrate(bundle, found, recorded, progress=tell, device=target)

    with executor_of(cluster) as executor:
        within = TimeSpan.parse(spec.span) if spec.span not in ("", OF_FRAMES) else None
        chosen = choose_frames(archive, _patterns(frames), executor, cast(Reporter, keeper), within)
        calibrated = without_outliers(chosen, make, tell) if frames is None else make(chosen)
    notes = tuple(
        dict.fromkeys((*calibrated.notes, *(f"{printable(note).rstrip('.')}." for note in keeper.notes)))
    )
    calibrated = replace(calibrated, notes=notes)
    if out:
        calibrated.save(Path(out))
    return calibrated


def score(
    archive: PathLike,
    model: Bundle | PathLike,
    *,
    retry: bool = False,
    strict: bool = False,
    all_types: bool = False,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> Summary:
    """Score every light of an archive; frames that ``model`` has scored already are left alone.

    Frames whose header calls them bias, dark, flat, arc, focus or calibration are scored with ``all_types``
    only, and counted in the summary. Colour mosaics are quarantined. With ``retry``, frames whose scoring
    failed are tried again. Frames of a camera and filter that the model
    is not calibrated for are scored with a warning and named in the maps' attribute ``uncalibrated``; with
    ``strict`` they are refused, before anything is scored. Both count frames that were scored before, too.

    Raises
    ------
    ModelError
        If the model cannot be read.
    UsageError
        With ``strict``, for frames that the model is not calibrated for; and as `ingest`.
    ArchiveError, ClusterError
        As `ingest`.
    """
    check_place(archive)
    bundle = load_model(model)
    layout.open_root(archive)
    with executor_of(cluster) as executor, writing(archive) as held:
        listener = reporter or Silent()
        return process(
            held, executor, listener, ingest=False, bundle=bundle, retry=retry, strict=strict,
            all_types=all_types,
        )  # fmt: skip


def quality_of(
    image: Any,
    model: Bundle | PathLike,
    *,
    invalid: Any = None,
    camera: str | None = None,
    filter: str | None = None,
    time: Any = None,
) -> xr.Dataset:
    """Compute quality maps of an array lazily: the numbers that `score` stores, and nothing is stored.

    Parameters
    ----------
    image : ndarray, DataArray, dask array of any chunks, or Dataset from `open_frames`
        Numbers of shape (y, x) or (frame, y, x).
    model : Bundle or path
        The model.
    invalid : array of bool, same shape, optional
        Pixels that are not data; NaN never are.
    camera, filter : str, optional
        Choose the calibration; None: the image's coordinates of these names, if it has them.
    time : datetime64 or str, optional
        Time in UTC of all frames, for a model with calibrations for spans of time; None: the coordinate.

    Returns
    -------
    Dataset
        As `open_quality`, for these frames; `mask` takes it. The attribute ``uncalibrated`` lists each
        "camera|filter" that the model is not calibrated for, and is absent where there is none. Nothing is
        computed before it is asked for, and tiles of one frame may be measured on different workers.

    Raises
    ------
    UsageError
        For an array that is no frame. ModelError for a model that cannot be read.
    """
    return lazy.quality_of(image, load_model(model), invalid=invalid, camera=camera, filter=filter, time=time)


def reconstruct(
    image: Any,
    model: Bundle | PathLike,
    *,
    invalid: Any = None,
    camera: str | None = None,
    filter: str | None = None,
    time: Any = None,
) -> xr.Dataset:
    """Reconstruct frames by the autoencoder of a model, lazily and in their own counts.

    For looking. **Not for photometry**: the reconstruction is a guess from a few numbers for each 8 x 8 px.
    With the default method stars lose up to a fifth of their light, each another part of it; with 'paper'
    most of them vanish into ``residual`` (`benchmarks/results/reconstruct.md`).

    Parameters
    ----------
    image : path of an archive, ndarray, DataArray, dask array, or Dataset from `open_frames`
        Frames of shape (y, x) or (frame, y, x).
    model : Bundle or path
        The model.
    invalid, camera, filter, time
        As for `quality_of`.

    Returns
    -------
    Dataset
        ``reconstruction`` and ``residual`` (image less reconstruction), (..., y, x) with one Dask chunk for
        each frame; float32, float64 for images of 32-bit integers or wider. NaN where a pixel is not data,
        which includes hot and dark pixels of the calibration.

    Raises
    ------
    UsageError
        For an array that is no frame, an archive without pixels, or a method without reconstruction.

    Warns
    -----
    UncalibratedWarning
        For cameras and filters that the model is not calibrated for (the attribute ``uncalibrated``).
    """
    if isinstance(image, str | os.PathLike):
        check_place(image)
        image = open_frames(image)
    return lazy.reconstruct(
        image, load_model(model), invalid=invalid, camera=camera, filter=filter, time=time
    )


def export(
    archive: PathLike,
    folder: PathLike,
    *,
    alpha: float = 0.01,
    model: str | None = None,
    formats: Sequence[str] | None = None,
    dq: bool = True,
    masks: bool = True,
    reasons: bool | None = None,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> pa.Table:
    """Write masks and the table of frames from stored p-values, without running the network.

    Parameters
    ----------
    archive : path
        A scored archive.
    folder : path
        Receives ``dq/<frame>.dq.fits``, ``frames.parquet`` and ``frames.ecsv``, by default.
    alpha : float
        False-mask rate on good patches, in (0, 1).
    model : str, optional
        Name or digest, where the archive holds maps of several models.
    formats : sequence of str
        Names of `aqdask.products.export.FORMATS`; by default all, or ``parquet`` without masks.
    dq : bool
        False leaves ``"dq"`` out of the formats.
    masks : bool
        False reads no map: the table has the states and frame-level values, which the archive holds as
        columns, and an empty ``masked_fraction``.
    reasons : bool, optional
        Reasons and shares of the masked patches in the table, which reads the maps in this process; by
        default where there are masks.

    Returns
    -------
    pyarrow.Table
        The table of frames.

    Raises
    ------
    UsageError
        For alpha outside (0, 1), an unknown format, or no or several models. ArchiveError if ``folder``
        cannot be written.
    """
    check_alpha(alpha)
    check_place(archive)
    check_local(folder)
    wanted = formats or (DEFAULT_FORMATS if masks else TABLE_FORMATS)
    chosen = [name for name in wanted if dq or name != "dq"]
    check_formats(chosen, masks=masks)
    quality = quality_name(archive, model)
    with executor_of(cluster) as executor:
        listener = reporter or Silent()
        return export_all(
            archive, quality, Path(folder), alpha, executor, listener, chosen,
            masks=masks, reasons=masks if reasons is None else reasons,
        )  # fmt: skip


def detect(
    archive: PathLike,
    out: PathLike | None = None,
    *,
    alpha: float = 0.01,
    model: str | None = None,
    frames: str | Sequence[str] | None = None,
    filter: str | None = None,
    segmentation: PathLike | None = None,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Detections:
    """Detect and measure the sources of scored frames with sep, on the workers, as a Parquet dataset.

    Sources are detected on the unmasked frame; masked regions are reported beside each source, and pixels
    without data are blanked. ``dask.dataframe.read_parquet(out)`` opens the catalogue; the metadata of its
    fields say unit and description of each column. Called again, it makes only what is missing.

    Parameters
    ----------
    archive : path
        A scored archive.
    out : path, optional
        Folder of the dataset; None: ``sources.parquet`` in `products_folder`.
    alpha : float
        False-mask rate of the masks, in (0, 1).
    model : str, optional
        Name or digest, where the archive holds maps of several models.
    frames, filter : optional
        As for `rank_frames`; the dataset then holds these frames only.
    segmentation : path, optional
        Folder that receives the segmentation maps ``<frame>.seg.fits`` (compressed int32, with the WCS).
    cluster, reporter
        As for `ingest`.
    **options
        Fields of `aqdask.photometry.source_catalogue.DetectSpec`: ``threshold``, ``minarea``, ``apertures``,
        ``deblend_nthresh``, ``deblend_cont``, ``clean``.

    Returns
    -------
    Detections
        Numbers of frames and sources, and the frames without a catalogue, with the reason.

    Raises
    ------
    UsageError
        For a setting out of range, a pattern without a frame, or no or several models.
    ArchiveError
        If ``out`` holds something else or cannot be written.
    """
    check_alpha(alpha)
    check_place(archive)
    check_local(out)
    check_local(segmentation)
    spec, quality = DetectSpec(**options), quality_name(archive, model)
    folder = products_folder(archive) / "sources.parquet" if out is None else Path(out)
    with executor_of(cluster) as executor:
        return detect_archive(
            archive, quality, alpha, folder, spec, executor, reporter or Silent(), segmentation=segmentation,
            patterns=_patterns(frames), band=filter,
        )  # fmt: skip


def rank_frames(
    archive: PathLike,
    *,
    purpose: str = "stack",
    filter: str | None = None,
    frames: str | Sequence[str] | None = None,
    alpha: float = 0.01,
    model: str | None = None,
    measure: bool = False,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> pa.Table:
    """Rank frames by quality, for each camera and filter apart.

    For a stack by the squared signal to noise of a faint star, ``T**2 / (sigma**2 FWHM**2)``, which adds up
    over frames (Zackay & Ofek 2017, ApJ 836, 187), times the fraction that is not masked; with noise sigma of
    a sky pixel and transparency T. For a reference of difference images by that of the star's peak,
    ``T**2 / (sigma**2 FWHM**4)``. Flagged frames are last, and for a reference also those of which more than
    three times ``alpha`` is masked. `stack`, `light_curves` and `transients` take the first by that order as
    their reference, from stored scores; of a model that stores no noise and no sizes the least masked frame.

    Parameters
    ----------
    archive : path
        A scored archive.
    purpose : str
        'stack' or 'reference'.
    filter : str, optional
        Frames of this filter only.
    frames : str or sequence of str, optional
        Ids or patterns (``L/*``).
    alpha : float
        False-mask rate on good patches, in (0, 1).
    model : str, optional
        Name or digest, where the archive holds maps of several models.
    measure : bool
        Measure noise, FWHM and transparency on the pixels, on the workers. False takes noise and size of
        the stars from the stored scores and T = 1: clouds count by their brighter sky and their masks only.
        Models that store neither are always measured.

    Returns
    -------
    pyarrow.Table
        `aqdask.measurements.rank.COLUMNS`, best first.

    Raises
    ------
    UsageError
        For another purpose, alpha outside (0, 1), a pattern without a frame, or a filter that no frame has.
    """
    from aqdask.measurements import rank

    check_alpha(alpha)
    check_place(archive)
    quality = quality_name(archive, model)
    with executor_of(cluster) as executor:
        return rank.rank_frames(
            archive, quality, alpha, executor, reporter or Silent(),
            purpose=purpose, patterns=_patterns(frames), band=filter, measure=measure,
        )  # fmt: skip


def stack(
    archive: PathLike,
    out: PathLike,
    *,
    filter: str | None = None,
    frames: str | Sequence[str] | None = None,
    best: int | None = None,
    reference: str | None = None,
    masked: bool = True,
    weighted: bool = True,
    clip: float = 4.0,
    mesh: int = 0,
    compare: bool = False,
    alpha: float = 0.01,
    model: str | None = None,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> Stack:
    """Stack the frames of one filter without their masked pixels, weighted by inverse variance.

    Each frame is aligned with a reference frame by its WCS, or by matching stars where the WCS is absent or
    wrong; its sky is subtracted, its flux scaled to the stars of the reference, and its pixels resampled to
    those of the reference (cubic splines). Pixels far from their median are clipped
    (`aqdask.photometry.coadd.combine`).

    Parameters
    ----------
    archive : path
        A scored archive.
    out : path
        The FITS file: mean in counts of the reference above the sky (NaN without data), ``WEIGHT`` (inverse
        variance), ``COVERAGE`` and ``CLIPPED`` (numbers of frames), and the table ``FRAMES``. While it is
        made, resampled frames lie in ``<out>.parts``, 8 bytes a pixel.
    filter : str, optional
        Needed where the frames have several.
    frames : str or sequence of str, optional
        Ids or patterns (``L/*``).
    best : int, optional
        Stack this number of frames, at least 2, the best by `rank_frames`.
    reference : str, optional
        Id of the frame whose pixels and counts the stack has; None: the best reference by `rank_frames`, as
        it is stored.
    masked, weighted : bool
        False keeps masked pixels, or weights frames equally.
    clip : float
        Standard deviations; 0 for no clipping.
    mesh : int
        Side of a cell of the mesh on which the sky is measured, px; light of larger objects is lost. 0: a
        sixteenth of the smaller side of the frames, 32 to 128 px.
    compare : bool
        Stack without mask, and without mask and weights, too, for their depths; all with the same ``clip``.

    Returns
    -------
    Stack
        With the depths, a table of the frames, and those that could not be used.

    Raises
    ------
    UsageError
        For frames of several filters, fewer than two frames, or frames that cannot be aligned.
    ArchiveError
        If ``out`` is another file, or cannot be written.
    """
    from aqdask.measurements.stack import Stacker, StackOptions

    check_alpha(alpha)
    check_place(archive)
    check_local(out)
    options = StackOptions(masked, weighted, clip, mesh)
    quality = quality_name(archive, model)
    with executor_of(cluster) as executor:
        stacker = Stacker(archive, quality, alpha, out, executor, reporter or Silent())
        return stacker.stack(
            options, patterns=_patterns(frames), band=filter, best=best, reference=reference, compare=compare
        )


def transients(
    archive: PathLike,
    out: PathLike,
    *,
    template: str | Sequence[str] = "best",
    frames: str | Sequence[str] | None = None,
    filter: str | None = None,
    threshold: float = 5.0,
    alpha: float = 0.01,
    model: str | None = None,
    gain: float | None = None,
    cutouts: str = "",
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> FoundTransients:
    """Search scored frames for what has changed since a template, with the verdict of the masks beside each.

    The template is brought to the pixels of each frame, by the WCS of both or by their stars (astroalign),
    matched to it in PSF and scale, and subtracted
    (`aqdask.photometry.difference.difference_image`). Run again, the search goes on where it ended.

    Parameters
    ----------
    archive : path
        A scored archive.
    out : path
        Folder: ``candidates/`` is a Parquet dataset, with the columns
        `aqdask.measurements.transients.COLUMNS` for each candidate; ``cutouts/`` has one file a frame.
    template : str or sequence of str
        'best': of each camera, filter and field the best reference by `rank_frames`, as it is stored. Else
        ids or patterns, one frame for each camera, filter and field.
    frames, filter : optional
        Frames that are searched, as for `rank_frames`.
    threshold : float
        Sigma, above 0.
    alpha : float
        False-mask rate of the masks, in (0, 1).
    model : str, optional
        Name or digest, where the archive holds maps of several models.
    gain : float, optional
        Electrons per count, in place of that of the headers.
    cutouts : str
        'fits' or 'png': cut-outs of at most 100 candidates a frame, those with the verdict 'good' first.
    cluster, reporter
        As everywhere.

    Returns
    -------
    FoundTransients
        Places of the files, counts by frame, and frames that could not be searched.

    Raises
    ------
    UsageError
        For a threshold, gain or alpha out of range, a pattern without a frame, or no or several models.
        ArchiveError if ``out`` holds something else, or cannot be written.
    """
    from aqdask.measurements.search import search_transients  # scikit-image takes a second

    check_alpha(alpha)
    check_place(archive)
    check_local(out)
    quality = quality_name(archive, model)
    with executor_of(cluster) as executor:
        return search_transients(
            archive, quality, Path(out), executor, reporter or Silent(),
            template=_listed(template), patterns=_patterns(frames), band=filter, threshold=threshold,
            alpha=alpha, gain=gain, cutouts=cutouts,
        )  # fmt: skip


def light_curves(
    archive: PathLike,
    out: PathLike,
    *,
    targets: PathLike | None = None,
    stars: int | None = None,
    reference: str | None = None,
    radius: float | None = None,
    frames: str | Sequence[str] | None = None,
    filter: str | None = None,
    alpha: float = 0.01,
    model: str | None = None,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> LightCurves:
    """Measure light curves of the same stars on all scored frames, without and with the mask.

    Stars are found by the WCS of each frame, else by their pattern (astroalign, the extra ``align``). Zero
    points are made from an ensemble of stars, by filter, in three ways: without the mask; without the
    measurements that it touches; and with these weighted by the p-values of their patches, too
    (`aqdask.photometry.ensemble`). Run again, it measures only what is missing or has changed.

    Parameters
    ----------
    archive : path
        A scored archive.
    out : path
        Folder of the results; see `LightCurves`.
    targets : path, optional
        CSV file with the columns ra, dec (degrees, ICRS) or x, y (pixels of ``reference``), and name.
    stars : int, optional
        Number of bright stars that are taken automatically, at most 10,000 with the targets; None: 1,000.
        Zero points are made from these; with 0 from the targets.
    reference : str, optional
        Id of the frame on which stars are chosen; None: the best reference by `rank_frames`, as it is stored.
    radius : float, optional
        Aperture radius in pixels, on all frames; None: 1.7 FWHM of the reference frame.
    frames, filter : optional
        As for `rank_frames`.
    alpha : float
        False-mask rate, in (0, 1).
    model : str, optional
        Name or digest, where the archive holds maps of several models.

    Returns
    -------
    LightCurves
        With the gain in scatter (``gains[0].ratio``: without the mask over mask and weights), and the frames
        that could not be measured.

    Raises
    ------
    UsageError
        For fewer than two frames, frames without common stars, targets that cannot be read or lie outside
        of the reference frame, or a reference frame that cannot be used. ArchiveError if ``out`` cannot be
        written.
    """
    from aqdask.measurements.light_curves import measure_light_curves
    from aqdask.measurements.reference_stars import AUTO_STARS, read_targets

    check_alpha(alpha)
    check_place(archive)
    check_local(out, targets)
    found = read_targets(targets) if targets is not None else None
    number = AUTO_STARS if stars is None else stars
    quality = quality_name(archive, model)
    with executor_of(cluster) as executor:
        return measure_light_curves(
            archive, quality, alpha, out, executor, reporter or Silent(), targets=found, number=number,
            reference=reference, radius=radius, patterns=_patterns(frames), band=filter,
        )  # fmt: skip


def drift(
    archive: PathLike,
    *,
    frames: str | Sequence[str] | None = None,
    filter: str | None = None,
    model: str | None = None,
    alpha: float = 0.01,
    maps: bool = True,
) -> ArchiveDrift:
    """Find the times at which cameras changed, and when to calibrate anew, from stored scores.

    Change points of size, ellipticity, noise, gain, hot pixels, fixed-position repeats and sky, by camera,
    filter and calibration: of the medians of nights, or of frames where there are fewer than 20 nights.
    Flagged frames count only where most of their neighbours in time are flagged, too.

    Parameters
    ----------
    archive : path
        A scored archive.
    frames, filter : optional
        As for `rank_frames`.
    model : str, optional
        Name or digest, where the archive holds maps of several models.
    alpha : float
        False-mask rate of the masks in which repeats are counted, in (0, 1).
    maps : bool
        False reads no maps: hot pixels and repeats are not followed.

    Returns
    -------
    ArchiveDrift
        ``changes`` (also as ``table``), ``calibrations``: the frames that each one scores, the times of its
        references, and of frames that need another one; ``without_time`` and ``notes``: what is not followed.

    Raises
    ------
    UsageError
        For alpha outside (0, 1), no or several models, or a method that measures no such quantity.
    """
    check_alpha(alpha)
    quality = quality_name(archive, model)
    return find_drift(archive, quality, alpha=alpha, maps=maps, patterns=_patterns(frames), band=filter)


def report(
    archive: PathLike,
    out: PathLike | None = None,
    *,
    alpha: float = 0.01,
    model: str | None = None,
    panels: int | None = None,
    frames: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> ReportPage:
    """Write one self-contained HTML page about an archive, from stored scores, in this process.

    Pixels are read of the frames with a panel only.

    Parameters
    ----------
    archive : path
        The archive; it need not be scored completely.
    out : path, optional
        The HTML file; None: ``report.html`` in `products_folder`. An existing one is replaced.
    alpha : float
        False-mask rate on good patches, in (0, 1).
    model : str, optional
        Name or digest, where the archive holds maps of several models.
    panels : int, optional
        Number of frames whose pixels, reconstruction and maps are shown, the worst and some of the best.
        None: with as many pixels as 12 frames of 4096 x 4096, and so that the page stays below 50 MB.
    frames : sequence of str
        Ids or patterns of frames that are shown so in addition.
    reporter : Reporter, optional
        Listens to the progress.

    Returns
    -------
    ReportPage
        With the frames whose pixels or maps could not be read.

    Raises
    ------
    UsageError
        For alpha outside (0, 1), several models, more than 50,000 frames, a negative number of panels, or a
        pattern without a frame. ArchiveError for a damaged archive, or if the file cannot be written.
    """
    from aqdask.products.report.data import (
        report_data,
    )  # Bokeh takes half a second, which others need not wait
    from aqdask.products.report.page import check_size, write_report

    check_alpha(alpha)
    check_place(archive)
    check_local(out)
    if panels is not None and panels < 0:
        raise UsageError(f"{panels} panels", expected="0 or more", consequence="No report was written")
    check_size(len(FrameStore.open(archive)))
    path = products_folder(archive) / "report.html" if out is None else Path(out)
    check_output(path)
    listener = reporter or Silent()
    data = report_data(archive, quality_name(archive, model) if model else "", alpha, listener)
    return write_report(data, os.fspath(archive), path, listener, panels=panels, named=_listed(frames))


def verify(
    archive: PathLike,
    *,
    sample: float = 1.0,
    seed: int = 0,
    repair: bool = False,
    forget: bool = False,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> Verification:
    """Verify that an archive is complete and its stored bytes are those that were written.

    Parameters
    ----------
    sample : float
        Frames whose bytes are read again, drawn with ``seed``: a fraction up to 1, or above 1 a number of
        frames. The same fraction of the stored header values is read, in chunks of 4,096 frames (at least
        one).
    repair : bool
        Make what is damaged again, pixels from their sources and maps with the model kept in the archive.
    forget : bool
        With ``repair``: give up what cannot be made again, frames as quarantined.

    Raises
    ------
    UsageError, ArchiveError, ClusterError
        As `ingest`.
    """
    check_place(archive)
    if not (0 < sample <= 1 or (sample > 1 and float(sample).is_integer())):
        raise UsageError(
            f"sample = {sample}",
            expected="a fraction above 0 and at most 1, or a whole number of frames above 1",
            consequence="Nothing was read",
            remedy="leave it out to read every frame",
        )
    with executor_of(cluster) as executor:
        listener = reporter or Silent()
        return _verify(archive, executor, listener, sample=sample, seed=seed, repair=repair, forget=forget)


def _check_places(sources: Sequence[str], archive: PathLike, settings: IngestOptions) -> None:
    """Refuse, before a cluster is started, paths on no file system of this machine or that would block."""
    check_place(*sources, archive, settings.bad_pixel_map)
    if settings.bad_pixel_map and not is_object(settings.bad_pixel_map):
        check_regular(settings.bad_pixel_map, "the bad-pixel map")


def _listed(sources: PathLike | Sequence[PathLike]) -> list[str]:
    """Make a list; a single string is one path or pattern, not its letters."""
    if isinstance(sources, (str, os.PathLike)):
        return [os.fspath(sources)]
    return [os.fspath(source) for source in sources]


def _calibrated_on_best(
    archive: PathLike,
    model: Bundle,
    folder: Path,
    alpha: float,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> Bundle:
    """Calibrate a shipped model on the frames that `select` proposes, once; the copy is kept in ``folder``.

    A run that is repeated, or to which frames were added, goes on with one and the same model.
    """
    path = folder / f"{model.name}.safetensors"
    if path.exists():
        found = Bundle.load(path)
        if found.provenance.get("adapted_from") == model.digest:
            return found
    listener = reporter or Silent()
    listener.say(f"{archive}: calibrating {model.name} on the frames that `select` proposes")
    place: dict[str, Any] = {"cluster": cluster, "reporter": listener, "progress": TrainingReporter(listener)}
    calibrated = calibrate(archive, model, out=path, alpha=min(alpha, 0.01), **place)
    listener.finish()
    return calibrated


def _check_out(path: Path) -> None:
    """Refuse, before anything is trained, a path that cannot be written or holds something else."""
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
    check_output(path)


def _patterns(names: str | Sequence[str] | None) -> list[str] | None:
    """Make a list of frame patterns; None stays None."""
    return None if names is None else _listed(names)


def _ignore(progress: TrainProgress) -> None:
    """Discard a progress report."""
