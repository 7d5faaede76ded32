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
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path

from aqdask.errors import UsageError
from aqdask.paths import check_local, read_list
from aqdask.specs import Source
from aqdask.text import printable

# What counts as FITS inside a folder; files named, listed or globbed are taken whatever they are called.
SUFFIXES = (".fits", ".fit", ".fts", ".ftz", ".fits.fz", ".fz", ".mt")
COMPRESSIONS = ("", ".gz", ".bz2", ".xz", ".z", ".zip")
# A compressed file may be anything: it is looked into, and quarantined where it is no FITS.
ENDINGS = (*(s + c for s in SUFFIXES for c in COMPRESSIONS), *filter(None, COMPRESSIONS))
EXTENSION = re.compile(r"(\.(fits|fit|fts|ftz|mt))?(\.fz)?(\.(gz|bz2|xz|z|zip))?$", re.IGNORECASE)
WORD_SUFFIX = re.compile(r"\.[a-z][a-z0-9_~-]{0,11}$")  # of a file that is left out; others are told together
HIDDEN, HIDDEN_FOLDER, ZARR_FOLDER = "hidden", "hidden folder", "zarr folder"
KINDS_SHOWN = 8
LONGEST_NAME = 180  # file systems take 255 bytes; products add endings of their own

NO_FITS = "FITS files (" + " ".join("*" + suffix for suffix in SUFFIXES) + ", also with .gz .bz2 .xz .Z .zip)"


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
        """Number and suffixes of what was left out, in words; empty where that is nothing."""
        if not self.left_out:
            return ""
        number = sum(self.left_out.values())
        kinds = [f"{suffix} {count}" for suffix, count in self.left_out.items()]
        more = [f"and {len(kinds) - KINDS_SHOWN} kinds more"] if len(kinds) > KINDS_SHOWN else []
        what = ", ".join(kinds[:KINDS_SHOWN] + more)
        return f"{number} {'file' if number == 1 else 'files'} left out by suffix: {what}"


def scan(sources: Sequence[str | Path]) -> Scan:
    """Find every file that the sources name, once.

    Parameters
    ----------
    sources : sequence of str or Path
        Files, folders (recursive, hidden entries left out), globs (also ``**``), and ``@list.txt``: one
        path a line, relative to the list's folder, ``#`` starts a comment.

    Returns
    -------
    Scan
        A listed path that is not there has ``size`` -1 and ``mtime_ns`` 0, and ends as quarantined.

    Raises
    ------
    UsageError
        A source that does not exist, has no FITS file in it, or is no place on this machine.
    """
    check_local(*sources)
    found: dict[str, Source] = {}
    others: dict[str, str] = {}
    for source in sources:
        before = len(found)
        entries = 0
        beside: dict[str, str] = {}
        for entry in _expand(os.fspath(source), beside):
            entries += 1
            known = found.get(entry.path)
            # one file by two ways: the choice of its root must not depend on the order of sources
            if known is None or (len(entry.root), entry.root) < (len(known.root), known.root):
                found[entry.path] = entry
        if entries == 0 and len(found) == before:
            note = Scan((), _counted(beside.values())).note()
            raise UsageError(
                f"no FITS file in {_quoted(source)}" + (f" ({note})" if note else ""),
                expected=NO_FITS,
                consequence="There is nothing to read",
                remedy="check the path; files that end otherwise can be named by a glob such as 'night/*'",
            )
        others |= beside
    ordered = sorted(found.values(), key=lambda entry: (entry.relative, entry.path))
    return Scan(tuple(ordered), _counted(kind for path, kind in others.items() if path not in found))


def _counted(kinds: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items(), key=lambda pair: (-pair[1], pair[0])))


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
        The relative path, printable (`aqdask.text.printable`); where that is no one's own,
        ``label/relative`` with the root's own name as label, then ``label~2/relative``, and so on.
    """
    ordered = sorted(sources, key=lambda source: (source.relative, source.path))
    sharing = Counter(printable(source.relative) for source in ordered)
    taken = set(known.values())
    result = {}
    for source in ordered:
        name = known.get(source.path)
        if name is None:
            names = _candidates(source, plain=sharing[printable(source.relative)] == 1)
            name = next(candidate for candidate in names if candidate not in taken)
            taken.add(name)
        result[source.path] = name
    return result


def match_frames(ids: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The ids that equal or match (``L/*``) one of ``patterns``, in the order of ``ids``.

    A pattern that is an id, as it stands or as `aqdask.text.printable` shows it, means that frame only.

    Raises
    ------
    UsageError
        For a pattern without any frame.
    """
    shown = {frame_id: printable(frame_id) for frame_id in ids}
    by_text = {text: frame_id for frame_id, text in shown.items()} | {frame_id: frame_id for frame_id in ids}
    chosen: set[str] = set()
    for pattern in patterns:
        text = printable(pattern)
        readings = (pattern, text, *([] if _is_utf8(pattern) else [_latin1(pattern)]))
        literal = next((by_text[reading] for reading in readings if reading in by_text), None)
        found = [literal] if literal else [name for name in ids if fnmatchcase(shown[name], text)]
        if not found:
            raise _no_frame(text, list(shown.values()))
        chosen.update(found)
    return [frame_id for frame_id in ids if frame_id in chosen]


