"""Exceptions, with messages that tell the user how to proceed, and exit codes of the command.

A message to the user is one paragraph of four statements: the value *got*, the value *expected*, the
*consequence*, and the *remedy*.
"""

from __future__ import annotations

import errno

from aqdask.text import printable

EXIT_DONE = 0  # every frame done
EXIT_QUARANTINED = 1  # finished, some frames quarantined
EXIT_USAGE = 2  # an invalid request
EXIT_FAILED = 3  # could not finish: disk, cluster, archive
EXIT_INTERRUPTED = 130  # Ctrl-C


class AqdaskError(Exception):
    """Base class of errors with a remedy.

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
        """Return the four statements as one printable paragraph."""
        parts = [
            self.got,
            self.expected and f"Expected: {self.expected}",
            self.consequence,
            self.remedy and f"What to do: {self.remedy}",
        ]
        return printable(" ".join(part.rstrip(".") + "." for part in parts if part))

    def __reduce__(self) -> tuple:
        """Pickle by the four statements: errors are sent from workers to the client."""
        return _rebuild, (type(self), self.got, self.expected, self.consequence, self.remedy)


def _rebuild(cls: type[AqdaskError], got: str, expected: str, consequence: str, remedy: str) -> AqdaskError:
    return cls(got, expected=expected, consequence=consequence, remedy=remedy)


class UsageError(AqdaskError):
    """Invalid request: a value out of range, a path that does not exist."""

    exit_code = EXIT_USAGE


class OutlierFramesError(UsageError):
    """Outliers among the reference frames; ``frames`` are their ids."""

    frames: tuple[str, ...] = ()


class ArchiveError(AqdaskError):
    """Archive that cannot be read or written, or is inconsistent."""


OBJECTS_REMEDY = (
    "check the bucket and the environment: "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL"
)


def place_failed(place: object, error: OSError) -> AqdaskError:
    """Return the error for a path that cannot be written: full, read-only, forbidden, not a folder.

    An `OSError` of a connection, also while something is written, gives `connection_lost`.
    """
    if is_of_connection(error):
        return connection_lost(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space" if full else "check that its folder exists and may be written"
    if "://" in str(error.filename or place):
        remedy = OBJECTS_REMEDY
    return ArchiveError(
        f"{place} could not be written: {error.strerror or error}",
        expected="a writable path on a disk with free space",
        consequence="What was finished before is kept",
        remedy=f"{remedy}; then run the same command again",
    )


def place_unreadable(place: object, error: OSError) -> AqdaskError:
    """Return the error for stored data that exist but cannot be read: forbidden, or on a failing disk."""
    if is_of_connection(error):
        return connection_lost(error)
    remedy = "check permissions, the disk and the mount"
    return ArchiveError(
        f"{place} could not be read: {error.strerror or error}",
        expected="a path that this user may read, on a working disk",
        consequence="Nothing was changed, and the stored data are not regarded as damaged",
        remedy=f"{OBJECTS_REMEDY if '://' in str(place) else remedy}; then run the same command again",
    )


class ModelError(AqdaskError):
    """Model bundle that is corrupt, foreign, or does not fit the request."""


class ClusterError(AqdaskError):
    """Cluster that does not answer or cannot be started."""


def is_of_connection(error: BaseException) -> bool:
    """Return True if a connection failed: errors of Dask, and those of sockets, which name no file."""
    if any(kind.__module__.partition(".")[0] == "distributed" for kind in type(error).__mro__):
        return True
    return isinstance(error, ConnectionError | TimeoutError) and getattr(error, "filename", None) is None


def connection_lost(error: BaseException) -> ClusterError:
    """Return the error for a scheduler or workers that stopped answering."""
    return ClusterError(
        f"the connection to the cluster was lost ({in_words(error)})",
        expected="a scheduler and workers that answer until the end of the run",
        consequence="What was finished is kept, and the archive can be resumed",
        remedy="check that the cluster is up, then run the same command again",
    )


def in_words(error: BaseException) -> str:
    """Return type and message of any exception on one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # without a message of its own, such as a KilledWorker of an unknown worker
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class UncalibratedWarning(UserWarning):
    """Warning of results for a camera or filter that the model is not calibrated for."""


class FrameError(Exception):
    """Unusable frame; the message is the reason for its quarantine.

    Never stops a run: tasks turn it into a record with the state ``quarantined``.
    """


class SourceUnreachable(FrameError):
    """Source file that could not be read for reasons other than its content: absent, forbidden, disk failure.

    It says nothing about the frame: stored data are kept, and the next run tries the source again.

    Parameters
    ----------
    reason : str
        Message of the operating system.
    number : int
        Its ``errno``; 0 for none.
    """

    def __init__(self, reason: str, number: int = 0) -> None:
        self.reason, self.number = reason, number
        super().__init__(reason)

    @property
    def is_about_path(self) -> bool:
        """True if the path itself is at fault (absent, forbidden), not the disk or network."""
        return self.number in PATH_ERRNOS

    def __reduce__(self) -> tuple:
        """Pickle by the arguments: errors are sent from workers to the client."""
        return type(self), (self.reason, self.number)


PATH_ERRNOS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR}
)


class FrameTimeout(Exception):
    """Work on one frame that took longer than ``aqdask.frame-timeout``.

    Parameters
    ----------
    subject : str
        Frame id or path.
    seconds : float
        Time that it took.
    """

    def __init__(self, subject: str, seconds: float) -> None:
        self.subject, self.seconds = subject, seconds
        super().__init__(f"no end after {seconds:.0f} s (aqdask.frame-timeout)")

    def __reduce__(self) -> tuple:
        """Pickle by the arguments: errors are sent from workers to the client."""
        return type(self), (self.subject, self.seconds)
