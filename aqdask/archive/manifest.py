"""Which files there are, and what their frames are called.

A scan names every file once, in an order that depends on the files only. Ids come from paths below the
source roots; they are given by `assign_ids` so that adding or resuming never renames a frame.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path

from aqdask.errors import UsageError
from aqdask.specs import Source

# What counts as FITS inside a folder; files named, listed or globbed are taken whatever they are called.
SUFFIXES = (".fits", ".fit", ".fts", ".fits.fz", ".fz", ".mt")
COMPRESSIONS = ("", ".gz", ".bz2", ".z")
# A compressed file may be anything: it is looked into, and quarantined where it is no FITS.
ENDINGS = (*(s + c for s in SUFFIXES for c in COMPRESSIONS), *filter(None, COMPRESSIONS))
EXTENSION = re.compile(r"(\.(fits|fit|fts|mt))?(\.fz)?(\.(gz|bz2|z))?$", re.IGNORECASE)
LONGEST_NAME = 180  # file systems take 255 bytes; products add endings of their own

NO_FITS = "FITS files (" + " ".join("*" + suffix for suffix in SUFFIXES) + ", also with .gz .bz2 .Z)"


def scan(sources: Sequence[str | Path]) -> list[Source]:
    """Every file that the sources name, once, sorted by ``(relative, path)``.

    Parameters
    ----------
    sources : sequence of str or Path
        Files, folders (recursive, hidden entries left out), globs (also ``**``), and ``@list.txt``: one
        path a line, relative to the list's folder, ``#`` starts a comment.

    Returns
    -------
    list of Source
        A listed path that is not there has ``size`` -1 and ``mtime_ns`` 0, and ends as quarantined.

    Raises
    ------
    UsageError
        A source that does not exist, or has no FITS file in it.
    """
    found: dict[str, Source] = {}
    for source in sources:
        before = len(found)
        entries = 0
        for entry in _expand(os.fspath(source)):
            entries += 1
            known = found.get(entry.path)
            # one file by two ways: the choice of its root must not depend on the order of sources
            if known is None or (len(entry.root), entry.root) < (len(known.root), known.root):
                found[entry.path] = entry
        if entries == 0 and len(found) == before:
            raise UsageError(
                f"no FITS file in {os.fspath(source)!r}",
                expected=NO_FITS,
                consequence="There is nothing to read",
                remedy="check the path; files that end otherwise can be named by a glob such as 'night/*'",
            )
    return sorted(found.values(), key=lambda entry: (entry.relative, entry.path))


def assign_ids(sources: Iterable[Source], known: Mapping[str, str]) -> dict[str, str]:
    """Base frame ids (without an HDU suffix) by path: unique, and the same whatever the order of sources.

    Parameters
    ----------
    sources : iterable of Source
        As `scan` gives them.
    known : mapping of str to str
        Ids given earlier, by path; they are kept, and no other path gets them.

    Returns
    -------
    dict of str to str
        The relative path; where roots collide, ``label/relative`` with the root's own name as label, then
        ``label~2/relative``, and so on.
    """
    ordered = sorted(sources, key=lambda source: (source.relative, source.path))
    sharing = Counter(source.relative for source in ordered)
    taken = set(known.values())
    result = {}
    for source in ordered:
        name = known.get(source.path)
        if name is None:
            names = _candidates(source, plain=sharing[source.relative] == 1)
            name = next(candidate for candidate in names if candidate not in taken)
            taken.add(name)
        result[source.path] = name
    return result


def match_frames(ids: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The ids that equal or match (``L/*``) one of ``patterns``, in the order of ``ids``.

    Raises
    ------
    UsageError
        For a pattern without any frame.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = [frame_id for frame_id in ids if frame_id == pattern or fnmatchcase(frame_id, pattern)]
        if not found:
            if not ids:
                raise UsageError(
                    f"no frame {pattern!r}, nor any other: none of the sources has been stored",
                    expected="an archive with frames",
                    consequence="Nothing was done",
                    remedy="`aqdask info ARCHIVE --quarantined` says why",
                )
            raise UsageError(
                f"no frame {pattern!r}",
                expected=f"a frame id or pattern of one of the {len(ids)} frames, for example {ids[0]!r}",
                consequence="Nothing was done",
                remedy="`aqdask info ARCHIVE --frames` lists them",
            )
        chosen.update(found)
    return [frame_id for frame_id in ids if frame_id in chosen]


def safe_name(frame_id: str) -> str:
    """A file name (without extension) for the exports of a frame: readable, safe, one for each id.

    ``night/a.fits`` gives ``night__a``, ``night/a.fit`` and ``night/a.fits.fz`` keep their extension. Where
    two ids could meet in one name (other characters, an HDU suffix, great length), eight digits of the id's
    sha256 are put behind.
    """
    path, bracket, suffix = frame_id.partition("[")
    stem = path.removesuffix(".fits")
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", (stem + bracket + suffix).replace("/", "__"))
    name = re.sub(r"^[.-]", "_", name)[:LONGEST_NAME].rstrip("_") or "frame"
    # exactly one of the stem and what was taken off it says that this is FITS, or another id could have it
    single = (stem != path) != bool(EXTENSION.search(stem).group())  # type: ignore[union-attr]
    if single and name.replace("__", "/") == stem and not bracket and not re.search(r"-[0-9a-f]{8}$", name):
        return name
    return f"{name}-{hashlib.sha256(frame_id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _candidates(source: Source, plain: bool) -> Iterator[str]:
    if plain:
        yield source.relative
    label = os.path.basename(source.root.rstrip("/")) or "root"
    yield f"{label}/{source.relative}"
    for number in count(2):
        yield f"{label}~{number}/{source.relative}"


def _expand(source: str) -> Iterator[Source]:
    path = os.path.abspath(os.path.expanduser(source))
    if os.path.isdir(path):
        return _folder(path, path)
    if os.path.exists(path):
        return iter([_file(path, os.path.dirname(path))])
    if source.startswith("@"):
        return _listed(os.path.abspath(os.path.expanduser(source[1:])))
    if glob.has_magic(source):
        return _globbed(path)
    raise _missing(source)


def _missing(source: str) -> UsageError:
    return UsageError(
        f"there is no {source!r}",
        expected="a file, a folder, a glob, or @list.txt",
        consequence="There is nothing to read",
        remedy="check the spelling and, for a network disk, that it is mounted",
    )


def _folder(folder: str, root: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Source]:
    """FITS files below a folder; symbolic links are followed, but never into a folder that holds them."""
    try:
        status = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(
            f"the folder {folder!r} cannot be read: {error.strerror}",
            expected="folders that this user may read",
            consequence="Its frames would be missing without a word",
            remedy="change its permissions, or name the readable folders one by one",
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.is_dir():
            yield from _folder(entry.path, root, (*above, identity))
        elif entry.name.lower().endswith(ENDINGS):
            yield _entry(entry.path, root, entry.stat)


def _globbed(pattern: str) -> Iterator[Source]:
    """Files that match; a folder that matches a pattern without ``**`` stands for the FITS files in it."""
    parts = pattern.split("/")
    root = "/".join(parts[: next(n for n, part in enumerate(parts) if glob.has_magic(part))]) or "/"
    for path in glob.iglob(pattern, recursive=True):
        if not os.path.isdir(path):
            yield _file(path, root)
        elif "**" not in pattern:
            yield from _folder(path.rstrip("/"), root)


def _listed(path: str) -> Iterator[Source]:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise _missing("@" + path) from error
    folder = os.path.dirname(path)
    for line in lines:
        name = line.split(" #", 1)[0].strip()
        if not name or name.startswith("#"):
            continue
        entry = os.path.abspath(os.path.join(folder, os.path.expanduser(name)))
        below = entry.startswith(folder.rstrip("/") + "/")
        if os.path.isdir(entry):
            yield from _folder(entry, folder if below else entry)
        else:
            yield _file(entry, folder if below else os.path.dirname(entry))


def _file(path: str, root: str) -> Source:
    return _entry(path, root, lambda: os.stat(path))


def _entry(path: str, root: str, status: Callable[[], os.stat_result]) -> Source:
    relative = path[len(root.rstrip("/")) + 1 :]
    try:
        result = status()
    except OSError:
        return Source(path, root, relative, -1, 0)
    size = result.st_size if stat.S_ISREG(result.st_mode) else -1
    return Source(path, root, relative, size, result.st_mtime_ns)
