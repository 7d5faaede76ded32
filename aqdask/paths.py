"""Paths and URLs that a user names, regular files that open without waiting, and lists of names."""

from __future__ import annotations

import os
import re
import stat

from aqdask.errors import UsageError
from aqdask.text import printable

# URLs, also with the single slash that `pathlib` leaves, for schemes that are not names of folders.
REMOTE = re.compile(
    r"@?([a-z][a-z0-9+.:-]*://|(s3a?|gs|gcs|az|abfss?|adl|https?|s?ftp|hdfs|memory|file):/)", re.IGNORECASE
)
OBJECTS = "s3://"  # URLs of objects that sources and archives may have
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"
}  # fmt: skip
UTF8_MARK = b"\xef\xbb\xbf"


def is_object(place: object) -> bool:
    """Return True for the URL of an object, ``s3://...``."""
    return isinstance(place, str) and place.startswith(OBJECTS)


def check_place(*places: object) -> None:
    """Refuse URLs but ``s3://BUCKET/KEY``, and paths with a NUL character; errors as of `check_local`."""
    for place in places:
        if not is_object(place):
            check_local(place)
            continue
        text = str(place)
        bucket, _, key = text[len(OBJECTS) :].partition("/")
        if not bucket or "//" in f"/{key}" or not text.isprintable():
            raise UsageError(
                f"{printable(text)} is no address of an object",
                expected=f"{OBJECTS}BUCKET/KEY",
                consequence="Nothing was done",
                remedy="check the spelling",
            )


def check_local(*places: object) -> None:
    """Refuse URLs and paths with a NUL character.

    Parameters
    ----------
    *places : object
        Paths, globs or ``@lists``; values of other types are accepted.

    Raises
    ------
    UsageError
        For a path that this machine's file systems cannot have.
    """
    for place in places:
        if not isinstance(place, str | bytes | os.PathLike):
            continue
        text = os.fsdecode(place)
        if REMOTE.match(text):
            raise UsageError(
                f"{printable(text)} is not on this machine's file systems",
                expected=f"a path; for sources and archives also {OBJECTS}BUCKET/KEY, as text",
                consequence="Nothing was done",
                remedy="copy or mount it and give its path (PATH instead of file://PATH)",
            )
        if "\0" in text:
            raise UsageError(
                f"the path '{printable(text)}' holds a NUL character",
                expected="a path as the operating system knows it",
                consequence="Nothing was done",
                remedy="check how the path was made",
            )


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Read a regular file; never wait for the writer of a pipe.

    Raises
    ------
    OSError
        If it cannot be opened or read, or is not a regular file (``strerror`` names its type).
    """
    with open(path, "rb", opener=_at_once) as stream:
        return stream.read()


def check_regular(path: str | os.PathLike[str], name: str) -> None:
    """Refuse a path that exists and is not a regular file.

    Parameters
    ----------
    path : str or path
        May be absent.
    name : str
        Name of the option in the message.

    Raises
    ------
    UsageError
        For a folder, device, pipe or socket, or a path that cannot be examined.
    """
    try:
        _check_mode(os.stat(path).st_mode, path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(
            f"{name} {printable(path)} cannot be used ({error.strerror})",
            expected="a regular file",
            consequence="Nothing was done",
            remedy="check the path",
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a file, whose missing folders are made, a device, or a pipe with a reader.

    Raises
    ------
    OSError
        If it cannot be written; also for a pipe without a reader, which would block for ever.
    """

    def open_now(path: str, flags: int) -> int:
        number = os.open(path, flags | os.O_NONBLOCK, 0o666)
        os.set_blocking(number, True)
        return number

    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8", opener=open_now) as stream:
        stream.write(text)


def read_list(path: str) -> list[str]:
    """Read the lines of a list of names, empty lines included, unstripped.

    Bytes that are not UTF-8 become surrogates, as in `os.fsdecode`.

    Raises
    ------
    UsageError
        For a list that cannot be read, is UTF-16 or UTF-32, or holds a NUL or a URL; the line is named.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise _bad_list(path, f"cannot be read ({error.strerror})", "check the path") from error
    wide = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "")
    if wide or 2 * max(data[::2].count(0), data[1::2].count(0)) > len(data) // 2 > 0:
        raise _bad_list(path, f"is {wide or 'UTF-16'} text", "save it as UTF-8")
    text = data.removeprefix(UTF8_MARK).decode("utf-8", "surrogateescape")
    # not `splitlines`: a name may hold a form feed or another Unicode line separator
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise _bad_list(path, f"holds a NUL character in line {number}", "correct or remove that line")
        if REMOTE.match(line.strip()) and not is_object(line.strip()):
            problem = f"names {printable(line.strip())} in line {number}, which is not on this machine"
            raise _bad_list(path, problem, "copy or mount it and list its path")
    return lines


def is_utf8(text: str) -> bool:
    """Return True if text has no surrogates of undecodable bytes."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


def reread_latin1(text: str) -> str:
    """Decode the bytes of a name from `read_list` as Latin-1."""
    return os.fsencode(text).decode("latin-1")


def _at_once(path: str, flags: int) -> int:
    """Open a regular file; an error for anything that could block."""
    number = os.open(path, flags | os.O_NONBLOCK)
    try:
        _check_mode(os.fstat(number).st_mode, path)
    except OSError:
        os.close(number)
        raise
    return number


def _check_mode(mode: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise OSError(0, f"it is {kind}, not a regular file", os.fspath(path))


def _bad_list(path: str, problem: str, remedy: str) -> UsageError:
    return UsageError(
        f"the list {printable(path)} {problem}",
        expected="a text file, UTF-8, with one name a line",
        consequence="Nothing was done",
        remedy=remedy,
    )
