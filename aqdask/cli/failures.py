"""Conversion of any exception to an error with a consequence and a remedy for the user."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

from aqdask.errors import (
    OBJECTS_REMEDY,
    AqdaskError,
    ArchiveError,
    FrameError,
    FrameTimeout,
    UsageError,
    connection_lost,
    in_words,
    is_of_connection,
    place_failed,
)
from aqdask.paths import is_object

WRITE_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EEXIST, errno.ENOTEMPTY}
)
BAD_PATH_ERRNOS = frozenset({errno.ENAMETOOLONG, errno.ELOOP})
RESOURCE_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})  # limits of the process
KEPT = "What was finished is kept, and the archive can be resumed"


def as_error(cause: BaseException) -> AqdaskError:
    """Convert an exception to an `AqdaskError`: of the cluster, of a path, or unforeseen."""
    if isinstance(cause, AqdaskError):
        return cause
    if isinstance(cause, FrameError | FrameTimeout):  # from a command that needs every frame
        return ArchiveError(
            f"a frame cannot be read: {cause}",
            expected="the source file of every frame at the path from which it was ingested",
            consequence=KEPT,
            remedy="`aqdask verify` names the frames; bring their sources back, or ingest with --retry",
        )
    if is_of_connection(cause):
        return connection_lost(cause)
    if isinstance(cause, OSError) and cause.errno not in RESOURCE_ERRNOS:
        return _of_place(cause)
    return _unforeseen(cause)


def _of_place(cause: OSError) -> AqdaskError:
    """Convert an `OSError`, with a guess whether reading or writing failed."""
    if cause.errno in WRITE_ERRNOS:
        return place_failed(cause.filename or "an output", cause)
    if cause.filename is None or isinstance(cause.filename, int):
        return _unforeseen(cause)
    if is_object(cause.filename):
        return ArchiveError(
            f"{cause.filename} could not be read or written: {cause.strerror}",
            expected="an object store that answers, and keys that may read and write there",
            consequence=KEPT,
            remedy=f"{OBJECTS_REMEDY}; then run the same command again",
        )
    place = Path(os.fsdecode(cause.filename))
    if cause.errno in BAD_PATH_ERRNOS:
        return UsageError(
            f"{place} cannot be a file: {cause.strerror}",
            expected="the path of a file or folder",
            consequence="Nothing could be read or written there",
            remedy="check the path",
        )
    if _is_input(place, cause.errno):
        return ArchiveError(
            f"{place} could not be read: {cause.strerror or cause}",
            expected="a file or folder that is there and that this user may read",
            consequence=KEPT,
            remedy="check that it exists, its permissions and its disk, then run the same command again",
        )
    return place_failed(place, cause)


def _is_input(place: Path, number: int | None) -> bool:
    """Return True for a failure of reading: the file is missing, or the user may write to it."""
    try:
        if os.path.lexists(place):
            return not os.access(place, os.R_OK) or os.access(place, os.W_OK)
        return number == errno.ENOENT and place.parent.is_dir()
    except (OSError, ValueError):
        return False


def _unforeseen(cause: BaseException) -> AqdaskError:
    """Convert an error of the program or the machine: type, message and line of the code."""
    frames = traceback.extract_tb(cause.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    memory = isinstance(cause, MemoryError)
    return AqdaskError(
        f"an error that aqdask did not foresee: {in_words(cause)}{where}",
        expected="more free memory" if memory else "no such error",
        consequence=KEPT,
        remedy="use fewer workers (--cluster local:N) and run the same command again"
        if memory
        else "run the same command again; if it returns, run it with --debug and report the traceback",
    )
