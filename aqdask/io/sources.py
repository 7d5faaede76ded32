"""Source files of a run: every FITS file that folders, globs and lists name, each once, in a stable order."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aqdask.errors import OBJECTS_REMEDY, UsageError
from aqdask.io import places
from aqdask.io.compression import COMPRESSED_SUFFIXES, COMPRESSIONS
from aqdask.paths import check_place, is_object, is_utf8, read_list, reread_latin1
from aqdask.specs import Source
from aqdask.text import plural, printable, shortened

# Suffixes of FITS files within folders; files that are named, listed or globbed are taken under any name.
SUFFIXES = (".fits", ".fit", ".fts", ".ftz", ".fits.fz", ".fz", ".mt")
# Any compressed file may hold FITS: it is opened, and quarantined if it does not.
ENDINGS = (*(s + c for s in SUFFIXES for c in ("", *COMPRESSED_SUFFIXES)), *COMPRESSED_SUFFIXES)
WORD_SUFFIX = re.compile(r"\.[a-z][a-z0-9_~-]{0,11}$")  # of files left out; all others are counted together
HIDDEN, HIDDEN_FOLDER, ZARR_FOLDER = "hidden", "hidden folder", "zarr folder"

EXPECTED = (
    f"FITS files ({' '.join('*' + suffix for suffix in SUFFIXES)},"
    f" also with {' '.join(kind.suffix for kind in COMPRESSIONS)})"
)


@dataclass(frozen=True)
class Scan:
    """Files that `scan` found.

    Parameters
    ----------
    sources : sequence of Source
        Files to be taken in, sorted by ``(relative, path)``.
    left_out : mapping of str to int
        Number of other files below the folders by suffix (``.part``), most frequent first; also ``hidden``,
        ``hidden folder`` and ``zarr folder``, which count as one whatever they hold.
    """

    sources: Sequence[Source]
    left_out: Mapping[str, int]

    def note(self) -> str:
        """Return number and suffixes of the files left out as text; empty if there are none."""
        if not self.left_out:
            return ""
        number = sum(self.left_out.values())
        kinds = shortened([f"{suffix} {count}" for suffix, count in self.left_out.items()])
        return f"{plural(number, 'file')} left out by suffix: {kinds}"


def scan(sources: Sequence[str | Path]) -> Scan:
    """Find every file that the sources name, once.

    Parameters
    ----------
    sources : sequence of str or Path
        Files, folders (recursive, hidden entries left out), globs (also ``**``), each also as
        ``s3://BUCKET/KEY``, and ``@list.txt``: one path a line, relative to the list's folder, ``#`` starts
        a comment.

    Returns
    -------
    Scan
        A listed path that does not exist has ``size`` -1 and ``mtime_ns`` 0, and ends as quarantined.

    Raises
    ------
    UsageError
        For a source that does not exist, has no FITS file in it, or is not a path of this machine.
    """
    check_place(*sources)
    found: dict[str, Source] = {}
    others: dict[str, str] = {}
    for source in sources:
        before = len(found)
        entries = 0
        beside: dict[str, str] = {}
        for entry in _expand(os.fspath(source), beside):
            entries += 1
            known = found.get(entry.path)
            # of a file that two sources name, the root must not depend on their order
            if known is None or (len(entry.root), entry.root) < (len(known.root), known.root):
                found[entry.path] = entry
        if entries == 0 and len(found) == before:
            note = Scan((), _counted(beside.values())).note()
            raise UsageError(
                f"no FITS file in '{printable(source)}'" + (f" ({note})" if note else ""),
                expected=EXPECTED,
                consequence="There is nothing to read",
                remedy="check the path; files with other suffixes can be named by a glob such as 'night/*'",
            )
        others |= beside
    ordered = sorted(found.values(), key=lambda entry: (entry.relative, entry.path))
    return Scan(tuple(ordered), _counted(kind for path, kind in others.items() if path not in found))


def _counted(kinds: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items(), key=lambda pair: (-pair[1], pair[0])))


def _expand(source: str, others: dict[str, str]) -> Iterator[Source]:
    """Return the files of one source; files left out of folders go into ``others``, path to kind."""
    if is_object(source):
        return _stored(places.absolute(source), others)
    path = os.path.abspath(os.path.expanduser(source))
    if os.path.isdir(path):
        return _folder(path, path, others)
    if os.path.exists(path):
        return iter([_file(path, os.path.dirname(path))])
    if source.startswith("@"):
        return _listed(os.path.abspath(os.path.expanduser(source[1:])), others)
    if glob.has_magic(source):
        return _globbed(path, others)
    raise _missing(source)


def _missing(source: str) -> UsageError:
    return UsageError(
        f"there is no '{printable(source)}'",
        expected="a file, a folder, a glob, or @list.txt",
        consequence="There is nothing to read",
        remedy="check the spelling and, for a network disk, that it is mounted",
    )


def _folder(
    folder: str, root: str, others: dict[str, str], above: tuple[tuple[int, int], ...] = ()
) -> Iterator[Source]:
    """Yield FITS files below a folder; symbolic links are followed, but not into a folder that holds them."""
    try:
        status = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = list(scanned)
    except OSError as error:
        raise UsageError(
            f"the folder '{printable(folder)}' cannot be read: {error.strerror}",
            expected="folders that this user may read",
            consequence="Its frames would be missing without a warning",
            remedy="change its permissions, or name the readable folders one by one",
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    if any(entry.name == "zarr.json" for entry in entries):  # thousands of chunks that are not FITS files
        others[folder] = ZARR_FOLDER
        others = {}
    for entry in entries:
        if entry.name.startswith("."):
            others[entry.path] = HIDDEN_FOLDER if _is_folder(entry) else HIDDEN
        elif _is_folder(entry):
            yield from _folder(entry.path, root, others, (*above, identity))
        elif entry.name.lower().endswith(ENDINGS):
            yield _entry(entry.path, root, entry.stat)
        else:
            others[entry.path] = _suffix(entry.name)


def _stored(url: str, others: dict[str, str]) -> Iterator[Source]:
    """Yield an object, the FITS objects below a URL, or those that match a pattern."""
    try:
        if glob.has_magic(url):
            yield from _matching(url, others)
            return
        if places.bucket(url)[1]:
            with contextlib.suppress(FileNotFoundError):
                yield _object(url, places.parent(url), places.status(url))
                return
        yield from _below(list(places.objects(url)), url, others)
    except OSError as error:
        raise UsageError(
            f"{printable(url)} cannot be read: {error.strerror}",
            expected="objects that these keys may list and read",
            consequence="Its frames would be missing without a warning",
            remedy=OBJECTS_REMEDY,
        ) from error


def _below(found: Sequence[tuple[str, places.Status]], root: str, others: dict[str, str]) -> Iterator[Source]:
    """Yield the FITS objects among those below a URL; zarr folders and hidden names are left out."""
    stores = {url.removesuffix("/zarr.json") for url, _ in found if url.endswith("/zarr.json")}
    for url, status in found:
        *folders, name = url[len(root) + 1 :].split("/")
        above = [f"{root}/{'/'.join(folders[:n])}".rstrip("/") for n in range(len(folders) + 1)]
        hidden = next((place for place in above[1:] if place.rpartition("/")[2].startswith(".")), None)
        store = next((place for place in above if place in stores), None)
        if hidden:
            others[hidden] = HIDDEN_FOLDER
        elif store:
            others[store] = ZARR_FOLDER
        elif name.startswith("."):
            others[url] = HIDDEN
        elif name.lower().endswith(ENDINGS):
            yield _object(url, root, status)
        elif name:
            others[url] = _suffix(name)


def _matching(pattern: str, others: dict[str, str]) -> Iterator[Source]:
    """Yield matching objects; what matches a pattern without ``**`` and is no object is a folder."""
    parts = pattern.split("/")
    magic = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    root, expression = "/".join(parts[:magic]), places.matching(pattern)
    folders: dict[str, list[tuple[str, places.Status]]] = {}
    for url, status in places.objects(root):
        folder = "/".join(url.split("/")[: len(parts)])
        if expression.fullmatch(url):
            yield _object(url, root, status)
        elif "**" not in pattern and folder != url and expression.fullmatch(folder):
            folders.setdefault(folder, []).append((url, status))
    for folder, below in folders.items():
        yield from _below(below, folder, others)


def _object(url: str, root: str, status: places.Status) -> Source:
    return Source(url, root, url[len(root) + 1 :], *status)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _suffix(name: str) -> str:
    """Return the kind under which a file left out is counted: its last suffix if that is a word."""
    word = WORD_SUFFIX.search(name.lower())
    return word.group() if word else "other" if "." in name else "no suffix"


def _globbed(pattern: str, others: dict[str, str]) -> Iterator[Source]:
    """Yield matching files; a folder that matches a pattern without ``**`` stands for its FITS files."""
    parts = pattern.split("/")
    root = "/".join(parts[: next(n for n, part in enumerate(parts) if glob.has_magic(part))]) or "/"
    for path in glob.iglob(pattern, recursive=True):
        if not os.path.isdir(path):
            yield _file(path, root)
        elif "**" not in pattern:
            yield from _folder(path.rstrip("/"), root, others)


def _listed(path: str, others: dict[str, str]) -> Iterator[Source]:
    if not os.path.exists(path):
        raise _missing("@" + path)
    folder = os.path.dirname(path)
    for line in read_list(path):
        entry = _named(line, folder)
        if entry is None:
            continue
        if is_object(entry):
            yield from _listed_object(entry, others)
            continue
        below = entry.startswith(folder.rstrip("/") + "/")
        if os.path.isdir(entry):
            yield from _folder(entry, folder if below else entry, others)
        else:
            yield _file(entry, folder if below else os.path.dirname(entry))


def _listed_object(url: str, others: dict[str, str]) -> Iterator[Source]:
    found = list(_stored(url, others))
    yield from found or [Source(url, places.parent(url), url.rpartition("/")[2], -1, 0)]


def _named(line: str, folder: str) -> str | None:
    """Return the path that a line of a list names; None for a comment.

    A line that is the name of a file means that file, with its spaces and ``#``. A line that is not UTF-8
    names a file of the same bytes, or else the file of the same text in Latin-1.
    """
    name = line.split(" #", 1)[0].strip()
    if not line.strip():
        return None
    if name != line and os.path.isfile(literal := os.path.join(folder, line)):
        return os.path.abspath(literal)
    if not name or name.startswith("#"):
        return None
    if is_object(name):
        return places.absolute(name)
    path = os.path.abspath(os.path.join(folder, os.path.expanduser(name)))
    if not os.path.lexists(path) and not is_utf8(name):
        other = os.path.abspath(os.path.join(folder, reread_latin1(name)))
        if os.path.lexists(other):
            return other
    return path


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
