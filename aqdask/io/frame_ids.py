"""Frame ids: made from source paths, matched by patterns, listed in files, and used as file names.

Ids come from paths below the source roots. Adding files or resuming a run never renames a frame.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import count

import numpy as np

from aqdask.errors import UsageError
from aqdask.io.compression import COMPRESSED_SUFFIXES
from aqdask.paths import is_utf8, read_list, reread_latin1
from aqdask.specs import Source
from aqdask.text import printable

COMPRESSED = "|".join(map(re.escape, COMPRESSED_SUFFIXES))
EXTENSION = re.compile(rf"(\.(fits|fit|fts|ftz|mt))?(\.fz)?({COMPRESSED})?$", re.IGNORECASE)
LONGEST_NAME = 180  # characters; file systems take 255 bytes, and products add endings of their own


def assign_ids(sources: Iterable[Source], known: Mapping[str, str]) -> dict[str, str]:
    """Assign unique frame ids (without an HDU suffix), independent of the order of sources.

    Parameters
    ----------
    sources : iterable of Source
        Result of `aqdask.io.sources.scan`.
    known : mapping of str to str
        Ids assigned earlier, by path; they are kept, and given to no other path.

    Returns
    -------
    dict of str to str
        Ids by path: the relative path, printable (`aqdask.text.printable`). Where several files have it,
        ``label/relative`` with the name of the root folder as label, then ``label~2/relative``, and so on.
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


def _candidates(source: Source, plain: bool) -> Iterator[str]:
    relative = printable(source.relative)
    if plain:
        yield relative
    label = printable(os.path.basename(source.root.rstrip("/"))) or "root"
    yield f"{label}/{relative}"
    for number in count(2):
        yield f"{label}~{number}/{relative}"


def match_frames(ids: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the ids that equal or match (``L/*``) one of ``patterns``, in the order of ``ids``.

    A pattern that is an id, literally or as `aqdask.text.printable` shows it, selects that frame only.

    Raises
    ------
    UsageError
        For a pattern that matches no frame.
    """
    shown = {frame_id: printable(frame_id) for frame_id in ids}
    by_text = {text: frame_id for frame_id, text in shown.items()} | {frame_id: frame_id for frame_id in ids}
    chosen: set[str] = set()
    for pattern in patterns:
        text = printable(pattern)
        readings = (pattern, text, *([] if is_utf8(pattern) else [reread_latin1(pattern)]))
        literal = next((by_text[reading] for reading in readings if reading in by_text), None)
        found = [literal] if literal else [name for name in ids if fnmatchcase(shown[name], text)]
        if not found:
            raise _no_frame(text, list(shown.values()))
        chosen.update(found)
    return [frame_id for frame_id in ids if frame_id in chosen]


def match_one(ids: Sequence[str], pattern: str, option: str) -> int:
    """Return the place of the one id that equals or matches a pattern; ``option`` names it in the message.

    Raises
    ------
    UsageError
        For a pattern that matches no frame, or several.
    """
    found = match_frames(ids, [pattern])
    if len(found) > 1:
        raise UsageError(
            f"{option} {printable(pattern)} matches {len(found)} frames",
            expected="one frame",
            consequence="Nothing was done",
            remedy="give the id of one of them, as `aqdask info ARCHIVE --frames` lists it",
        )
    return ids.index(found[0])


def select_frames(
    ids: Sequence[str], filters: Sequence[str], patterns: Sequence[str] | None, band: str | None
) -> np.ndarray:
    """Flag the frames of some ids or patterns, and of a filter, bool ``(n,)``; None chooses all.

    Raises
    ------
    UsageError
        For a pattern that matches no frame, or a filter that none of the frames chosen by it has.
    """
    names = set(ids if patterns is None else match_frames(ids, patterns))
    known = sorted({printable(own) for name, own in zip(ids, filters, strict=True) if name in names})
    if band is not None and printable(band) not in known:
        raise UsageError(
            f"no frame with the filter {printable(band)!r}",
            expected=f"one of {', '.join(map(repr, known)) or '(no frame)'}",
            consequence="Nothing was done",
            remedy="`aqdask info ARCHIVE --frames` lists the frames",
        )
    wanted = set(known) if band is None else {printable(band)}
    chosen = [name in names and printable(own) in wanted for name, own in zip(ids, filters, strict=True)]
    return np.array(chosen, bool)


def _no_frame(pattern: str, shown: Sequence[str]) -> UsageError:
    if not shown:
        return UsageError(
            f"no frame '{pattern}', nor any other: none of the sources has been stored",
            expected="an archive with frames",
            consequence="Nothing was done",
            remedy="`aqdask info ARCHIVE --quarantined` lists the reasons",
        )
    return UsageError(
        f"no frame '{pattern}'",
        expected=f"a frame id or pattern of one of the {len(shown)} frames, for example '{shown[0]}'",
        consequence="Nothing was done",
        remedy="`aqdask info ARCHIVE --frames` lists them",
    )


def listed_frames(path: str) -> list[str]:
    """Read frame ids and patterns from a list; blank lines and lines that begin with ``#`` are left out.

    Raises
    ------
    UsageError
        As `aqdask.paths.read_list`.
    """
    return [line.strip() for line in read_list(path) if line.strip() and not line.startswith("#")]


def list_line(frame_id: str) -> str:
    """Return a line of a list that selects this frame only: its id, or a pattern.

    An id that begins with ``#``, or begins or ends with a space, needs a pattern.
    """
    if not frame_id.startswith("#") and frame_id == frame_id.strip():
        return frame_id
    return re.sub(r"^[\s#]|[*?[]|\s\Z", r"[\g<0>]", frame_id)


def safe_name(frame_id: str) -> str:
    """Return a file name (without extension) for products of a frame: readable, portable, one for each id.

    ``night/a.fits`` gives ``night__a``; ``night/a.fit`` and ``night/a.fits.fz`` keep their extension. Where
    two ids could share a name (other characters, an HDU suffix, great length), eight digits of the sha256 of
    the id are appended.
    """
    path, bracket, suffix = frame_id.partition("[")
    stem = path.removesuffix(".fits")
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", (stem + bracket + suffix).replace("/", "__"))
    name = re.sub(r"^[.-]", "_", name)[:LONGEST_NAME].rstrip("_") or "frame"
    # only one of the stem and its removed suffix may show that this is FITS: else two ids share a name
    single = (stem != path) != bool(EXTENSION.search(stem).group())  # type: ignore[union-attr]
    if single and name.replace("__", "/") == stem and not bracket and not re.search(r"-[0-9a-f]{8}$", name):
        return name
    return f"{name}-{hashlib.sha256(frame_id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
