"""The public API in one place; `aqdask` hands these names out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import xarray as xr

from aqdask.archive import layout
from aqdask.engine.clusters import Cluster, executor_of
from aqdask.engine.ingest import IngestOptions
from aqdask.engine.ingest import ingest as _ingest
from aqdask.engine.opened import writing
from aqdask.engine.reporter import Reporter, Silent
from aqdask.engine.runner import Summary, process
from aqdask.engine.verify import Verification
from aqdask.engine.verify import verify as _verify
from aqdask.errors import UsageError, place_failed
from aqdask.kernels.masking import check_alpha
from aqdask.models.bundle import Bundle
from aqdask.models.shipped import SHIPPED
from aqdask.places import check_local, check_regular
from aqdask.products import lazy
from aqdask.products.compare import compare
from aqdask.products.comparison import Comparison
from aqdask.products.export import export_all
from aqdask.products.quality import mask, open_frames, open_quality, quality_name
from aqdask.products.table import uncut
from aqdask.training import adapted, load_model

__all__ = [
    "Bundle", "Comparison", "IngestOptions", "Summary", "Verification", "compare", "export", "ingest",
    "load_model", "mask", "open_frames", "open_quality", "quality_of", "run", "score", "verify",
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
        Files, folders (recursive), globs, and ``@list.txt``.
    archive : path
        Made where it is not there; frames are added where it is.
    cluster : str, optional
        Where it runs; None: the current Dask client, else this process.
    reporter : Reporter, optional
        Listens to the progress.
    **options
        Fields of `aqdask.engine.ingest.IngestOptions`: ``hdu``, ``mask_hdu``, ``bad_pixel_map``,
        ``keywords``, ``chunk``, ``codec``, ``frames_per_shard``, ``pixels``, ``by_shape``, ``rehash``,
        ``retry``, ``forget``.

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
    cluster: Cluster = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> list[Summary]:
    """Ingest, score and export in one go, reading each source once.

    Parameters are those of `ingest`, `score` and `export`; ``products`` is the folder of masks and table,
    ``<archive>-products`` where it is not given. Errors are theirs, too. A shipped model (``"wide-field"``)
    is adapted first, to the frames that `select` proposes: `aqdask.training.adapted`.
    """
    check_alpha(alpha)
    settings, paths = IngestOptions.of(options), _listed(sources)
    _check_places(paths, archive, settings)
    check_local(products)
    bundle = load_model(model)
    report = reporter or Silent()
    if products is not None:
        try:
            Path(products).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise place_failed(products, error) from error
    with executor_of(cluster) as executor:
        shipped = model == SHIPPED
        first = None if shipped else bundle
        summaries = _ingest(paths, archive, executor, report, settings, first, strict=strict and not shipped)
        where: dict[str, Any] = {"cluster": executor, "reporter": report}
        for number, summary in enumerate(summaries):
            folder = products_folder(summary.archive) if products is None else Path(products)
            if products is not None and len(summaries) > 1:
                folder = folder / Path(summary.archive).stem
            used = bundle
            if shipped:
                used = adapted(summary.archive, bundle, folder, alpha, executor, report)
                summaries[number] = score(summary.archive, used, strict=strict, **where)
                summaries[number].left_out = summary.left_out
            table = export(summary.archive, folder, alpha=alpha, model=used.digest, **where)
            summaries[number].blame(uncut(table))
    return summaries


def products_folder(archive: PathLike) -> Path:
    """Where `run` puts masks and table unless it is told: ``<archive>-products`` beside the archive."""
    place = Path(archive)
    return place.with_name(f"{place.stem}-products")


def score(
    archive: PathLike,
    model: Bundle | PathLike,
    *,
    retry: bool = False,
    strict: bool = False,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> Summary:
    """Score every frame of an archive; frames that ``model`` has scored already are left alone.

    With ``retry``, frames whose scoring failed are tried again. Frames of a camera and filter that the model
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
    check_local(archive)
    bundle = load_model(model)
    layout.open_root(archive)
    with executor_of(cluster) as executor, writing(archive) as held:
        listener = reporter or Silent()
        return process(held, executor, listener, ingest=False, bundle=bundle, retry=retry, strict=strict)


def quality_of(
    image: Any,
    model: Bundle | PathLike,
    *,
    invalid: Any = None,
    camera: str | None = None,
    filter: str | None = None,
) -> xr.Dataset:
    """Quality maps of an array, lazily: the numbers that `score` stores, and nothing is stored.

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
    return lazy.quality_of(image, load_model(model), invalid=invalid, camera=camera, filter=filter)


def export(
    archive: PathLike,
    folder: PathLike,
    *,
    alpha: float = 0.01,
    model: str | None = None,
    dq: bool = True,
    cluster: Cluster = None,
    reporter: Reporter | None = None,
) -> pa.Table:
    """Write masks as FITS DQ images and the table of frames; no network is run.

    Parameters
    ----------
    archive : path
        A scored archive.
    folder : path
        Gets ``dq/<frame>.dq.fits``, ``frames.parquet`` and ``frames.ecsv``.
    alpha : float
        False-mask rate on good patches, in (0, 1).
    model : str, optional
        Name or digest, where the archive holds maps of several models.
    dq : bool
        False: the table only.

    Returns
    -------
    pyarrow.Table
        The table of frames.

    Raises
    ------
    UsageError
        For alpha outside (0, 1), or no or several models. ArchiveError if ``folder`` cannot be written.
    """
    check_alpha(alpha)
    check_local(archive, folder)
    quality = quality_name(archive, model)
    with executor_of(cluster) as executor:
        return export_all(archive, quality, Path(folder), alpha, executor, reporter or Silent(), dq=dq)


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
    """Prove that an archive is complete and its stored bytes are what was written.

    Parameters
    ----------
    sample : float
        Fraction of the frames whose bytes are read again, in (0, 1], drawn with ``seed``.
    repair : bool
        Make what is damaged again, pixels from their sources and maps with the model kept in the archive.
    forget : bool
        With ``repair``: give up what cannot be made again, frames as quarantined.

    Raises
    ------
    UsageError, ArchiveError, ClusterError
        As `ingest`.
    """
    check_local(archive)
    if not 0 < sample <= 1:
        raise UsageError(
            f"sample = {sample}",
            expected="a fraction above 0 and at most 1",
            consequence="Nothing was read",
            remedy="leave it out to read every frame",
        )
    with executor_of(cluster) as executor:
        listener = reporter or Silent()
        return _verify(archive, executor, listener, sample=sample, seed=seed, repair=repair, forget=forget)


def _check_places(sources: Sequence[str], archive: PathLike, settings: IngestOptions) -> None:
    """Refuse, before a cluster is started, what is on no file system of this machine or would block."""
    check_local(*sources, archive, settings.bad_pixel_map)
    if settings.bad_pixel_map:
        check_regular(settings.bad_pixel_map, "the bad-pixel map")


def _listed(sources: PathLike | Sequence[PathLike]) -> list[str]:
    if isinstance(sources, (str, os.PathLike)):
        return [os.fspath(sources)]
    return [os.fspath(source) for source in sources]