def _no_frame(pattern: str, shown: Sequence[str]) -> UsageError:
    if not shown:
        return UsageError(
            f"no frame '{pattern}', nor any other: none of the sources has been stored",
            expected="an archive with frames",
            consequence="Nothing was done",
            remedy="`aqdask info ARCHIVE --quarantined` says why",
        )
    return UsageError(
        f"no frame '{pattern}'",
        expected=f"a frame id or pattern of one of the {len(shown)} frames, for example '{shown[0]}'",
        consequence="Nothing was done",
        remedy="`aqdask info ARCHIVE --frames` lists them",
    )


def listed_frames(path: str) -> list[str]:
    """Frame ids and patterns of a list; blank lines and those that begin with ``#`` are left out.

    Raises
    ------
    UsageError
        As `aqdask.paths.read_list`.
    """
    return [line.strip() for line in read_list(path) if line.strip() and not line.startswith("#")]


def list_line(frame_id: str) -> str:
    """A line that `listed_frames` and `match_frames` take for this frame: its id, or a pattern of it only.

    An id that begins with ``#`` or with a space at either end would not come back as it is.
    """
    if not frame_id.startswith("#") and frame_id == frame_id.strip():
        return frame_id
    return re.sub(r"^[\s#]|[*?[]|\s\Z", r"[\g<0>]", frame_id)


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
    relative = printable(source.relative)
    if plain:
        yield relative
    label = printable(os.path.basename(source.root.rstrip("/"))) or "root"
    yield f"{label}/{relative}"
    for number in count(2):
        yield f"{label}~{number}/{relative}"


def _expand(source: str, others: dict[str, str]) -> Iterator[Source]:
    """Files of one source; those left out of folders go into ``others``, path to kind."""
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


def _quoted(text: str | os.PathLike[str]) -> str:
    return f"'{printable(text)}'"


def _missing(source: str) -> UsageError:
    return UsageError(
        f"there is no {_quoted(source)}",
        expected="a file, a folder, a glob, or @list.txt",
        consequence="There is nothing to read",
        remedy="check the spelling and, for a network disk, that it is mounted",
    )


def _folder(
    folder: str, root: str, others: dict[str, str], above: tuple[tuple[int, int], ...] = ()
) -> Iterator[Source]:
    """FITS files below a folder; symbolic links are followed, but never into a folder that holds them."""
    try:
        status = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = list(scanned)
    except OSError as error:
        raise UsageError(
            f"the folder {_quoted(folder)} cannot be read: {error.strerror}",
            expected="folders that this user may read",
            consequence="Its frames would be missing without a word",
            remedy="change its permissions, or name the readable folders one by one",
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    if any(entry.name == "zarr.json" for entry in entries):  # its thousands of chunks are nobody's frames
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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _suffix(name: str) -> str:
    """The kind that a left-out file is counted as: its last suffix where that is a word."""
    word = WORD_SUFFIX.search(name.lower())
    return word.group() if word else "other" if "." in name else "no suffix"


def _globbed(pattern: str, others: dict[str, str]) -> Iterator[Source]:
    """Files that match; a folder that matches a pattern without ``**`` stands for the FITS files in it."""
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
        below = entry.startswith(folder.rstrip("/") + "/")
        if os.path.isdir(entry):
            yield from _folder(entry, folder if below else entry, others)
        else:
            yield _file(entry, folder if below else os.path.dirname(entry))


def _named(line: str, folder: str) -> str | None:
    """The path that a line of a list means; None for a comment.

    A line that names a file as it stands means that file, with its spaces and ``#``. A line that is not
    UTF-8 names the bytes that it holds, or else the file that it would be in Latin-1.
    """
    name = line.split(" #", 1)[0].strip()
    if not line.strip():
        return None
    if name != line and os.path.isfile(literal := os.path.join(folder, line)):
        return os.path.abspath(literal)
    if not name or name.startswith("#"):
        return None
    path = os.path.abspath(os.path.join(folder, os.path.expanduser(name)))
    if not os.path.lexists(path) and not _is_utf8(name):
        other = os.path.abspath(os.path.join(folder, _latin1(name)))
        if os.path.lexists(other):
            return other
    return path


def _latin1(text: str) -> str:
    return os.fsencode(text).decode("latin-1")


def _is_utf8(text: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in text)


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
