"""Ingest of FITS files: create the archive, register the frames, and store their pixels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePath
from typing import Any

from aqdask.errors import FrameError, UsageError, place_failed
from aqdask.execution import planning
from aqdask.execution.executors import Executor
from aqdask.execution.open_archive import writing
from aqdask.execution.pipeline import Summary, process
from aqdask.execution.reporter import Reporter
from aqdask.execution.source_registry import PAGE, Found, probe, register
from aqdask.io import places, reader
from aqdask.io.sources import scan
from aqdask.methods.bundle import Bundle
from aqdask.paths import is_object
from aqdask.specs import ArchiveSpec, FrameInfo, ReadSpec, Source
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import Ledger, open_ledger
from aqdask.text import plural
from aqdask.version import __version__

# fields of ReadSpec that are options
READ = ("hdu", "mask_hdu", "mask_files", "bad_pixel_map", "keywords", "sections", "fill")


@dataclass(frozen=True)
class IngestOptions:
    """Options of an ingest; None means the archive's own setting, or the default of a new archive."""

    chunk: int | None = None
    codec: str | None = None
    frames_per_shard: int | None = None
    pixels: bool | None = None
    hdu: str | None = None
    mask_hdu: str | None = None
    mask_files: str | None = None
    bad_pixel_map: str | None = None
    keywords: tuple[tuple[str, str], ...] | None = None
    sections: bool | None = None
    fill: bool | None = None
    by_shape: bool = False
    rehash: bool = False
    retry: bool = False
    forget: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> IngestOptions:
        """Make options from a mapping; `UsageError` for an unknown name."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise UsageError(
                    f"the option {name!r}",
                    expected=f"one of {', '.join(known)}",
                    consequence="Nothing was ingested",
                    remedy="check its spelling",
                )
        return cls(**given)

    def read(self) -> ReadSpec:
        """Return the reading settings of a new archive."""
        return replace(ReadSpec(), **self._given(READ))

    def spec(self, shape: tuple[int, int], dtype: str, frames: int) -> ArchiveSpec:
        """Return the spec of a new archive for about ``frames`` frames."""
        default = ArchiveSpec(
            shape, dtype, frames_per_shard=planning.frames_per_shard(frames), read=self.read()
        )
        return replace(default, **self._given(("chunk", "codec", "frames_per_shard", "pixels")))

    def check(self, spec: ArchiveSpec, path: str) -> None:
        """Raise `UsageError` if an option contradicts the settings of an existing archive."""
        for name, value in self._given(("chunk", "codec", "frames_per_shard", "pixels")).items():
            _agree(name, value, getattr(spec, name), path)
        for name, value in self._given(READ).items():
            _agree(name, value, getattr(spec.read, name), path)

    def _given(self, names: Sequence[str]) -> dict:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def ingest(
    sources: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    executor: Executor,
    reporter: Reporter,
    options: IngestOptions = IngestOptions(),
    bundle: Bundle | None = None,
    *,
    strict: bool = False,
    all_types: bool = False,
) -> list[Summary]:
    """Store every frame of ``sources`` in the archive at ``path``; with ``bundle``, score in the same pass.

    With ``strict``, an archive with frames that ``bundle`` is not calibrated for ends the run; with
    ``all_types``, frames that are no lights are scored. Returns one summary, or with ``by_shape`` one for
    each archive. Errors: see `aqdask.ingest`.
    """
    _check_map(options.bad_pixel_map)
    listing = scan([str(source) for source in sources])
    scanned = listing.sources
    if not scanned:
        raise UsageError(
            "no sources were given",
            expected="files, folders, globs or @lists with FITS files",
            consequence="Nothing was ingested",
            remedy="name at least one",
        )
    reporter.say(plural(len(scanned), "source"))
    if listing.left_out:
        reporter.say(f"note: {listing.note()}")
    if options.by_shape:
        archives = _by_shape(scanned, places.absolute(path), executor, reporter, options)
    elif layout.is_archive(path):
        options.check(layout.read_spec(layout.open_root(path)), str(path))
        archives = {str(path): None}
    else:
        archives = _create(scanned, path, executor, reporter, options)
    summaries = []
    for place, probed in archives.items():
        with writing(place) as archive:
            layout.record_left_out(archive.root, listing.left_out)
            mine = scanned
            if options.by_shape and probed is not None:
                belong = {*archive.ledger.table.all().texts("path"), *probed}
                mine = [source for source in scanned if source.path in belong]
            if options.forget:
                mine = [*mine, *_gone(archive.ledger, sources, mine)]
            register(
                archive, mine, executor, reporter, retry=options.retry, rehash=options.rehash,
                forget=options.forget, probed=probed,
            )  # fmt: skip
            summary = process(
                archive, executor, reporter, ingest=True, bundle=bundle, retry=options.retry, strict=strict,
                all_types=all_types,
            )  # fmt: skip
            summary.left_out = dict(listing.left_out)
            summaries.append(summary)
    return summaries


def _gone(
    ledger: Ledger, sources: Sequence[str | os.PathLike[str]], scanned: Sequence[Source]
) -> list[Source]:
    """Return the known sources below the given folders that a scan no longer finds."""
    named = (os.fspath(source) for source in sources)
    folders = [
        places.absolute(name) if is_object(name) else os.path.abspath(os.path.expanduser(name))
        for name in named
    ]
    found = {source.path for source in scanned}
    gone = {}
    for path in ledger.table.all().texts("path"):
        root = next((f for f in folders if path.startswith(f.rstrip("/") + "/")), None)
        if root and path not in found:
            gone[path] = Source(path, root, path[len(root.rstrip("/")) + 1 :], -1, 0)
    return list(gone.values())


def _create(
    scanned: Sequence[Source],
    path: str | os.PathLike[str],
    executor: Executor,
    reporter: Reporter,
    options: IngestOptions,
) -> dict[str, Mapping[str, Found] | None]:
    """Create the archive for the most frequent shape and type in the first page of sources with frames."""
    if not is_object(path) and Path(path).is_file():
        layout.open_root(path)  # raises: not an archive
    reporter.start("look", len(scanned), "sources")
    for page in planning.slices(scanned, PAGE):
        found = probe([source.path for source in page], options.read(), executor, reporter)
        if create_archive(path, found, options, len(scanned)):
            reporter.finish()
            return {str(path): found}
    reporter.finish()
    reasons = Counter(str(reason) for reason in found.values() if isinstance(reason, FrameError))
    raise UsageError(
        f"none of {plural(len(scanned), 'source')} holds a 2-D image "
        f"(most often: {reasons.most_common(1)[0][0]})",
        expected="FITS files with an image of two axes",
        consequence="No archive was made",
        remedy="check the sources, or name the HDU with --hdu",
    )


def create_archive(
    path: str | os.PathLike[str], found: Mapping[str, Found], options: IngestOptions, frames: int
) -> bool:
    """Create the archive for the most frequent shape and type of some sources; False if none has a frame.

    ``frames`` is about the number that the archive will hold.
    """
    kinds = Counter((info.shape, info.dtype) for infos in _frames(found) for info in infos)
    if kinds and layout.is_archive(path):  # another process has begun it meanwhile
        options.check(layout.read_spec(layout.open_root(path)), str(path))
    elif kinds:
        _make(path, options.spec(*commonest(kinds), frames))
    return bool(kinds)


def _by_shape(
    scanned: Sequence[Source], path: str, executor: Executor, reporter: Reporter, options: IngestOptions
) -> dict[str, Mapping[str, Found] | None]:
    """Create or find one archive for each shape and type, ``NAME-1023x1536-uint16.zarr``.

    Returns the sources of each. New sources without any frame go to the archive with the most frames; known
    sources stay in their archive.
    """
    archives: dict[str, Mapping[str, Found] | None] = {}
    sizes: dict[str, int] = {}
    known: set[tuple[str, int, int]] = set()
    name = PurePath(path)
    for place in places.siblings(path, f"{name.stem}-*x*-*{name.suffix}"):
        if layout.is_archive(place):
            archives[place] = {}
            entries = open_ledger(layout.open_root(place)).entries.values()
            known |= {(entry.path, entry.size, entry.mtime_ns) for entry in entries}
            sizes[place] = sum(entry.row >= 0 for entry in entries)
    new = [s.path for s in scanned if (s.path, s.size, s.mtime_ns) not in known or options.retry]
    reporter.start("look", len(new), "sources")
    found = probe(new, options.read(), executor, reporter)
    reporter.finish()
    paths = {path for path, _, _ in known}
    bad = {name: why for name, why in found.items() if isinstance(why, FrameError) and name not in paths}
    kinds = Counter((info.shape, info.dtype) for infos in _frames(found) for info in infos)
    if not kinds and not archives:
        return _create(scanned, path, executor, reporter, options)
    if not kinds:
        return archives | {max(sizes, key=lambda place: sizes[place]): bad}
    most = commonest(kinds)
    for kind in sorted(kinds, key=lambda k: (k != most, k)):
        share: dict[str, Found] = dict(bad) if kind == most else {}
        for source_path, frames in found.items():
            if isinstance(frames, FrameError):
                continue
            if fitting := tuple(info for info in frames if (info.shape, info.dtype) == kind):
                share[source_path] = fitting
        (height, width), dtype = kind
        place = places.beside(path, f"{name.stem}-{height}x{width}-{dtype}{name.suffix or '.zarr'}")
        spec = options.spec(kind[0], dtype, kinds[kind])
        if layout.is_archive(place):
            options.check(layout.read_spec(layout.open_root(place)), place)
        else:
            _make(place, spec)
        archives[place] = share
    return archives


def _check_map(path: str | None) -> None:
    """Raise `UsageError` for a bad-pixel map that cannot be read: it would quarantine every frame."""
    if path:
        try:
            reader.probe(path, ReadSpec())
        except FrameError as error:
            raise UsageError(
                f"the bad-pixel map {path} cannot be used: {error}",
                expected="a FITS image of the frames' shape, non-zero = bad",
                consequence="Nothing was done",
                remedy="check --bad-pixel-map",
            ) from error


def _make(path: str | os.PathLike[str], spec: ArchiveSpec) -> None:
    try:
        FrameStore.create(layout.create(path, spec, created_by=f"aqdask {__version__}"))
    except OSError as error:
        raise place_failed(path, error) from error


def commonest(kinds: Counter[tuple[tuple[int, int], str]]) -> tuple[tuple[int, int], str]:
    """Return the most frequent shape and type; of equally frequent ones the one with more pixels."""
    return max(kinds, key=lambda kind: (kinds[kind], kind[0][0] * kind[0][1], kind))


def _frames(found: Mapping[str, Found]) -> Iterator[tuple[FrameInfo, ...]]:
    return (frames for frames in found.values() if isinstance(frames, tuple))


def _agree(name: str, asked: object, stored: object, path: str) -> None:
    if asked != stored:
        option = f"--no-{name}" if isinstance(stored, bool) else "--" + name.replace("_", "-")
        raise UsageError(
            f"{option} asks for {asked!r}, but {path} was made with {stored!r}",
            expected="the same setting for every frame of an archive",
            consequence="Nothing was changed",
            remedy="leave the option out, or make another archive",
        )
