"""What goes wrong, in words a user can act on.

Every error that reaches the user is one paragraph of four statements: what was *got*, what was
*expected*, the *consequence*, and the *remedy*. Each class carries the exit code of the command.
"""

from __future__ import annotations

import errno

from aqdask.text import printable

EXIT_DONE = 0  # every frame done
EXIT_QUARANTINED = 1  # finished, some frames quarantined
EXIT_USAGE = 2  # the request cannot be understood or makes no sense
EXIT_FAILED = 3  # could not finish: disk, cluster, archive
EXIT_INTERRUPTED = 130  # Ctrl-C


class AqdaskError(Exception):
    """An error with its remedy.

    Parameters
    ----------
    got, expected, consequence, remedy : str
        Clauses without a final full stop; empty ones are left out of the paragraph.
    """

    exit_code = EXIT_FAILED

    def __init__(self, got: str, *, expected: str = "", consequence: str = "", remedy: str = "") -> None:
        self.got, self.expected, self.consequence, self.remedy = got, expected, consequence, remedy
        super().__init__(self.paragraph())

    def paragraph(self) -> str:
        """The four statements as one paragraph, printable whatever names they hold."""
        parts = [
            self.got,
            self.expected and f"Expected: {self.expected}",
            self.consequence,
            self.remedy and f"What to do: {self.remedy}",
        ]
        return printable(" ".join(part.rstrip(".") + "." for part in parts if part))

    def __reduce__(self) -> tuple:
        """Errors travel from workers to the client: pickle by the four statements."""
        return _rebuild, (type(self), self.got, self.expected, self.consequence, self.remedy)


def _rebuild(cls: type[AqdaskError], got: str, expected: str, consequence: str, remedy: str) -> AqdaskError:
    return cls(got, expected=expected, consequence=consequence, remedy=remedy)


class UsageError(AqdaskError):
    """The request itself is wrong (a value out of range, a path that does not exist)."""

    exit_code = EXIT_USAGE


class OutlierFramesError(UsageError):
    """Outliers among the reference frames; ``frames`` are their ids."""

    frames: tuple[str, ...] = ()


class ArchiveError(AqdaskError):
    """The archive cannot be read, written, or is not what it says."""


def place_failed(place: object, error: OSError) -> AqdaskError:
    """The error for a place that does not take our bytes: full, read-only, forbidden, not a folder.

    Connections fail by `OSError`, too, also while something is written: then it is `connection_lost`.
    """
    if is_of_connection(error):
        return connection_lost(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space" if full else "check that its folder exists and may be written"
    return ArchiveError(
        f"{place} could not be written: {error.strerror or error}",
        expected="a place with room where this user may write",
        consequence="What was finished before is kept",
        remedy=f"{remedy}; then run the same command again",
    )


def place_unreadable(place: object, error: OSError) -> AqdaskError:
    """The error for stored bytes that are there and cannot be read now: forbidden, a disk that fails."""
    if is_of_connection(error):
        return connection_lost(error)
    return ArchiveError(
        f"{place} could not be read: {error.strerror or error}",
        expected="a place that this user may read, on a disk that answers",
        consequence="Nothing was changed, and what is stored is not taken for damaged",
        remedy="check permissions, the disk and the mount; then run the same command again",
    )


class ModelError(AqdaskError):
    """A model bundle is corrupt, foreign, or does not fit the request."""


class ClusterError(AqdaskError):
    """The cluster does not answer or cannot be started."""


def is_of_connection(error: BaseException) -> bool:
    """True for a failed connection: Dask's own errors, and those of sockets, which name no file."""
    if any(kind.__module__.partition(".")[0] == "distributed" for kind in type(error).__mro__):
        return True
    return isinstance(error, ConnectionError | TimeoutError) and getattr(error, "filename", None) is None


def connection_lost(error: BaseException) -> ClusterError:
    """The error for a scheduler or workers that were there and do not answer any more."""
    return ClusterError(
        f"the connection to the cluster was lost ({in_words(error)})",
        expected="a scheduler and workers that answer until the end",
        consequence="What was finished is kept, and the archive can be resumed",
        remedy="see that the cluster is up, then run the same command again",
    )


def in_words(error: BaseException) -> str:
    """Type and message of any exception, on one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # one that cannot even say what it is, such as a KilledWorker of an unknown worker
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class FrameError(Exception):
    """One frame cannot be used: the message is the reason under which it is quarantined.

    It never stops a run; tasks turn it into a record with the state ``quarantined``.
    """


class SourceUnreachable(FrameError):
    """A source file could not be read by no fault of its content: absent, forbidden, or its disk failed.

    It says nothing about the frame: what is stored of it stays, and the source is tried again next time.

    Parameters
    ----------
    reason : str
        What the operating system said, in words.
    number : int
        Its ``errno``; 0 where there was none.
    """

    def __init__(self, reason: str, number: int = 0) -> None:
        self.reason, self.number = reason, number
        super().__init__(reason)

    @property
    def is_about_path(self) -> bool:
        """True if the path itself is the matter (not there, forbidden), rather than the disk or network."""
        return self.number in ABOUT_THE_PATH

    def __reduce__(self) -> tuple:
        """Errors travel from workers to the client."""
        return type(self), (self.reason, self.number)


ABOUT_THE_PATH = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR}
)


class FrameTimeout(Exception):
    """Work on one frame did not end within ``aqdask.frame-timeout``.

    Parameters
    ----------
    subject : str
        The frame id or path that was worked on.
    seconds : float
        For how long.
    """

    def __init__(self, subject: str, seconds: float) -> None:
        self.subject, self.seconds = subject, seconds
        super().__init__(f"no end after {seconds:.0f} s (aqdask.frame-timeout)")

    def __reduce__(self) -> tuple:
        """Errors travel from workers to the client."""
        return type(self), (self.subject, self.seconds)
